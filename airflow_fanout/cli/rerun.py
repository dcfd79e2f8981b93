"""``airflow fanout rerun``: shows what runs again, asks, and clears it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from airflow.utils.cli import action_cli

from airflow_fanout.cli.command_line import metadata_session, stop, while_read
from airflow_fanout.metadata.clearing import clear, find_plan
from airflow_fanout.reports.figures import number_of, shortened
from airflow_fanout.reports.rerun import plan_as_json
from airflow_fanout.rules.wording import printable

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from airflow_fanout.reports.rerun import BranchRerun, Clearing, GroupRerun, RerunPlan
    from airflow_fanout.reports.runs import TaskRun


COMMAND, DECLINED = "rerun", 1
SHOWN = 20  # branches of a group, and other task instances, that are spelt out
LONGEST_ERROR = 120  # characters of an error that are shown
WIDEST = 40  # characters that names take before what follows moves to the right


@action_cli(check_db=False)  # type: ignore[no-untyped-call, untyped-decorator]
@while_read()
def command(args: Namespace) -> None:
    """Run again what failed; Airflow's audit log notes who did."""
    is_json = args.output == "json"
    with metadata_session(COMMAND) as session:
        plan = find_plan(
            args.dag_id,
            args.run_id,
            group_ids=args.group,
            downstream=not args.no_downstream,
            whole_branches=args.whole_branches,
            no_reuse=args.no_reuse,
            session=session,
        )
    if not is_json:
        print("\n".join(map(printable, lines(plan))))
    done: Clearing | None = None
    if plan.task_runs and not args.dry_run:
        causes = bool(plan.causes) if args.yes else _ask(plan, is_json=is_json)
        with metadata_session(COMMAND) as session:
            done = clear(plan, causes=causes, session=session)
    if is_json:
        print(json.dumps(plan_as_json(plan, done), indent=2))
    elif done is not None:
        print("\n".join(_what_next(plan, done)))
    elif plan.task_runs:
        print(f"Nothing was cleared. Without --dry-run it would be {_instances(plan.with_causes)}.")


def _ask(plan: RerunPlan, *, is_json: bool) -> bool:
    """Ask whether to clear, or else end the command; and whether the causes too."""
    if is_json or not sys.stdin.isatty():
        reason = "with --output json it does not ask" if is_json else "it can't ask without a terminal"
        stop(COMMAND, f"{reason}: give --yes to clear, or --dry-run to clear nothing")
    if not _agreed(f"Clear {_instances(plan.task_runs)}?"):
        stop(COMMAND, "nothing was cleared", code=DECLINED)
    causes = (*plan.causes, *plan.between)
    return bool(causes) and _agreed(f"Clear the cause too, {_instances(causes)}?")


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def lines(plan: RerunPlan) -> Iterator[str]:
    """Say what a plan clears, for people."""
    yield f"Run {plan.run_id} of {plan.dag_id}, {plan.run_state}"
    if not plan.task_runs:
        yield "Nothing to run again: no branch and no fan-in failed."
    for group in plan.groups:
        yield from ("", *_group(group))
    for title, task_runs in (
        ("Downstream of the fan-ins", plan.downstream),
        ("Setups and teardowns of these", plan.setups_and_teardowns),
        ("The cause lies before the branches", plan.causes),
        ("Between the cause and the branches", plan.between),
    ):
        if task_runs:
            yield from ("", f"{title}: {_named(task_runs)}")
    if plan.causes:
        yield "If the cause is not cleared too, the branches can only fail again."
    yield from ("", *plan.notes) if plan.notes else ()
    if plan.task_runs:
        yield ""


def _group(group: GroupRerun) -> Iterator[str]:
    run, number = group.run, len(group.branches)
    total = number_of(len(run.ran), "branch" if run.batches is None else "batch")
    if group.unexpanded:
        yield f"{run.title}: never expanded, {_named(group.unexpanded)}"
    elif group.branches:
        yield f"{run.title}: {number:,} of {total} {'runs' if number == 1 else 'run'} again"
    else:
        yield f"{run.title}: only the fan-in runs again"
    shown, others = group.branches[:SHOWN], group.branches[SHOWN:]
    names = [shortened(again.branch.name) for again in shown]
    width = min(max(map(len, names), default=0), WIDEST)
    yield from (f"  {name:<{width}}  {_reason(again)}" for name, again in zip(names, shown, strict=True))
    if states := sorted(Counter(_state(again) for again in others).items()):
        yield f"  and {len(others):,} more: {', '.join(f'{count:,} {state}' for state, count in states)}"
    if group.fan_ins:
        yield f"  fan-in: {_named(group.fan_ins)}"


def _state(again: BranchRerun) -> str:
    return "stopped" if again.branch.is_stopped else again.branch.state


def _reason(again: BranchRerun) -> str:
    texts = [_state(again)]
    if again.items is not None:
        texts.append(f"{number_of(again.items, 'item')} without success")
    elif again.branch.error is not None:
        texts.append(shortened(again.branch.error, LONGEST_ERROR))
    if not again.task_runs:
        texts.append("Airflow makes its task instance")
    elif len(again.branch.task_runs) > 1:
        texts.append(f"runs {', '.join(shortened(task_run.name) for task_run in again.task_runs)}")
    return "; ".join(texts)


def _instances(task_runs: Sequence[TaskRun]) -> str:
    return number_of(len(task_runs), "task instance")


def _named(task_runs: Sequence[TaskRun]) -> str:
    names = [f"{shortened(task_run.name)} ({task_run.state})" for task_run in task_runs[:SHOWN]]
    more = f" and {len(task_runs) - SHOWN:,} more" if len(task_runs) > SHOWN else ""
    return ", ".join(names) + more


def _what_next(plan: RerunPlan, done: Clearing) -> Iterator[str]:
    yield f"Cleared {_instances(done.cleared)}."
    if done.changed:
        yield f"Not cleared, because their state has changed meanwhile: {_named(done.changed)}"
    if done.cleared and done.is_paused:
        yield f"The Dag is paused. To let them run: airflow dags unpause {plan.dag_id}"
    elif done.cleared:
        yield f"The scheduler runs them now. To see it: airflow fanout report {plan.dag_id} {plan.run_id}"
