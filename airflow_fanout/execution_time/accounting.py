"""What a fan-in does when it runs: reads what became of the branches, reports, decides."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.bases.decorator import determine_kwargs
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.exceptions import EmptyFanInError, FanInError, ResultTooLargeError, TooFewBranchesError
from airflow_fanout.execution_time.batched import BatchNaming
from airflow_fanout.execution_time.ledger import collect, refuse_cleared, removed_branches
from airflow_fanout.execution_time.results import FanInResults, ReadyPage
from airflow_fanout.execution_time.wiring import group_sources, sources_by_prefix, what_came_before
from airflow_fanout.execution_time.xcom import RunReader
from airflow_fanout.rules.policy import Policy, Tally, Verdict, decide
from airflow_fanout.rules.records import REPORT_KEY, RETURN_VALUE
from airflow_fanout.rules.wording import batched_key_problem, counted, on_one_line, past_dependence_problem
from airflow_fanout.serialization.stored_values import values_lie_elsewhere
from airflow_fanout.serialization.tasks import waits_on_past

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow.sdk import Context

    from airflow_fanout.execution_time.sources import Source
    from airflow_fanout.rules.instances import States
    from airflow_fanout.rules.outcomes import BranchOutcome


__all__ = [
    "PROBLEMS_NAMED",
    "FanInReport",
    "Found",
    "Judgement",
    "Problem",
    "account",
    "collected",
    "combine",
    "fan_in_report",
    "judge",
    "problems_listing",
    "settle",
    "sources_of",
]


@dataclass(frozen=True, kw_only=True)
class Found:
    """
    What a fan-in has found of its run.

    :param sources: What it collects, in order.
    :param map_index: Its own index in a mapped task group; -1 outside of one.
    :param states: States of the run's finished instances.
    :param results: Every branch's outcome.
    """

    sources: Sequence[Source]
    map_index: int
    states: States
    results: FanInResults


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """
    What a fan-in makes of what it has found.

    :param before: What it raises because of what came before the branches, whatever these decide; or None.
    :param verdict: What the branches alone decide.
    :param report: The XCom ``fan_out_report``.
    """

    before: Exception | None
    verdict: Verdict
    report: FanInReport


def account(fan_in: Any, context: Context) -> Any:
    """
    Account for every branch, push the report, decide, and combine what came.

    :param fan_in: The fan-in that runs.
    :param context: Its context.
    :raises FanInError: If the verdict is against the run.
    :raises AirflowSkipException: If it is that there is nothing to do.
    """
    ti: Any = context["ti"]
    map_index = ti.map_index if ti.map_index is not None else -1
    sources = sources_of(fan_in, context, map_index)
    reader = RunReader(ti)
    states = reader.states()
    pages = collect(reader, states, sources, fan_in.key)
    if fan_in.group is not None and fan_in.group.mode == "static" and fan_in.group.prefix:
        gone = removed_branches(
            states,
            fan_in.group,
            fan_in.dag.task_dict,
            map_index=map_index,
            index=sum(map(len, pages)),
        )
        pages += [ReadyPage(gone)] if gone else []
    results = FanInResults(pages)
    if reader.found_nothing or "missing" in results.states():
        refuse_cleared(reader, states, pages)
    found = Found(sources=sources, map_index=map_index, states=states, results=results)
    judgement = judge(fan_in, found)
    ti.xcom_push(REPORT_KEY, judgement.report)
    try:
        settle(fan_in, results, judgement)
        return combine(fan_in, results, context)
    finally:
        _log_report(fan_in, judgement.report, reader.requests + 1, ti.run_id)


def sources_of(fan_in: Any, context: Context, map_index: int) -> list[Source]:
    """
    Find what is to be collected, in order; raises before anything is read.

    :param fan_in: The fan-in.
    :param context: Its context.
    :param map_index: Its own index in a mapped task group; -1 outside of one.
    """
    if fan_in.group is not None:
        return group_sources(fan_in, fan_in.group, context, map_index)
    sources = sources_by_prefix(fan_in, fan_in.task_id_prefix, map_index)
    batched = [s.task_id.rpartition(".")[0] for s in sources if isinstance(s.naming, BatchNaming)]
    if batched and fan_in.key != RETURN_VALUE:
        message = f"{fan_in.task_id!r}: key: {batched_key_problem(fan_in.key, batched[0])}"
        raise FanInError(message)
    task_ids = (task_id for s in sources for task_id in s.task_ids or (s.task_id,))
    waiting = [task_id for task_id in task_ids if waits_on_past(fan_in.dag.get_task(task_id))]
    if fan_in.policy.tolerant and waiting:
        message = f"{fan_in.task_id!r}: {past_dependence_problem(waiting)}"
        raise FanInError(message)
    return sources


def judge(fan_in: Any, found: Found) -> Judgement:
    """
    Decide, and report.

    :param fan_in: The fan-in.
    :param found: What it has found.
    """
    results, policy = found.results, fan_in.policy
    tally = Tally.of(results.states(), stopped=results.stopped_count)
    verdict = decide(tally, policy)
    before = what_came_before(fan_in, found.states, found.sources, found.map_index)
    # Only a success is degraded.
    degraded = verdict.state == "degraded" and before is None
    report = fan_in_report(results, tally, verdict, policy, degraded=degraded)
    return Judgement(before=before, verdict=verdict, report=report)


def settle(fan_in: Any, results: FanInResults, judgement: Judgement) -> None:
    """
    Raise what came before the branches, or else a verdict against the run, or over nothing, is for Airflow.

    :param fan_in: The fan-in.
    :param results: Every branch's outcome.
    :param judgement: What it has made of them.
    """
    if judgement.before is not None:
        raise judgement.before
    verdict, report = judgement.verdict, judgement.report
    skipped_too = fan_in.policy.count_skipped == "failure"
    problem_count = report["failed"] + report["missing"]
    problem_count += report["skipped"] if skipped_too else results.stopped_count
    named = problems_listing(report["problems"], problem_count)
    match verdict.state:
        case "skipped":
            message = f"Skipped: {verdict.reason}"
            raise AirflowSkipException(message)
        case "failed" if verdict.empty:
            message = f"Nothing to fan in: {verdict.reason}"
            raise EmptyFanInError(message)
        case "failed":
            message = f"{verdict.reason}{_tolerance(fan_in.policy)}.\n{named}"
            raise TooFewBranchesError(
                message,
                needed=verdict.needed,
                succeeded=verdict.succeeded,
                problems=list(results.problems(fan_in.policy.problem_states)),
            )
        case "degraded":
            fan_in.log.warning("Degraded: %s%s.\n%s", verdict.reason, _tolerance(fan_in.policy), named)


def _tolerance(policy: Policy) -> str:
    asked = {"min_success": policy.min_success, "min_success_ratio": policy.min_success_ratio}
    said = ", ".join(f"{name}={value}" for name, value in asked.items() if value is not None)
    return f" ({said})" if said else ""


def _log_report(fan_in: Any, report: FanInReport, requests: int, run_id: str) -> None:
    parts = {
        "succeeded": report["succeeded"],
        "failed": report["failed"],
        "skipped": report["skipped"],
        "missing": report["missing"],
    }
    counts = ", ".join(f"{number} {part}" for part, number in parts.items() if number) or "none"
    expected = counted(report["expected"], "branch", "branches")
    fan_in.log.info("%s: %s (%s)", expected, counts, counted(requests, "request", "requests"))
    total, longest = report["total_branch_seconds"], report["longest_branch_seconds"]
    if longest:
        slowest = report["longest_branch"]
        said = f"{total:.1f} s in successful branches; the longest is {slowest} with {longest:.1f} s"
        if fan_in.group is None or fan_in.group.mode != "batched":  # items of a batch wait for each other
            said += f": at best a speed-up of {total / longest:.1f}×"
        fan_in.log.info("%s", said)
    if report["expected"]:
        fan_in.log.info("More: %s", shlex.join(["airflow", "fanout", "report", fan_in.dag_id, run_id]))


def combine(fan_in: Any, results: FanInResults, context: Context) -> Any:
    """
    Make the fan-in's value of what came.

    :param fan_in: The fan-in, rendered.
    :param results: Every branch's outcome.
    :param context: Its context.
    """
    if fan_in.python_callable is None:
        return collected(results)
    arguments = determine_kwargs(fan_in.python_callable, [results], {**context, **fan_in.op_kwargs})
    return fan_in.python_callable(results, **arguments)


PROBLEMS_NAMED = 20
"""Branches that a report or an error names; the rest are counted."""


class Problem(TypedDict):
    """A branch that counts against the run."""

    name: str
    state: str
    error: str | None


class FanInReport(TypedDict):
    """The XCom ``fan_out_report``; numbers of branches, and seconds."""

    expected: int
    counted: int
    succeeded: int
    failed: int
    skipped: int
    missing: int
    degraded: bool
    total_branch_seconds: float
    longest_branch: str | None
    longest_branch_seconds: float | None
    problems: list[Problem]


def fan_in_report(
    results: FanInResults, tally: Tally, verdict: Verdict, policy: Policy, *, degraded: bool
) -> FanInReport:
    """
    Put a run's figures together.

    :param results: Every branch's outcome.
    :param tally: How many ended in which state.
    :param verdict: What the branches alone decide.
    :param policy: The tolerance; it says which states are problems.
    :param degraded: Whether the fan-in succeeds in spite of some.
    """
    timed = [
        (seconds, name)
        for name, state, seconds in results.durations()
        if state == "success" and seconds is not None
    ]
    longest_seconds, longest = max(timed, key=lambda timing: timing[0], default=(None, None))
    return FanInReport(
        expected=tally.expected,
        counted=verdict.counted,
        succeeded=tally.succeeded,
        failed=tally.failed,
        skipped=tally.skipped,
        missing=tally.missing,
        degraded=degraded,
        total_branch_seconds=round(math.fsum(seconds for seconds, _ in timed), 6),
        longest_branch=longest,
        longest_branch_seconds=longest_seconds,
        problems=_problems(islice(results.problems(policy.problem_states), PROBLEMS_NAMED)),
    )


def problems_listing(problems: Iterable[Problem], total: int) -> str:
    """
    Lines that name branches, their states and errors.

    :param problems: The first of them.
    :param total: How many there are.
    """
    lines = [
        f"  {on_one_line(p['name'])}: {p['state']}" + (f": {p['error']}" if p["error"] else "")
        for p in problems
    ]
    if total > len(lines):
        lines.append(f"  and {total - len(lines)} more")
    return "\n".join(lines)


def _problems(outcomes: Iterable[BranchOutcome]) -> list[Problem]:
    return [Problem(name=outcome.name, state=outcome.state, error=outcome.error) for outcome in outcomes]


MOST_BYTES = 64 * 1024 * 1024
"""
Of an XCom in the metadata database: MySQL takes 64 MiB at once (``max_allowed_packet``), PostgreSQL's
``jsonb`` 256 MiB, and whoever reads it holds all of it in memory.
"""

BRANCHES_MEASURED = 1_000
"""Branches that are measured at once, so that nothing much larger than the limit is ever held."""


def collected(results: FanInResults) -> dict[str, Any]:
    """
    Put the values of all successful branches together, by name.

    :param results: What the branches returned.
    :raises ResultTooLargeError: If they are too large for an XCom in the metadata database.
    """
    found: dict[str, Any] = {}
    size, piece = 0, dict[str, Any]()
    limited = not values_lie_elsewhere()
    for name, value in results.items():
        found[name] = piece[name] = value
        if limited and len(piece) >= BRANCHES_MEASURED:
            size, piece = size + _bytes(piece), {}
            if size > MOST_BYTES:
                _refuse(size, len(found), len(results))
    if limited and size + _bytes(piece) > MOST_BYTES:
        _refuse(size + _bytes(piece), len(found), len(results))
    return found


def _bytes(values: dict[str, Any]) -> int:
    from airflow.sdk.serde import serialize

    return len(json.dumps(serialize(values)))


def _refuse(size: int, count: int, total: int) -> None:
    message = (
        f"The values of {count:,} of {total:,} branches take {size:,} bytes, and an XCom in the metadata "
        f"database takes {MOST_BYTES:,}. Give the fan-in a python_callable that goes through results.items() "
        "and returns less (a sum, a path), or keep XComs in object storage ([core] xcom_backend)"
    )
    raise ResultTooLargeError(message, size=size)
