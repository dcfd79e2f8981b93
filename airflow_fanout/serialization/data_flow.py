"""What each task of a Dag takes from others, as plain values; from its file or from the database."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


@dataclass(frozen=True, kw_only=True)
class Step:
    """
    A task, where it stands, and what it takes from others.

    :param upstream: Ids of the tasks directly before it.
    :param reads: Ids of the tasks whose output it takes, by a reference, a template, or an asset.
    :param waits: Why it has to come after all that is directly before it, as what comes after "it"; "" if
        only data asks for that.
    :param holds: Why all that is directly after it has to wait for it, in the same words.
    :param is_junction: Whether it does nothing but put others in order.
    """

    task_id: str
    upstream: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    waits: str = ""
    holds: str = ""
    is_junction: bool = False


DEFAULT_RULE = "all_success"
OURS = frozenset({"BatchOperator", "FanInOperator", "SplitOperator"})
READS_ANY = "takes XComs of tasks that only a run knows"

_QUOTED = re.compile(r"""["']([^"'\s]+)["']""")


def steps_of(dag: Any) -> dict[str, Step]:
    """Find out what each task of a Dag takes, by its id."""
    known = frozenset(dag.task_ids)
    makers: dict[str, set[str]] = {}
    for task in dag.tasks:
        for asset in _assets(task, "outlets"):
            makers.setdefault(asset, set()).add(task.task_id)
    return {task.task_id: _step(task, known, makers) for task in dag.tasks}


def _step(task: Any, known: frozenset[str], makers: Mapping[str, Collection[str]]) -> Step:
    references = {*_taken(_arguments(task), known), *_pulled(task, known)}
    references |= {maker for asset in _assets(task, "inlets") for maker in makers.get(asset, ())}
    rule = str(getattr(task.trigger_rule, "value", task.trigger_rule))
    waits = READS_ANY if None in references else ""
    if rule != DEFAULT_RULE:
        waits = f"runs by the trigger rule {rule}"
    elif task.is_teardown or task.is_setup:
        waits = f"is a {'teardown' if task.is_teardown else 'setup'}"
    elif task.task_type in OURS:
        waits = "belongs to a fan-out"
    is_empty = task.inherits_from_empty_operator
    return Step(
        task_id=task.task_id,
        upstream=frozenset(task.upstream_task_ids),
        reads=frozenset(filter(None, references)),
        waits=waits,
        holds=_hold(task, is_empty=is_empty),
        is_junction=is_empty and not waits and not _assets(task, "outlets"),
    )


def _hold(task: Any, *, is_empty: bool) -> str:
    """Say why what comes after a task has to."""
    if task.is_setup or task.is_teardown:
        return f"is a {'setup' if task.is_setup else 'teardown'}"
    if task.inherits_from_skipmixin:
        return "may skip what comes after it"
    # Of one from the database only what it depends on tells.
    deps = {type(dep).__name__ for dep in getattr(task, "deps", ())}
    if getattr(task, "_is_sensor", False) or "ReadyToRescheduleDep" in deps:
        return "waits for something outside of the Dag"
    return "only puts others in order" if is_empty else ""


def _arguments(task: Any) -> list[Any]:
    """All that may refer to other tasks: templates, and what a task, or its task group, is expanded over."""
    groups = task.task_group.iter_mapped_task_groups() if task.task_group is not None else ()
    arguments = [group._expand_input.value for group in groups]  # noqa: SLF001 - there is no public way
    if task.is_mapped:
        return [*arguments, task.partial_kwargs, task._get_specified_expand_input().value]  # noqa: SLF001
    return [*arguments, *(getattr(task, name, None) for name in task.template_fields)]


def _taken(value: Any, known: Collection[str]) -> Iterator[str | None]:
    """Ids of the tasks that a value refers to; None if it pulls from tasks that only a run knows."""
    if isinstance(value, str):
        if "xcom_pull" in value:
            yield from known.intersection(_QUOTED.findall(value)) or [None]  # type: ignore[attr-defined]
    elif hasattr(value, "iter_references"):
        yield from (task.task_id for task, _ in value.iter_references())
    elif isinstance(reference := getattr(value, "data", None), Mapping):  # of a mapped task of the database
        yield from _referred(reference)
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _taken(inner, known)


def _referred(reference: Any) -> Iterator[str]:
    """Ids of the tasks that a reference is to, as the database has one."""
    if isinstance(reference, Mapping):
        if isinstance(task_id := reference.get("task_id"), str):
            yield task_id
        reference = list(reference.values())
    for inner in reference if isinstance(reference, list) else ():
        yield from _referred(inner)


def _pulled(task: Any, known: frozenset[str]) -> Collection[str | None]:
    """
    Ids of the tasks that a function pulls from, where its code names them; None if it names none.

    The database has no functions. A ``PythonOperator`` gets its data so, a ``@task`` most often by arguments.
    """
    if task.task_type == "PythonOperator" and not hasattr(task, "python_callable") and not task.is_mapped:
        return [None]
    function: Any = task.partial_kwargs if task.is_mapped else vars(task)
    function = function.get("python_callable")
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None:
        return ()
    names, texts = set(), set()
    for block in _blocks(code):
        names |= {*block.co_names}
        texts |= {*_texts(block.co_consts)}
    return (known & texts or [None]) if "xcom_pull" in names else ()


def _blocks(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _blocks(constant)


def _texts(constants: Collection[object]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from _texts(constant)


def _assets(task: Any, argument: str) -> list[str]:
    given = (task.partial_kwargs if task.is_mapped else vars(task)).get(argument) or ()
    return [str(getattr(asset, "uri", None) or getattr(asset, "name", asset)) for asset in given]
