"""The fenced blocks of a document: files to save, commands to run, output to find."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"^# ([\w-]+\.(?:py|yaml|toml))$")

Kind = Literal["file", "server", "needs", "commands"]


@dataclass(frozen=True)
class Block:
    """One block, and the output that the text promises after it.

    `name` is the file to save, or what a `# needs` block needs.
    """

    kind: Kind
    name: str
    text: str
    line: int
    expected: tuple[str, ...] = ()


def read_blocks(document: Path) -> list[Block]:
    """The blocks of a document in order; a ```text block belongs to the one before it."""
    text = document.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for match in _FENCED.finditer(text):
        language, body = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        if language == "text":
            assert blocks, f"{document.name}:{line}: output of nothing"
            last = blocks.pop()
            assert not last.expected, f"{document.name}:{line}: the second output of one block"
            blocks.append(Block(last.kind, last.name, last.text, last.line, lines_of(body)))
        else:
            blocks.append(_block(language, body, line, document.name))
    return blocks


def _block(language: str, body: str, line: int, document: str) -> Block:
    first = body.partition("\n")[0]
    if language in {"python", "yaml", "toml"}:
        found = _FILE.match(first)
        assert found, f"{document}:{line}: a {language} block begins with '# NAME.{language[:4]}'"
        return Block("file", found.group(1), body, line)
    assert language == "bash", f"{document}:{line}: a block of kind {language!r}"
    if first.startswith("# needs "):
        return Block("needs", first.removeprefix("# needs "), body, line)
    if first.startswith("# terminal "):
        return Block("server", first, body, line)
    return Block("commands", "", body, line)


def lines_of(text: str) -> tuple[str, ...]:
    """The lines that hold something, each with single spaces."""
    return tuple(" ".join(line.split()) for line in text.splitlines() if line.strip())


def commands_of(block: Block) -> list[str]:
    """The command lines of a block, without comments."""
    return [line for line in block.text.splitlines() if line and not line.startswith("#")]


def missing_line(expected: tuple[str, ...], output: str) -> str | None:
    """The first expected line that the output lacks, or has only before an earlier one.

    `...` stands for anything within a line; lines of output that nobody expects may stand between.
    """
    lines = iter(lines_of(output))
    for wanted in expected:
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.split("...")))
        if not any(pattern.fullmatch(line) for line in lines):
            return wanted
    return None
