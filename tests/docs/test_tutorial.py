"""The tutorial works as written: its files are saved, its commands run, its output compared."""

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from selfalign.cli import _parser as selfalign_parser
from selfalign.pretrain.command import add_run_options, add_start_options, shipped
from server.__main__ import _parser as server_parser
from tests.docs.blocks import Block, commands_of, missing_line, read_blocks
from tests.docs.tutorial_run import Reader

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "tutorial.md"
BLOCKS = read_blocks(DOCUMENT)
SUCCESSES = re.compile(r"W version \d+: (\d+) of 5 episodes succeed")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path, ROOT) as reader:
        yield reader


def follow(reader: Reader, block: Block) -> str:
    """Do what a block asks for; what it printed."""
    if block.kind == "file":
        reader.save(block)
        return ""
    if block.kind == "server":
        return reader.start_server(block)
    return reader.run(block) if block.kind == "commands" else ""


def pretrain_parser() -> ArgumentParser:
    """That of `python -m selfalign.pretrain`."""
    parser = ArgumentParser()
    add_run_options(parser)
    add_start_options(parser)
    return parser


def configurations(arguments: list[str]) -> list[str]:
    """What is named by --config."""
    return [value for name, value in pairwise(arguments) if name == "--config"]


def test_every_command_works_and_prints_what_the_text_says(reader: Reader) -> None:
    output = {}
    for block in BLOCKS:
        output[block.line] = printed = follow(reader, block)
        missing = missing_line(block.expected, printed)
        assert missing is None, f"line {block.line}: no {missing!r} in:\n{printed}"

    measured = [int(n) for text in output.values() for n in SUCCESSES.findall(text)]
    assert len(measured) == 2
    assert measured[0] < measured[1], "alignment made the robot no better"


@pytest.mark.parametrize(
    ("block", "command"),
    [(block, line) for block in BLOCKS if block.kind == "needs" for line in commands_of(block)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_commands_that_need_something_big_are_understood(block: Block, command: str) -> None:
    words = shlex.split(command)
    match words:
        case ["selfalign", *arguments]:
            selfalign_parser().parse_args(arguments)
            assert {*configurations(arguments)} <= shipped().keys()
        case ["accelerate", "launch", "-m", "selfalign.pretrain", *arguments]:
            pretrain_parser().parse_args(arguments)
            assert {*configurations(arguments)} <= shipped().keys()
        case ["python", "-m", "server", *arguments]:
            server_parser().parse_args(arguments)
        case ["make", target]:
            assert f"\n{target}:" in (ROOT / "Makefile").read_text()
        case ["pip", "install", package]:
            # The version that the slow contract test drives the server with.
            assert package in (ROOT / "tests/contract/test_openpi_client.py").read_text()
        case ["source", ".venv/bin/activate"] | ["mkdir" | "cd", *_]:
            pass
        case _:
            pytest.fail(f"{DOCUMENT.name}:{block.line}: nobody checks {command!r}")


def test_a_missing_line_is_noticed() -> None:
    assert missing_line(("a ... c", "d"), "a b c\nx\nd\n") is None
    assert missing_line(("d", "a ... c"), "a b c\nd\n") == "a ... c"
    assert missing_line(("a ... c",), "a b c d\n") == "a ... c"
