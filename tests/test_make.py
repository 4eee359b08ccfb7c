"""The scripts behind `make`, run with stand-ins for the programs that they call."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASH = shutil.which("bash") or "/bin/bash"


def program(folder: Path, name: str, script: str) -> None:
    """Put a stand-in for a program into `folder`."""
    path = folder / name
    path.write_text(f"#!{BASH}\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that is the whole PATH; holds `cat` and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cat").symlink_to(shutil.which("cat") or "/bin/cat")
    return folder


def run(script: str, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BASH, str(ROOT / "deploy" / script), *arguments],
        cwd=path.parent,
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def installed(folder: Path, *names: str) -> None:
    """A dpkg-query that knows these packages."""
    cases = "|".join(names) or "none"
    program(
        folder,
        "dpkg-query",
        f'case "${{@: -1}}" in {cases}) echo -n "install ok installed";; *) exit 1;; esac',
    )


def test_installed_packages_cost_nothing(programs: Path) -> None:
    installed(programs, "libegl1")
    done = run("debian_packages.sh", "libegl1", path=programs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_user_is_told_the_one_line_to_run(programs: Path) -> None:
    installed(programs, "libegl1")
    program(programs, "id", "echo 1000")
    done = run("debian_packages.sh", "libegl1", "libegl-mesa0", path=programs)
    assert done.returncode == 0
    assert done.stderr.strip().endswith("sudo apt-get install -y libegl-mesa0")


def test_root_installs_what_is_missing(programs: Path) -> None:
    installed(programs)
    program(programs, "id", "echo 0")
    program(programs, "apt-get", 'echo "$@" >> calls')
    done = run("debian_packages.sh", "libegl1", path=programs)
    assert done.returncode == 0, done.stderr
    assert (programs.parent / "calls").read_text() == "install -y -qq libegl1\n"


def test_root_fetches_the_package_lists_when_there_are_none(programs: Path) -> None:
    installed(programs)
    program(programs, "id", "echo 0")
    program(
        programs,
        "apt-get",
        'echo "$1" >> calls; if [ "$1" = update ]; then : > lists; else [ -e lists ]; fi',
    )
    done = run("debian_packages.sh", "libegl1", path=programs)
    assert done.returncode == 0, done.stderr
    assert (programs.parent / "calls").read_text().split() == ["install", "update", "install"]


def test_elsewhere_than_on_debian_nothing_is_tried(programs: Path) -> None:
    assert run("debian_packages.sh", "libegl1", path=programs).returncode == 0


def test_without_a_usable_python_it_says_what_is_missing(programs: Path) -> None:
    program(programs, "python3", '[ "$1" = --version ] && echo "Python 3.9.2" || exit 1')
    done = run("make_venv.sh", ".venv", path=programs)
    assert done.returncode == 1
    assert "need 3.11 to 3.13" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert "apt-get install -y python3.11 python3.11-venv" in done.stderr


def test_a_failed_installation_shows_pips_own_words(programs: Path) -> None:
    for name in ("tee", "awk", "grep", "tail"):
        (programs / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    venv = programs.parent / ".venv" / "bin"
    venv.mkdir(parents=True)
    program(
        venv,
        "python",
        'if [ "$1" = -m ]; then echo "ERROR: no matching distribution" >&2; exit 1; fi',
    )
    done = run("make_venv.sh", ".venv", path=programs)
    assert done.returncode == 1
    assert "no matching distribution" in done.stderr


@pytest.mark.parametrize("target", ["serve", "test", "demo", "bench", "lint", "types", "check"])
def test_every_target_of_the_readme_exists(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
