"""The rules that hold for the tree as a whole: layers, sizes, addresses, pins, documents."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("selfalign", "server", "client", "deploy")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LONGEST_FILE_LINES = {**dict.fromkeys(PACKAGES, 400), "tests": 800}
ASSETS_LIMIT_BYTES = 25_000_000


def tracked_files() -> list[Path]:
    """Every file of the repository that git tracks (or would, were it added)."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [path for line in listing.splitlines() if (path := ROOT / line).is_file()]


TRACKED = tracked_files()
SOURCES = [path for path in TRACKED if path.suffix == ".py"]
SHIPPED = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def text_of(path: Path) -> str | None:
    """The text of a file, or None when it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def imported_modules(path: Path) -> set[str]:
    """The dotted names that a file imports, at any depth."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.add(node.module)
    return modules


# --- layers -------------------------------------------------------------------------------------


def test_import_contracts_hold() -> None:
    # In a process of its own: the linter switches off every logger that it finds.
    program = "import importlinter.cli as cli; raise SystemExit(cli.lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["client", "client.cli", "server.wire"])
def test_the_client_side_imports_nothing_heavy(module: str) -> None:
    heavy = "{'torch', 'transformers', 'fastapi', 'zarr', 'selfalign', 'mujoco'}"
    program = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_the_recorder_carries_neither_torch_nor_transformers() -> None:
    heavy = "{'torch', 'transformers'}"
    program = f"import sys, server.child, server.recorder; print(*{heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_selfalign_does_not_import_the_simulator_before_it_is_asked_to() -> None:
    program = "import sys, selfalign.cli, server.app; print('mujoco' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_every_third_party_import_is_declared() -> None:
    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;(]", name)[0]).lower()

    requirements = [*PROJECT["dependencies"]]
    for extra, wanted in PROJECT["optional-dependencies"].items():
        requirements += wanted if extra != "dev" else []
    declared = {canonical(requirement) for requirement in requirements}
    declared.add("starlette")  # fastapi's own base: it hands out starlette's types
    distributions = packages_distributions()
    distributions |= {"scipy": ["scipy"], "fast_simplification": ["fast-simplification"]}
    undeclared = set()
    for path in SHIPPED:
        for module in imported_modules(path):
            top = module.split(".")[0]
            if top in PACKAGES or top in sys.stdlib_module_names:
                continue
            if not declared & {canonical(name) for name in distributions.get(top, [])}:
                undeclared.add(f"{path.relative_to(ROOT)}: {module}")
    assert not undeclared


def test_every_declared_dependency_is_imported() -> None:
    # PyOpenGL is what mujoco renders with; nobody imports it by name.
    indirect = {"pyopengl"}
    modules = {"pillow": "PIL", "pyyaml": "yaml"}
    requirements = [*PROJECT["dependencies"]]
    for extra, wanted in PROJECT["optional-dependencies"].items():
        requirements += wanted if extra != "dev" else []
    names = {re.split(r"[\s\[<>=!~;(]", requirement)[0].lower() for requirement in requirements}
    imported = {module.split(".")[0] for path in SHIPPED for module in imported_modules(path)}
    unused = {
        name
        for name in names - indirect
        if modules.get(name, name.replace("-", "_")) not in imported
    }
    assert not unused


# --- files --------------------------------------------------------------------------------------


def test_every_module_says_what_it_is() -> None:
    # Modules that run or are shared; a test module's name and its tests' names say enough.
    speaking = [p for p in SOURCES if not p.name.startswith("test_") and p.stat().st_size]
    silent = [p for p in speaking if not ast.get_docstring(ast.parse(p.read_text()))]
    assert names(silent) == []


@pytest.mark.parametrize(("folder", "limit"), LONGEST_FILE_LINES.items())
def test_files_stay_short(folder: str, limit: int) -> None:
    paths = [p for p in SOURCES if p.relative_to(ROOT).parts[0] == folder]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in paths}
    assert {name: n for name, n in lengths.items() if n > limit} == {}


def test_shipped_assets_stay_small() -> None:
    assets = [p for p in TRACKED if p.suffix not in {".py", ".md"} and "docs" not in p.parts]
    assert sum(path.stat().st_size for path in assets) < ASSETS_LIMIT_BYTES


def test_every_data_file_is_part_of_the_package() -> None:
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    packaged = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = [
        p for p in TRACKED if p.relative_to(ROOT).parts[0] in {"selfalign", "server", "client"}
    ]
    assert names([p for p in files if p.suffix != ".py" and p not in packaged]) == []


def test_no_machine_path_and_no_registry_address() -> None:
    dot = r"\."
    hosts = [
        f"pypi{dot}org",
        f"pythonhosted{dot}",
        f"npmjs{dot}",
        f"deb{dot}debian",
        "opt/" + "pypi",
    ]
    machine = "|".join(["/" + "work/", "/" + "root/", r"/home/(?!robot\b)\w+/", *hosts])
    pattern = re.compile(rf"(?<![\w.-])(?:{machine})")
    found = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for path in TRACKED
        if (text := text_of(path)) and (match := pattern.search(text))
    ]
    assert found == []


def unsafe_loads(tree: ast.AST) -> list[tuple[int, str]]:
    """Lines of `torch.load`, `torch.save` and of `allow_pickle` with anything but False."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save"):
                found.append((node.lineno, f"torch.{node.attr}"))
            case ast.keyword(arg="allow_pickle", value=ast.Constant(value=False)):
                pass
            case ast.keyword(arg="allow_pickle"):
                found.append((node.value.lineno, "allow_pickle"))
    return found


def test_the_search_for_unsafe_loads_finds_them() -> None:
    tree = ast.parse("torch.load(f)\nnp.load(f, allow_pickle=True)\nnp.load(f, allow_pickle=False)")
    assert [line for line, _ in unsafe_loads(tree)] == [1, 2]


def test_nothing_unpickles() -> None:
    banned_modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    found = []
    for path in SHIPPED:
        tree = ast.parse(path.read_text())
        found += [
            f"{path}: {m}" for m in imported_modules(path) if m.split(".")[0] in banned_modules
        ]
        found += [f"{path}:{line}: {what}" for line, what in unsafe_loads(tree)]
    assert found == []


def test_no_file_puts_work_off() -> None:
    word = "TO" + "DO"
    found = [p for p in SOURCES if re.search(rf"\b(?:{word}|FIX" + r"ME)\b", p.read_text())]
    assert names(found) == []


# --- pins and documents -------------------------------------------------------------------------


def test_constraints_pin_every_direct_dependency() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    wanted = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        wanted += extra
    missing = [
        name
        for requirement in wanted
        if re.sub(r"[-_.]+", "-", (name := re.split(r"[\s\[<>=!~;(]", requirement)[0])).lower()
        not in pinned
    ]
    assert missing == []
    assert pins["torch"] == "2.14.1"
    assert pins["zarr"] == "3.1.6"


def test_changelog_names_the_current_version() -> None:
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_architecture_maps_every_file() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    unmapped = [
        path
        for path in SHIPPED
        if path.name != "__init__.py" and f"`{path.relative_to(ROOT).as_posix()}`" not in text
    ]
    assert names(unmapped) == []


def test_architecture_maps_no_file_that_is_gone() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    mapped = re.findall(rf"`((?:{'|'.join(PACKAGES)})/[\w/.-]+\.\w+)`", text)
    assert [name for name in mapped if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "document", [p for p in TRACKED if p.suffix == ".md"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_readme_names_every_make_target_a_user_needs() -> None:
    readme = (ROOT / "README.md").read_text()
    for target in ("serve", "test", "demo", "bench"):
        assert f"make {target}" in readme
