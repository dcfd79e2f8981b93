"""``airflow fanout check``: finds Dags, checks them, and shows the result."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.cli.simple_table import AirflowConsole
from airflow.utils import yaml
from airflow.utils.cli import suppress_logs_and_warning

from airflow_fanout.cli.command_line import CANNOT_TELL, stop, stopping_with_reason, while_read
from airflow_fanout.metadata.dags import find_dag, parse_dags
from airflow_fanout.metadata.limits import read_scheduling_limits
from airflow_fanout.reports.dag_check import check_dag, threshold
from airflow_fanout.rules.capacity import UNKNOWN, Limit, describe
from airflow_fanout.rules.wording import counted, listing
from airflow_fanout.serialization.outline import outline

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_fanout.reports.dag_check import DagCheck, FanInCheck
    from airflow_fanout.reports.group_capacity import GroupCapacity


@suppress_logs_and_warning
@while_read()
def command(args: Namespace) -> NoReturn:
    """Check what the command line says, show it and exit."""
    if bool(args.dag_id) == args.all:
        stop("check", "expected either a DAG_ID or --all")
    # What Airflow logs and Dag files print is not part of the report.
    with stopping_with_reason("check"), redirect_stdout(sys.stderr):
        checks, others, errors = _check(None if args.all else args.dag_id)
    show(checks, others=others, errors=errors, output=args.output)
    if errors:
        sys.exit(CANNOT_TELL)
    sys.exit(int(any(check.problems for check in checks)))


def _check(dag_id: str | None) -> tuple[list[DagCheck], int, dict[str, str]]:
    """Check one Dag or all that have a fan-out or fan-in; with the number of others, and errors by file."""
    scheduling = read_scheduling_limits()  # first: without a database there is nothing to say
    if dag_id is not None:
        dag, source = find_dag(dag_id)
        return [check_dag(dag, scheduling, source=source)], 0, {}
    parsed, errors = parse_dags()
    dags = [outline(dag) for _, dag in sorted(parsed.items())]
    checks = [check_dag(dag, scheduling) for dag in dags if dag.groups or dag.fan_ins]
    return checks, len(dags) - len(checks), errors


def show(checks: Sequence[DagCheck], *, others: int = 0, errors: Mapping[str, str], output: str) -> None:
    """Print the checks, the number of other Dags, and errors by file, in one of Airflow's formats."""
    problems = sum(len(check.problems) for check in checks)
    if output in {"json", "yaml"}:
        data = {
            "dags": [_dag_as_json(check) for check in checks],
            "problems": problems,
            "others": others,
            "import_errors": [{"file": file, "error": error} for file, error in sorted(errors.items())],
        }
        print(json.dumps(data, indent=2) if output == "json" else yaml.dump(data, sort_keys=False))
        return
    heads = ("dag_id", "name", "kind", "finding")
    rows = [dict(zip(heads, (check.dag_id, *row), strict=True)) for check in checks for row in _rows(check)]
    AirflowConsole(markup=False, emoji=False, highlight=False).print_as(rows, output)
    for file, error in sorted(errors.items()):
        print(f"{file} can't be imported: {error.rstrip()}", file=sys.stderr)
    if output == "table":
        if others:
            print(f"{counted(others, 'Dag has', 'Dags have')} no fan-out and no fan-in.")
        print(f"{counted(problems, 'problem', 'problems')}." if problems else "No problems.")


def _dag_as_json(check: DagCheck) -> dict[str, Any]:
    return {
        "dag_id": check.dag_id,
        "source": check.source,
        "groups": [_group_as_json(group_id, capacity) for group_id, capacity in check.groups],
        "fan_ins": [
            {
                "task_id": fan_in.fan_in.task_id,
                "group_id": fan_in.fan_in.group_id,
                "prefix": fan_in.fan_in.task_id_prefix,
                "matches": list(fan_in.matches),
                "count": fan_in.count,
                "key": fan_in.fan_in.key,
                "threshold": threshold(fan_in.fan_in.policy, fan_in.count),
            }
            for fan_in in check.fan_ins
        ],
        "problems": [asdict(problem) for problem in check.problems],
        "notes": list(check.notes),
    }


def _group_as_json(group_id: str, capacity: GroupCapacity) -> dict[str, Any]:
    mode, tasks, limit = capacity.group.mode, capacity.tasks, capacity.tasks.limit
    if limit is None:
        reason = f"there are no more {'tasks' if mode == 'batched' else 'branches'} than {tasks.declared}"
        limit = Limit(name="branches", slots=tasks.declared, where=group_id, reason=reason)
    return {
        "group_id": group_id,
        "mode": mode,
        "declared": capacity.declared,
        "tasks": None if tasks.declared == UNKNOWN else tasks.declared,
        "effective": tasks.effective,
        "effective_items": capacity.items,
        "items_per_second": capacity.group.items_per_second,
        "limit": limit._asdict() | {"reason": limit.explanation},
        "limits": [each._asdict() | {"reason": each.explanation} for each in capacity.limits],
    }


def _rows(check: DagCheck) -> Iterator[tuple[str, str, str]]:
    """Name, kind and finding of what a table shows people."""
    for group_id, capacity in check.groups:
        yield group_id, capacity.group.mode, _capacity_in_words(capacity)
    for fan_in in check.fan_ins:
        yield fan_in.fan_in.task_id, "fan-in", _fan_in_in_words(fan_in)
    for problem in check.problems:
        yield problem.kind, "problem", problem.message
    if check.source == "database":
        yield "", "note", "No Dag file has this Dag: it is checked as the database has it"
    if not (check.groups or check.fan_ins):
        yield "", "note", "It has no fan-out and no fan-in"
    yield from (("", "note", note) for note in check.notes)


def _capacity_in_words(capacity: GroupCapacity) -> str:
    one, many = ("task", "tasks") if capacity.group.mode == "batched" else ("branch", "branches")
    rate = capacity.group.items_per_second
    text = describe(capacity.tasks, one=one, many=many, of_each=capacity.group.steps)
    if capacity.items is not None:
        items = "" if capacity.declared is None else f"{counted(capacity.declared, 'item', 'items')} in "
        a_second = "" if rate is None else f", at most {rate:g} a second"
        text = f"{items}{text} ({counted(capacity.items, 'item', 'items')} at once{a_second})"
    names = (f"pool {limit.where}" if limit.name == "pool" else limit.name for limit in capacity.limits)
    limits = [f"{name} {limit.slots}" for name, limit in zip(names, capacity.limits, strict=True)]
    limits += [] if rate is None else [f"items_per_second {rate:g}"]
    return f"{text}. Limits: {', '.join(limits)}"


def _fan_in_in_words(check: FanInCheck) -> str:
    fan_in, succeeds = check.fan_in, threshold(check.fan_in.policy, check.count)
    if fan_in.group_id is not None:
        return f"collects group {fan_in.group_id}; {succeeds}"
    if fan_in.is_templated:
        return f"prefix {fan_in.task_id_prefix!r} is known only at run time; {succeeds}"
    number = ""
    if check.count is not None and check.count != len(check.matches):
        number = f", {counted(check.count, 'branch', 'branches')}"
    return f"prefix {fan_in.task_id_prefix!r} takes {listing(check.matches, limit=10)}{number}; {succeeds}"
