from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.exceptions import BranchesRunningError
from airflow_fanout.execution_time.ledger import collect
from airflow_fanout.execution_time.results import FanInResults
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE
from airflow_fanout.rules.instances import unexpanded_state
from airflow_fanout.rules.outcomes import LOST_VALUE, MARKED_BY_HAND, NO_EXCEPTION_RECORDED, BranchOutcome
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE
from tests.unit.fake_run import FakeRun, source_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_fanout.execution_time.wiring import Source

OURS = source_of("process_0", "process.process_0")
NATIVE = source_of("work", is_ours=False)
MAPPED = source_of("each", is_ours=False, is_mapped=True)


def read(
    run: FakeRun, *sources: Source, key: str = RETURN_VALUE, reader: Any = None
) -> dict[str, BranchOutcome]:
    reader = reader or run.reader()
    return dict(FanInResults(collect(reader, reader.states(), sources, key)).outcomes.items())


def one(run: FakeRun, source: Source, key: str = RETURN_VALUE) -> BranchOutcome:
    (outcome,) = read(run, source, key=key).values()
    return outcome


def said(outcome: BranchOutcome) -> tuple[str, Any, str | None]:
    return outcome.state, outcome.value, outcome.error


def mapped_run(values: Sequence[Any], task_id: str = "each") -> FakeRun:
    """A mapped task all of whose instances succeeded; NOTHING where one returned None."""
    run = FakeRun()
    for map_index, value in enumerate(values):
        run.add(task_id, value=value, map_index=map_index)
    return run


class TestABranchOfThisPackage:
    @pytest.mark.parametrize(
        "value",
        ["text", 0, "", False, [], {}, 0.0],
        ids=["text", "0", "empty str", "False", "[]", "{}", "0.0"],
    )
    def test_a_value_is_a_value(self, value: Any) -> None:
        assert said(one(FakeRun().succeed(OURS.task_id, value), OURS)) == ("success", value, None)

    def test_none_is_told_by_its_record(self) -> None:
        assert said(one(FakeRun().succeed(OURS.task_id), OURS)) == ("success", None, None)

    def test_marked_by_hand_is_told_by_there_being_no_record(self) -> None:
        assert said(one(FakeRun().add(OURS.task_id, duration=0.0), OURS)) == ("missing", None, MARKED_BY_HAND)

    def test_marked_by_hand_after_a_failure_is_told_by_the_record_of_the_failure(self) -> None:
        run = FakeRun().fail(OURS.task_id)
        run.add(OURS.task_id, "success")

        assert said(one(run, OURS)) == ("missing", None, MARKED_BY_HAND)

    def test_a_value_that_the_record_knows_and_the_store_does_not_is_gone(self) -> None:
        run = FakeRun().add(OURS.task_id, record={"state": "success", "has_value": True})

        assert said(one(run, OURS)) == ("missing", None, LOST_VALUE)

    def test_a_value_whose_artifact_is_gone_is_missing(self) -> None:
        run = FakeRun().succeed(OURS.task_id, FileNotFoundError("s3://bucket/key"))

        state, value, error = said(one(run, OURS))

        assert (state, value) == ("missing", None)
        assert error == f"{LOST_VALUE}: s3://bucket/key"

    @pytest.mark.parametrize("state", ["success", "failed"])
    def test_a_record_whose_artifact_is_gone_is_said_to_be(self, state: str) -> None:
        run = FakeRun().add(OURS.task_id, state)
        run.xcoms[OURS.task_id, -1, RECORD_KEY] = FileNotFoundError("s3://bucket/key")

        expected = "missing" if state == "success" else "failed"
        why = "what it recorded is no longer stored: s3://bucket/key"
        assert said(one(run, OURS)) == (expected, None, why)

    def test_another_error_of_the_store_is_not_hidden(self) -> None:
        run = FakeRun().succeed(OURS.task_id, PermissionError("s3://bucket/key"))

        with pytest.raises(PermissionError):
            one(run, OURS)

    def test_a_failure_has_the_error_that_was_recorded(self) -> None:
        run = FakeRun().fail(OURS.task_id, "KeyError: 'x'")

        assert said(one(run, OURS)) == ("failed", None, "KeyError: 'x'")

    @pytest.mark.parametrize(
        "record",
        [
            pytest.param(None, id="no record"),
            pytest.param({"state": "success", "has_value": True}, id="the record of an earlier success"),
            pytest.param({"state": "failed"}, id="a record without an error"),
            pytest.param({}, id="an empty record"),
        ],
    )
    def test_a_failure_without_a_recorded_exception_says_so(self, record: Any) -> None:
        run = FakeRun().add(OURS.task_id, "failed", record=record)

        assert said(one(run, OURS)) == ("failed", None, NO_EXCEPTION_RECORDED)

    def test_a_value_pushed_before_it_failed_is_not_read(self) -> None:
        run = FakeRun().add(OURS.task_id, "failed", "too early", record={"state": "failed", "error": "E"})

        assert said(one(run, OURS)) == ("failed", None, "E")

    @pytest.mark.parametrize("state", ["upstream_failed", "skipped", "removed"])
    def test_a_value_of_an_earlier_try_is_not_read(self, state: str) -> None:
        run = FakeRun().succeed(OURS.task_id, "left behind")
        run.add(OURS.task_id, state)
        reader = run.reader()

        (outcome,) = read(run, OURS, reader=reader).values()

        assert said(outcome) == (state, None, None)
        reader.value.assert_not_called()

    def test_a_state_that_nobody_knows_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"'process\.process_0' .* not known: 'paused'"):
            one(FakeRun().add(OURS.task_id, "paused"), OURS)

    def test_its_outcome_has_name_place_task_and_duration(self) -> None:
        second = source_of("process_1", "process.process_1")
        run = FakeRun().succeed(OURS.task_id, "a", duration=1.5).succeed(second.task_id, "b", duration=2.5)

        assert read(run, OURS, second)["process_1"] == BranchOutcome(
            name="process_1",
            index=1,
            state="success",
            value="b",
            task_id="process.process_1",
            map_index=-1,
            duration=2.5,
        )

    def test_branches_come_in_the_order_of_their_declaration(self) -> None:
        sources = [source_of(name) for name in ("c", "a", "b")]
        run = FakeRun()
        for name in "abc":
            run.succeed(name, name)

        outcomes = read(run, *sources)

        assert list(outcomes) == ["c", "a", "b"]
        assert [outcome.index for outcome in outcomes.values()] == [0, 1, 2]


class TestACustomKey:
    def test_its_value_is_read(self) -> None:
        run = FakeRun().succeed(OURS.task_id, "returned").add(OURS.task_id, value="pushed", key="rows")

        assert said(one(run, OURS, "rows")) == ("success", "pushed", None)

    @pytest.mark.parametrize("source", [OURS, NATIVE], ids=["ours", "native"])
    def test_none_that_was_pushed_is_a_value(self, source: Source) -> None:
        run = FakeRun().add(source.task_id, value=None, key="rows")

        assert said(one(run, source, "rows")) == ("success", None, None)

    @pytest.mark.parametrize("source", [OURS, NATIVE], ids=["ours", "native"])
    def test_nothing_pushed_is_missing(self, source: Source) -> None:
        run = FakeRun().succeed(source.task_id, "returned")

        assert said(one(run, source, "rows")) == ("missing", None, "it pushed nothing under the key 'rows'")

    @pytest.mark.parametrize("map_index", [0, 1])
    def test_in_a_mapped_task_group_a_none_of_a_sibling_is_not_taken_for_its_own(
        self, map_index: int
    ) -> None:
        run = FakeRun().add("work", map_index=0, value=None, key="rows").add("work", map_index=1, value=None)
        source = source_of("work", is_ours=False, map_index=map_index)

        assert one(run, source, "rows").state == "missing"

    def test_of_mapped_instances_one_may_be_missing(self) -> None:
        run = FakeRun()
        for map_index in range(3):
            run.add("each", value=map_index, map_index=map_index, key="rows")
        del run.xcoms["each", 1, "rows"]

        outcomes = read(run, MAPPED, key="rows")

        assert [outcome.state for outcome in outcomes.values()] == ["success", "missing", "success"]
        assert [outcome.value for outcome in outcomes.values()] == [0, None, 2]


class TestANativeTask:
    @pytest.mark.parametrize("value", ["text", 0, "", False], ids=["text", "0", "empty str", "False"])
    def test_a_value_is_a_value(self, value: Any) -> None:
        assert said(one(FakeRun().add("work", value=value), NATIVE)) == ("success", value, None)

    def test_a_task_that_ran_and_pushed_nothing_returned_none(self) -> None:
        assert said(one(FakeRun().add("work", duration=0.01), NATIVE)) == ("success", None, None)

    @pytest.mark.parametrize("duration", [0.0, None], ids=["0 s", "no duration"])
    def test_a_task_that_never_ran_was_marked_by_hand(self, duration: float | None) -> None:
        assert said(one(FakeRun().add("work", duration=duration), NATIVE)) == (
            "missing",
            None,
            MARKED_BY_HAND,
        )

    def test_an_empty_operator_is_never_run_by_airflow(self) -> None:
        run = FakeRun().add("work", duration=0.0, operator="EmptyOperator")

        assert said(one(run, NATIVE)) == ("success", None, None)

    def test_its_failure_has_no_error_to_show(self) -> None:
        run = FakeRun().add("work", "failed")
        reader = run.reader()

        (outcome,) = read(run, NATIVE, reader=reader).values()

        assert said(outcome) == ("failed", None, None)
        reader.record.assert_not_called()

    def test_a_value_whose_artifact_is_gone_is_missing(self) -> None:
        run = FakeRun().add("work", value=FileNotFoundError("s3://bucket/key"))

        assert one(run, NATIVE).state == "missing"


class TestAMappedTask:
    def test_instances_are_named_by_their_map_index(self) -> None:
        outcomes = read(mapped_run("abc"), MAPPED)

        assert list(outcomes) == ["each[0]", "each[1]", "each[2]"]
        assert [(outcome.value, outcome.map_index, outcome.index) for outcome in outcomes.values()] == [
            ("a", 0, 0),
            ("b", 1, 1),
            ("c", 2, 2),
        ]

    def test_one_instance_is_a_mapping_of_one(self) -> None:
        assert list(read(mapped_run("a"), MAPPED)) == ["each[0]"]

    def test_the_eleventh_comes_after_the_tenth(self) -> None:
        assert list(read(mapped_run(range(12)), MAPPED)) == [f"each[{index}]" for index in range(12)]

    @pytest.mark.parametrize("count", [1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 2 * PAGE_SIZE + 3])
    def test_if_all_pushed_values_come_in_pages(self, count: int) -> None:
        run = mapped_run(range(count))
        reader = run.reader()

        outcomes = read(run, MAPPED, reader=reader)

        assert [outcome.value for outcome in outcomes.values()] == list(range(count))
        assert [outcome.index for outcome in outcomes.values()] == list(range(count))
        assert reader.page.call_count == -(-count // PAGE_SIZE)
        assert reader.value.call_count == 0
        assert len(reader.method_calls) <= 3 + -(-count // PAGE_SIZE)

    def test_no_value_is_read_before_it_is_asked_for(self) -> None:
        run = mapped_run(range(3))
        reader = run.reader()

        results = FanInResults(collect(reader, reader.states(), [MAPPED], RETURN_VALUE))

        assert len(results) == 3
        assert list(results.durations()) == [(f"each[{index}]", "success", 1.0) for index in range(3)]
        reader.page.assert_not_called()

    @pytest.mark.parametrize(
        "name",
        ["each[3]", "each[-1]", "each[01]", "each[+1]", "each[1", "each", "each[1]x", "each[١]", "xeach[1]"],
    )
    def test_a_name_that_there_is_not_is_not_found(self, name: str) -> None:
        reader = mapped_run(range(3)).reader()
        results = FanInResults(collect(reader, reader.states(), [MAPPED], RETURN_VALUE))

        assert name not in results
        assert name not in results.outcomes

    def test_each_name_is_found(self) -> None:
        reader = mapped_run(range(3)).reader()
        results = FanInResults(collect(reader, reader.states(), [MAPPED], RETURN_VALUE))

        assert [results[f"each[{index}]"] for index in (2, 0, 1)] == [2, 0, 1]

    @pytest.mark.parametrize(
        ("break_one", "state"),
        [
            pytest.param(
                lambda run: run.add("each", "failed", map_index=1), "failed", id="failed after pushing"
            ),
            pytest.param(lambda run: run.add("each", "skipped", map_index=1), "skipped", id="skipped"),
            pytest.param(
                lambda run: run.add("each", "upstream_failed", map_index=1), "upstream_failed", id="upstream"
            ),
            pytest.param(
                lambda run: run.add("each", "removed", map_index=1), "removed", id="removed with its value"
            ),
            pytest.param(lambda run: run.xcoms.pop(("each", 1, RETURN_VALUE)), "success", id="None"),
            pytest.param(
                lambda run: (
                    run.xcoms.pop(("each", 1, RETURN_VALUE)),
                    run.add("each", duration=0.0, map_index=1),
                ),
                "missing",
                id="marked by hand",
            ),
        ],
    )
    def test_if_one_pushed_nothing_or_failed_values_are_read_one_by_one(
        self, break_one: Any, state: str
    ) -> None:
        run = mapped_run(["a", "b", "c"])
        break_one(run)
        reader = run.reader()

        outcomes = read(run, MAPPED, reader=reader)

        assert [outcome.state for outcome in outcomes.values()] == ["success", state, "success"]
        assert [outcome.value for outcome in outcomes.values()] == ["a", None, "c"]
        assert [outcome.index for outcome in outcomes.values()] == [0, 1, 2]
        reader.page.assert_not_called()
        assert reader.value.call_count == sum(
            outcome.state in {"success", "missing"} for outcome in outcomes.values()
        )

    def test_why_they_are_read_one_by_one_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        run = mapped_run(["a", NOTHING, "c"])
        with caplog.at_level(logging.INFO, logger="airflow_fanout.execution_time.ledger"):
            read(run, MAPPED)

        assert "each: 3 of 3 instances succeeded and pushed 2 values" in caplog.text

    def test_a_value_left_behind_by_an_earlier_longer_list_moves_nobody(self) -> None:
        """As many values as successes, and not theirs."""
        run = mapped_run(["a", NOTHING, "left behind"]).add("each", "removed", map_index=2)

        outcomes = read(run, MAPPED)

        assert [(outcome.name, outcome.value) for outcome in outcomes.values()] == [
            ("each[0]", "a"),
            ("each[1]", None),
            ("each[2]", None),
        ]

    def test_an_artifact_that_is_gone_takes_no_value_from_the_others(self) -> None:
        run = mapped_run(["a", FileNotFoundError("s3://bucket/key"), "c"])
        reader = run.reader()
        reader.page.side_effect = FileNotFoundError("s3://bucket/key")  # as deserialization raises it

        with mock.patch("airflow_fanout.execution_time.ledger.values_lie_elsewhere", return_value=True):
            outcomes = read(run, MAPPED, reader=reader)

        assert [(outcome.state, outcome.value) for outcome in outcomes.values()] == [
            ("success", "a"),
            ("missing", None),
            ("success", "c"),
        ]

    def test_values_that_went_while_they_were_read_make_the_fan_in_run_again(self) -> None:
        run = mapped_run(["a", "b"])
        reader = run.reader()
        reader.page.side_effect = lambda *_: iter(["a"])

        with pytest.raises(BranchesRunningError, match="1 values of 2 'each' are left"):
            read(run, MAPPED, reader=reader)

    def test_it_is_read_beside_plain_tasks_in_the_order_of_the_sources(self) -> None:
        run = mapped_run("ab").add("work", value="w").add("zebra", value="z")

        outcomes = read(run, NATIVE, MAPPED, source_of("zebra", is_ours=False))

        assert [(outcome.name, outcome.index) for outcome in outcomes.values()] == [
            ("work", 0),
            ("each[0]", 1),
            ("each[1]", 2),
            ("zebra", 3),
        ]

    def test_one_that_never_expanded_has_no_branches(self) -> None:
        run = FakeRun().add("each", "skipped")

        assert read(run, MAPPED) == {}
        assert unexpanded_state(run.states, "each") == "skipped"

    def test_a_task_that_is_named_like_an_instance_is_another(self) -> None:
        """``get_task_states`` takes ``work[1]`` and ``work_1`` for the same."""
        run = mapped_run("ab", "work").add("work_1", value="plain")
        sources = [source_of("work", is_ours=False, is_mapped=True), source_of("work_1", is_ours=False)]

        assert [outcome.value for outcome in read(run, *sources).values()] == ["a", "b", "plain"]

    @given(
        states=st.lists(
            st.sampled_from(
                ["success", "None", "failed", "skipped", "upstream_failed", "removed", "by hand"]
            ),
            min_size=1,
            max_size=12,
        ),
        left_behind=st.sets(st.integers(0, 11)),
    )
    def test_every_value_sits_under_its_own_name(self, states: list[str], left_behind: set[int]) -> None:
        run = FakeRun()
        for map_index, state in enumerate(states):
            if map_index in left_behind:
                run.xcoms["each", map_index, RETURN_VALUE] = "left behind"
            if state == "success":
                run.add("each", value=f"value {map_index}", map_index=map_index)
            elif state in {"None", "by hand"}:
                run.xcoms.pop(("each", map_index, RETURN_VALUE), None)  # as the start of a try deletes them
                run.add("each", map_index=map_index, duration=1.0 if state == "None" else 0.0)
            else:
                run.add("each", state, map_index=map_index)

        outcomes = read(run, MAPPED)

        expected_state = {"None": "success", "by hand": "missing"}
        assert [(outcome.name, outcome.state, outcome.value) for outcome in outcomes.values()] == [
            (
                f"each[{map_index}]",
                expected_state.get(state, state),
                f"value {map_index}" if state == "success" else None,
            )
            for map_index, state in enumerate(states)
        ]


class TestBranchesThatAreNotFinished:
    def test_plain_ones_are_named(self) -> None:
        sources = [source_of(f"b_{index}", is_ours=False) for index in (10, 9, 1)]

        with pytest.raises(BranchesRunningError, match="Branches are not finished: 'b_9', 'b_10'") as raised:
            read(FakeRun().add("b_1"), *sources)

        assert sorted(raised.value.names) == ["b_10", "b_9"]

    def test_instances_are_counted(self) -> None:
        run = mapped_run("abc")
        run.unfinished = 2

        with pytest.raises(BranchesRunningError, match="2 instances of 'each'"):
            read(run, MAPPED)

    def test_one_that_has_not_expanded_is_not_finished(self) -> None:
        run = FakeRun(unfinished=1)

        with pytest.raises(BranchesRunningError, match="1 instances of 'each'"):
            read(run, MAPPED)

    def test_the_instances_of_all_mapped_tasks_are_counted_in_one_request(self) -> None:
        run = mapped_run("abc").add("other", value="x", map_index=0)
        reader = run.reader()

        read(run, MAPPED, source_of("other", is_ours=False, is_mapped=True), reader=reader)

        reader.instance_count.assert_called_once_with(["each", "other"])

    def test_nothing_is_counted_where_nothing_is_mapped(self) -> None:
        run = FakeRun().succeed(OURS.task_id, "a")
        reader = run.reader()

        read(run, OURS, reader=reader)

        reader.instance_count.assert_not_called()


def test_an_instance_in_a_mapped_task_group_is_read_by_its_index() -> None:
    source = source_of("process_0", "each.process_0", map_index=2)
    run = FakeRun()
    for map_index in range(3):
        run.succeed("each.process_0", map_index, map_index=map_index)

    assert said(one(run, source)) == ("success", 2, None)


KNOWN = ("p.a.extract", "p.a.each", "p.a.load", "p.a.clear_up")
STEPS = source_of("a", *KNOWN[:3])


class TestABranchOfSeveralTasks:
    def test_its_value_is_that_of_its_last_task(self) -> None:
        run = FakeRun().succeed("p.a.extract", "first").succeed("p.a.each", "x", map_index=0)
        run.succeed("p.a.load", "last")

        outcome = one(run, STEPS)

        assert said(outcome) == ("success", "last", None)
        assert (outcome.name, outcome.task_id) == ("a", "p.a.load")

    def test_its_duration_is_the_sum_of_its_tasks(self) -> None:
        run = FakeRun().add("p.a.extract", duration=1.0).add("p.a.each", duration=2.0, map_index=0)
        run.add("p.a.each", duration=4.0, map_index=1).succeed("p.a.load", "x", duration=8.0)
        run.add("p.a.clear_up", duration=100.0)

        assert one(run, STEPS).duration == 15.0

    def test_what_did_not_run_adds_nothing_to_its_duration(self) -> None:
        run = FakeRun().fail("p.a.extract", duration=1.0).add("p.a.each", "upstream_failed", duration=None)
        run.add("p.a.load", "upstream_failed", duration=None)

        assert one(run, STEPS).duration == 1.0

    def test_if_nothing_ran_it_has_no_duration(self) -> None:
        run = FakeRun()
        for task_id in KNOWN[:3]:
            run.add(task_id, "upstream_failed", duration=None)

        assert one(run, STEPS).duration is None

    def test_if_a_task_of_its_own_kept_its_last_from_running_it_failed_with_that_ones_error(self) -> None:
        run = FakeRun().fail("p.a.extract", "KeyError: 'x'").add("p.a.each", "upstream_failed")
        run.add("p.a.load", "upstream_failed")

        outcome = one(run, STEPS)

        assert said(outcome) == ("failed", None, "KeyError: 'x'")
        assert (outcome.task_id, outcome.map_index) == ("p.a.extract", -1)

    def test_of_a_mapped_task_within_the_instance_is_named(self) -> None:
        run = FakeRun().succeed("p.a.extract").add("p.a.load", "upstream_failed")
        run.succeed("p.a.each", map_index=0).fail("p.a.each", "E: second", map_index=1)
        run.fail("p.a.each", "E: third", map_index=2)

        outcome = one(run, STEPS)

        assert said(outcome) == ("failed", None, "E: second")
        assert (outcome.task_id, outcome.map_index) == ("p.a.each", 1)

    def test_of_several_failed_tasks_the_first_is_named(self) -> None:
        run = FakeRun().fail("p.a.each", "E: later").fail("p.a.extract", "E: first")
        run.add("p.a.load", "upstream_failed")

        assert one(run, STEPS).error == "E: first"

    def test_an_inner_failure_without_a_record_says_so(self) -> None:
        run = FakeRun().add("p.a.extract", "failed").add("p.a.load", "upstream_failed")

        assert said(one(run, STEPS)) == ("failed", None, NO_EXCEPTION_RECORDED)

    def test_if_what_failed_is_outside_it_was_not_started(self) -> None:
        run = FakeRun().fail("outside").fail("p.a.clear_up").fail("p.b.extract")
        for task_id in KNOWN[:3]:
            run.add(task_id, "upstream_failed")

        outcome = one(run, STEPS)

        assert said(outcome) == ("upstream_failed", None, None)
        assert outcome.task_id == "p.a.load"

    def test_if_its_last_task_made_up_for_a_failure_it_succeeded(self) -> None:
        run = FakeRun().fail("p.a.extract").add("p.a.each", "upstream_failed").succeed("p.a.load", "mended")

        assert said(one(run, STEPS)) == ("success", "mended", None)

    def test_if_its_last_task_failed_that_ones_error_counts(self) -> None:
        run = FakeRun().fail("p.a.extract", "E: first").fail("p.a.load", "E: last")

        assert said(one(run, STEPS)) == ("failed", None, "E: last")

    def test_if_one_of_its_tasks_skipped_the_rest_it_is_skipped(self) -> None:
        run = FakeRun().add("p.a.extract", "skipped").add("p.a.each", "skipped").add("p.a.load", "skipped")

        assert said(one(run, STEPS)) == ("skipped", None, None)

    def test_in_a_mapped_task_group_only_its_own_index_counts(self) -> None:
        run = FakeRun()
        for map_index in (0, 1):
            run.fail("p.a.extract", f"E: {map_index}", map_index=map_index, duration=1.0 + map_index)
            run.add("p.a.load", "upstream_failed", map_index=map_index, duration=None)

        outcome = one(run, source_of("a", *KNOWN[:3], map_index=1))

        assert said(outcome) == ("failed", None, "E: 1")
        assert (outcome.map_index, outcome.duration) == (1, 2.0)

    @pytest.mark.parametrize(
        ("state", "requests"),
        [
            pytest.param("success", 1, id="a value"),
            pytest.param("failed", 1, id="a failure"),
            pytest.param("upstream_failed", 0, id="not started"),
            pytest.param("skipped", 1, id="skipped"),
        ],
    )
    def test_it_takes_few_requests(self, state: str, requests: int) -> None:
        run = FakeRun()
        for task_id in KNOWN[:3]:
            run.add(task_id, state, 1 if state == "success" else NOTHING)
        reader = run.reader()

        read(run, STEPS, reader=reader)

        assert len(reader.method_calls) == 1 + requests


class TestAStoppedBranch:
    STOPPABLE = source_of("a", "p.a.extract", "p.a.load")
    RECORD: ClassVar[dict[str, Any]] = {"state": "stopped", "error": "not started: 2 of 4"}

    def run(self, duration: float | None = 0.1, record: dict[str, Any] | None = None) -> FakeRun:
        run = FakeRun().add("p.a.extract", "skipped", duration=duration, record=record)
        return run.add("p.a.load", "skipped", duration=None)

    def results(self, run: FakeRun, source: Source) -> FanInResults:
        reader = run.reader()
        return FanInResults(collect(reader, reader.states(), [source], RETURN_VALUE))

    def test_it_is_skipped_with_the_reason(self) -> None:
        results = self.results(self.run(record=self.RECORD), self.STOPPABLE)

        assert said(results.outcomes["a"]) == ("skipped", None, "not started: 2 of 4")
        assert results.stopped_count == 1

    def test_of_one_task_too(self) -> None:
        source = source_of("a", "p.a")
        results = self.results(FakeRun().add("p.a", "skipped", record=self.RECORD), source)

        assert said(results.outcomes["a"]) == ("skipped", None, "not started: 2 of 4")
        assert results.stopped_count == 1

    @pytest.mark.parametrize(
        ("run", "source"),
        [
            pytest.param({"record": None}, STOPPABLE, id="it skipped itself"),
            pytest.param(
                {"record": {"state": "failed", "error": "E"}}, STOPPABLE, id="the record is of an earlier try"
            ),
            pytest.param({"record": RECORD, "duration": 0.0}, STOPPABLE, id="it was skipped unasked"),
            pytest.param({"record": RECORD, "duration": None}, STOPPABLE, id="it never started"),
        ],
    )
    def test_another_skip_is_none(self, run: dict[str, Any], source: Source) -> None:
        results = self.results(self.run(**run), source)

        assert said(results.outcomes["a"]) == ("skipped", None, None)
        assert results.stopped_count == 0

    def test_a_branch_whose_first_task_ran_was_not_stopped(self) -> None:
        run = FakeRun().add("p.a.extract", record=self.RECORD).add("p.a.load", "skipped")

        assert self.results(run, self.STOPPABLE).stopped_count == 0

    def test_one_that_was_cleared_and_succeeded_was_not_stopped(self) -> None:
        run = self.run(record=self.RECORD).succeed("p.a.extract").succeed("p.a.load", "late")
        results = self.results(run, self.STOPPABLE)

        assert (said(results.outcomes["a"]), results.stopped_count) == (("success", "late", None), 0)

    def test_nothing_is_asked_where_airflow_skipped_it(self) -> None:
        reader = self.run(duration=0.0).reader()
        collect(reader, reader.states(), [self.STOPPABLE], RETURN_VALUE)

        reader.record.assert_not_called()
