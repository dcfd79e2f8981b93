"""Task instances of a run, and what was declared, as the commands that look at runs read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.runs import RunFacts, TaskRun
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.serialization.outline import TaskOutline
from tests.unit import outlines
from tests.unit.outlines import dag_of, fan_in_of, instances

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_fanout.rules.outcomes import ValueState
    from airflow_fanout.serialization.declaration import DeclaredGroup
    from airflow_fanout.serialization.outline import FanInOutline

__all__ = ["NOON", "batch", "batched", "by_prefix", "facts_of", "mapped", "of_group", "ran", "static"]

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ran(
    task_id: str, map_index: int = -1, state: str | None = "success", *, second: float = 0, **settings: Any
) -> TaskRun:
    """A task instance; what isn't a field of it goes into its record, which a success has anyway."""
    times = {"queued", "started", "ended"}
    fields = {"tries", "earlier", "hostname", "record", "value", *times}
    record = {name: settings.pop(name) for name in list(settings) if name not in fields}
    if state in {"success", "failed"}:
        record = {"state": state, **record}
    value = settings.pop("value", "present" if state == "success" else "absent")
    began = NOON + timedelta(seconds=second)
    return TaskRun(
        **{
            "task_id": task_id,
            "map_index": map_index,
            "state": state,
            "queued": NOON,
            "started": began,
            "ended": began + timedelta(seconds=1),
            "tries": 1,
            "record": record or None,
            "values": {RETURN_VALUE: value},
            **settings,
        }
    )


def facts_of(
    task_runs: Iterable[TaskRun],
    *groups: DeclaredGroup,
    fan_ins: Iterable[FanInOutline] = (),
    tasks: Mapping[str, TaskOutline] | None = None,
    state: str = "success",
    **settings: Any,
) -> RunFacts:
    """All of a run, with the groups and fan-ins of its Dag."""
    task_runs = tuple(task_runs)
    known = {each.task_id: TaskOutline(task_id=each.task_id) for each in task_runs}
    outline = dag_of(*groups, tasks={**known, **(tasks or {})}.values(), fan_ins=fan_ins)
    return RunFacts(
        dag_id="pipeline", run_id="the run", state=state, outline=outline, task_runs=task_runs, **settings
    )


def static(*names: str, steps: tuple[str, ...] = ("",)) -> DeclaredGroup:
    """A static group of branches with these names."""
    return outlines.static({name: [f".{step}".rstrip(".") for step in steps] for name in names}, "etl")


def mapped(*each: str, **settings: Any) -> DeclaredGroup:
    """A mapped group."""
    steps = [task_id.removeprefix("load.each") for task_id in each]
    return instances(settings.pop("count", None), *steps, group_id="load", **settings)


def batched(**settings: Any) -> DeclaredGroup:
    """A batched group; two items in a task unless told."""
    return instances(settings.pop("count", None), group_id="docs", **{"items_per_task": 2, **settings})


def batch(
    number: int,
    states: str,
    *,
    state: str = "success",
    value: ValueState = "present",
    second: float = 0,
    also: Mapping[str, Any] | None = None,
    **record: Any,
) -> TaskRun:
    """A batch that left a value, unless told, and a record of items in the states that letters stand for."""
    return ran(
        "docs.each",
        number,
        state,
        value=value,
        second=second,
        record={
            "state": "batch",
            "map_index": number,
            "start": 2 * number,
            "split": 1,
            "names": None,
            "statuses": states,
            "errors": {},
            "stopped": None,
            "seconds": [1.0] * len(states),
            "cpu_seconds": [0.25] * len(states),
            **record,
            **(also or {}),
        },
    )


def by_prefix(prefix: str, task_id: str = "combine") -> FanInOutline:
    """A fan-in that collects by prefix."""
    return fan_in_of(task_id, prefix=prefix)


def of_group(group_id: str, task_id: str) -> FanInOutline:
    """A fan-in of a group."""
    return fan_in_of(task_id, group_id=group_id)
