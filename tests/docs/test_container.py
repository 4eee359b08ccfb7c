"""The container files by reading: what they copy, call, publish and mount exists."""

import json
import re
import tomllib
from pathlib import Path

import yaml

from server.settings import Settings
from tests.fakes.running import make_runtime, serving

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
LINES = DOCKERFILE.replace("\\\n", " ").splitlines()
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICE = COMPOSE["services"]["server"]
UNIT = (ROOT / "deploy" / "systemd" / "selfalign-server.service").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of that name, in order."""
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def environment() -> dict[str, str]:
    """What the image sets."""
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    ignored = {line.rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    sources = [word for line in instructions("COPY") for word in line.split()[:-1]]
    assert len(sources) > 6
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert ignored.isdisjoint(sources)


def test_every_package_is_copied() -> None:
    packages = {
        name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    copied = {line.split()[0] for line in instructions("COPY")}
    assert packages <= copied
    # The layer of dependencies is made with an empty project of the same packages.
    (made,) = re.findall(r"mkdir -p ([\w ]+?) +&&", " ".join(LINES))
    assert set(made.split()) == packages


def test_the_files_that_a_project_of_its_own_needs_come_before_the_dependencies() -> None:
    project = PROJECT["project"]
    first = instructions("COPY")[0].split()
    assert {project["readme"], *project["license-files"], "pyproject.toml"} <= set(first)


def test_extras_that_are_installed_exist() -> None:
    named = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE + (ROOT / "deploy/make_venv.sh").read_text())
    extras = {extra for names in named for extra in names.split(",")}
    assert extras
    assert extras <= set(PROJECT["project"]["optional-dependencies"])


def test_the_image_starts_the_server_as_another_user() -> None:
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry) == ["python", "-m", "server"]
    assert (ROOT / "server" / "__main__.py").exists()
    assert instructions("USER") == ["selfalign"]
    assert "useradd" in DOCKERFILE


def test_ports_and_volumes_agree() -> None:
    set_here = environment()
    settings = Settings(
        port=int(set_here["SELFALIGN_PORT"]), data_dir=Path(set_here["SELFALIGN_DATA_DIR"])
    )
    assert instructions("EXPOSE") == [str(settings.port)]
    assert instructions("VOLUME") == [str(settings.data_dir)]
    assert [port.rpartition(":")[2] for port in SERVICE["ports"]] == [str(settings.port)]
    volume, _, mount = SERVICE["volumes"][0].partition(":")
    assert volume in COMPOSE["volumes"]
    assert mount == str(settings.data_dir)
    assert set_here["SELFALIGN_HOST"] == "0.0.0.0"


def test_the_health_check_asks_a_route_at_the_port_of_the_image(tmp_path: Path) -> None:
    (check,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", DOCKERFILE)
    assert check[0] == environment()["SELFALIGN_PORT"]
    with serving(make_runtime(tmp_path)) as client:
        assert client.get(check[1]).status_code == 200


def test_compose_builds_this_dockerfile() -> None:
    build = SERVICE["build"]
    context = (ROOT / "deploy" / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).samefile(ROOT / "deploy" / "Dockerfile")


def test_the_unit_starts_and_stores_where_it_says() -> None:
    (folder,) = re.findall(r"^WorkingDirectory=(\S+)$", UNIT, flags=re.MULTILINE)
    assert f"ExecStart={folder}/.venv/bin/python -m server\n" in UNIT
    (state,) = re.findall(r"^StateDirectory=(\S+)$", UNIT, flags=re.MULTILINE)
    assert f"SELFALIGN_DATA_DIR=/var/lib/{state}\n" in UNIT
    (manual,) = re.findall(r"^Documentation=file://(\S+)$", UNIT, flags=re.MULTILINE)
    assert (ROOT / Path(manual).relative_to(folder)).exists()


def test_it_is_given_longer_to_stop_than_the_server_takes() -> None:
    grace_s = Settings().shutdown_grace_s
    (unit_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, flags=re.MULTILINE)
    assert int(unit_s) > 2 * grace_s
    assert int(SERVICE["stop_grace_period"].rstrip("s")) > 2 * grace_s
