"""Advice that follows from the figures of a group that has run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_fanout.reports.figures import PLURALS, number_of, shortened
from airflow_fanout.reports.group_report import Advice
from airflow_fanout.rules.wording import counted, format_ratio, format_seconds, format_share

if TYPE_CHECKING:
    from airflow_fanout.reports.group_report import GroupReport


TOO_MUCH_OVERHEAD = 0.5  # share of it above which it is worth while to run several items in one task
GOOD_OVERHEAD = 0.2  # share of it that the number of items in one task is chosen for
MORE_ITEMS = 2  # how many times as many items a task has to run for a change to be worth while
BIG_SAVING = 0.2  # share of the wall that the slowest branch alone has to cost
MUCH_SLOWER = 2.0  # how many times as long as the median of the others the slowest branch has to take
COMPUTES = 0.7  # share of the cores' time from which on branches are taken to compute, and not to wait
ONE_CORE = 1.2  # share of a core's time up to which threads are taken to compute one at a time
ONLY_WAITS = 0.1  # share of the time up to which what branches compute makes no difference
WORTH_A_START = 1.0  # seconds of work in one task below which more at once saves nothing: it has to start


def advise(group: GroupReport, *, takes_batches: bool) -> tuple[Advice, ...]:
    """
    Say what the figures of a group suggest; what wasn't recorded is not guessed.

    :param takes_batches: Whether ``items_per_task`` can be given to the group: its branches are functions.
    """
    overhead = _overhead(group) if takes_batches else None
    limit, waiting = (None, None) if _is_kept_to_rate(group) else (_limit(group), _waiting(group))
    advice = (overhead, _straggler(group), limit, _cores(group), waiting, _processes(group))
    return tuple(filter(None, advice))


def _overhead(group: GroupReport) -> Advice | None:
    """Advise to run more items in one task, so that overhead falls to :data:`GOOD_OVERHEAD`, by medians."""
    work, extra = group.outcomes.median_work_seconds, group.median_overhead_seconds
    if work is None or extra is None or group.peak_concurrency < 1 or not _starting_takes_most(group):
        return None
    parts = group.outcomes.total
    seconds = work / min(group.item_concurrency or 1, parts)  # of the task's time, for one more item
    items = _most_items(group, seconds, extra)
    ratio = extra / seconds if seconds > 0 else math.inf
    if math.isfinite(ratio):
        wanted = math.ceil(round(ratio * (1 - GOOD_OVERHEAD) / GOOD_OVERHEAD, 6))
        items = min(wanted, items)
    if items < MORE_ITEMS * (group.items_per_task or 1):
        return None
    share = extra / (extra + items * seconds)
    outlook = "so that fewer processes have to start"
    if share <= TOO_MUCH_OVERHEAD:
        outlook = f"with about {format_share(share)} of overhead"
    part = "a branch" if group.items is None else "an item"
    tasks = math.ceil(parts / items)
    text = (
        f"{format_share(group.overhead_share)} of the time was overhead: a task took {format_seconds(extra)} "
        f"on top of its work, and {part} {format_seconds(work)}. items_per_task={items} makes "
        f"{counted(tasks, 'task', 'tasks')} of them, {outlook}."
    )
    return Advice(kind="overhead", text=text, setting="items_per_task", value=items)


def _most_items(group: GroupReport, seconds: float, extra: float) -> int:
    """
    Greatest number of items in one task that leaves at least as many tasks as ran at once.

    Or, where no task then takes longer than the whole group did, as many as their machines have cores: more
    of them at once only started more slowly. One more item adds seconds to its task, on top of the extra.
    """
    parts, peak = group.outcomes.total, group.peak_concurrency
    most = parts if peak == 1 else math.ceil(parts / (peak - 1)) - 1
    core_count = sum(host.cores for host in group.hosts)
    if not 0 < core_count < peak or group.wall_seconds is None:
        return most
    for_cores = math.ceil(parts / core_count)
    if seconds > 0:
        for_cores = min(for_cores, math.floor((group.wall_seconds - group.idle_seconds - extra) / seconds))
    return max(most, for_cores)


def _straggler(group: GroupReport) -> Advice | None:
    """Name a branch that everything waited for; if it failed, what it took tells nothing of its size."""
    wall, usual = group.wall_seconds, group.median_without_slowest_seconds
    if group.saved_without_slowest_seconds is None or usual is None or wall is None or wall <= 0:
        return None
    slowest = group.slowest[0]
    saved = min(group.saved_without_slowest_seconds, slowest.seconds)  # the rest it waited, for a slot say
    is_slow = slowest.seconds > 0 and slowest.seconds >= MUCH_SLOWER * usual
    if slowest.state != "success" or not is_slow or saved / wall < BIG_SAVING:
        return None
    times = f", {format_ratio(slowest.seconds / usual)} the median of the others" if usual > 0 else ""
    text = (
        f"{shortened(slowest.name)} took {format_seconds(slowest.seconds)}{times}: without it all would have "
        f"ended {format_seconds(saved)} ({format_share(saved / wall)}) sooner. Splitting it, or what it "
        "waits for, shortens the run most."
    )
    return Advice(kind="straggler", text=text)


def _limit(group: GroupReport) -> Advice | None:
    """Name the limit that let fewer run at once than there were, if as many ran, or one fewer."""
    if not _is_held_back(group):
        return None
    waited = number_of(group.declared_concurrency - (group.effective_concurrency or 0), group.nouns[0])
    way_out = "raise it if there is room for more"
    if _starting_takes_most(group):
        way_out = "more at once save little while starting tasks takes most of the time"
    at_once = f"{group.peak_concurrency} ran at once"
    text = f"{group.limit}. {waited} had to wait for a slot ({at_once}); {way_out}."
    return Advice(kind="limit", text=text, setting=group.limit_setting)


def _is_kept_to_rate(group: GroupReport) -> bool:
    """Whether more at once would only wait for the rate."""
    waited, elapsed = group.rate_wait_seconds or 0.0, group.elapsed_sum_seconds or 0.0
    return waited > ONLY_WAITS * elapsed


def _starting_takes_most(group: GroupReport) -> bool:
    return group.overhead_share is not None and group.overhead_share > TOO_MUCH_OVERHEAD


def _is_held_back(group: GroupReport) -> bool:
    effective = group.effective_concurrency
    if group.limit is None or effective is None or effective >= group.declared_concurrency:
        return False
    # More at once than the limit: it was another one then, or is on something else.
    return max(1, effective - 1) <= group.peak_concurrency <= effective


def _cores(group: GroupReport) -> Advice | None:
    """Advise against more tasks at once than a machine has cores, where they compute :data:`COMPUTES`."""
    crowded = [host for host in group.hosts if host.peak > host.cores and host.busy_share >= COMPUTES]
    if not crowded:
        return None
    worst = max(crowded, key=lambda host: host.peak / host.cores)
    setting, way_out = "pool", f"a pool of {counted(worst.cores, 'slot', 'slots')}"
    if group.mode in {"mapped", "batched"}:
        setting, way_out = "max_concurrency", f"max_concurrency={worst.cores}"
    text = (
        f"{worst.peak} {PLURALS[group.nouns[0]]} computed at once on {worst.hostname}, which has "
        f"{counted(worst.cores, 'core', 'cores')}, and used {format_share(min(1.0, worst.busy_share))} of "
        f"what these can give: each only took longer. Let fewer run at once ({way_out} for each such "
        "machine), or give them more cores."
    )
    return Advice(kind="cores", text=text, setting=setting, value=worst.cores)


def _processes(group: GroupReport) -> Advice | None:
    """Advise processes, where threads compute on one core and their machine has others."""
    share, work = group.computed_share, group.outcomes.median_work_seconds
    items = min(group.items_per_task or 0, group.outcomes.total)
    roomy = [host for host in group.hosts if host.cores > host.peak]
    if group.item_executor != "thread" or share is None or not COMPUTES <= share <= ONE_CORE or not roomy:
        return None
    if work is None or items <= 1 or work * items < WORTH_A_START:
        return None
    text = (
        f"A batch used {format_share(share)} of one core while its items ran, and {roomy[0].hostname} has "
        f'{roomy[0].cores}: threads that compute wait for each other. item_executor="process" lets items use '
        "the other cores, item_concurrency of them; more threads don't."
    )
    return Advice(kind="processes", text=text, setting="item_executor")


def _waiting(group: GroupReport) -> Advice | None:
    """Advise to run more at once, where branches only wait and a setting holds them back."""
    share, work = group.computed_share, group.outcomes.median_work_seconds
    items = min(group.items_per_task or 0, group.outcomes.total)
    if share is None or share > ONLY_WAITS or work is None or work * max(1, items) < WORTH_A_START:
        return None
    reasons: dict[str | None, str] = {}
    if group.item_concurrency is not None and group.item_concurrency < items:
        reasons["item_concurrency"] = f"is {group.item_concurrency} of the {items} items of a task"
    if _is_held_back(group) and not _starting_takes_most(group):
        lets = f"{group.effective_concurrency} of {group.declared_concurrency} {PLURALS[group.nouns[0]]}"
        reasons[group.limit_setting] = f"lets {lets} run"
    if not reasons:
        return None
    whose = "their work" if group.items is None else "the time in which they ran"
    text = (
        f"The {PLURALS[group.nouns[1]]} only waited: {format_share(share)} of {whose} was computing. More "
        f"at once costs next to nothing: {', and '.join(f'{name} {text}' for name, text in reasons.items())}."
    )
    return Advice(kind="waiting", text=text, setting=next(iter(reasons)))
