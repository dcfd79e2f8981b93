from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.branches import group_runs
from airflow_fanout.reports.group_capacity import SchedulingLimits, capacities
from airflow_fanout.serialization.outline import TaskOutline
from tests.unit.run_facts import by_prefix, facts_of, ran

if TYPE_CHECKING:
    from airflow_fanout.rules.capacity import Capacity


def capacity(*task_ids: str, instances: int = 0, **settings: Any) -> Capacity | None:
    """How many of the tasks that a prefix brings together can run at once."""
    tasks = {i: TaskOutline(task_id=i, **settings) for i in task_ids}
    tasks["combine"] = TaskOutline(task_id="combine", upstream=frozenset(task_ids))
    runs = [ran(i, at) for i in task_ids for at in (range(instances) if instances else [-1])]
    facts = facts_of([*runs, ran("combine")], fan_ins=[by_prefix("own_")], tasks=tasks)
    (run,) = group_runs(facts)
    return capacities(facts, SchedulingLimits(pools={"default_pool": 128, "small": 2}))(
        run, len(run.branches)
    )


def test_what_a_prefix_brings_together_has_a_limit() -> None:
    limited = capacity(*(f"own_{n}" for n in range(20)))

    assert limited is not None
    assert (limited.declared, limited.effective) == (20, 16)
    assert limited.limit is not None
    assert limited.limit.name == "max_active_tasks"


def test_so_it_has_of_a_pool() -> None:
    limited = capacity("own_a", "own_b", "own_c", pool="small")

    assert limited is not None
    assert limited.effective == 2


def test_the_limit_of_a_single_mapped_task_is_known() -> None:
    limited = capacity("own_a", instances=5, is_mapped=True, max_active_tis_per_dagrun=3)

    assert limited is not None
    assert (limited.declared, limited.effective) == (5, 3)


def test_of_several_tasks_with_limits_of_their_own_none_is_known() -> None:
    assert capacity("own_a", "own_b", instances=5, is_mapped=True, max_active_tis_per_dagrun=3) is None
