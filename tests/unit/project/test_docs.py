"""README.md and docs/ say what is true: their code is code, their commands and links are there."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any

import pytest
from airflow.cli.cli_parser import get_parser
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from markdown_it import MarkdownIt

import airflow_fanout
from airflow_fanout.decorators import FAN_IN_OPTIONS, FAN_OUT_OPTIONS, check_options
from airflow_fanout.testing import simulate
from tests.unit.parsed import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from markdown_it.token import Token

DOCUMENTS = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
OTHERS = tuple(REPOSITORY / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"))


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{named(self.document)}:{self.line}"


def named(document: Path) -> str:
    return document.relative_to(REPOSITORY).as_posix()


@cache
def tokens(document: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(document.read_text(encoding="utf-8"))


def blocks(*languages: str) -> Iterator[Block]:
    for document in DOCUMENTS:
        for token in tokens(document):
            if token.type == "fence" and token.info in languages:
                assert token.map is not None
                yield Block(document=document, line=token.map[0] + 1, language=token.info, text=token.content)


PYTHON = list(blocks("python"))
# Files that Airflow can load: they import what they use, and make a Dag.
DAGS = [
    block
    for block in PYTHON
    if re.search(r"^(@dag|with DAG)\b", block.text, re.MULTILINE) and "from airflow.sdk import" in block.text
]


@pytest.mark.parametrize("block", DAGS, ids=str)
def test_a_whole_dag_can_be_loaded_and_scheduled(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "documented.py"
    file.write_text(block.text, encoding="utf-8")

    bag = DagBag(file)

    assert not bag.import_errors
    assert bag.dags
    for dag in bag.dags.values():
        assert DagSerialization.to_dict(dag)["dag"]["tasks"]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


CALLS: dict[str, Collection[str]] = {
    "FanOutGroup": inspect.signature(airflow_fanout.FanOutGroup).parameters,
    "FanInOperator": FAN_IN_OPTIONS | inspect.signature(airflow_fanout.FanInOperator).parameters.keys(),
    "simulate": inspect.signature(simulate).parameters,
    "task.fan_out": FAN_OUT_OPTIONS,
    "fan_out": FAN_OUT_OPTIONS,
    "task.fan_in": FAN_IN_OPTIONS,
    "fan_in": FAN_IN_OPTIONS,
}
"""Arguments that each of this package's own functions takes."""


def calls(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Calls of this package's own, with their arguments by name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in CALLS:
            yield name, {each.arg: None for each in node.keywords if each.arg is not None}


@pytest.mark.parametrize("block", [block for block in PYTHON if any(calls(block.text))], ids=str)
def test_arguments_are_those_that_there_are(block: Block) -> None:
    for name, arguments in calls(block.text):
        check_options(f"{name} {block}", arguments, CALLS[name])


def commands(block: Block) -> Iterator[list[str]]:
    """What stands behind `airflow` in the lines that somebody types."""
    prompts = "$ " in block.text
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        typed = line.removeprefix("$ ")
        if (prompts and typed == line) or "airflow " not in typed:
            continue
        found = re.search(r"(?:^|exec (?:-T )?\w+ |=\S+ )airflow (.*)", typed)
        if found:
            yield list(takewhile(lambda word: word != "|", shlex.split(found[1], comments=True)))


COMMANDS = {
    f"{block} {shlex.join(command)}": command
    for block in blocks("console")
    for command in commands(block)
    if command[0] != "users"  # the FAB provider's, which needn't be installed
}


def in_prose(text: str) -> list[str]:
    """`airflow fanout report` names the command; with arguments it has to be complete."""
    command = shlex.split(text.replace("…", ""))[1:]
    return [*command, "--help"] if len(command) == 2 and not command[1].startswith("-") else command


IN_PROSE = {
    f"{named(document)} {child.content}": in_prose(child.content)
    for document in DOCUMENTS
    for token in tokens(document)
    for child in token.children or ()
    if child.type == "code_inline" and child.content.startswith("airflow fanout ")
}


def parse(command: list[str]) -> None:
    try:
        get_parser().parse_args(command)
    except SystemExit as done:
        if done.code:
            raise


@pytest.mark.parametrize("command", [*COMMANDS.values(), *IN_PROSE.values()], ids=[*COMMANDS, *IN_PROSE])
def test_commands_and_their_options_are_those_that_there_are(command: list[str]) -> None:
    parse(command)


def typed(document: Path) -> Iterator[str]:
    """Lines of the console blocks of a document, and code in its prose."""
    for token in tokens(document):
        if token.type == "fence" and token.info == "console":
            yield from (line.removeprefix("$ ") for line in token.content.splitlines())
        yield from (child.content for child in token.children or () if child.type == "code_inline")


@pytest.mark.parametrize("document", [*DOCUMENTS, *OTHERS], ids=named)
def test_make_knows_the_verbs(document: Path) -> None:
    verbs = {
        verb
        for line in typed(document)
        if (found := re.match(r"make ([a-z0-9 -]+)", line))
        for verb in found[1].split()
    }

    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert verbs <= set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))


def slugs(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    found: Counter[str] = Counter()
    anchors = set()
    for opening, inline in pairwise(tokens(document)):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            anchors.add(slug if not found[slug] else f"{slug}-{found[slug]}")
            found[slug] += 1
    return anchors


LINKS = {
    f"{named(document)} {href}": (document, str(href))
    for document in (*DOCUMENTS, *OTHERS)
    for token in tokens(document)
    for child in token.children or ()
    if (href := child.attrs.get("href", child.attrs.get("src"))) and not re.match(r"[a-z]+:", str(href))
}


def target_of(document: Path, href: str) -> Path:
    path = href.partition("#")[0]
    return (document.parent / path).resolve() if path else document


@pytest.mark.parametrize(("document", "href"), LINKS.values(), ids=LINKS)
def test_a_link_leads_somewhere(document: Path, href: str) -> None:
    target, anchor = target_of(document, href), href.partition("#")[2]

    assert target.exists()
    assert REPOSITORY in target.parents
    if anchor:
        assert anchor in slugs(target)


def test_the_index_names_every_page() -> None:
    index = REPOSITORY / "docs" / "README.md"
    linked = {target_of(document, href) for document, href in LINKS.values() if document == index}

    assert {each for each in DOCUMENTS if each.parent != REPOSITORY} - {index} <= linked


def test_every_example_dag_is_named() -> None:
    said = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)

    assert [path.name for path in (REPOSITORY / "dags").glob("*.py") if f"dags/{path.name}" not in said] == []


class TestTheseTests:
    """They fail where something is wrong."""

    def test_an_argument_that_there_is_not_is_found(self) -> None:
        ((name, arguments),) = calls("FanInOperator(task_id='a', fan_outs=b)")

        with pytest.raises(TypeError, match="fan_outs: is no argument"):
            check_options("FanInOperator 'a'", arguments, CALLS[name])

    @pytest.mark.parametrize(
        "command", ["fanout report", "fanout check a --json", "fanout show a", "dags trigger"]
    )
    def test_a_command_that_there_is_not_is_found(self, command: str) -> None:
        with pytest.raises(SystemExit):
            parse(command.split())

    def test_what_is_typed_is_told_from_what_is_printed(self) -> None:
        text = "$ airflow fanout check a  # b\nairflow is\n$ docker compose exec a airflow fanout --help\n"
        block = Block(document=REPOSITORY / "README.md", line=1, language="console", text=text)

        assert list(commands(block)) == [["fanout", "check", "a"], ["fanout", "--help"]]

    def test_there_is_something_of_each(self) -> None:
        assert min(map(len, (DAGS, PYTHON, COMMANDS, IN_PROSE, LINKS))) > 5
