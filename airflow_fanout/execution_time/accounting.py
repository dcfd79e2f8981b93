"""What a fan-in does when it runs: reads what became of the branches, reports, decides."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from airflow.sdk import Asset
from airflow.sdk.bases.decorator import determine_kwargs
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.exceptions import EmptyFanInError, FanInError, ResultTooLargeError, TooFewBranchesError
from airflow_fanout.execution_time.ledger import collect, refuse_cleared, removed_branches
from airflow_fanout.execution_time.manifest import Manifests
from airflow_fanout.execution_time.metrics import send_metrics
from airflow_fanout.execution_time.results import FanInResults
from airflow_fanout.execution_time.wiring import (
    combinations_of,
    group_sources,
    sources_by_prefix,
    upstream_failure,
)
from airflow_fanout.execution_time.xcom import RunReader
from airflow_fanout.rules.error_kinds import Failure, kind_line, kinds_of
from airflow_fanout.rules.policy import Policy, Tally, Verdict, decide
from airflow_fanout.rules.records import REPORT_KEY, RETURN_VALUE
from airflow_fanout.rules.wording import batched_key_problem, counted, on_one_line, past_dependence_problem
from airflow_fanout.serialization.stored_values import values_lie_elsewhere
from airflow_fanout.serialization.tasks import waits_on_past

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from airflow.sdk import BaseOperator, Context

    from airflow_fanout.execution_time.wiring import Source
    from airflow_fanout.serialization.declaration import DeclaredFanIn


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """
    What a fan-in makes of its findings.

    :param upstream_failure: What it raises because of a task that is no branch, whatever the branches decide.
    """

    upstream_failure: Exception | None
    verdict: Verdict
    report: FanInReport


def account(
    task: BaseOperator,
    declared: DeclaredFanIn,
    context: Context,
    *,
    python_callable: Callable[..., Any] | None,
    op_kwargs: Mapping[str, Any],
) -> Any:
    """
    Account for every branch, push the report, decide, and combine the values.

    :param declared: What the fan-in has declared; its prefix is the rendered one.
    :param python_callable: Makes the fan-in's value; None for ``{name: value}``, what was combined, or where
        the manifest is of values in files.
    """
    ti: Any = context["ti"]
    reader = RunReader(ti)
    sources = find_sources(task, declared, context, _map_index(context))
    results, failure = find(task, declared, sources, reader, context)
    judgement = judge(declared.policy, results, failure)
    manifests = Manifests(task, declared, sources, context)
    ti.xcom_push(REPORT_KEY, judgement.report)
    group_id = None if declared.group is None else declared.group.group_id
    send_metrics(group_id, results, context, degraded=judgement.report["degraded"])
    tell_assets(task, judgement.report, context)
    try:
        try:
            settle(declared.policy, results, judgement)
        except AirflowSkipException:
            manifests.write(results, judgement.report, "skipped")
            raise
        except Exception:
            manifests.write(results, judgement.report, "failed")
            raise
        for source in sources:
            if source.reuse is not None:
                source.reuse.store_new()
        paths = manifests.write(results, judgement.report, judgement.verdict.state)
        return combine(python_callable, op_kwargs, results, context, paths if manifests.is_complete else ())
    finally:
        _log_report(judgement.report, declared, requests=reader.requests + 1)
        if judgement.report["expected"]:
            command = shlex.join(["airflow", "fanout", "report", task.dag_id, ti.run_id])
            log.info("More: %s", command)


TOLD_TO_ASSETS: tuple[Literal["expected", "succeeded", "failed", "degraded"], ...]
TOLD_TO_ASSETS = ("expected", "succeeded", "failed", "degraded")
"""Of the report, what is in the extra of the event of an asset that the fan-in updates."""


def tell_assets(task: BaseOperator, report: FanInReport, context: Context) -> None:
    """Put numbers of branches into the events of the assets among the outlets, before the author's own."""
    for outlet in task.outlets:
        if isinstance(outlet, Asset):
            told: dict[str, Any] = {name: report[name] for name in TOLD_TO_ASSETS}
            context["outlet_events"][outlet].extra.update(told)


def find_sources(
    task: BaseOperator, declared: DeclaredFanIn, context: Context, map_index: int
) -> list[Source]:
    """Find what is to be collected, in order; raises before anything is read."""
    if declared.group is not None:
        return group_sources(task, declared.group, context, map_index)
    sources = sources_by_prefix(task, declared.task_id_prefix, context, map_index)
    batched = [s.group.group_id for s in sources if s.group is not None and s.group.mode == "batched"]
    if batched and declared.key != RETURN_VALUE:
        message = f"{task.task_id!r}: key: {batched_key_problem(declared.key, batched[0])}"
        raise FanInError(message)
    task_ids = (task_id for source in sources for task_id in source.tasks.task_ids)
    waiting = [task_id for task_id in task_ids if waits_on_past(task.dag.get_task(task_id))]
    if declared.policy.tolerant and waiting:
        message = f"{task.task_id!r}: {past_dependence_problem(waiting)}"
        raise FanInError(message)
    return sources


def find(
    task: BaseOperator,
    declared: DeclaredFanIn,
    sources: Sequence[Source],
    reader: RunReader,
    context: Context,
) -> tuple[FanInResults, Exception | None]:
    """Read what became of every branch, and what other tasks have the fan-in raise."""
    map_index = _map_index(context)
    states = reader.states()
    pages = collect(reader, states, sources, declared.key)
    group = declared.group
    if group is not None and group.mode == "static" and group.prefix:
        start = sum(map(len, pages))
        removed = removed_branches(states, group, task.dag.task_dict, map_index=map_index, start=start)
        pages += [] if removed is None else [removed]
    results = FanInResults(pages, combinations_of(task, declared, sources))
    if reader.found_nothing or results.state_counts()["missing"]:
        refuse_cleared(reader, states, pages)
    return results, upstream_failure(task, states, sources, map_index, context)


def _map_index(context: Context) -> int:
    """Index of the fan-in's own instance, in a mapped task group; else -1."""
    index: int | None = context["ti"].map_index
    return -1 if index is None else index


def judge(policy: Policy, results: FanInResults, failure: Exception | None) -> Judgement:
    """Decide, and report."""
    tally = Tally.of(results.state_counts(), stopped=results.stopped_count)
    verdict = decide(tally, policy)
    longest_seconds, longest = results.longest() or (None, None)
    report = FanInReport(
        expected=tally.expected,
        counted=verdict.counted,
        needed=verdict.needed,
        succeeded=tally.succeeded,
        failed=tally.failed,
        skipped=tally.skipped,
        missing=tally.missing,
        reused=results.reused_count,
        # Only a success is degraded.
        degraded=verdict.state == "degraded" and failure is None,
        total_branch_seconds=round(results.success_seconds(), 6),
        longest_branch=longest,
        longest_branch_seconds=longest_seconds,
        problems=[
            Problem(name=outcome.name, state=outcome.state, error=outcome.error)
            for outcome in islice(results.problems(policy.problem_states), PROBLEMS_NAMED)
        ],
        errors=_errors(results, policy),
    )
    return Judgement(upstream_failure=failure, verdict=verdict, report=report)


def _errors(results: FanInResults, policy: Policy) -> list[ErrorCount]:
    failures = (
        Failure(state=outcome.state, error=outcome.error, number=1, problem=partial(str, outcome.name))
        for outcome in results.problems(policy.problem_states)
    )
    return [
        ErrorCount(state=kind.state, error=kind.error, branches=kind.number, names=kind.problems)
        for kind in kinds_of(failures)[:PROBLEMS_NAMED]
    ]


def settle(policy: Policy, results: FanInResults, judgement: Judgement) -> None:
    """Turn the judgement into what Airflow understands: raise to fail or to skip, return to go on."""
    if judgement.upstream_failure is not None:
        raise judgement.upstream_failure
    verdict, report = judgement.verdict, judgement.report
    problem_count = report["failed"] + report["missing"]
    problem_count += report["skipped"] if policy.count_skipped == "failure" else results.stopped_count
    problems = errors_listing(report["errors"], problem_count)
    match verdict.state:
        case "skipped":
            message = f"Skipped: {verdict.reason}"
            raise AirflowSkipException(message)
        case "failed" if verdict.empty:
            message = f"Nothing to fan in: {verdict.reason}"
            raise EmptyFanInError(message)
        case "failed":
            message = f"{verdict.reason}{_tolerance(policy)}.\n{problems}".rstrip()
            raise TooFewBranchesError(
                message,
                needed=verdict.needed,
                succeeded=verdict.succeeded,
                problems=list(results.problems(policy.problem_states)),
            )
        case "degraded":
            log.warning("Degraded: %s%s.\n%s", verdict.reason, _tolerance(policy), problems)


def _tolerance(policy: Policy) -> str:
    arguments = {"min_success": policy.min_success, "min_success_ratio": policy.min_success_ratio}
    text = ", ".join(f"{name}={value}" for name, value in arguments.items() if value is not None)
    return f" ({text})" if text else ""


def _log_report(report: FanInReport, declared: DeclaredFanIn, *, requests: int) -> None:
    states: tuple[Literal["succeeded", "failed", "skipped", "missing"], ...]
    states = ("succeeded", "failed", "skipped", "missing")
    counts = ", ".join(f"{report[state]} {state}" for state in states if report[state]) or "none"
    counts += f", {report['reused']} of them reused" if report["reused"] else ""
    expected = counted(report["expected"], "branch", "branches")
    log.info("%s: %s (%s)", expected, counts, counted(requests, "request", "requests"))
    total, longest = report["total_branch_seconds"], report["longest_branch_seconds"]
    if longest:
        slowest = report["longest_branch"]
        text = f"{total:.1f} s in successful branches; the longest is {slowest} with {longest:.1f} s"
        if declared.group is None or declared.group.mode != "batched":  # items of a batch wait for each other
            text += f": at best a speed-up of {total / longest:.1f}×"
        log.info("%s", text)


def combine(
    python_callable: Callable[..., Any] | None,
    op_kwargs: Mapping[str, Any],
    results: FanInResults,
    context: Context,
    manifests: Sequence[str] = (),
) -> Any:
    """
    Make the fan-in's value.

    :param manifests: Their paths, if all values are in files.
    """
    if python_callable is None and manifests:
        return manifests[0] if len(manifests) == 1 else list(manifests)
    if python_callable is None:
        return results.combined if results.is_combined else collected(results)
    arguments = determine_kwargs(python_callable, [results], {**context, **op_kwargs})
    return python_callable(results, **arguments)


PROBLEMS_NAMED = 20
"""Branches, and kinds of errors, that a report names; the rest are counted."""


class Problem(TypedDict):
    """A branch that counts against the run."""

    name: str
    state: str
    error: str | None


class ErrorCount(TypedDict):
    """How many branches count against the run for one kind of error, and the names of the first."""

    state: str
    error: str | None
    branches: int
    names: list[str]


class FanInReport(TypedDict):
    """The XCom ``fan_out_report``; numbers of branches, and seconds."""

    expected: int
    counted: int
    needed: int
    succeeded: int
    failed: int
    skipped: int
    missing: int
    reused: int
    degraded: bool
    total_branch_seconds: float
    longest_branch: str | None
    longest_branch_seconds: float | None
    problems: list[Problem]
    errors: list[ErrorCount]


def errors_listing(errors: Iterable[ErrorCount], total: int) -> str:
    """Lines that say how many failed with which error, and their first names; the rest are counted."""
    lines = []
    for kind in errors:
        names = [on_one_line(name) for name in kind["names"]]
        what = ": ".join(filter(None, [kind["state"], kind["error"]]))
        number = kind["branches"]
        lines.append(f"  {kind_line(what, names, number=number, unnamed=number - len(names))}")
        total -= number
    if total > 0:
        lines.append(f"  and {total:,} more")
    return "\n".join(lines)


MOST_BYTES = 64 * 1024 * 1024
"""Of an XCom in the metadata database; MySQL takes no more at once (``max_allowed_packet``)."""

BRANCHES_MEASURED = 1_000
"""Branches that are measured at once, so that nothing much larger than the limit is ever held."""


def collected(results: FanInResults) -> dict[str, Any]:
    """Put the values of all successful branches together, unless they are too large for the database."""
    from airflow.sdk.serde import serialize

    values: dict[str, Any] = {}
    size = 0
    pairs = iter(results.items())
    while piece := dict(islice(pairs, BRANCHES_MEASURED)):
        values |= piece
        size += 0 if values_lie_elsewhere() else len(json.dumps(serialize(piece)))
        if size > MOST_BYTES:
            message = (
                f"The values of {len(values):,} of {len(results):,} branches take {size:,} bytes; an XCom in "
                f"the metadata database takes {MOST_BYTES:,}. Give the fan-in a python_callable that goes "
                "through results.items() and returns less (a sum, a path), or keep XComs in object storage "
                "([core] xcom_backend)"
            )
            raise ResultTooLargeError(message, size=size)
    return values
