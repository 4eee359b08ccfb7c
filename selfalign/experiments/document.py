"""Sections of a document that commands write: what stands between two marks of a name."""

from pathlib import Path
from typing import Final, final

from selfalign.errors import SelfAlignError

_BEGIN: Final = "<!-- {name}: `selfalign {command} --document` writes what follows -->"
_END: Final = "<!-- end of {name} -->"


@final
class BadDocument(SelfAlignError):
    """A document does not have the marks between which tables are written."""


def marks_of(path: Path, name: str, command: str = "evaluate") -> tuple[int, int]:
    """Where in the document the text of a section begins and ends.

    `command` is the one that writes it.

    Raises:
        BadDocument: it does not have both marks, once each.
    """
    text = path.read_text(encoding="utf-8")
    begin, end = _BEGIN.format(name=name, command=command), _END.format(name=name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise BadDocument(f"{path}: expected once each: {begin} and {end}")
    return text.index(begin) + len(begin), text.index(end)


def write_between(path: Path, name: str, body: str, command: str = "evaluate") -> None:
    """Replace what stands between the marks of a section."""
    begin, end = marks_of(path, name, command)
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text[:begin]}\n\n{body}\n\n{text[end:]}", encoding="utf-8")
