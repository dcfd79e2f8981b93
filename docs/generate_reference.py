"""Writes docs/reference.md from docstrings and command-line options; run by ``make docs``."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk import BaseOperator

import airflow_fanout
from airflow_fanout import exceptions, storage
from airflow_fanout.cli.commands import get_fanout_cli_commands
from airflow_fanout.decorators import FAN_IN_OPTIONS, FAN_OUT_OPTIONS, fan_in, fan_out
from airflow_fanout.reports.group_report import (
    Advice,
    BranchReport,
    Cause,
    ErrorCount,
    Figure,
    GroupReport,
    HostLoad,
    Outcomes,
    Problem,
    RunReport,
    StepTime,
)
from airflow_fanout.reports.history import DagHistory, FailedBranch, GroupHistory, GroupOfRun
from airflow_fanout.reports.timing import GroupSummary, SlowBranch, TaskTry
from airflow_fanout.storage import Reuse
from airflow_fanout.testing import Simulation, simulate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from airflow.cli.cli_config import ActionCommand

__all__ = [
    "REFERENCE",
    "Documentation",
    "UndocumentedError",
    "command",
    "documentation",
    "reference",
    "section",
]

REFERENCE = Path(__file__).with_name("reference.md")
WIDTH = 118
FIELD = re.compile(r":(?:param (?P<param>\w+)|raises (?P<raises>\w+)):\s+(?P<text>.+)", re.DOTALL)
CODE = re.compile(r"^\.\. code-block:: python\n((?:\n| .*\n?)+)", re.MULTILINE)
ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")

HEAD = """
What Dag authors write against: arguments, results, and the options of the commands. `make docs` makes this
file from the docstrings, so that both say the same. How it all goes together is in [the guides](README.md).
"""

DECORATORS = """
`from airflow.sdk import task` has them as `@task.fan_out` and `@task.fan_in`; `from airflow_fanout.decorators
import fan_in, fan_out` are the same two, whose own options an editor can complete. `.override(…)` takes all.
"""


STORAGE = """
Of `airflow_fanout.storage`: what a group with `items_per_task` takes as `items=`, by example in [items from
storage](how-to/items-from-storage.md).
"""


class UndocumentedError(Exception):
    """
    Raised when a docstring leaves out an argument, or explains one that isn't there.

    :param problems: Which, a line for each.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Documentation(NamedTuple):
    """
    A docstring, taken apart.

    :param text: All but the fields, as Markdown, a block for each paragraph.
    :param parameters: What ``:param name:`` says, by name.
    :param raises: What ``:raises Error:`` says, by name.
    """

    text: list[str]
    parameters: dict[str, str]
    raises: dict[str, str]


def documentation(thing: object) -> Documentation:
    """Take the docstring of something apart."""
    parts = Documentation([], {}, {})
    for block in _blocks(inspect.getdoc(thing) or ""):
        field = FIELD.fullmatch(block)
        if field is None:
            parts.text.append(block)
        elif name := field["param"]:
            parts.parameters[name] = field["text"]
        else:
            parts.raises[field["raises"]] = field["text"]
    return parts


def _blocks(docstring: str) -> Iterator[str]:
    """Paragraphs, fields and code blocks, one after another, as Markdown."""
    parts = CODE.split(re.sub(r"\n(?=:(?:param|raises) )", "\n\n", docstring))
    for index, part in enumerate(parts):
        if index % 2:
            yield f"```python\n{textwrap.dedent(part).strip()}\n```"
        else:
            yield from (_prose(paragraph) for paragraph in re.split(r"\n\s*\n", part) if paragraph.strip())


def _prose(text: str) -> str:
    return " ".join(ROLE.sub(r"`\1`", text).replace("``", "`").split())


def section(title: str, signature: str, thing: object, expected: Collection[str]) -> Iterator[str]:
    """
    Yield the blocks of a section.

    :param title: Its heading, with the hashes.
    :param signature: How it is called.
    :param thing: What has the docstring.
    :param expected: Names of the parameters that the docstring has to explain.
    :raises UndocumentedError: If it explains others.
    """
    explained = documentation(thing)
    _check(title, explained.parameters, expected)
    yield title
    yield f"```text\n{signature}\n```"
    yield from explained.text
    yield "\n".join(_bullet(f"`{name}`", explained.parameters[name]) for name in expected)
    if explained.raises:
        yield "\n".join(_bullet(f"Raises `{name}`", text) for name, text in explained.raises.items())


def _check(owner: str, documented: Collection[str], expected: Collection[str]) -> None:
    problems = [f"{owner}: {name} is not documented" for name in expected if name not in documented]
    problems += [f"{owner}: there is no {name}" for name in documented if name not in expected]
    if problems:
        raise UndocumentedError(problems)


def _bullet(name: str, text: str) -> str:
    return textwrap.fill(
        f"- {name}: {text}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _signature(name: str, parameters: Iterable[inspect.Parameter]) -> str:
    parameters = list(parameters)
    kinds = [parameter.kind for parameter in parameters]
    lines = [f"    {_parameter(parameter)}," for parameter in parameters]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        lines.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "    *,")
    return "\n".join([f"{name}(", *lines, ")"])


def _parameter(parameter: inspect.Parameter) -> str:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return f"**{parameter.name}"
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{parameter.name}: {parameter.annotation}{default}"


def _own_parameters(cls: type) -> list[inspect.Parameter]:
    """Arguments that a class takes by itself; those of the class that it extends are Airflow's."""
    taken = dict(inspect.signature(cls).parameters)
    if issubclass(cls, BaseOperator):
        taken = {
            "task_id": inspect.Parameter("task_id", inspect.Parameter.KEYWORD_ONLY, annotation="str"),
            **taken,
        }
    inherited = inspect.signature(cls.__mro__[1]).parameters
    return [each for name, each in taken.items() if name in {"group_id", "task_id"} or name not in inherited]


def _made_by(title: str, name: str, cls: type) -> Iterator[str]:
    own = [each for each in _own_parameters(cls) if each.kind is not inspect.Parameter.VAR_KEYWORD]
    airflows = "operator_arguments" if issubclass(cls, BaseOperator) else "task_group_arguments"
    signature = _signature(name, [*own, inspect.Parameter(airflows, inspect.Parameter.VAR_KEYWORD)])
    yield from section(title, signature, cls, [each.name for each in own])


def _stored(name: str, cls: type) -> Iterator[str]:
    """Yield the blocks of a source of items."""
    parameters = inspect.signature(cls).parameters
    signature = _signature(name, parameters.values())
    yield from section(f"### {name}", signature, cls, [*parameters])


def _fields(title: str, cls: type) -> Iterator[str]:
    """Yield the blocks of a value's section: it is read, and nobody makes one."""
    annotations = inspect.get_annotations(cls)
    signature = "\n".join(f"{name}: {annotation}" for name, annotation in annotations.items())
    yield from section(title, signature, cls, list(annotations))


def _members(title: str, cls: type) -> Iterator[str]:
    """Yield the blocks of a mapping's section: what it offers besides what every mapping does."""
    explained = documentation(cls)
    mapping = {*dir(dict), "items", "values"}
    public = {name: member for name, member in vars(cls).items() if name[0] != "_" and name not in mapping}
    yield title
    yield from explained.text
    bullets = []
    for name, member in public.items():
        function = getattr(member, "fget", None) or getattr(member, "func", None) or member
        explained = documentation(function)
        parameters = [
            parameter for parameter in inspect.signature(function).parameters if parameter != "self"
        ]
        _check(f"{cls.__name__}.{name}", explained.parameters, parameters)
        if not explained.text:
            raise UndocumentedError([f"{cls.__name__}.{name} is not documented"])
        call = f"({', '.join(parameters)})" if function is member else ""
        arguments = [f"`{argument}`: {text}" for argument, text in explained.parameters.items()]
        raises = [f"Raises `{error}`: {text}" for error, text in explained.raises.items()]
        bullets.append(_bullet(f"`{name}{call}`", " ".join([*explained.text, *arguments, *raises])))
    yield "\n".join(bullets)


def _decorator(title: str, function: Any, cls: type, options: Collection[str]) -> Iterator[str]:
    """Yield the blocks of a decorator's section; its options are explained where the class is."""
    documented = documentation(function)
    _check(title, documented.parameters, ["function", "options"])
    yield title
    yield from documented.text
    yield "\n".join(_bullet(f"`{name}`", text) for name, text in documented.parameters.items())
    own = [f"`{each.name}`" for each in _own_parameters(cls) if each.name in options]
    yield _bullet(f"As in `{cls.__name__}`", ", ".join(own))


def _annotation(annotation: Any) -> str:
    return str(getattr(annotation, "__forward_arg__", annotation))


def command(action: ActionCommand) -> Iterator[str]:
    """
    Yield the blocks of a command's section.

    :param action: The command.
    :raises UndocumentedError: If one of its options has no help.
    """
    title = f"`airflow fanout {action.name}`"
    yield f"### {title}"
    yield f"{action.help}."
    yield _wrapped(str(action.description))
    bullets = []
    for arg in action.args:
        settings = dict(arg.kwargs)
        if not settings.get("help"):
            raise UndocumentedError([f"{title}: {arg.flags[0]} is not documented"])
        takes_value = arg.flags[0].startswith("-") and settings.get("action") not in {"store_true", "count"}
        choices = settings.get("choices")
        value = settings.get("metavar") or (
            "|".join(choices) if choices else arg.flags[-1].strip("-").upper()
        )
        names = ", ".join(arg.flags) if arg.flags[0].startswith("-") else value
        help_ = " ".join(str(settings["help"] % {"default": settings.get("default")}).split())
        bullets.append(_bullet(f"`{names} {value}`" if takes_value else f"`{names}`", help_))
    yield "\n".join(bullets)
    yield _wrapped(str(action.epilog))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


REPORT_SHAPES = (
    *(RunReport, GroupReport, Outcomes, GroupSummary, SlowBranch, Figure, Problem, ErrorCount, Cause),
    *(HostLoad, BranchReport, StepTime, TaskTry, Advice, DagHistory, GroupHistory, GroupOfRun, FailedBranch),
)
"""What ``--output json`` of the report is made of, from the whole to its parts."""


def _shapes() -> Iterator[str]:
    yield "### The report as JSON"
    yield (
        "What `airflow fanout report DAG_ID --output json` prints, a `RunReport`, with `--runs` a "
        "`DagHistory`, and what these are made of. "
        "A datetime is a text in ISO 8601, a tuple is a list."
    )
    for shape in REPORT_SHAPES:
        explained = documentation(shape)
        if not explained.text:
            raise UndocumentedError([f"{shape.__name__} is not documented"])
        bases = [base.__name__ for base in shape.__bases__ if dataclasses.is_dataclass(base)]
        inherited = [f"all of {base}" for base in bases]
        keys = [f"{key}: {_annotation(each)}" for key, each in inspect.get_annotations(shape).items()]
        yield f"`{shape.__name__}`: {' '.join(explained.text)}"
        yield "```text\n" + "\n".join([*inherited, *keys]) + "\n```"
        if explained.parameters:
            yield "\n".join(_bullet(f"`{key}`", text) for key, text in explained.parameters.items())


def _errors() -> Iterator[str]:
    yield "## Errors"
    yield (
        "All are in `airflow_fanout.exceptions`. What a fan-in decides against a run is a `FanInError`; "
        "the facts in a message are attributes, too."
    )
    bullets = []
    for name in exceptions.__all__:
        cls = getattr(exceptions, name)
        explained = documentation(cls)
        facts = [
            f"`{fact}`: {text}"
            for fact, text in explained.parameters.items()
            if fact not in {"message", "cause"}
        ]
        bases = ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
        bullets.append(_bullet(f"`{name}` ({bases})", " ".join([explained.text[0], *facts])))
    yield "\n".join(bullets)


def _blocks_of_all() -> Iterator[str]:
    group, fan_in_ = airflow_fanout.FanOutGroup, airflow_fanout.FanInOperator
    yield "# Reference"
    yield HEAD.strip()
    yield from _made_by("## FanOutGroup", "FanOutGroup", group)
    combine = airflow_fanout.product
    yield from section("## product", "product(**parts)", combine, [*inspect.signature(combine).parameters])
    yield "## Storage"
    yield STORAGE.strip()
    for name in storage.__all__:
        yield from _stored(name, getattr(storage, name))
    yield from _made_by("## FanInOperator", "FanInOperator", fan_in_)
    yield from _made_by("## FanOutNotifier", "FanOutNotifier", airflow_fanout.FanOutNotifier)
    yield from _made_by("## Reuse", "Reuse", Reuse)
    yield from _members("## FanInResults", airflow_fanout.FanInResults)
    yield from _fields("## BranchOutcome", airflow_fanout.BranchOutcome)
    yield "## Decorators"
    yield DECORATORS.strip()
    yield from _decorator("### @task.fan_out", fan_out, group, FAN_OUT_OPTIONS)
    yield from _decorator("### @task.fan_in", fan_in, fan_in_, FAN_IN_OPTIONS)
    yield "## Tests of your own"
    parameters = inspect.signature(simulate).parameters.values()
    signature = _signature("simulate", parameters)
    yield from section("### simulate", signature, simulate, [each.name for each in parameters])
    yield from _fields("### Simulation", Simulation)
    yield "## Commands"
    fanout: Any
    (fanout,) = get_fanout_cli_commands()
    yield _wrapped(str(fanout.description))
    for action in fanout.subcommands:
        yield from command(action)
    yield from _shapes()
    yield from _errors()


def reference() -> str:
    """
    Return the whole file.

    :raises UndocumentedError: If a docstring leaves out what it has to explain.
    """
    blocks = list(_blocks_of_all())
    titles = " ".join(block.lstrip("# ") for block in blocks if block.startswith("#"))
    if left_out := [name for name in airflow_fanout.__all__ if name not in titles and name != "__version__"]:
        raise UndocumentedError(f"{name} has no section" for name in left_out)
    paragraphs = (
        block if block.startswith(("#", "-", "```")) else _wrapped(block) for block in blocks if block
    )
    return "\n\n".join(paragraphs) + "\n"


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
