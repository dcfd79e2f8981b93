"""Which instance, or item, is which branch: the names that they ran under decide, never positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_fanout.rules.outcomes import Ruling

if TYPE_CHECKING:
    from collections.abc import Sequence

NEVER_RAN = "no task instance ran it: the Dag, or its items, changed after the branches had run"

CHANGED = "the Dag, or its items, changed after branches had run; names tell which instance ran which"

REMOVED = Ruling(state="removed", error="it is no longer declared")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """
    What ran one branch: an instance of a mapped task, or an item of a batch.

    :param position: Index, among all branches, of what it ran.
    :param name: Name of that when it ran; None if it died before it could tell.
    :param title: Sets it apart from another one that ran under the same name.
    :param is_removed: Whether Airflow has removed it, so that it is no longer that of any branch.
    """

    position: int
    name: str | None
    title: str
    is_removed: bool = False


@dataclass(frozen=True, kw_only=True)
class Match:
    """
    A branch and its execution.

    :param execution: Index of the execution; None if there is none.
    :param ruling: What became of a branch that was not run, or is no longer declared; None of all others.
    """

    name: str
    execution: int | None
    ruling: Ruling | None = None


def match_names(expected: Sequence[str], executions: Sequence[Execution]) -> list[Match] | None:
    """
    Find the execution of each expected branch, and name what is no longer expected after them.

    An execution without a name is that of the branch which is now at its position, unless another one has
    run under that name.

    :return: None if each position ran what is expected there.
    """
    if len(expected) == len(executions) and all(
        execution.position == position and execution.name in {None, name} and not execution.is_removed
        for position, (name, execution) in enumerate(zip(expected, executions, strict=True))
    ):
        return None
    by_name: dict[str, int] = {}
    by_position: dict[int, int] = {}
    for index, execution in enumerate(executions):
        if execution.is_removed:
            continue
        by_position[execution.position] = index
        is_declared = execution.position < len(expected)
        is_in_place = is_declared and expected[execution.position] == execution.name
        if execution.name is not None and (is_in_place or execution.name not in by_name):
            by_name[execution.name] = index
    matches = []
    for position, name in enumerate(expected):
        found, at_position = by_name.get(name), by_position.get(position)
        if found is None and at_position is not None and executions[at_position].name is None:
            found = at_position
        ruling = None
        if found is None:
            error = NEVER_RAN
            if at_position is not None:
                ran_as = executions[at_position].name
                error = f"its instance ran as {ran_as!r} before the Dag, or its items, changed"
            ruling = Ruling(state="missing", error=error)
        matches.append(Match(name=name, execution=found, ruling=ruling))
    names = set(expected)
    matched = {match.execution for match in matches}
    for index, execution in enumerate(executions):
        if index not in matched:
            name = execution.name or execution.title
            if name in names:
                name = f"{name} ({execution.title})"
            names.add(name)
            matches.append(Match(name=name, execution=index, ruling=REMOVED))
    return matches
