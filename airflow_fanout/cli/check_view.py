"""Shows what ``airflow fanout check`` has found out, as text or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from airflow_fanout.rules.capacity import Capacity, Limit, describe
from airflow_fanout.rules.wording import counted, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_fanout.reports.dag_check import DagCheck, FanInCheck, GroupCheck


__all__ = ["as_json", "as_text", "sentence"]

SOURCES = {
    "file": "",
    "database": " (no Dag file has it; as in the database, without groups that only a prefix collects)",
}


def as_json(checks: Sequence[tuple[DagCheck, str]], *, others: int, errors: Mapping[str, str]) -> None:
    """
    Print JSON; its keys are documented in the command's help.

    :param checks: What was found out, each with ``file`` or ``database`` for where the Dag was taken from.
    :param others: Number of Dags that have no fan-out and no fan-in.
    :param errors: Errors of Dag files by their paths.
    """
    said = {
        "dags": [_dag(check, source) for check, source in checks],
        "problems": sum(len(check.problems) for check, _ in checks),
        "others": others,
        "import_errors": [{"file": file, "error": error} for file, error in sorted(errors.items())],
    }
    print(json.dumps(said, indent=2))


def _dag(check: DagCheck, source: str) -> dict[str, Any]:
    groups = [
        {
            "group_id": group.group_id,
            "mode": group.mode,
            "declared": group.capacity.declared,
            "tasks": group.capacity.tasks,
            "effective": group.capacity.effective,
            "effective_items": group.capacity.items,
            "limit": _limit(group.capacity.limit or _fewer(group)),
            "limits": [_limit(limit) for limit in group.capacity.limits],
        }
        for group in check.groups
    ]
    return {
        "dag_id": check.dag_id,
        "source": source,
        "groups": groups,
        "fan_ins": [asdict(fan_in) for fan_in in check.fan_ins],
        "problems": [asdict(problem) for problem in check.problems],
        "notes": list(check.notes),
    }


def _fewer(group: GroupCheck) -> Limit:
    """The work itself, where nothing else holds it back."""
    what = "tasks" if group.mode == "batched" else "branches"
    number = group.capacity.tasks or 0
    return Limit(
        name="branches", slots=number, where=group.group_id, reason=f"there are no more {what} than {number}"
    )


def _limit(limit: Limit) -> dict[str, Any]:
    return {**asdict(limit), "reason": limit.because}


def as_text(
    checks: Sequence[tuple[DagCheck, str]],
    *,
    others: int,
    errors: Mapping[str, str],
    console: Console | None = None,
) -> None:
    """
    Print text.

    :param checks: What was found out, each with ``file`` or ``database`` for where the Dag was taken from.
    :param others: Number of Dags that have no fan-out and no fan-in.
    :param errors: Errors of Dag files by their paths.
    :param console: Where to print it; None for standard output.
    """
    console = console or Console(highlight=False, markup=False)
    # Not printed at once: a grid fills its lines with blanks, which nobody wants in a file.
    with console.capture() as captured:
        for check, source in checks:
            console.print(Text.assemble("Dag ", (check.dag_id, "bold"), SOURCES[source]))
            console.print(_grid(check))
            for problem in check.problems:
                console.print(_hanging(Text("Problem:", "bold red"), problem.message))
            for note in check.notes:
                console.print(_hanging(Text("Note:", "yellow"), note))
            console.print()
        if others:
            console.print(f"{others} {'Dag has' if others == 1 else 'Dags have'} no fan-out and no fan-in.")
        for file, error in sorted(errors.items()):
            console.print(Text.assemble(("Can't be imported: ", "bold red"), f"{file}: {error.rstrip()}"))
        problems = sum(len(check.problems) for check, _ in checks)
        console.print(
            f"{problems} {'problem' if problems == 1 else 'problems'}." if problems else "No problems."
        )
    for line in captured.get().splitlines():
        print(line.rstrip())


def _grid(check: DagCheck) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=True)
    grid.add_column(max_width=26, overflow="fold", style="bold")
    grid.add_column(no_wrap=True)
    grid.add_column()
    for group in check.groups:
        limits = ", ".join(_short(limit) for limit in group.capacity.limits)
        grid.add_row(f"  {group.group_id}", group.mode, sentence(group))
        grid.add_row("", "", Text(f"limits: {limits}", "dim"))
    for fan_in in check.fan_ins:
        grid.add_row(f"  {fan_in.task_id}", "fan-in", f"{_collects(fan_in)}; {fan_in.threshold}")
    if not grid.row_count:
        grid.add_row("", "", "no fan-out and no fan-in")
    return grid


def _hanging(title: Text, message: str) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row(Text("  ") + title, message)
    return grid


def sentence(group: GroupCheck) -> str:
    """Say how many are declared, how many run at once, and why."""
    found = group.capacity
    one, many = ("task", "tasks") if group.mode == "batched" else ("branch", "branches")
    at_once = "" if found.items is None else f" ({counted(found.items, 'item', 'items')} at once)"
    if found.tasks is None and found.limit is not None:
        limited = "" if group.steps is None else f" of their {group.steps}"
        start = f"at most {found.effective}{limited} at once" if found.effective else "none can start"
        return f"as many {many} as there are at run time, {start}: {found.limit.because}{at_once}"
    capacity = Capacity(declared=found.tasks or 0, effective=found.effective, limit=found.limit)
    said = describe(capacity, one=one, many=many, of_each=group.steps)
    if found.items is not None and found.declared is not None:
        said = f"{counted(found.declared, 'item', 'items')} in {said}{at_once}"
    return said


def _collects(fan_in: FanInCheck) -> str:
    if fan_in.group_id is not None:
        return f"collects group {fan_in.group_id}"
    number = "" if fan_in.count in {None, len(fan_in.matches)} else f", {fan_in.count} branches"
    return f"prefix {fan_in.prefix!r} takes {listing(fan_in.matches, limit=10)}{number}"


def _short(limit: Limit) -> str:
    return f"pool {limit.where} {limit.slots}" if limit.name == "pool" else f"{limit.name} {limit.slots}"
