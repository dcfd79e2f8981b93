"""Shows what runs again, asks, and clears it; ``airflow fanout rerun``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from airflow.utils.cli import action_cli

from airflow_fanout.cli.command_line import metadata_session, stop, while_read
from airflow_fanout.metadata.clearing import clear, find_plan
from airflow_fanout.reports.rerun import plan_as_json
from airflow_fanout.rules.wording import printable

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from airflow_fanout.metadata.clearing import Clearing
    from airflow_fanout.reports.rerun import BranchRerun, GroupRerun, RerunPlan
    from airflow_fanout.reports.runs import TaskRun


__all__ = ["command", "lines"]

COMMAND = "rerun"

DECLINED = 1

SHOWN = 20
"""Branches of a group, and other task instances, that are spelt out."""

LONGEST_ERROR = 120
"""Characters of an error that are shown."""

WIDEST = 40
"""Characters that names take before what follows moves to the right."""


@action_cli(check_db=False)  # type: ignore[no-untyped-call, untyped-decorator]
@while_read()
def command(args: Namespace) -> None:
    """
    Run again what failed; Airflow's audit log notes who did.

    :param args: What was given on the command line.
    """
    is_json = args.output == "json"
    may_ask = sys.stdin.isatty() and not is_json
    if not (args.yes or args.dry_run or may_ask):
        why = "--output json" if is_json else "no terminal to ask at"
        stop(COMMAND, f"{why}: give --yes to clear without a question, or --dry-run to clear nothing")
    with metadata_session(COMMAND) as session:
        plan = find_plan(
            args.dag_id,
            args.run_id,
            group_ids=args.group,
            downstream=not args.no_downstream,
            whole_branches=args.whole_branches,
            session=session,
        )
    if not is_json:
        print("\n".join(map(printable, lines(plan))))
    causes = bool(plan.causes)
    done: Clearing | None = None
    if plan.task_runs and not args.dry_run:
        if not args.yes:
            if not _agreed(f"Clear {_counted(plan.task_runs)}?"):
                stop(COMMAND, "nothing was cleared", code=DECLINED)
            more = (*plan.causes, *plan.between)
            causes = causes and _agreed(f"And the cause, {_counted(more)}?")
        with metadata_session(COMMAND) as session:
            done = clear(plan, causes=causes, session=session)
    if is_json:
        came = {} if done is None else {"cleared": done.cleared, "changed": done.changed}
        print(json.dumps(plan_as_json(plan, **came), indent=2))
    elif done is not None:
        print("\n".join(_what_next(plan, done)))
    elif args.dry_run and plan.task_runs:
        print(f"Nothing was cleared. Without --dry-run it would be {_counted(plan.with_causes)}.")


def lines(plan: RerunPlan) -> Iterator[str]:
    """
    Say what a plan clears, for people.

    :param plan: The plan.
    """
    yield f"Run {plan.run_id} of {plan.dag_id}, {plan.run_state}"
    if not plan.task_runs:
        yield "Nothing to run again: no branch and no fan-in is without success."
    for group in plan.groups:
        yield ""
        yield from _group(group)
    for title, task_runs in (
        ("Downstream of the fan-ins", plan.downstream),
        ("Setups and teardowns of these", plan.scaffolding),
    ):
        if task_runs:
            yield ""
            yield f"{title}: {_named(task_runs)}"
    if plan.causes:
        yield ""
        yield f"The cause lies before the branches: {_named(plan.causes)}"
        if plan.between:
            yield f"Between it and the branches: {_named(plan.between)}"
        yield "Without it branches could only fail again."
    if plan.notes:
        yield ""
        yield from plan.notes
    if plan.task_runs:
        yield ""


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def _counted(task_runs: Sequence[TaskRun]) -> str:
    return f"{len(task_runs):,} task instance{'s' * (len(task_runs) != 1)}"


def _group(group: GroupRerun) -> Iterator[str]:
    kind = "batches" if group.is_batched else "branches"
    if group.unexpanded:
        yield f"{group.title}: never expanded, {_named(group.unexpanded)}"
    elif group.branches:
        yield f"{group.title}: {len(group.branches):,} of {group.total:,} {kind} run again"
    else:
        yield f"{group.title}: all {group.total:,} {kind} are fine, the fan-in is not"
    shown = group.branches[:SHOWN]
    width = min(max((len(again.branch.name) for again in shown), default=0), WIDEST)
    yield from (f"  {again.branch.name:<{width}}  {_why(again)}".rstrip() for again in shown)
    if len(group.branches) > SHOWN:
        rest = Counter(_state(again) for again in group.branches[SHOWN:])
        said = ", ".join(f"{count:,} {state}" for state, count in sorted(rest.items()))
        yield f"  and {len(group.branches) - SHOWN:,} more: {said}"
    if group.fan_ins:
        yield f"  fan-in: {_named(group.fan_ins)}"


def _state(again: BranchRerun) -> str:
    return "stopped" if again.branch.is_stopped else again.branch.state


def _why(again: BranchRerun) -> str:
    said = [_state(again)]
    if again.items is not None:
        said.append(f"{again.items:,} item{'s' * (again.items != 1)} without success")
    elif again.branch.error is not None:
        line = again.branch.error.partition("\n")[0]
        said.append(line if len(line) <= LONGEST_ERROR else f"{line[: LONGEST_ERROR - 1]}…")
    if len(again.branch.task_runs) > 1:
        said.append(f"runs {', '.join(each.name for each in again.task_runs)}")
    return "; ".join(said)


def _named(task_runs: Sequence[TaskRun]) -> str:
    said = [f"{each.name} ({each.state})" for each in task_runs[:SHOWN]]
    more = f" and {len(task_runs) - SHOWN:,} more" if len(task_runs) > SHOWN else ""
    return ", ".join(said) + more


def _what_next(plan: RerunPlan, done: Clearing) -> Iterator[str]:
    yield f"Cleared {_counted(done.cleared)}."
    if done.changed:
        yield f"Left alone, because they have changed meanwhile: {_named(done.changed)}"
    if not done.cleared:
        return
    if done.is_paused:
        yield f"The Dag is paused, nothing runs until: airflow dags unpause {plan.dag_id}"
    else:
        yield f"The scheduler runs them now. To see it: airflow fanout report {plan.dag_id} {plan.run_id}"
