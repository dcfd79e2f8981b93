from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.declaration import DeclaredBranch, DeclaredGroup, describe_fan_in
from airflow_fanout.demo_branches import FanIn, GroupRun, Instance, group_runs, items_done
from airflow_fanout.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.unit


def instance(
    task_id: str,
    map_index: int = -1,
    *,
    named: str | None = None,
    state: str = "success",
    second: int = 0,
    **record: Any,
) -> Instance:
    moment = f"2026-01-01T12:00:{second:02}Z"
    return Instance(
        of={
            "task_id": task_id,
            "map_index": map_index,
            "rendered_map_index": named or (None if map_index < 0 else str(map_index)),
            "state": state,
            "queued_when": "2026-01-01T12:00:00Z",
            "start_date": moment,
            "end_date": f"2026-01-01T12:00:{second + 1:02}Z",
            "try_number": 1,
        },
        record=record or None,
    )


def fan_in(group: DeclaredGroup, *upstream: str, task_id: str = "combine") -> FanIn:
    return FanIn(
        task_id=task_id,
        declaration=describe_fan_in(key="return_value", policy=Policy(), group=group),
        upstream=frozenset(upstream),
    )


def only(group: DeclaredGroup, instances: Sequence[Instance]) -> GroupRun:
    (run,) = group_runs([fan_in(group, *(group.each or ()))], instances)
    return run


def mapped(*each: str, **settings: Any) -> DeclaredGroup:
    return DeclaredGroup(
        group_id="load", prefix="load.", mode="mapped", label="load", each=each or ("load.each",), **settings
    )


def batch(number: int, states: str, **settings: Any) -> Instance:
    record = {
        "state": "batch",
        "map_index": number,
        "start": 0,
        "names": None,
        "states": states,
        "errors": {},
        "stopped": None,
        "seconds": [1.0] * len(states),
        "cpu_seconds": [0.25] * len(states),
        **settings,
    }
    return replace(instance("documents.each", number), record=record)


BATCHED = DeclaredGroup(
    group_id="documents",
    prefix="documents.",
    mode="batched",
    label="documents",
    each=("documents.each",),
    items_per_task=2,
)


def test_instances_are_called_as_they_call_themselves() -> None:
    run = only(mapped(), [instance("load.each", 1, named="us"), instance("load.each", 0, named="eu")])

    assert [timing.name for timing in run.timings] == ["eu", "us"]
    assert (run.title, run.items) == ("load", None)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(None, ["load_0", "load_1"], id="numbered"),
        pytest.param(("eu", "us"), ["eu", "us"], id="named"),
    ],
)
def test_an_instance_that_never_started_is_called_as_declared(
    names: tuple[str, ...] | None, expected: list[str]
) -> None:
    instances = [instance("load.each", n, state="upstream_failed") for n in range(2)]

    run = only(mapped(names=names, count=2), instances)

    assert [timing.name for timing in run.timings] == expected


def test_a_mapped_branch_of_several_tasks_is_one_branch() -> None:
    group = mapped("load.each.read", "load.each.write")
    instances = [
        instance("load.each.write", n, named=f"load_{n}", second=3, seconds=0.5, cpu_seconds=0.25)
        for n in range(2)
    ]
    instances += [
        instance("load.each.read", n, named=f"load_{n}", second=1, seconds=1.5, cpu_seconds=0.5)
        for n in range(2)
    ]

    run = only(group, instances)

    assert [timing.name for timing in run.timings] == ["load_0", "load_1"]
    for timing in run.timings:
        assert (timing.work_seconds, timing.cpu_seconds) == (2.0, 0.75)
        assert timing.started is not None
        assert timing.ended is not None
        assert (timing.ended - timing.started).total_seconds() == 3


def test_a_branch_of_several_tasks_is_called_as_any_of_them_knows_it() -> None:
    group = mapped("load.each.read", "load.each.write")
    instances = [
        instance("load.each.read", 0, named="eu"),
        instance("load.each.write", 0),
        instance("load.each.read", 1, name="us", state="failed"),
        instance("load.each.write", 1, state="upstream_failed"),
    ]

    run = only(group, instances)

    assert [(timing.name, timing.state) for timing in run.timings] == [
        ("eu", "success"),
        ("us", "upstream_failed"),
    ]


def test_what_never_expanded_is_called_after_its_group() -> None:
    run = only(mapped(), [instance("load.each", state="upstream_failed")])

    assert [(timing.name, timing.state) for timing in run.timings] == [("load", "upstream_failed")]


def test_items_of_all_batches_have_names_states_and_seconds() -> None:
    run = only(BATCHED, [batch(1, "F", start=2), batch(0, "SK", seconds=[0.5, None])])

    assert run.items is not None
    assert [(item.name, item.state, item.work_seconds) for item in run.items] == [
        ("documents_0", "success", 0.5),
        ("documents_1", "skipped", None),
        ("documents_2", "failed", 1.0),
    ]


def test_items_are_called_as_they_came() -> None:
    run = only(BATCHED, [batch(0, "SS", names=["a.md", "b.md"])])

    assert run.items is not None
    assert [item.name for item in run.items] == ["a.md", "b.md"]


def test_a_batchs_work_is_that_of_its_items() -> None:
    (timing,) = only(BATCHED, [batch(0, "SSS", seconds=[1.0, None, 2.0])]).timings

    assert (timing.name, timing.work_seconds, timing.cpu_seconds) == ("documents batch 0", 3.0, 0.75)


def test_a_batch_that_measured_nothing_has_no_work() -> None:
    (timing,) = only(BATCHED, [batch(0, "XX", seconds=[None, None], cpu_seconds=[None, None])]).timings

    assert timing.work_seconds is None
    assert timing.cpu_seconds is None


def test_a_batch_that_left_no_record_is_there_without_its_items() -> None:
    run = only(BATCHED, [batch(0, "SS"), instance("documents.each", 1, state="failed")])

    assert [timing.state for timing in run.timings] == ["success", "failed"]
    assert run.items is not None
    assert len(run.items) == 2


def test_a_static_branch_of_several_tasks_is_one_branch() -> None:
    group = DeclaredGroup(
        group_id="etl",
        prefix="etl.",
        branches=(DeclaredBranch(name="eu", index=0, task_ids=("etl.eu.read", "etl.eu.write")),),
    )
    instances = [instance("etl.eu.read", seconds=1.0), instance("etl.eu.write", seconds=2.0)]

    (run,) = group_runs([fan_in(group, "etl.eu.write")], instances)

    assert [(timing.name, timing.work_seconds) for timing in run.timings] == [("eu", 3.0)]


def test_what_a_prefix_matches_is_shown_by_instance_under_the_fan_in() -> None:
    by_prefix = FanIn(
        task_id="combine",
        declaration=describe_fan_in(key="return_value", policy=Policy(), task_id_prefix="p_"),
        upstream=frozenset({"p_a", "p_many", "other"}),
    )
    instances = [instance("p_a"), instance("p_many", 0), instance("p_many", 1), instance("other")]

    (run,) = group_runs([by_prefix], instances)

    assert run.title == "combine"
    assert [timing.name for timing in run.timings] == ["p_a", "p_many[0]", "p_many[1]"]


def test_a_group_with_two_fan_ins_is_there_once() -> None:
    group = mapped()

    runs = group_runs(
        [fan_in(group, "load.each"), fan_in(group, "load.each", task_id="again")],
        [instance("load.each", 0)],
    )

    assert [run.title for run in runs] == ["load"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        pytest.param({"state": "batch", "states": "SSS"}, "3 of 3 items done", id="all"),
        pytest.param(
            {"state": "batch", "states": "SKFXF"},
            "1 of 5 items done, 1 skipped, 2 failed, 1 stopped",
            id="every-fate",
        ),
        pytest.param({"state": "failed", "error": "killed"}, None, id="not-of-items"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_it_is_said_how_many_items_of_a_batch_are_done(
    record: dict[str, Any] | None, said: str | None
) -> None:
    assert items_done(record) == said
