"""Fan-in, report and ``simulate`` read runs in their own ways, and say the same of every branch."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.execution_time.accounting import find_sources
from airflow_fanout.execution_time.ledger import collect
from airflow_fanout.execution_time.results import FanInResults
from airflow_fanout.reports.branches import group_runs
from airflow_fanout.reports.runs import TaskRun
from airflow_fanout.rules.identity import NEVER_RAN
from airflow_fanout.rules.instances import FINISHED
from airflow_fanout.rules.names import SPLIT, names_digest
from airflow_fanout.rules.outcomes import NO_EXCEPTION_RECORDED, LostValue, missing_reason
from airflow_fanout.rules.policy import Policy
from airflow_fanout.rules.records import (
    RETURN_VALUE,
    BatchRecord,
    Bounds,
    LostRecord,
    StoredResults,
    batch_key,
    read_record,
)
from airflow_fanout.serialization.outline import FanInOutline, TaskOutline
from airflow_fanout.storage.parts import Row, write_part
from airflow_fanout.testing.simulated_run import SimulatedRun, SimulatedSettings
from tests.unit.fake_run import FakeRun, source_of
from tests.unit.run_facts import NOON, batched, facts_of, mapped, static

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_fanout.execution_time.wiring import Source
    from airflow_fanout.rules.outcomes import BranchOutcome, ValueState
    from airflow_fanout.serialization.declaration import DeclaredGroup

Told = list[tuple[str, str, str | None, bool, int | None]]
"""Name, state, error, whether it was stopped, and, of an item, how often it was called, of each branch."""

PATH = "s3://gone"
STATES = sorted(FINISHED)
RECORDS: list[Any] = [
    None,
    {"state": "success", "has_value": True},
    {"state": "success", "has_value": False},
    {"state": "failed", "error": "ValueError: broken"},
    {"state": "failed"},
    {"state": "skipped", "error": "no data"},
    {"state": "stopped", "error": "not started: enough"},
    {"state": "batch"},
    {"state": ["success"], "has_value": 1},
    "text",
    FileNotFoundError(PATH),
]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """
    What a finished task instance left.

    :param record: As it is stored; an exception if its body is gone.
    :param value: Of a batch: ``present`` for the values of all items that succeeded.
    """

    state: str = "success"
    record: Any = None
    value: ValueState = "absent"
    has_run: bool = True
    content: Any = "value"
    operator: str = "_PythonDecoratedOperator"


NOTED, NONE, RAISED = RECORDS[1], RECORDS[2], RECORDS[3]
instances = st.sampled_from(
    [
        Instance(record=NOTED, value="present"),
        Instance(record=NONE, content=None),
        Instance(record=NOTED, value=LostValue(PATH)),
        Instance(state="failed", record=RAISED),
        Instance(state="failed"),
        Instance(state="upstream_failed", has_run=False),
    ]
) | st.builds(
    Instance,
    state=st.sampled_from(STATES),
    record=st.sampled_from(RECORDS),
    value=st.sampled_from(["present", "absent", LostValue(PATH)]),
    has_run=st.booleans(),
    operator=st.sampled_from(["_PythonDecoratedOperator", "TriggerDagRunOperator"]),
)
often = settings(max_examples=100)
keys = st.sampled_from([RETURN_VALUE, "rows"])


@dataclass(frozen=True, kw_only=True)
class Run:
    """
    A run of one group, or of the tasks that a prefix brings together.

    :param instances: By task id and map index.
    :param sources: What the fan-in collects.
    :param names: Names of mapped branches, or of items, that only the run knows, as they are now.
    :param count: Number of these.
    :param bounds: Of the batches, as they are now.
    :param since: Names of the items, or their number, that there are since these were cut.
    """

    instances: Mapping[tuple[str, int], Instance]
    sources: Sequence[Source]
    group: DeclaredGroup | None = None
    key: str = RETURN_VALUE
    map_index: int = -1
    names: Sequence[str] | None = None
    count: int | None = None
    bounds: Sequence[Bounds] = field(default=())
    since: Sequence[str] | int | None = None

    def __post_init__(self) -> None:
        """Let the instances of a task have one operator."""
        operators = {task_id: instance.operator for (task_id, _), instance in self.instances.items()}
        alike = {at: replace(each, operator=operators[at[0]]) for at, each in self.instances.items()}
        object.__setattr__(self, "instances", alike)


def as_the_fan_in_reads(run: Run) -> Sequence[BranchOutcome]:
    reader = FakeRun()
    for (task_id, map_index), instance in run.instances.items():
        reader.add(
            task_id,
            instance.state,
            map_index=map_index,
            record=instance.record,
            duration=1.0 if instance.has_run else 0.0,
            operator=instance.operator,
        )
        if isinstance(instance.value, LostValue):
            reader.xcoms[task_id, map_index, run.key] = FileNotFoundError(PATH)
        elif instance.value == "present":
            reader.xcoms[task_id, map_index, run.key] = instance.content
    if run.bounds and run.group is not None:
        reader.add(run.group.prefix + SPLIT, value=run.bounds)
        for number, (start, stop, _) in enumerate(run.bounds):
            names = None if run.names is None else list(run.names[start:stop])
            reader.xcoms[run.group.prefix + SPLIT, -1, batch_key(number)] = {"names": names, "items": []}
    some_lost = any(isinstance(instance.value, LostValue) for instance in run.instances.values())
    room = "airflow_fanout.execution_time"
    with (
        mock.patch(f"{room}.ledger.values_lie_elsewhere", return_value=some_lost),
        mock.patch(f"{room}.mapped.values_lie_elsewhere", return_value=some_lost),
        mock.patch(f"{room}.batched.values_lie_elsewhere", return_value=some_lost),
    ):
        results = FanInResults(collect(reader.reader(), reader.states(), run.sources, run.key))
        return list(results.outcomes.values())


def as_the_report_reads(run: Run) -> Told:
    task_runs = [
        TaskRun(
            task_id=task_id,
            map_index=map_index,
            state=instance.state,
            started=NOON,
            ended=NOON + timedelta(seconds=instance.has_run),
            record=LostRecord(PATH) if isinstance(instance.record, Exception) else instance.record,
            values={run.key: instance.value},
        )
        for (task_id, map_index), instance in run.instances.items()
    ]
    task_ids = frozenset(task_id for task_id, _ in run.instances)
    around = "outer" if run.map_index >= 0 else None
    tasks = {
        task_id: TaskOutline(task_id=task_id, mapped_group=around, operator=instance.operator)
        for (task_id, _), instance in run.instances.items()
    }
    tasks["combine"] = TaskOutline(task_id="combine", upstream=task_ids)
    fan_in = FanInOutline(
        task_id="combine",
        group=run.group,
        task_id_prefix="p_" if run.group is None else None,
        key=run.key,
        policy=Policy(),
    )
    split = "" if run.group is None else run.group.prefix + SPLIT
    facts = facts_of(
        task_runs,
        *([] if run.group is None else [run.group]),
        fan_ins=[fan_in],
        tasks=tasks,
        bounds={split: run.bounds},
        yielded=yielded_in(run),
        batch_names={
            (split, number): (run.names or ())[start:stop]
            for number, (start, stop, _) in enumerate(run.bounds if run.names else ())
        },
    )
    chosen = [group_run for group_run in group_runs(facts) if group_run.map_index == run.map_index]
    return [
        (b.name, b.state, b.error, b.is_stopped, b.item_tries)
        for group_run in chosen
        for b in group_run.branches
    ]


def yielded_in(run: Run) -> Mapping[str, Sequence[str] | int]:
    yielded = run.since
    if run.count is not None:
        yielded = run.count if run.names is None else run.names
    return {} if run.group is None or yielded is None else {run.group.group_id: yielded}


def check(run: Run) -> Sequence[BranchOutcome]:
    """Compare what fan-in and report read, and return it."""
    outcomes = as_the_fan_in_reads(run)

    assert as_the_report_reads(run) == [(o.name, o.state, o.error, o.is_stopped, o.tries) for o in outcomes]
    return outcomes


def check_values(outcomes: Sequence[BranchOutcome], run: Run) -> None:
    """Every value is under the name of the instance that left it, whatever its neighbours left."""
    for outcome in outcomes:
        instance = run.instances.get((outcome.task_id, outcome.map_index), Instance())
        has_value = outcome.state == "success" and instance.value == "present"
        assert outcome.value == (instance.content if has_value else None)


def check_simulation(
    fan_in: FanInOperator, outcomes: Sequence[BranchOutcome], count: int | None = None
) -> None:
    """Tell ``simulate`` of the outcomes that can be told, and compare what it reads."""
    if any(outcome.state == "removed" or outcome.error == NEVER_RAN for outcome in outcomes):
        return  # it knows of no Dag but the one that it is given
    told: dict[str, str | Exception] = {}
    values: dict[str, Any] = {}
    batches: dict[tuple[str, int], list[BranchOutcome]] = {}
    for outcome in outcomes:
        batches.setdefault((outcome.task_id, outcome.map_index), []).append(outcome)
    some_failed = any(outcome.state == "failed" for outcome in outcomes)
    for together in batches.values():
        if all(can_be_told(outcome, together, fan_in.declared.key, some_failed) for outcome in together):
            told |= {outcome.name: as_told(outcome) for outcome in together}
            values |= {outcome.name: outcome.value for outcome in together if outcome.state == "success"}
    if not any(told.get(outcome.name) for outcome in outcomes if outcome.state == "failed"):
        told = {name: outcome for name, outcome in told.items() if outcome != "stopped"}
    run = SimulatedRun(
        fan_in,
        find_sources(fan_in, fan_in.declared, {}, -1),
        -1,
        told,
        values,
        settings=SimulatedSettings(fan_in, {}),
    )
    results, _ = run.find(count, None)
    simulated = results.outcomes

    assert list(simulated) == [outcome.name for outcome in outcomes]
    for outcome in outcomes:
        if outcome.name in told:
            simulation = simulated[outcome.name]
            reason = simulation.error if outcome.is_stopped else outcome.error  # it counts failures by itself
            assert (simulation.state, simulation.error, simulation.is_stopped, simulation.value) == (
                outcome.state,
                reason,
                outcome.is_stopped,
                outcome.value,
            )


def can_be_told(outcome: BranchOutcome, batch: Sequence[BranchOutcome], key: str, some_failed: bool) -> bool:
    if outcome.state == "failed":
        return outcome.error in {NO_EXCEPTION_RECORDED, "ValueError: broken"}
    if outcome.state == "missing":
        return outcome.error == missing_reason(key) and all(other.state != "failed" for other in batch)
    return some_failed or not outcome.is_stopped


def as_told(outcome: BranchOutcome) -> str | Exception:
    if outcome.is_stopped:
        return "stopped"
    if outcome.error == "ValueError: broken":
        return ValueError("broken")
    if outcome.state == "skipped" and outcome.error is not None:
        return AirflowSkipException(outcome.error)
    return outcome.state


def work(item: str = "") -> str:
    return item


def fan_in_over(outcomes: Sequence[BranchOutcome], *, key: str = RETURN_VALUE, **mode: Any) -> FanInOperator:
    items = dict.fromkeys((outcome.name for outcome in outcomes), "x")
    limit = 1 if len(items) > 1 else None
    with DAG("d", schedule=None):
        fan_out = FanOutGroup("docs", branch=work, items=items, stop_after_failures=limit, **mode)
        return FanInOperator(task_id="combine", fan_out=fan_out, key=key)


FILES = tempfile.TemporaryDirectory()


def in_files(record: dict[str, Any], labels: Sequence[str], *, is_named: bool) -> dict[str, Any]:
    """Write the values of a batch into a file, and make the record that it leaves then."""
    told: Any = read_record(record)
    rows = [
        Row(label, told.start + index, f"value of {told.start + index}")
        for index, (label, status) in enumerate(zip(labels, told.statuses, strict=True))
        if status == "S"
    ]
    path = f"{FILES.name}/{names_digest([*labels, told.statuses, str(told.start)])}.jsonl"
    results = StoredResults(
        parts=[write_part(path, rows, "jsonl", lambda row, error: None)],
        names_digest=names_digest(labels) if is_named else None,
        names={str(n): labels[n] for n, status in enumerate(told.statuses) if status != "S"},
        skips=[(n, n + 1, "no data") for n, status in enumerate(told.statuses) if status == "K"],
    )
    errors = {index: error for index, error in told.errors.items() if told.statuses[int(index)] == "F"}
    return told._replace(results=results, errors=errors, names=None).to_xcom()  # type: ignore[no-any-return]


@st.composite
def static_runs(draw: st.DrawFn) -> Run:
    names = [f"b_{index}" for index in range(draw(st.integers(1, 4)))]
    steps = draw(st.sampled_from([("",), ("first", "last"), ("first", "each", "last")]))
    map_index = draw(st.sampled_from([-1, 1]))
    group = static(*names, steps=steps)
    by_id: dict[tuple[str, int], Instance] = {}
    for branch in group.branches:
        for task_id in branch.task_ids:
            indexes = [map_index]
            if map_index < 0 and task_id.endswith(".each"):  # mapped within the branch
                indexes = list(range(draw(st.integers(0, 2)))) or [-1]
            by_id |= {(task_id, index): draw(instances) for index in indexes}
            if map_index >= 0:
                by_id[task_id, 0] = draw(instances)  # of a neighbour in the mapped task group
    sources = [source_of(branch.name, *branch.task_ids, map_index=map_index) for branch in group.branches]
    return Run(instances=by_id, sources=sources, group=group, key=draw(keys), map_index=map_index)


@often
@given(run=static_runs())
def test_of_branches_with_tasks_of_their_own(run: Run) -> None:
    outcomes = check(run)

    check_values([outcome for outcome in outcomes if outcome.state == "success"], run)
    check_simulation(fan_in_over(outcomes, key=run.key), outcomes)


lies = st.sampled_from(["pushed", "deleted", "none"])


def honest(instance: Instance, lie: str, *, claims: bool) -> Instance:
    """
    Let an instance have left a value if it claims so, but for lies of one kind.

    Of values that were pushed by hand, and as many that were deleted, nobody can tell whose they are.
    """
    if claims == (instance.value != "absent") or lie == ("deleted" if claims else "pushed"):
        return instance
    return replace(instance, value="present" if claims else "absent")


names_then_and_now = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6) | st.just(list("abc"))


@st.composite
def mapped_runs(draw: st.DrawFn) -> Run:
    """Branches, perhaps of a Dag whose items changed after some of them, or all, had run."""
    then, now = draw(names_then_and_now), draw(names_then_and_now)
    now = draw(st.sampled_from([then, now]))
    each = draw(st.sampled_from([("load.each",), ("load.each.first", "load.each.last")]))
    are_known = draw(st.sampled_from(["by nobody", "to the Dag", "to the run"]))
    lie, key = draw(lies), draw(keys)
    by_id = {}
    for task_id in each:
        for index, name in enumerate(then):
            instance = draw(instances)
            if isinstance(instance.record, dict) and draw(st.booleans()):
                known_names: list[str | None] = [name, *now[index:][:1]]
                if are_known == "by nobody":
                    known_names = [None, f"load_{index}", name]  # the items' task returned a mapping then
                own = {"name": draw(st.sampled_from(known_names))}
                instance = replace(instance, record={**instance.record, "map_index": index, **own})
            if task_id == each[-1] and key == RETURN_VALUE:
                claims = isinstance(instance.record, dict) and instance.record.get("has_value") is True
                instance = honest(instance, lie, claims=claims)
            by_id[task_id, index] = replace(instance, content=f"value of {index}")
    is_literal = are_known != "to the run" and draw(st.booleans())
    names = tuple(now) if are_known != "by nobody" else None
    group = mapped(*each, count=len(now) if is_literal else None, names=names if is_literal else None)
    source = replace(source_of(each[-1], *each, is_mapped=True), group=group)
    if is_literal:
        return Run(instances=by_id, sources=[source], group=group, key=key)
    source = replace(source, ask_items=lambda: (names, len(now)))
    return Run(instances=by_id, sources=[source], group=group, key=key, names=names, count=len(now))


@often
@given(run=mapped_runs())
def test_of_branches_that_are_instances_of_a_mapped_task(run: Run) -> None:
    outcomes = check(run)

    check_values([outcome for outcome in outcomes if outcome.state == "success"], run)
    check_simulation(fan_in_over(outcomes, key=run.key, mapped=True), outcomes)


@st.composite
def foreign_runs(draw: st.DrawFn) -> Run:
    by_id = {("p_a", -1): replace(draw(instances), record=None)}  # they leave none
    for index in range(draw(st.integers(1, 5))):
        by_id["p_each", index] = replace(draw(instances), record=None, content=f"value of {index}")
    sources = [source_of("p_a", is_ours=False), source_of("p_each", is_ours=False, is_mapped=True)]
    return Run(instances=by_id, sources=sources, key=draw(keys))


@often
@given(run=foreign_runs())
def test_of_tasks_that_are_not_of_this_package(run: Run) -> None:
    outcomes = check(run)

    check_values(outcomes, run)
    with DAG("d", schedule=None):
        fan_in = FanInOperator(task_id="combine", task_id_prefix="p_", key=run.key)
        [task(task_id="p_a")(work)(), task(task_id="p_each")(work).expand(item=["x"])] >> fan_in
    check_simulation(fan_in, outcomes, count=len(outcomes) - 1)


@st.composite
def batched_runs(draw: st.DrawFn) -> Run:
    """Batches, perhaps of items that changed, or were cut in another way, after some of them had run."""
    now = draw(names_then_and_now.filter(bool))
    then = draw(st.sampled_from([now, draw(names_then_and_now.filter(bool))]))
    are_named, is_literal = draw(st.booleans()), draw(st.booleans())
    bounds = [(start, min(start + 2, len(now)), 2) for start in range(0, len(now), 2)]
    lie, by_id = draw(lies), {}
    size = draw(st.sampled_from([2, 2, 3]))
    # Names of successes are in files, where a report doesn't look: it knows them as long as nothing changed.
    may_be_in_files = not are_named or (then == now and size == 2)
    are_in_files = may_be_in_files and draw(st.booleans())
    for number, start in enumerate(range(0, len(then), size)):
        names = then[start : start + size]
        labels = names if are_named else [f"docs_{start + index}" for index in range(len(names))]
        statuses = draw(st.text("SFKX.", min_size=len(names), max_size=len(names)))
        is_current = (start, names) == (2 * number, now[start : start + 2])
        record = BatchRecord(
            map_index=number,
            start=start,
            split=2 if is_current else 1,
            names=names if are_named else None,
            statuses=statuses,
            errors={
                str(index): "ValueError: broken" if status == "F" else "no data"
                for index, status in enumerate(statuses)
                if status in "FK"
            },
            stopped="not started: enough" if "X" in statuses else None,
            seconds=[None] * len(statuses),
            cpu_seconds=[None] * len(statuses),
        ).to_xcom()
        if are_in_files:
            record = in_files(record, labels, is_named=are_named)
        batch = Instance(
            state=draw(st.sampled_from([state for state in STATES if state != "removed"])),
            record=draw(st.sampled_from([record] * len(RECORDS) + RECORDS)),
            value=draw(st.sampled_from(["present", "absent", LostValue(PATH)])),
            content={
                label: f"value of {start + index}"
                for index, (label, status) in enumerate(zip(labels, statuses, strict=True))
                if status == "S"
            },
        )
        reports = batch.record is record and batch.state in {"success", "failed"}
        by_id["docs.each", number] = honest(batch, lie, claims=reports)
    names_now = tuple(now) if are_named else None
    group = batched(
        names=names_now if is_literal else None,
        count=len(now) if is_literal else None,
    )
    source = replace(source_of("docs.each", is_mapped=True), group=group, may_have_names=not is_literal)
    since: Sequence[str] | int | None = None
    if not is_literal and draw(st.booleans()):
        later = draw(names_then_and_now.filter(bool))
        since = later if are_named else len(later)
        source = replace(source, ask_items=lambda: (later if are_named else None, len(later)))
    return Run(
        instances=by_id,
        sources=[source],
        group=group,
        bounds=bounds,
        names=None if is_literal else names_now,
        since=since,
    )


@often
@given(run=batched_runs())
def test_of_items_of_batches(run: Run) -> None:
    outcomes = check(run)

    expected = [outcome for outcome in outcomes if outcome.state != "removed"]
    now = run.bounds[-1][1] if run.since is None else run.since
    assert len(expected) == (now if isinstance(now, int) else len(now))
    for outcome in expected:
        content = run.instances.get((outcome.task_id, outcome.map_index), Instance()).content
        is_success = outcome.state == "success"
        assert outcome.value == (content[outcome.name] if is_success else None)
    if [o.map_index for o in outcomes] == [n for n, (a, b, _) in enumerate(run.bounds) for _ in range(a, b)]:
        check_simulation(fan_in_over(outcomes, items_per_task=2), outcomes)
