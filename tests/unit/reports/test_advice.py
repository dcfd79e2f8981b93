from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_fanout.reports import advice
from airflow_fanout.reports.advice import advise
from airflow_fanout.reports.group_report import Advice, GroupReport, HostLoad, Outcomes
from airflow_fanout.reports.timing import SlowBranch

pytestmark = pytest.mark.unit


def report(mode: str = "mapped", total: int = 9, **settings: Any) -> GroupReport:
    return GroupReport(
        title="group", states={}, mode=mode, total=total, declared_concurrency=total, **settings
    )


def with_items(group: GroupReport, **changes: Any) -> GroupReport:
    assert group.items is not None
    return replace(group, items=replace(group.items, **changes))


# One group for each rule, whose figures are just beyond its thresholds.
SMALL = report(
    total=100, peak_concurrency=4, overhead_share=0.9, median_work_seconds=0.1, median_overhead_seconds=0.5
)
SMALL_BATCHES = replace(
    SMALL,
    mode="batched",
    items_per_task=10,
    item_concurrency=1,
    items=Outcomes(states={}, total=1000, median_work_seconds=0.01),
)
UNEVEN = report(
    mode="static",
    total=5,
    peak_concurrency=5,
    wall_seconds=10.0,
    slowest=(SlowBranch(name="eu", seconds=4.0, state="success", measure="work"),),
    median_without_slowest_seconds=2.0,
    wall_without_slowest_seconds=8.0,
    saved_without_slowest_seconds=2.0,
)
LIMITED = report(
    mode="static",
    total=50,
    peak_concurrency=15,
    effective_concurrency=16,
    limit="50 branches, at most 16 at once: max_active_tasks of the Dag is 16",
    limit_setting="max_active_tasks",
)
WORKER = HostLoad(hostname="worker-1", cores=2, peak=3, busy_share=0.7)
CROWDED = report(total=8, peak_concurrency=3, hosts=(WORKER,))
WAITING = replace(LIMITED, computed_share=0.1, median_work_seconds=1.0)
WAITING_ITEMS = report(
    mode="batched",
    total=2,
    peak_concurrency=2,
    items_per_task=100,
    item_concurrency=99,
    computed_share=0.1,
    items=Outcomes(states={}, total=200, median_work_seconds=0.01),
)
COMPUTING_ITEMS = report(
    mode="batched",
    total=2,
    peak_concurrency=2,
    items_per_task=100,
    item_concurrency=16,
    item_executor="thread",
    computed_share=0.7,
    hosts=(replace(WORKER, cores=3, peak=2),),
    items=Outcomes(states={}, total=200, median_work_seconds=0.01),
)
TINY_BATCHES = report(
    mode="batched",
    total=30,
    peak_concurrency=16,
    overhead_share=0.93,
    median_overhead_seconds=3.0,
    items_per_task=10,
    item_concurrency=1,
    wall_seconds=9.0,
    hosts=(replace(WORKER, peak=2, busy_share=0.1),),
    items=Outcomes(states={}, total=300, median_work_seconds=0.001),
)


def kinds(group: GroupReport) -> list[str]:
    return [found.kind for found in advise(group, takes_batches=True)]


def only(group: GroupReport) -> Advice:
    (found,) = advise(group, takes_batches=True)
    return found


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        pytest.param(SMALL, ["overhead"], id="overhead"),
        pytest.param(SMALL_BATCHES, ["overhead"], id="overhead-of-batches"),
        pytest.param(UNEVEN, ["straggler"], id="straggler"),
        pytest.param(LIMITED, ["limit"], id="limit"),
        pytest.param(CROWDED, ["cores"], id="cores"),
        pytest.param(WAITING, ["limit", "waiting"], id="waiting"),
        pytest.param(WAITING_ITEMS, ["waiting"], id="waiting-items"),
        pytest.param(COMPUTING_ITEMS, ["processes"], id="processes"),
        pytest.param(replace(COMPUTING_ITEMS, computed_share=1.2), ["processes"], id="processes-of-one-core"),
        pytest.param(report(peak_concurrency=3), [], id="nothing-known"),
        pytest.param(report(total=0), [], id="nothing-there"),
    ],
)
def test_each_rule_holds_where_its_figures_reach_it(group: GroupReport, expected: list[str]) -> None:
    assert kinds(group) == expected


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(replace(SMALL, overhead_share=0.5), id="overhead-is-half"),
        pytest.param(replace(SMALL, overhead_share=None), id="overhead-not-known"),
        pytest.param(replace(SMALL, median_work_seconds=None), id="work-not-known"),
        pytest.param(replace(SMALL, median_overhead_seconds=None), id="overhead-of-a-task-not-known"),
        pytest.param(replace(SMALL, total=4), id="one-item-for-each-that-runs"),
        pytest.param(replace(SMALL, peak_concurrency=100), id="all-ran-at-once"),
        pytest.param(replace(SMALL, peak_concurrency=0), id="none-ran"),
        pytest.param(replace(SMALL_BATCHES, items_per_task=101), id="batches-nearly-as-large"),
        pytest.param(with_items(SMALL_BATCHES, total=57), id="too-few-for-larger-batches"),
        pytest.param(replace(UNEVEN, saved_without_slowest_seconds=1.99), id="little-saved"),
        pytest.param(replace(UNEVEN, saved_without_slowest_seconds=None), id="saving-not-known"),
        pytest.param(replace(UNEVEN, median_without_slowest_seconds=2.01), id="not-much-slower"),
        pytest.param(replace(UNEVEN, median_without_slowest_seconds=None), id="a-single-branch"),
        pytest.param(
            replace(UNEVEN, slowest=(replace(UNEVEN.slowest[0], state="failed"),)), id="the-slowest-failed"
        ),
        pytest.param(replace(UNEVEN, wall_seconds=None), id="wall-not-known"),
        pytest.param(replace(LIMITED, peak_concurrency=14), id="limit-not-reached"),
        pytest.param(replace(LIMITED, peak_concurrency=17), id="more-at-once-than-the-limit"),
        pytest.param(replace(LIMITED, effective_concurrency=None, limit=None), id="capacity-not-known"),
        pytest.param(replace(LIMITED, effective_concurrency=50, limit=None), id="nothing-limits"),
        pytest.param(replace(LIMITED, effective_concurrency=0, peak_concurrency=0), id="nothing-could-run"),
        pytest.param(replace(CROWDED, hosts=(replace(WORKER, cores=3, busy_share=1.0),)), id="enough-cores"),
        pytest.param(replace(CROWDED, hosts=(replace(WORKER, busy_share=0.69),)), id="not-computing"),
        pytest.param(replace(CROWDED, hosts=()), id="hosts-not-known"),
        pytest.param(replace(COMPUTING_ITEMS, computed_share=0.69), id="threads-that-wait-too"),
        pytest.param(replace(COMPUTING_ITEMS, computed_share=1.21), id="threads-that-free-the-interpreter"),
        pytest.param(replace(COMPUTING_ITEMS, item_executor="process"), id="processes-already"),
        pytest.param(replace(COMPUTING_ITEMS, item_executor=None), id="an-event-loop"),
        pytest.param(
            replace(COMPUTING_ITEMS, hosts=(replace(WORKER, cores=2, peak=2),)), id="no-core-to-spare"
        ),
        pytest.param(replace(COMPUTING_ITEMS, items_per_task=1), id="one-item-in-a-task"),
        pytest.param(with_items(COMPUTING_ITEMS, median_work_seconds=0.0099), id="not-worth-a-start"),
        pytest.param(replace(WAITING_ITEMS, computed_share=0.11), id="computes"),
        pytest.param(replace(WAITING_ITEMS, computed_share=None), id="computing-not-known"),
        pytest.param(replace(WAITING_ITEMS, item_concurrency=100), id="all-items-at-once"),
        pytest.param(replace(WAITING_ITEMS, item_concurrency=None), id="item-concurrency-not-known"),
        pytest.param(with_items(WAITING_ITEMS, total=99), id="no-more-items-than-run-at-once"),
        pytest.param(with_items(WAITING_ITEMS, median_work_seconds=0.0099), id="no-second-of-work-in-a-task"),
    ],
)
def test_no_rule_holds_just_short_of_it(group: GroupReport) -> None:
    assert kinds(group) == []


def test_branches_that_are_no_functions_are_not_put_into_batches() -> None:
    assert advise(SMALL, takes_batches=False) == ()


def test_branches_of_one_task_are_said_to_wait_for_a_share_of_their_work() -> None:
    assert advise(WAITING, takes_batches=False)[1].text.startswith(
        "The branches only waited: 10 % of their work was computing."
    )


@pytest.mark.parametrize(
    "changes", [{"computed_share": 0.11}, {"median_work_seconds": 0.99}, {"overhead_share": 0.51}]
)
def test_branches_that_compute_or_mostly_start_are_not_said_to_wait(changes: dict[str, Any]) -> None:
    assert kinds(replace(WAITING, **changes)) == ["limit"]


def test_the_thresholds_are_those_that_are_documented() -> None:
    shares = (advice.TOO_MUCH_OVERHEAD, advice.GOOD_OVERHEAD, advice.BIG_SAVING)
    assert shares == (0.5, 0.2, 0.2)
    assert (advice.MUCH_SLOWER, advice.COMPUTES, advice.ONLY_WAITS) == (2.0, 0.7, 0.1)
    assert advice.WORTH_A_START == 1.0


class TestItemsOfATask:
    @pytest.mark.parametrize(
        ("group", "items"),
        [
            pytest.param(SMALL, 20, id="overhead-falls-to-a-fifth"),
            pytest.param(replace(SMALL, median_work_seconds=0.5), 4, id="less-overhead-fewer-items"),
            pytest.param(replace(SMALL, median_work_seconds=0.001), 33, id="as-many-tasks-as-ran-at-once"),
            pytest.param(replace(SMALL, median_work_seconds=0.0), 33, id="no-work-at-all"),
            pytest.param(replace(SMALL, median_work_seconds=0.001, peak_concurrency=1), 100, id="all-in-one"),
            pytest.param(replace(SMALL, median_work_seconds=0.001, peak_concurrency=50), 2, id="just-two"),
            pytest.param(SMALL_BATCHES, 200, id="larger-batches"),
            pytest.param(
                replace(with_items(SMALL_BATCHES, median_work_seconds=0.1), item_concurrency=10),
                200,
                id="more-where-items-run-at-once",
            ),
            pytest.param(TINY_BATCHES, 150, id="as-many-tasks-as-cores"),
            pytest.param(replace(TINY_BATCHES, hosts=()), None, id="cores-not-known"),
            pytest.param(replace(TINY_BATCHES, wall_seconds=None), None, id="cores-but-wall-not-known"),
            pytest.param(
                replace(with_items(TINY_BATCHES, median_work_seconds=0.2), wall_seconds=8.0),
                25,
                id="none-longer-than-the-whole-was",
            ),
            pytest.param(
                replace(
                    with_items(TINY_BATCHES, median_work_seconds=0.2), wall_seconds=68.0, idle_seconds=60.0
                ),
                25,
                id="without-the-time-between-tries",
            ),
            pytest.param(
                replace(with_items(TINY_BATCHES, median_work_seconds=0.2), wall_seconds=6.9),
                None,
                id="there-is-nothing-to-gain",
            ),
            pytest.param(
                replace(TINY_BATCHES, hosts=(replace(WORKER, cores=32, busy_share=0.1),)),
                None,
                id="more-cores-than-ran-at-once",
            ),
        ],
    )
    def test_they_are_as_many_as_the_figures_suggest(self, group: GroupReport, items: int | None) -> None:
        found = advise(group, takes_batches=True)

        assert [each.value for each in found] == ([] if items is None else [items])

    @pytest.mark.parametrize("peak", range(1, 30))
    @pytest.mark.parametrize("total", [29, 30, 64, 100])
    def test_no_fewer_tasks_are_left_than_ran_at_once(self, total: int, peak: int) -> None:
        group = replace(SMALL, total=total, peak_concurrency=peak, median_work_seconds=0.0)
        for found in advise(group, takes_batches=True):
            assert found.value is not None
            assert -(-total // found.value) >= peak
            assert found.value == total or -(-total // (found.value + 1)) < peak


TWO_LIMITS = replace(
    WAITING_ITEMS, effective_concurrency=1, peak_concurrency=1, limit="so it is", limit_setting="pool"
)
STARTING_TASKS = replace(LIMITED, overhead_share=0.51)
CROWDED_CORE = replace(CROWDED, hosts=(WORKER, replace(WORKER, cores=1, peak=4)))


@pytest.mark.parametrize(
    ("group", "setting", "text"),
    [
        (SMALL, "items_per_task", "90 % of the time was overhead: a task took 0.5 s on top of its work, "),
        (SMALL, "items_per_task", ", and a branch 0.1 s. items_per_task=20 makes 5 tasks of them, "),
        (SMALL, "items_per_task", "5 tasks of them, with about 20 % of overhead."),
        (TINY_BATCHES, "items_per_task", "and an item 1 ms. items_per_task=150 makes 2 tasks of them, "),
        (TINY_BATCHES, "items_per_task", "2 tasks of them, so that fewer processes have to start."),
        (
            UNEVEN,
            None,
            "eu took 4.0 s, 2.0× the median of the others: without it all would have ended 2.0 s (20",
        ),
        (replace(UNEVEN, median_without_slowest_seconds=0.0), None, "eu took 4.0 s: without it all"),
        (replace(UNEVEN, saved_without_slowest_seconds=9.0), None, "would have ended 4.0 s (40 %) sooner"),
        (
            LIMITED,
            "max_active_tasks",
            "50 branches, at most 16 at once: max_active_tasks of the Dag is 16. 34 ",
        ),
        (
            LIMITED,
            "max_active_tasks",
            "34 branches had to wait for a slot (15 ran at once); raise it if there",
        ),
        (STARTING_TASKS, "max_active_tasks", "; more at once save little while starting tasks takes most of"),
        (
            CROWDED,
            "max_concurrency",
            "3 branches computed at once on worker-1, which has 2 cores, and used 70 %",
        ),
        (CROWDED, "max_concurrency", "(max_concurrency=2 for each such machine)"),
        (CROWDED_CORE, "max_concurrency", "1 core, and used 70 % of what these can give"),
        (replace(CROWDED, mode="static"), "pool", "(a pool of 2 slots for each such machine)"),
        (replace(CROWDED, mode="prefix"), "pool", "(a pool of 2 slots for each such machine)"),
        (
            WAITING_ITEMS,
            "item_concurrency",
            "items only waited: 10 % of the time in which they ran was comp",
        ),
        (WAITING_ITEMS, "item_concurrency", ": item_concurrency is 99 of the 100 items of a task."),
        (
            COMPUTING_ITEMS,
            "item_executor",
            "A batch used 70 % of one core while its items ran, and worker-1",
        ),
        (TWO_LIMITS, "item_concurrency", "items of a task, and pool lets 1 of 2 batches run."),
    ],
)
def test_advice_says_what_was_seen_and_what_to_do(group: GroupReport, setting: str | None, text: str) -> None:
    (found,) = (each for each in advise(group, takes_batches=True) if each.setting == setting)

    assert text in found.text


@pytest.mark.parametrize("group", [LIMITED, WAITING, WAITING_ITEMS], ids=["limited", "waiting", "items"])
def test_more_at_once_is_no_advice_where_the_rate_held_them_back(group: GroupReport) -> None:
    kept = replace(group, elapsed_sum_seconds=100.0, rate_wait_seconds=11.0)

    assert advise(group, takes_batches=True)
    assert advise(kept, takes_batches=True) == ()
    assert advise(replace(kept, rate_wait_seconds=9.0), takes_batches=True)
