"""`python -m tests.file_map`: the file map of ARCHITECTURE.md, from the docstrings of modules."""

from __future__ import annotations

import ast
import subprocess
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "ARCHITECTURE.md"
MARK = "<!-- file map: `make map` writes what follows -->"
PACKAGES = ("selfalign", "server", "client", "deploy")


def tracked(*folders: str) -> list[Path]:
    """Files below the folders that git tracks or would, relative to the root."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted({Path(line) for line in listing.splitlines() if (ROOT / line).is_file()})


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, or of a script's opening comment."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")]
        text = " ".join(comments)
    first = " ".join(text.split("\n\n")[0].split())
    end = first.find(". ")
    return (first if end < 0 else first[:end]).rstrip(".")


def file_map() -> str:
    """One section a folder, one line a file."""
    folders: dict[Path, list[str]] = defaultdict(list)
    headings: dict[Path, str] = {}
    for path in tracked(*PACKAGES):
        if path.name == "__init__.py":
            headings[path.parent] = summary(path)
        elif path.suffix in {".py", ".sh"}:
            folders[path.parent].append(f"- `{path.as_posix()}`: {summary(path)}")
    sections = []
    for folder in sorted({*folders, *headings}):
        heading = headings.get(folder, "")
        title = f"### {folder.as_posix()}/" + (f" — {heading}" if heading else "")
        sections.append("\n".join([title, "", *folders.get(folder, ["(nothing else)"])]))
    return "\n\n".join(sections) + "\n"


def main() -> None:
    """Replace everything after the mark."""
    kept, mark, _ = DOCUMENT.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise SystemExit(f"{DOCUMENT} has no line {MARK!r}")
    DOCUMENT.write_text(f"{kept}{MARK}\n\n{file_map()}", encoding="utf-8")


if __name__ == "__main__":
    main()
