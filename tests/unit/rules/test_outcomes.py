from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.rules.instances import InstanceState, instances_at, instances_of, unexpanded_state
from airflow_fanout.rules.outcomes import (
    LOST_VALUE,
    MARKED_BY_HAND,
    NO_EXCEPTION_RECORDED,
    BranchOutcome,
    BranchTasks,
    LostValue,
    Ruling,
    branch_duration,
    judge_branch,
    judge_items,
)
from airflow_fanout.rules.records import BatchRecord, BranchRecord, LostRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_fanout.rules.outcomes import ValueState
    from airflow_fanout.rules.records import Record

LOST, LOST_RECORD = LostValue("s3://gone"), LostRecord("s3://gone")
BODY_GONE, RECORD_GONE = f"{LOST_VALUE}: s3://gone", "what it recorded is no longer stored: s3://gone"
NOT_PUSHED = "it pushed nothing under the key 'rows'"

VALUE = BranchRecord(state="success", has_value=True)
NONE = BranchRecord(state="success", has_value=False)
RAISED = BranchRecord(state="failed", error="E")
SILENT = BranchRecord(state="failed")
SKIPPED = BranchRecord(state="skipped", error="no data")
STOPPED = BranchRecord(state="stopped", error="not started: 2 of 4")


@dataclass
class Run:
    """A run that is known, and what the judge has asked of it."""

    states: dict[tuple[str, int], InstanceState] = field(default_factory=dict)
    records: dict[tuple[str, int], Record] = field(default_factory=dict)
    values: dict[tuple[str, int], ValueState] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)

    def add(
        self,
        task_id: str,
        state: str | None,
        record: Record | None = None,
        value: ValueState = "absent",
        *,
        map_index: int = -1,
        duration: float | None = 1.0,
        operator: str = "PythonOperator",
    ) -> Run:
        instance = (task_id, map_index)
        self.states[instance] = InstanceState(state=state, duration=duration, operator=operator)
        self.values[instance] = value
        if record is not None:
            self.records[instance] = record
        return self

    def instances(self, task_id: str, map_index: int) -> Mapping[int, InstanceState]:
        return instances_at(self.states, task_id, map_index)

    def record(self, task_id: str, map_index: int) -> Record | None:
        self.questions.append("record")
        return self.records.get((task_id, map_index))

    def value_state(self, task_id: str, map_index: int, key: str) -> ValueState:
        self.questions.append("value")
        return self.values.get((task_id, map_index), "absent")


OURS = BranchTasks(task_ids=("a",))
NATIVE = BranchTasks(task_ids=("a",), is_ours=False)


@pytest.mark.parametrize(
    ("state", "record", "value", "outcome", "error"),
    [
        pytest.param("success", VALUE, "present", "success", None, id="value"),
        pytest.param("success", None, "present", "success", None, id="value-unrecorded"),
        pytest.param("success", RAISED, "present", "success", None, id="value-pushed-by-hand"),
        pytest.param("success", LOST_RECORD, "present", "success", None, id="value-without-its-record"),
        pytest.param("success", NONE, "absent", "success", None, id="none"),
        pytest.param("success", None, "absent", "success", None, id="ended-without-post-execute"),
        pytest.param("success", RAISED, "absent", "missing", MARKED_BY_HAND, id="marked-after-a-failure"),
        pytest.param("success", SKIPPED, "absent", "missing", MARKED_BY_HAND, id="marked-after-a-skip"),
        pytest.param("success", VALUE, "absent", "missing", LOST_VALUE, id="value-deleted"),
        pytest.param("success", VALUE, LOST, "missing", BODY_GONE, id="body-gone"),
        pytest.param("success", None, LostValue(), "missing", LOST_VALUE, id="body-gone-from-somewhere"),
        pytest.param("success", LOST_RECORD, "absent", "missing", RECORD_GONE, id="record-gone"),
        pytest.param("failed", RAISED, "absent", "failed", "E", id="failure"),
        pytest.param("failed", RAISED, "present", "failed", "E", id="failure-after-a-push"),
        pytest.param("failed", None, "absent", "failed", NO_EXCEPTION_RECORDED, id="death"),
        pytest.param("failed", SILENT, "absent", "failed", NO_EXCEPTION_RECORDED, id="failure-unsaid"),
        pytest.param("failed", VALUE, "present", "failed", NO_EXCEPTION_RECORDED, id="an-earlier-success"),
        pytest.param("failed", STOPPED, "absent", "failed", NO_EXCEPTION_RECORDED, id="an-earlier-stop"),
        pytest.param("failed", LOST_RECORD, "absent", "failed", RECORD_GONE, id="failure-record-gone"),
        pytest.param("skipped", SKIPPED, "absent", "skipped", "no data", id="skip-with-a-reason"),
        pytest.param("skipped", None, "absent", "skipped", None, id="skip-without"),
        pytest.param("skipped", RAISED, "present", "skipped", None, id="skip-after-a-failed-try"),
        pytest.param("skipped", LOST_RECORD, "absent", "skipped", RECORD_GONE, id="skip-record-gone"),
        pytest.param("upstream_failed", RAISED, "present", "upstream_failed", None, id="not-started"),
        pytest.param("removed", VALUE, "present", "removed", None, id="removed"),
        pytest.param("queued", RAISED, "present", "queued", None, id="queued"),
        pytest.param("up_for_retry", RAISED, "absent", "up_for_retry", None, id="up-for-retry"),
        pytest.param(None, None, "absent", "waiting", None, id="no-state"),
    ],
)
def test_a_branch_of_one_task(
    state: str | None, record: Record | None, value: ValueState, outcome: str, error: str | None
) -> None:
    assert judge_branch(Run().add("a", state, record, value), OURS) == Ruling(state=outcome, error=error)


def test_a_stopped_branch_is_skipped_with_the_reason() -> None:
    ruling = judge_branch(Run().add("a", "skipped", STOPPED), OURS)

    assert ruling == Ruling(state="skipped", error="not started: 2 of 4", is_stopped=True)


def test_a_branch_without_an_instance_waits() -> None:
    assert judge_branch(Run(), OURS) == Ruling(state="waiting")


def test_a_python_function_that_left_no_record_was_marked_by_hand() -> None:
    """While it ran, or after its process had died: a success of its own would have left one."""
    run = Run().add("a", "success", operator="_PythonDecoratedOperator")

    assert judge_branch(run, OURS) == Ruling(state="missing", error=MARKED_BY_HAND)
    assert judge_branch(run, NATIVE) == Ruling(state="success")


@pytest.mark.parametrize("duration", [0.0, None], ids=["0 s", "no duration"])
@pytest.mark.parametrize("tasks", [OURS, NATIVE], ids=["ours", "native"])
class TestWhatNeverRan:
    def test_a_success_was_marked_by_hand(self, tasks: BranchTasks, duration: float | None) -> None:
        ruling = judge_branch(Run().add("a", "success", duration=duration), tasks)

        assert ruling == Ruling(state="missing", error=MARKED_BY_HAND)

    def test_a_success_of_an_empty_operator_is_none(self, tasks: BranchTasks, duration: float | None) -> None:
        run = Run().add("a", "success", duration=duration, operator="EmptyOperator")

        assert judge_branch(run, tasks) == Ruling(state="success")

    def test_a_skip_has_no_reason_of_its_own(self, tasks: BranchTasks, duration: float | None) -> None:
        run = Run().add("a", "skipped", STOPPED, duration=duration)

        assert (judge_branch(run, tasks), run.questions) == (Ruling(state="skipped"), [])


@pytest.mark.parametrize(
    ("state", "value", "outcome", "error"),
    [
        pytest.param("success", "present", "success", None, id="value"),
        pytest.param("success", "absent", "success", None, id="none"),
        pytest.param("success", LOST, "missing", BODY_GONE, id="body-gone"),
        pytest.param("failed", "absent", "failed", None, id="failure-that-airflow-keeps-to-itself"),
        pytest.param("skipped", "absent", "skipped", None, id="skip"),
    ],
)
def test_of_a_foreign_task_no_record_is_asked_for(
    state: str, value: ValueState, outcome: str, error: str | None
) -> None:
    run = Run().add("a", state, RAISED, value)

    assert judge_branch(run, NATIVE) == Ruling(state=outcome, error=error)
    assert "record" not in run.questions


@pytest.mark.parametrize("tasks", [OURS, NATIVE], ids=["ours", "native"])
@pytest.mark.parametrize(
    ("value", "outcome", "error"),
    [
        pytest.param("present", "success", None, id="value"),
        pytest.param("absent", "missing", NOT_PUSHED, id="nothing"),
        pytest.param(LOST, "missing", BODY_GONE, id="body-gone"),
    ],
)
def test_what_a_success_left_under_a_key_of_its_own(
    tasks: BranchTasks, value: ValueState, outcome: str, error: str | None
) -> None:
    run = Run().add("a", "success", VALUE, value)

    assert judge_branch(run, tasks, "rows") == Ruling(state=outcome, error=error)


@pytest.mark.parametrize(
    ("states", "outcome", "error", "culprit"),
    [
        pytest.param("success success success", "success", None, None, id="success"),
        pytest.param("failed upstream_failed success", "success", None, None, id="mended-by-its-last"),
        pytest.param("success success failed", "failed", "E: c", None, id="the-last-failed"),
        pytest.param("failed success failed", "failed", "E: c", None, id="first-and-last-failed"),
        pytest.param("failed upstream_failed upstream_failed", "failed", "E: a", "a", id="the-first-failed"),
        pytest.param("failed failed upstream_failed", "failed", "E: a", "a", id="the-first-of-two-counts"),
        pytest.param("success failed skipped", "failed", "E: b", "b", id="hidden-by-a-skip"),
        pytest.param("upstream_failed " * 3, "upstream_failed", None, None, id="failed-outside"),
        pytest.param("skipped skipped skipped", "skipped", None, None, id="skipped"),
        pytest.param("success running -", "running", None, None, id="running-before-its-last"),
        pytest.param("success queued scheduled", "scheduled", None, None, id="on-its-way"),
        pytest.param("failed - -", "waiting", None, None, id="its-last-is-to-come"),
    ],
)
def test_a_branch_of_several_tasks(states: str, outcome: str, error: str | None, culprit: str | None) -> None:
    run = Run()
    for task_id, state in zip("abc", states.split(), strict=True):
        if state != "-":
            record = BranchRecord(state="failed", error=f"E: {task_id}") if state == "failed" else None
            run.add(task_id, state, record, "present" if state == "success" else "absent")

    assert judge_branch(run, BranchTasks(task_ids=("a", "b", "c"))) == Ruling(
        state=outcome, error=error, culprit=None if culprit is None else (culprit, -1)
    )


def test_an_inner_failure_of_a_mapped_task_is_that_of_its_first_failed_instance() -> None:
    run = Run().add("each", "success", map_index=0).add("last", "upstream_failed")
    for index in (2, 1):
        error = BranchRecord(state="failed", error=f"E: {index}", map_index=index)
        run.add("each", "failed", error, map_index=index)

    ruling = judge_branch(run, BranchTasks(task_ids=("each", "last")))

    assert ruling == Ruling(state="failed", error="E: 1", culprit=("each", 1))


def test_in_a_mapped_task_group_only_the_instances_of_its_own_index_count() -> None:
    run = Run().add("a", "failed", RAISED, map_index=0).add("b", "upstream_failed", map_index=0)
    run.add("a", "success", map_index=1).add("b", "upstream_failed", map_index=1)

    ruling = judge_branch(run, BranchTasks(task_ids=("a", "b"), map_index=1))

    assert ruling == Ruling(state="upstream_failed")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        pytest.param(STOPPED, Ruling(state="skipped", error=STOPPED.error, is_stopped=True), id="stopped"),
        pytest.param(SKIPPED, Ruling(state="skipped", error="no data"), id="skipped"),
        pytest.param(None, Ruling(state="skipped"), id="without-a-record"),
    ],
)
def test_the_first_task_that_skipped_itself_tells_why(first: Record | None, expected: Ruling) -> None:
    run = Run().add("a", "skipped", first, duration=0.1).add("b", "skipped", SKIPPED, duration=None)

    assert judge_branch(run, BranchTasks(task_ids=("a", "b"))) == expected


@pytest.mark.parametrize(
    ("state", "record", "questions"),
    [
        pytest.param("success", None, ["value", "record"], id="success-with-none"),
        pytest.param("failed", RAISED, ["record"], id="failure"),
        pytest.param("skipped", SKIPPED, ["record"], id="skip"),
        pytest.param("upstream_failed", RAISED, [], id="not-started"),
        pytest.param("removed", RAISED, [], id="removed"),
    ],
)
def test_no_more_is_asked_than_a_state_needs(state: str, record: Record | None, questions: list[str]) -> None:
    run = Run()
    for task_id in "abc":
        run.add(task_id, state, record)
    judge_branch(run, BranchTasks(task_ids=("a", "b", "c")))

    assert run.questions == questions


def test_a_value_that_is_there_is_all_that_is_asked_for() -> None:
    run = Run().add("a", "success", value="present")
    judge_branch(run, OURS)

    assert run.questions == ["value"]


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        pytest.param([1.5, 2.0], 3.5, id="the-sum"),
        pytest.param([1.5, None], 1.5, id="what-did-not-run-adds-nothing"),
        pytest.param([None, None], None, id="nothing-ran"),
    ],
)
def test_a_duration_is_that_of_all_tasks(durations: list[float | None], expected: float | None) -> None:
    run = Run().add("outside", "success", duration=100.0)
    for index, duration in enumerate(durations):
        run.add("each", "success", map_index=index, duration=duration)
    run.add("last", "upstream_failed", duration=None)

    assert branch_duration(run, BranchTasks(task_ids=("each", "last"))) == expected


def batch(statuses: str) -> BatchRecord:
    errors = {str(index): f"{status} {index}" for index, status in enumerate(statuses) if status in "FK"}
    return BatchRecord(statuses=statuses, errors=errors, stopped="enough" if "X" in statuses else None)


@pytest.mark.parametrize(
    ("state", "record", "value", "outcomes", "errors"),
    [
        pytest.param("success", batch("SK"), "present", "success skipped", [None, "K 1"], id="success"),
        pytest.param("failed", batch("SF"), "present", "success failed", [None, "F 1"], id="failed"),
        pytest.param(
            "success", batch("SF"), "present", "success missing", [None, MARKED_BY_HAND], id="marked"
        ),
        pytest.param(
            "failed", batch("SK"), "absent", "missing skipped", [LOST_VALUE, "K 1"], id="values-gone"
        ),
        pytest.param("success", batch("S"), LOST, "missing", [BODY_GONE], id="body-gone"),
        pytest.param("failed", batch("SX"), "present", "success skipped", [None, "enough"], id="stopped"),
        pytest.param(
            "up_for_retry",
            batch("SKFX"),
            "absent",
            "success skipped up_for_retry up_for_retry",
            [None, "K 1", None, None],
            id="to-be-retried",
        ),
        pytest.param("success", None, "present", "missing", [MARKED_BY_HAND], id="marked-unreported"),
        pytest.param("failed", None, "present", "failed " * 2, [NO_EXCEPTION_RECORDED] * 2, id="killed"),
        pytest.param("failed", RAISED, "absent", "failed failed", ["E", "E"], id="never-began"),
        pytest.param("failed", LOST_RECORD, "present", "failed", [RECORD_GONE], id="record-gone"),
        pytest.param("success", LOST_RECORD, "present", "missing", [RECORD_GONE], id="success-record-gone"),
        pytest.param("success", batch("SSS"), "present", "missing", [MARKED_BY_HAND], id="of-other-items"),
        pytest.param("upstream_failed", batch("S"), "present", "upstream_failed", [None], id="not-started"),
        pytest.param("skipped", batch("S"), "present", "skipped", [None], id="skipped"),
        pytest.param("running", batch("S"), "present", "running", [None], id="running-again"),
        pytest.param(None, None, "absent", "waiting", [None], id="no-state"),
    ],
)
def test_items_of_a_batch(
    state: str | None, record: Record | None, value: ValueState, outcomes: str, errors: list[str | None]
) -> None:
    rulings = judge_items(state, record, len(errors), value)

    assert [ruling.state for ruling in rulings] == outcomes.split()
    assert [ruling.error for ruling in rulings] == errors
    assert [ruling.is_stopped for ruling in rulings] == [error == "enough" for error in errors]


def test_an_outcome_cannot_be_changed() -> None:
    outcome: Any = BranchOutcome(name="a", index=0, state="failed")

    with pytest.raises(FrozenInstanceError):
        outcome.state = "success"
    assert outcome.map_index == -1


def test_instances_come_by_map_index_without_the_one_that_never_expanded() -> None:
    run = Run().add("each", "removed")
    for index in (10, 9, 0):
        run.add("each", "success", map_index=index)

    assert list(instances_of(run.states, "each")) == [0, 9, 10]


@pytest.mark.parametrize(
    ("indexes", "state"),
    [
        pytest.param([-1], "skipped", id="never-expanded"),
        pytest.param([-1, 0], None, id="expanded-afterwards"),
        pytest.param([0], None, id="expanded"),
        pytest.param([], None, id="not-finished"),
    ],
)
def test_a_mapped_task_that_never_expanded_has_one_state(indexes: list[int], state: str | None) -> None:
    run = Run()
    for index in indexes:
        run.add("each", "skipped", map_index=index)

    assert unexpanded_state(run.states, "each") == state
