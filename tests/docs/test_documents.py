"""What documents name exists: commands with their options, anchors, files, benchmarks."""

import ast
import re
import shlex
import subprocess
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from client.cli import _parser as client_parser
from selfalign.cli import _parser as selfalign_parser
from server.__main__ import _parser as server_parser
from server.settings import Settings

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()
# History names what is gone.
HISTORY = {"CHANGELOG.md", "docs/log.md", "docs/decisions.md"}
DOCUMENTS = sorted({name for name in TRACKED if (ROOT / name).is_file()})
LIVING = [name for name in DOCUMENTS if name not in HISTORY]
PARSERS: dict[str, Callable[[], ArgumentParser]] = {
    "selfalign": selfalign_parser,
    "selfalign-client": client_parser,
    "python -m server": server_parser,
}
# A command at the start of a line of code.
COMMAND = re.compile(
    r"^(?:    |)(?:\.venv/bin/)?(selfalign-client|selfalign|python -m server|make)(?= |$)(.*)$",
    flags=re.MULTILINE,
)
INLINE = re.compile(r"^(?:\.venv/bin/)?(selfalign-client|selfalign|python -m server)(?= |$)(.*)$")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_of(name: str) -> str:
    """The lines of fenced and indented blocks, but for output."""
    text = text_of(name)
    fenced = re.findall(r"^```(?!text)\w*\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    \S.*$", text, flags=re.MULTILINE)
    return "\n".join([*fenced, *indented])


def commands() -> list[tuple[str, str, str]]:
    """Document, program and arguments of every command in a block of code."""
    return [
        (name, program, arguments.partition(" #")[0].partition(" |")[0].partition(" 2>")[0])
        for name in LIVING
        for program, arguments in COMMAND.findall(code_of(name))
    ]


def refusal(parser: ArgumentParser, arguments: str) -> str:
    """What a parser has against arguments; placeholders in capitals stand for a number."""
    words = ["7" if word.isupper() and len(word) > 1 else word for word in shlex.split(arguments)]
    try:
        parser.parse_args(words)
    except SystemExit as end:
        return "" if end.code in (0, None) else f"{parser.prog} {arguments}"
    return ""


def stale_words(parser: ArgumentParser, words: list[str]) -> list[str]:
    """Commands and options that a parser lacks, of a command that need not be whole."""
    options = {option for action in parser._actions for option in action.option_strings}
    groups = [a.choices for a in parser._actions if isinstance(a, _SubParsersAction)]
    if groups and words and not words[0].startswith("-"):
        known = groups[0]
        return stale_words(known[words[0]], words[1:]) if words[0] in known else [words[0]]
    return [word for word in words if word.startswith("--") and word.split("=")[0] not in options]


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return plain.replace(" ", "-")


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 40
    assert {program for _, program, _ in commands()} == {*PARSERS, "make"}


def test_what_is_stale_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    parser = selfalign_parser()
    assert stale_words(parser, ["pretrain", "--init", "--nope"]) == ["--nope"]
    assert stale_words(parser, ["gone", "--init"]) == ["gone"]
    assert refusal(parser, "convert --from a --to b --nope") != ""
    assert refusal(parser, "convert --from DIR --to DIR --horizon N") != ""
    assert refusal(parser, "convert --from DIR --to DIR --horizon NN") == ""
    assert slug("`make`: what, and why") == "make-what-and-why"


@pytest.mark.parametrize("name", LIVING)
def test_commands_in_blocks_are_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for document, program, arguments in commands():
        if document != name:
            continue
        if program == "make":
            words = shlex.split(arguments)
            wrong += [f"make {w}" for w in words if "=" not in w and w not in TARGETS]
        elif said := refusal(PARSERS[program](), arguments):
            wrong.append(said)
    assert not wrong, capsys.readouterr().err


@pytest.mark.parametrize("name", LIVING)
def test_commands_within_sentences_name_what_there_is(name: str) -> None:
    wrong = []
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text_of(name)):
        found = INLINE.match(span)
        if found and not re.search(r"[|&]", span):
            program, rest = found.groups()
            words = [w for part in rest.split() for w in part.strip("[](),").split(",")]
            wrong += [(span, w) for w in stale_words(PARSERS[program](), words)]
    assert wrong == []


@pytest.mark.parametrize("name", LIVING)
def test_python_and_yaml_in_documents_are_well_formed(name: str) -> None:
    for language, text in re.findall(
        r"^```(python|yaml)\n(.*?)^```$", text_of(name), flags=re.DOTALL | re.MULTILINE
    ):
        if language == "python":
            ast.parse(text)
        else:
            assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_anchors_lead_to_headings(name: str) -> None:
    wrong = []
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", text_of(name)):
        path = (ROOT / name).parent / target if target else ROOT / name
        headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        if anchor not in {slug(heading) for heading in headings}:
            wrong.append(f"{target}#{anchor}")
    assert wrong == []


@pytest.mark.parametrize("name", LIVING)
def test_files_named_in_documents_exist(name: str) -> None:
    named = re.findall(
        r"`((?:selfalign|server|client|deploy|tests|docs)/[\w/.-]*\w)(?:::[\w.]+)?`", text_of(name)
    )
    folder = (ROOT / name).parent
    missing = {p for p in named if not (ROOT / p).exists() and not (folder / p).exists()}
    assert missing == set()


@pytest.mark.parametrize("name", LIVING)
def test_benchmarks_named_in_documents_exist(name: str) -> None:
    named = re.findall(r"make bench ARGS=\"?([a-z_ ]+)\"?", text_of(name))
    known = (ROOT / "tests" / "benchmarks" / "__main__.py").read_text(encoding="utf-8")
    wrong = [word for words in named for word in words.split() if f'"{word}":' not in known]
    assert wrong == []


def test_the_servers_help_names_every_setting_that_no_option_names() -> None:
    parser = server_parser()
    options = {
        f"SELFALIGN_{option.removeprefix('--').replace('-', '_').upper()}"
        for action in parser._actions
        for option in action.option_strings
    }
    known = {f"SELFALIGN_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"SELFALIGN_[A-Z_]+[A-Z]", parser.epilog or ""))
    assert named - known == set()
    assert known - named - options == set()


@pytest.mark.parametrize("program", PARSERS)
def test_examples_in_the_help_are_understood(program: str) -> None:
    parser = PARSERS[program]()
    lines = [line.strip() for line in (parser.epilog or "").splitlines()]
    examples = [re.split(r"  +", line)[0] for line in lines if line.startswith(f"{program} ")]
    examples = [example.removeprefix(program) for example in examples]
    assert examples
    assert [said for example in examples if (said := refusal(parser, example))] == []
