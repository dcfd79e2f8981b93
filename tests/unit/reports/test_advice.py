from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_fanout.reports import advice
from airflow_fanout.reports.advice import Advice, Figures, HostLoad, advise
from airflow_fanout.reports.timing import SlowBranch, Straggler
from airflow_fanout.rules.capacity import Capacity, Limit

pytestmark = pytest.mark.unit

# One group for each rule, whose figures are just beyond its thresholds.
SMALL = Figures(
    mode="mapped",
    takes_batches=True,
    tasks=100,
    parts=100,
    peak=4,
    overhead_share=0.9,
    median_work=0.1,
    median_overhead=0.5,
)
SMALL_BATCHES = replace(
    SMALL, mode="batched", tasks=100, parts=1000, items_per_task=10, item_concurrency=1, median_work=0.01
)
UNEVEN = Figures(
    mode="static",
    tasks=5,
    parts=5,
    peak=5,
    wall_seconds=10.0,
    straggler=Straggler(
        branch=SlowBranch(name="eu", seconds=4.0, state="success", measure="work"),
        median_of_others=2.0,
        wall_of_others=8.0,
        saved_seconds=2.0,
    ),
)
LIMITED = Figures(
    mode="static",
    tasks=50,
    parts=50,
    peak=15,
    capacity=Capacity(
        declared=50, effective=16, limit=Limit(name="max_active_tasks", slots=16, where="the Dag")
    ),
)
CROWDED = Figures(
    mode="mapped",
    tasks=8,
    parts=8,
    peak=3,
    hosts=(HostLoad(hostname="worker-1", cores=2, peak=3, busy_share=0.7),),
)
WAITING = replace(LIMITED, share_computed=0.1, median_work=1.0)
WAITING_ITEMS = Figures(
    mode="batched",
    tasks=2,
    parts=200,
    peak=2,
    items_per_task=100,
    item_concurrency=99,
    share_computed=0.1,
    median_work=0.01,
)


TINY_BATCHES = Figures(
    mode="batched",
    takes_batches=True,
    tasks=30,
    parts=300,
    peak=16,
    overhead_share=0.93,
    median_work=0.001,
    median_overhead=3.0,
    items_per_task=10,
    item_concurrency=1,
    wall_seconds=9.0,
    capacity=Capacity(
        declared=30, effective=16, limit=Limit(name="max_active_tasks", slots=16, where="the Dag")
    ),
    hosts=(HostLoad(hostname="worker-1", cores=2, peak=2, busy_share=0.1),),
)


def kinds(figures: Figures) -> list[str]:
    return [found.kind for found in advise(figures)]


def only(figures: Figures) -> Advice:
    (found,) = advise(figures)
    return found


def straggler(**changes: Any) -> Straggler:
    assert UNEVEN.straggler is not None
    return replace(UNEVEN.straggler, **changes)


FAILED = straggler(branch=SlowBranch(name="eu", seconds=4.0, state="failed", measure="work"))


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        pytest.param(SMALL, ["overhead"], id="overhead"),
        pytest.param(SMALL_BATCHES, ["overhead"], id="overhead-of-batches"),
        pytest.param(UNEVEN, ["straggler"], id="straggler"),
        pytest.param(LIMITED, ["limit"], id="limit"),
        pytest.param(CROWDED, ["cores"], id="cores"),
        pytest.param(WAITING, ["limit", "waiting"], id="waiting"),
        pytest.param(WAITING_ITEMS, ["waiting"], id="waiting-items"),
        pytest.param(Figures(mode="mapped", tasks=9, parts=9, peak=3), [], id="nothing-known"),
        pytest.param(Figures(mode="mapped", tasks=0, parts=0, peak=0), [], id="nothing-there"),
    ],
)
def test_each_rule_holds_where_its_figures_reach_it(figures: Figures, expected: list[str]) -> None:
    assert kinds(figures) == expected


@pytest.mark.parametrize(
    ("figures", "changes"),
    [
        pytest.param(SMALL, {"overhead_share": 0.5}, id="overhead-is-half"),
        pytest.param(SMALL, {"overhead_share": None}, id="overhead-not-known"),
        pytest.param(SMALL, {"median_work": None}, id="work-not-known"),
        pytest.param(SMALL, {"median_overhead": None}, id="overhead-of-a-task-not-known"),
        pytest.param(SMALL, {"takes_batches": False}, id="no-functions"),
        pytest.param(SMALL, {"parts": 4}, id="one-item-for-each-that-runs"),
        pytest.param(SMALL, {"peak": 100}, id="all-ran-at-once"),
        pytest.param(SMALL, {"peak": 0}, id="none-ran"),
        pytest.param(SMALL_BATCHES, {"items_per_task": 101}, id="batches-nearly-as-large"),
        pytest.param(SMALL_BATCHES, {"parts": 57}, id="too-few-for-larger-batches"),
        pytest.param(UNEVEN, {"straggler": straggler(saved_seconds=1.99)}, id="little-saved"),
        pytest.param(UNEVEN, {"straggler": straggler(saved_seconds=None)}, id="saving-not-known"),
        pytest.param(UNEVEN, {"straggler": straggler(median_of_others=2.01)}, id="not-much-slower"),
        pytest.param(UNEVEN, {"straggler": None}, id="a-single-branch"),
        pytest.param(UNEVEN, {"straggler": FAILED}, id="the-slowest-failed"),
        pytest.param(UNEVEN, {"wall_seconds": None}, id="wall-not-known"),
        pytest.param(LIMITED, {"peak": 14}, id="limit-not-reached"),
        pytest.param(LIMITED, {"peak": 17}, id="more-at-once-than-the-limit"),
        pytest.param(LIMITED, {"capacity": None}, id="capacity-not-known"),
        pytest.param(
            LIMITED, {"capacity": Capacity(declared=16, effective=16, limit=None)}, id="nothing-limits"
        ),
        pytest.param(
            LIMITED,
            {"capacity": Capacity(declared=5, effective=0, limit=Limit(name="pool", slots=0)), "peak": 0},
            id="nothing-could-run",
        ),
        pytest.param(
            CROWDED,
            {"hosts": (HostLoad(hostname="a", cores=3, peak=3, busy_share=1.0),)},
            id="enough-cores",
        ),
        pytest.param(
            CROWDED,
            {"hosts": (HostLoad(hostname="a", cores=2, peak=3, busy_share=0.69),)},
            id="not-computing",
        ),
        pytest.param(CROWDED, {"hosts": ()}, id="hosts-not-known"),
        pytest.param(WAITING_ITEMS, {"share_computed": 0.11}, id="computes"),
        pytest.param(WAITING_ITEMS, {"share_computed": None}, id="computing-not-known"),
        pytest.param(WAITING_ITEMS, {"item_concurrency": 100}, id="all-items-at-once"),
        pytest.param(WAITING_ITEMS, {"item_concurrency": None}, id="item-concurrency-not-known"),
        pytest.param(WAITING_ITEMS, {"parts": 99}, id="no-more-items-than-run-at-once"),
        pytest.param(WAITING_ITEMS, {"median_work": 0.0099}, id="no-second-of-work-in-a-task"),
    ],
)
def test_no_rule_holds_just_short_of_it(figures: Figures, changes: dict[str, Any]) -> None:
    assert kinds(replace(figures, **changes)) == []


def test_branches_that_compute_are_not_said_to_wait() -> None:
    assert kinds(replace(WAITING, share_computed=0.11)) == ["limit"]


def test_trivial_branches_are_not_said_to_wait() -> None:
    assert kinds(replace(WAITING, median_work=0.99)) == ["limit"]


class TestItemsOfATask:
    @pytest.mark.parametrize(
        ("changes", "items"),
        [
            pytest.param({}, 20, id="overhead-falls-to-a-fifth"),
            pytest.param({"median_work": 0.5}, 4, id="less-overhead-fewer-items"),
            pytest.param({"median_work": 0.001}, 33, id="as-many-tasks-as-ran-at-once"),
            pytest.param({"median_work": 0.0}, 33, id="no-work-at-all"),
            pytest.param({"median_work": 0.001, "peak": 1}, 100, id="all-in-one"),
            pytest.param({"median_work": 0.001, "peak": 51}, None, id="none-to-spare"),
            pytest.param({"median_work": 0.001, "peak": 50}, 2, id="just-two"),
        ],
    )
    def test_they_are_as_many_as_the_figures_suggest(
        self, changes: dict[str, Any], items: int | None
    ) -> None:
        found = advise(replace(SMALL, **changes))

        assert [each.value for each in found] == ([] if items is None else [items])

    @pytest.mark.parametrize("peak", range(1, 30))
    @pytest.mark.parametrize("parts", [29, 30, 64, 100])
    def test_no_fewer_tasks_are_left_than_ran_at_once(self, parts: int, peak: int) -> None:
        for found in advise(replace(SMALL, parts=parts, tasks=parts, peak=peak, median_work=0.0)):
            assert found.value is not None
            assert -(-parts // found.value) >= peak
            assert found.value == parts or -(-parts // (found.value + 1)) < peak

    @pytest.mark.parametrize(
        ("changes", "items"),
        [
            pytest.param({}, 150, id="as-many-tasks-as-cores"),
            pytest.param({"hosts": ()}, None, id="cores-not-known"),
            pytest.param({"wall_seconds": None}, None, id="wall-not-known"),
            pytest.param({"median_work": 0.2, "wall_seconds": 8.0}, 25, id="none-longer-than-the-whole-was"),
            pytest.param({"median_work": 0.2, "wall_seconds": 6.9}, None, id="there-is-nothing-to-gain"),
            pytest.param(
                {"hosts": (HostLoad(hostname="worker-1", cores=32, peak=16, busy_share=0.1),)},
                None,
                id="more-cores-than-ran-at-once",
            ),
        ],
    )
    def test_they_leave_no_more_tasks_than_there_are_cores(
        self, changes: dict[str, Any], items: int | None
    ) -> None:
        found = [each for each in advise(replace(TINY_BATCHES, **changes)) if each.kind == "overhead"]

        assert [each.value for each in found] == ([] if items is None else [items])

    def test_of_items_at_once_a_task_has_more(self) -> None:
        assert only(replace(SMALL_BATCHES, median_work=0.1, item_concurrency=10)).value == 200

    def test_the_setting_and_what_it_brings_are_named(self) -> None:
        found = only(SMALL)

        assert (found.setting, found.value) == ("items_per_task", 20)
        assert "90 % of the time was overhead: a task took 0.5 s on top of its work" in found.text
        assert "items_per_task=20 makes 5 tasks of them, with about 20 % of overhead" in found.text

    def test_a_batched_group_is_told_a_larger_number(self) -> None:
        assert only(SMALL_BATCHES).value == 200


class TestWhatIsSaid:
    def test_a_straggler_is_named_with_what_it_costs(self) -> None:
        text = only(UNEVEN).text

        assert text.startswith(
            "eu took 4.0 s, 2.0× the median of the others: without it all would have ended "
        )
        assert "2.0 s (20 %) sooner" in text

    def test_others_that_took_no_time_are_not_divided_by(self) -> None:
        assert "×" not in only(replace(UNEVEN, straggler=straggler(median_of_others=0.0))).text

    def test_a_limit_is_named_with_how_many_it_held_back(self) -> None:
        found = only(LIMITED)

        assert found.setting == "max_active_tasks"
        assert found.text.startswith(
            "50 branches, at most 16 at once: max_active_tasks of the Dag is 16. 34 "
        )

    @pytest.mark.parametrize(
        ("mode", "setting", "said"),
        [
            ("mapped", "max_concurrency", "max_concurrency=2"),
            ("batched", "max_concurrency", "max_concurrency=2"),
            ("static", "pool", "a pool of 2 slots"),
            (None, "pool", "a pool of 2 slots"),
        ],
    )
    def test_the_way_to_fewer_at_once_is_one_that_the_group_has(
        self, mode: Any, setting: str, said: str
    ) -> None:
        found = only(replace(CROWDED, mode=mode))

        assert (found.setting, found.value) == (setting, 2)
        assert said in found.text
        assert "worker-1, which has 2 cores" in found.text

    def test_of_several_machines_the_most_crowded_is_named(self) -> None:
        worse = HostLoad(hostname="worker-2", cores=1, peak=4, busy_share=1.0)

        assert only(replace(CROWDED, hosts=(*CROWDED.hosts, worse))).value == 1

    def test_what_holds_waiting_items_back_is_named(self) -> None:
        found = only(WAITING_ITEMS)

        assert found.setting == "item_concurrency"
        assert "item_concurrency is 99 of the 100 items of a task" in found.text

    def test_both_that_hold_waiting_items_back_are_named(self) -> None:
        capacity = Capacity(declared=2, effective=1, limit=Limit(name="pool", slots=1, where="small"))

        found = advise(replace(WAITING_ITEMS, capacity=capacity, peak=1))

        assert [each.kind for each in found] == ["limit", "waiting"]
        assert "item_concurrency is 99" in found[1].text
        assert "pool lets 1 of 2 batches run" in found[1].text


@pytest.mark.parametrize(
    ("share", "said"),
    [
        pytest.param(0.5, "; raise it if there is room for more.", id="half"),
        pytest.param(0.51, "; more at once save little while starting tasks takes most", id="more"),
    ],
)
def test_a_limit_is_to_be_raised_unless_starting_tasks_takes_most_of_the_time(
    share: float, said: str
) -> None:
    assert said in only(replace(LIMITED, overhead_share=share)).text


def test_the_thresholds_are_those_that_are_documented() -> None:
    shares = (advice.TOO_MUCH_OVERHEAD, advice.GOOD_OVERHEAD, advice.BIG_SAVING)
    assert shares == (0.5, 0.2, 0.2)
    assert (advice.MUCH_SLOWER, advice.COMPUTES, advice.ONLY_WAITS) == (2.0, 0.7, 0.1)
    assert advice.WORTH_A_START == 1.0
