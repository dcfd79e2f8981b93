from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from airflow_fanout.exceptions import BranchesRunningError
from airflow_fanout.execution_time.ledger import collect, refuse_cleared, removed_branches
from airflow_fanout.execution_time.results import FanInResults, Page
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE
from airflow_fanout.rules.outcomes import LOST_VALUE, BranchOutcome
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup
from tests.unit.fake_run import FakeRun, source_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_fanout.execution_time.wiring import Source

OURS = source_of("process_0", "process.process_0")
NATIVE = source_of("work", is_ours=False)
MAPPED = source_of("each", is_ours=False, is_mapped=True)


def results_of(reader: Any, *sources: Source, key: str = RETURN_VALUE) -> FanInResults:
    return FanInResults(collect(reader, reader.states(), sources, key))


def read(run: FakeRun, *sources: Source, key: str = RETURN_VALUE) -> list[BranchOutcome]:
    return list(results_of(run.reader(), *sources, key=key).outcomes.values())


def mapped_run(values: Sequence[Any], task_id: str = "each") -> FakeRun:
    """A mapped task all of whose instances succeeded; NOTHING where one returned None."""
    run = FakeRun()
    for map_index, value in enumerate(values):
        run.add(task_id, value=value, map_index=map_index)
    return run


class TestABranchWithATaskOfItsOwn:
    @pytest.mark.parametrize("value", ["text", 0, "", False, [], {}, 0.0], ids=repr)
    @pytest.mark.parametrize("source", [OURS, NATIVE], ids=["ours", "native"])
    def test_a_value_that_is_nothing_much_is_a_value(self, source: Source, value: Any) -> None:
        (outcome,) = read(FakeRun().succeed(source.task_id, value), source)

        assert (outcome.state, outcome.value) == ("success", value)

    def test_its_outcome_has_name_index_task_and_duration(self) -> None:
        second = source_of("process_1", "process.process_1")
        run = FakeRun().succeed(OURS.task_id, "a", duration=1.5).succeed(second.task_id, "b", duration=2.5)

        assert read(run, OURS, second)[1] == BranchOutcome(
            name="process_1",
            index=1,
            state="success",
            value="b",
            task_id="process.process_1",
            map_index=-1,
            duration=2.5,
        )

    def test_a_task_before_its_last_that_failed_is_named(self) -> None:
        run = FakeRun().fail("a.first", "E: first").add("a.last", "upstream_failed", duration=None)

        (outcome,) = read(run, source_of("a", "a.first", "a.last"))

        assert (outcome.state, outcome.error, outcome.task_id) == ("failed", "E: first", "a.first")

    def test_in_a_mapped_task_group_it_is_read_by_its_index(self) -> None:
        run = FakeRun()
        for map_index in range(3):
            run.succeed("each.process_0", map_index, map_index=map_index)

        (outcome,) = read(run, source_of("process_0", "each.process_0", map_index=2))

        assert (outcome.value, outcome.map_index) == (2, 2)

    @pytest.mark.parametrize("source", [OURS, NATIVE], ids=["ours", "native"])
    def test_none_that_was_pushed_under_another_key_is_a_value(self, source: Source) -> None:
        (outcome,) = read(FakeRun().add(source.task_id, value=None, key="rows"), source, key="rows")

        assert (outcome.state, outcome.value) == ("success", None)

    @pytest.mark.parametrize("map_index", [0, 1])
    def test_in_a_mapped_task_group_a_none_of_a_sibling_is_not_taken_for_its_own(
        self, map_index: int
    ) -> None:
        run = FakeRun().add("work", map_index=0, value=None, key="rows").add("work", map_index=1, value=None)

        (outcome,) = read(run, source_of("work", is_ours=False, map_index=map_index), key="rows")

        assert outcome.state == "missing"

    def test_an_error_of_the_store_is_not_hidden(self) -> None:
        with pytest.raises(PermissionError):
            read(FakeRun().succeed(OURS.task_id, PermissionError("s3://bucket/key")), OURS)

    def test_a_state_that_nobody_knows_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"'process\.process_0' .* not known: 'paused'"):
            read(FakeRun().add(OURS.task_id, "paused"), OURS)


class TestAMappedTask:
    def test_it_is_read_beside_plain_tasks_in_the_order_of_the_sources(self) -> None:
        run = mapped_run("ab").add("work", value="w").add("zebra", value="z")

        outcomes = read(run, source_of("zebra", is_ours=False), MAPPED, NATIVE)

        assert [(outcome.name, outcome.index, outcome.map_index) for outcome in outcomes] == [
            ("zebra", 0, -1),
            ("each[0]", 1, 0),
            ("each[1]", 2, 1),
            ("work", 3, -1),
        ]

    @pytest.mark.parametrize("count", [1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 2 * PAGE_SIZE + 3])
    def test_if_all_pushed_values_come_in_pages(self, count: int) -> None:
        reader = mapped_run(range(count)).reader()

        outcomes = list(results_of(reader, MAPPED).outcomes.values())

        assert [(o.name, o.value, o.index) for o in outcomes] == [(f"each[{n}]", n, n) for n in range(count)]
        assert [call[0] for call in reader.calls] == [
            "states",
            "instance_count",
            "value_count",
            *["page", "states"] * ((count - 1) // PAGE_SIZE),
            "page",
        ]

    def test_no_value_is_read_before_it_is_asked_for(self) -> None:
        reader = mapped_run(range(3)).reader()

        results = results_of(reader, MAPPED)

        assert list(results.durations()) == [(f"each[{index}]", "success", 1.0) for index in range(3)]
        assert reader.asked("page") == []
        assert [results[f"each[{index}]"] for index in (2, 0, 1)] == [2, 0, 1]

    @pytest.mark.parametrize(
        "name",
        ["each[3]", "each[-1]", "each[01]", "each[+1]", "each[1", "each", "each[1]x", "each[١]", "xeach[1]"],
    )
    def test_a_name_that_there_is_not_is_not_found(self, name: str) -> None:
        results = results_of(mapped_run(range(3)).reader(), MAPPED)

        assert name not in results
        assert name not in results.outcomes

    @pytest.mark.parametrize("state", ["success", "failed", "removed"])
    def test_if_one_pushed_nothing_or_is_no_success_each_is_read_alone(
        self, state: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = mapped_run(["a", NOTHING if state == "success" else "left behind", "c"])
        reader = run.add("each", state, map_index=1).reader()

        with caplog.at_level(logging.INFO, logger="airflow_fanout.execution_time.ledger"):
            results = results_of(reader, MAPPED)

        assert (results["each[0]"], results.get("each[1]"), results["each[2]"]) == ("a", None, "c")
        assert reader.asked("page") == []
        assert "each: " in caplog.text
        assert "instances succeeded and pushed" in caplog.text

    def test_a_body_that_is_gone_takes_no_value_from_the_others(self) -> None:
        run = mapped_run(["a", FileNotFoundError("s3://bucket/key"), "c"])

        with mock.patch("airflow_fanout.execution_time.ledger.values_lie_elsewhere", return_value=True):
            outcomes = read(run, MAPPED)

        assert [(outcome.state, outcome.value, outcome.error) for outcome in outcomes] == [
            ("success", "a", None),
            ("missing", None, f"{LOST_VALUE}: s3://bucket/key"),
            ("success", "c", None),
        ]

    def test_values_that_went_while_they_were_read_make_the_fan_in_run_again(self) -> None:
        reader = mapped_run(["a", "b"]).reader()
        results = results_of(reader, MAPPED)
        del reader.xcoms["each", 1, RETURN_VALUE]

        with pytest.raises(BranchesRunningError, match="Instances of 'each' were cleared while"):
            dict(results)

    def test_one_that_never_expanded_has_no_branches(self) -> None:
        assert read(FakeRun().add("each", "skipped"), MAPPED) == []

    def test_a_task_that_is_named_like_an_instance_is_another(self) -> None:
        """``get_task_states`` takes ``work[1]`` and ``work_1`` for the same."""
        run = mapped_run("ab", "work").add("work_1", value="plain")
        sources = [source_of("work", is_ours=False, is_mapped=True), source_of("work_1", is_ours=False)]

        assert [outcome.value for outcome in read(run, *sources)] == ["a", "b", "plain"]


class TestBranchesThatAreNotFinished:
    def test_plain_ones_are_named(self) -> None:
        sources = [source_of(f"b_{index}", is_ours=False) for index in (10, 9, 1)]

        with pytest.raises(BranchesRunningError, match="Branches are not finished: 'b_9', 'b_10'") as raised:
            read(FakeRun().add("b_1"), *sources)

        assert sorted(raised.value.names) == ["b_10", "b_9"]

    @pytest.mark.parametrize("finished", ["abc", ""], ids=["of some", "not expanded yet"])
    def test_instances_are_counted(self, finished: str) -> None:
        run = mapped_run(finished)
        run.unfinished = 2

        with pytest.raises(BranchesRunningError, match="2 instances of 'each'"):
            read(run, MAPPED)

    def test_the_instances_of_all_mapped_tasks_are_counted_in_one_request(self) -> None:
        reader = mapped_run("abc").add("other", value="x", map_index=0).reader()

        results_of(reader, MAPPED, source_of("other", is_ours=False, is_mapped=True))

        assert reader.asked("instance_count") == [(["each", "other"],)]

    def test_nothing_is_counted_where_nothing_is_mapped(self) -> None:
        reader = FakeRun().succeed(OURS.task_id, "a").reader()

        results_of(reader, OURS)

        assert reader.asked("instance_count") == []

    def test_one_that_has_ended_again_while_it_was_read_counts_too(self) -> None:
        run = FakeRun().succeed("a", 1)
        first = run.reader().states()
        run.add("a", duration=2.0)
        page = Page.of([BranchOutcome(name="a", index=0, state="missing", task_id="a")])

        with pytest.raises(BranchesRunningError, match=r"'a'.* cleared while this fan-in was reading"):
            refuse_cleared(run.reader(), first, [page])


SINGLE = DeclaredGroup(group_id="p", prefix="p.")
STEPS = ("p.a.extract", "p.a.each", "p.a.load")
SEVERAL = DeclaredGroup(group_id="p", prefix="p.", branches=(DeclaredBranch(name="a", task_ids=STEPS),))


def removed(
    run: FakeRun, group: DeclaredGroup = SINGLE, declared: Sequence[str] = (), *, map_index: int = -1
) -> list[BranchOutcome]:
    page = removed_branches(run.instances, group, declared, map_index=map_index, start=5)
    return [] if page is None else list(map(page.outcome, range(len(page))))


class TestBranchesThatAreNoLongerDeclared:
    def test_each_is_an_outcome_without_a_value(self) -> None:
        run = FakeRun().add("p.a").add("p.b", "failed", "left", duration=2.0).add("other.c").add("p")

        assert removed(run, declared=["p.a"]) == [
            BranchOutcome(
                name="b",
                index=5,
                state="removed",
                error="it is no longer declared",
                task_id="p.b",
                map_index=-1,
                duration=2.0,
            )
        ]

    def test_instances_of_a_task_are_one(self) -> None:
        run = FakeRun().add("p.each", map_index=0).add("p.each", map_index=1)

        assert [(outcome.name, outcome.duration) for outcome in removed(run)] == [("each", 2.0)]

    @pytest.mark.parametrize("map_index", [0, 1])
    @pytest.mark.parametrize("group", [SINGLE, SEVERAL], ids=["one task", "several tasks"])
    def test_in_a_mapped_task_group_only_the_instances_of_its_own_index_count(
        self, group: DeclaredGroup, map_index: int
    ) -> None:
        run = FakeRun().add("p.b", map_index=0).add("p.b", map_index=1)

        outcomes = removed(run, group, map_index=map_index)

        assert [(outcome.name, outcome.map_index) for outcome in outcomes] == [("b", map_index)]

    def test_branches_of_several_tasks_are_one_each_in_natural_order(self) -> None:
        run = FakeRun().add("p.b_9.each", map_index=0).add("p.b_9.each", map_index=1)
        for name in ("b_10", "b_9"):
            for step in ("load", "extract", "clear_up"):
                run.add(f"p.{name}.{step}", "failed")

        assert [
            (outcome.name, outcome.index, outcome.duration) for outcome in removed(run, SEVERAL, STEPS)
        ] == [
            ("b_9", 5, 5.0),
            ("b_10", 6, 3.0),
        ]

    def test_a_task_that_a_branch_has_lost_is_no_branch(self) -> None:
        run = FakeRun().add("p.a.extract").add("p.a.load").add("p.a.lost")

        assert removed(run, SEVERAL, STEPS) == []

    def test_a_branch_of_a_single_task_is_one_beside_those_of_several(self) -> None:
        run = FakeRun().add("p.b").add("p.c.extract").add("p.c.load")

        assert [outcome.name for outcome in removed(run, SEVERAL, STEPS)] == ["b", "c"]

    def test_they_never_have_the_name_of_a_declared_branch(self) -> None:
        branches = (*SEVERAL.branches, DeclaredBranch(name="b", task_ids=("p.b",)))
        group = DeclaredGroup(group_id="p", prefix="p.", branches=branches)
        run = FakeRun().add("p.b").add("p.b.load")  # it was of several tasks

        assert [outcome.name for outcome in removed(run, group, [*STEPS, "p.b"])] == ["b.load"]
