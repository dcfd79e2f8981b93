"""A group's headline and figures as texts, which terminal and tab only lay out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_fanout.reports.group_report import Figure
from airflow_fanout.rules.instances import FINISHED
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.wording import (
    cut_middle,
    format_amount,
    format_bytes,
    format_ratio,
    format_seconds,
    format_share,
    on_one_line,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_fanout.reports.group_report import GroupReport, Outcomes


DONE = (FINISHED | {"missing"}) - {"removed"}  # states of branches that nothing more will become of
PLURALS = {
    "branch": "branches",
    "batch": "batches",
    "item": "items",
    "task instance": "task instances",
    "call": "calls",
    "run": "runs",
}

LONGEST_NAME, CAUSES_NAMED, STEPS_NAMED = 60, 2, 5
MOST_OF_PATH = 200


def number_of(number: int, noun: str) -> str:
    """Count one of the nouns of :data:`PLURALS`."""
    return f"{number:,} {noun if number == 1 else PLURALS[noun]}"


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """Put a name on one line, and cut it in its middle: both ends tell long names apart."""
    return cut_middle(on_one_line(name), most)


def headline(group: GroupReport) -> str:
    """Say in one line how far a group is, and what went wrong."""
    outcomes = group.outcomes
    if not outcomes.total and group.unexpanded is not None:
        parts = [f"not expanded: {group.unexpanded}"]
    else:
        done = sum(number for state, number in outcomes.states.items() if state in DONE)
        parts = [f"{done:,} of {number_of(outcomes.total, group.nouns[1])} done"]
        if group.items is not None:
            parts.append(f"in {number_of(group.total, 'batch')}")
        if outcomes.reused:
            parts.append(f"{outcomes.reused:,} reused")
        parts += _unsuccessful(outcomes)
    if group.degraded:
        parts.append("degraded")
    if group.causes:
        names = [(shortened(instance_name(c.task_id, c.map_index)), c.state) for c in group.causes]
        causes = ", ".join(f"{name} ({state})" for name, state in names[:CAUSES_NAMED])
        more = f" and {len(names) - CAUSES_NAMED:,} more" if len(names) > CAUSES_NAMED else ""
        parts.append(f"the cause lies before: {causes}{more}")
    return " · ".join(parts)


def failures(group: GroupReport) -> str | None:
    """Say how many branches, or items, left no value, though they should have; None if all did."""
    count, total = group.outcomes.problem_count, number_of(group.outcomes.total, group.nouns[1])
    return f"{count:,} of {total} failed" if count else None


def _unsuccessful(outcomes: Outcomes) -> Iterator[str]:
    for state, number in outcomes.states.items():
        others = number - outcomes.stopped if state == "skipped" else number
        if others and state != "success":
            yield f"{others:,} {state.replace('_', ' ')}"
        if state == "skipped" and outcomes.stopped:
            yield f"{outcomes.stopped:,} stopped"


def figures(group: GroupReport) -> tuple[Figure, ...]:
    """Write the figures of a group; there are none before the first branch was queued."""
    if not group.segments:
        return ()
    (task_noun, outcome_noun), outcomes = group.nouns, group.outcomes
    recorded = number_of(outcomes.total, outcome_noun)
    if outcomes.recorded != outcomes.total:
        recorded = f"{outcomes.recorded:,} of {recorded}"
    last_tries = ""
    if group.items is None and any(branch.earlier_tries for branch in group.branches):
        last_tries = ", in their last tries,"
    work = f"what {recorded} took inside their code{last_tries or ','} added up"
    wall = f"from the first {task_noun} queued to the last one's end"
    if not group.is_finished:
        wall = f"since the first {task_noun} was queued"
    if group.idle_seconds:
        wall += f", {format_seconds(group.idle_seconds)} of it idle between tries"
    overhead = f"of the time from queued to end{last_tries} was no work"
    texts = [
        ("Work", format_seconds(group.work_seconds), work),
        ("CPU", format_seconds(group.cpu_seconds), _cpu_note(group)),
        ("Memory", format_bytes(group.peak_memory_bytes), f"at most, of one {task_noun}'s process"),
        ("Wall", format_seconds(group.wall_seconds), wall),
        ("Speed-up", format_ratio(group.speed_up), "work / wall"),
        ("Overhead", format_share(group.overhead_share), overhead),
        ("At once", f"{group.peak_concurrency:,} of {group.total:,}", "at the busiest moment"),
        ("Limit", *_limit(group)),
        *_slowest(group),
        *_retried(group),
        *_rate_wait(group),
        *_left(group),
        *_stored_items(group),
        *_results(group),
        *_steps(group),
        *_io(group),
    ]
    return tuple(Figure(name=name, value=value, note=note) for name, value, note in texts)


def _cpu_note(group: GroupReport) -> str:
    if group.items is None or group.computed_share is None:
        return "CPU time of that; the rest was spent waiting"
    waited = format_share(max(0.0, 1 - group.computed_share))
    return f"of the batches' processes, which waited for {waited} of the time in which items ran"


def _retried(group: GroupReport) -> Iterator[tuple[str, str, str]]:
    if group.retried_items:
        calls = f"{number_of(group.extra_calls, 'call')} beyond the first"
        yield "Retried", f"{group.retried_items:,}", f"items that were called again, with {calls}"


def _rate_wait(group: GroupReport) -> Iterator[tuple[str, str, str]]:
    if group.rate_wait_seconds:
        note = "in which batches could have started an item but for items_per_second, added up"
        yield "Rate wait", format_seconds(group.rate_wait_seconds), note


def _steps(group: GroupReport) -> Iterator[tuple[str, str, str]]:
    if group.steps:
        first, *others = group.steps
        named = [f"{shortened(step.name)} {format_seconds(step.seconds)}" for step in others[:STEPS_NAMED]]
        more = f" and {len(others) - STEPS_NAMED:,} more" if len(others) > STEPS_NAMED else ""
        note = f"in {shortened(first.name)}, all branches added up"
        note += f"; {', '.join(named)}{more}" if named else ""
        yield "Steps", format_seconds(first.seconds), note


def _io(group: GroupReport) -> Iterator[tuple[str, str, str]]:
    """What went through ``read`` and ``write``; nothing where no kernel told."""
    if group.read_bytes is not None:
        note = f"by the {PLURALS[group.nouns[0]]}' processes; {format_amount(group.written_bytes)} written"
        yield "Read", format_amount(group.read_bytes), note


def _left(group: GroupReport) -> Iterator[tuple[str, str, str]]:
    if group.expected_left_seconds is not None:
        yield "Left", *time_left(group.expected_left_seconds, group.usual_wall_seconds)


def time_left(left: float, usual: float | None) -> tuple[str, str]:
    """
    Say how much longer a group is expected to take, and why.

    :param left: Seconds.
    :param usual: Seconds that it usually takes.
    """
    past = "" if left else ", which is over"
    note = f"expected: its wall was {format_seconds(usual)} in earlier runs, the median{past}"
    return format_seconds(left), note


def _stored_items(group: GroupReport) -> Iterator[tuple[str, str, str]]:
    if group.stored_items is not None:
        yield "Items", "from storage", shortened(group.stored_items, MOST_OF_PATH)


def _results(group: GroupReport) -> Iterator[tuple[str, str, str]]:
    if group.results_path is not None:
        yield "Results", "in files", shortened(group.results_path, MOST_OF_PATH)


def _limit(group: GroupReport) -> tuple[str, str]:
    if group.limit is not None:
        return f"{group.effective_concurrency:,}", group.limit
    if group.effective_concurrency is not None:
        return "none", f"keeps all {PLURALS[group.nouns[0]]} from running at once"
    return "–", "not known: some of these tasks have limits of their own"


def _slowest(group: GroupReport) -> Iterator[tuple[str, str, str]]:
    runs_items_at_once = (group.item_concurrency or 1) > 1
    added_up = ": the work of its items, which ran at once, added up" if runs_items_at_once else ""
    for slow in group.slowest[:1]:
        yield "Slowest", format_seconds(slow.seconds), shortened(slow.name) + added_up
    if group.wall_without_slowest_seconds is not None:
        note = f"wall of the others, {format_seconds(group.saved_without_slowest_seconds)} less"
        yield "Without it", format_seconds(group.wall_without_slowest_seconds), note
    for slow in group.items.slowest[:1] if group.items is not None else ():
        median = "the median" if group.outcomes.median_work_seconds is not None else "the median is not known"
        note = f"{median}; the slowest is {shortened(slow.name)} with {format_seconds(slow.seconds)}"
        yield "Per item", format_seconds(group.outcomes.median_work_seconds), note
