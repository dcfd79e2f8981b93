from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.group_capacity import (
    Executor,
    GroupCapacity,
    Surroundings,
    Worker,
    group_capacity,
    narrow_steps,
)
from tests.unit.outlines import dag_of, instances, static, task_of

if TYPE_CHECKING:
    from airflow_fanout.serialization.declaration import DeclaredGroup
    from airflow_fanout.serialization.outline import DagOutline

CELERY = (Executor(name="CeleryExecutor", aliases=frozenset({"celery", "pkg.CeleryExecutor"})),)
POOLS = {"default_pool": 128, "gpu": 5, "wide": -1, "closed": 0}


def capacity_of(dag: DagOutline, **surroundings: Any) -> GroupCapacity:
    (group,) = dag.groups.values()
    return group_capacity(dag, group, Surroundings(**{"pools": POOLS, **surroundings}))


def cause(found: GroupCapacity) -> tuple[int, str | None, str | None]:
    if found.limit is None:
        return found.effective, None, None
    return found.effective, found.limit.name, found.limit.where


@pytest.mark.parametrize(
    ("dag", "surroundings", "expected"),
    [
        pytest.param(dag_of(static(50)), {}, (16, "max_active_tasks", "the Dag"), id="max_active_tasks"),
        pytest.param(
            dag_of(static(50), max_active_tasks=40), {}, (32, "core.parallelism", ""), id="parallelism"
        ),
        pytest.param(
            dag_of(static(50), max_active_tasks=40),
            {"parallelism": 10, "schedulers": 2},
            (20, "core.parallelism", ""),
            id="parallelism of each scheduler",
        ),
        pytest.param(
            dag_of(static(50)), {"parallelism": 0}, (0, "core.parallelism", ""), id="no parallelism"
        ),
        pytest.param(dag_of(static(9), pool="gpu"), {}, (5, "pool", "gpu"), id="pool"),
        pytest.param(dag_of(static(9), pool="gpu", pool_slots=2), {}, (2, "pool", "gpu"), id="pool_slots"),
        pytest.param(dag_of(static(9), pool="closed"), {}, (0, "pool", "closed"), id="closed pool"),
        pytest.param(dag_of(static(9), pool="gone"), {}, (0, "pool", "gone"), id="no such pool"),
        pytest.param(
            dag_of(static(50), pool="wide", pool_slots=9),
            {},
            (16, "max_active_tasks", "the Dag"),
            id="unlimited pool",
        ),
        pytest.param(dag_of(static(8)), {}, (8, None, None), id="fewer branches than slots"),
        pytest.param(dag_of(static(16)), {}, (16, None, None), id="as many branches as slots"),
        pytest.param(dag_of(static(0)), {}, (0, None, None), id="no branches"),
        pytest.param(
            dag_of(instances(9, max_concurrency=4), max_active_tis_per_dagrun=4),
            {},
            (4, "max_concurrency", "work"),
            id="max_concurrency",
        ),
        pytest.param(
            dag_of(instances(9), max_active_tis_per_dagrun=4),
            {},
            (4, "max_active_tis_per_dagrun", "work.each"),
            id="max_active_tis_per_dagrun",
        ),
        pytest.param(
            dag_of(instances(9), max_active_tis_per_dag=3),
            {},
            (3, "max_active_tis_per_dag", "work.each"),
            id="max_active_tis_per_dag",
        ),
        pytest.param(
            dag_of(static(9), max_active_tis_per_dagrun=1, max_active_tis_per_dag=1),
            {},
            (9, None, None),
            id="static branches are tasks of their own",
        ),
        pytest.param(
            dag_of(static(50)),
            {"executors": CELERY, "workers": (Worker(concurrency=6, queues=frozenset({"default"})),) * 2},
            (12, "executor", "CeleryExecutor"),
            id="celery workers",
        ),
        pytest.param(
            dag_of(static(50), queue="gpu"),
            {
                "executors": CELERY,
                "workers": (
                    Worker(concurrency=6, queues=frozenset({"default"})),
                    Worker(concurrency=2, queues=frozenset({"default", "gpu"})),
                ),
            },
            (2, "executor", "CeleryExecutor"),
            id="celery workers of the queue",
        ),
        pytest.param(
            dag_of(static(50), executor="celery"),
            {
                "executors": (Executor(name="LocalExecutor"), *CELERY),
                "workers": (Worker(concurrency=6, queues=frozenset({"default"})),),
            },
            (6, "executor", "CeleryExecutor"),
            id="executor of the branches",
        ),
        pytest.param(
            dag_of(static(50)),
            {
                "executors": (Executor(name="LocalExecutor"), *CELERY),
                "workers": (Worker(concurrency=6, queues=frozenset({"default"})),),
            },
            (16, "max_active_tasks", "the Dag"),
            id="branches on another executor",
        ),
        pytest.param(
            dag_of(static(50)),
            {"executors": CELERY, "workers": None},
            (16, "max_active_tasks", "the Dag"),
            id="celery workers that don't answer",
        ),
        pytest.param(
            dag_of(static(50), queue="gpu"),
            {"executors": CELERY, "workers": (Worker(concurrency=6, queues=frozenset({"default"})),)},
            (16, "max_active_tasks", "the Dag"),
            id="no celery worker of the queue",
        ),
    ],
)
def test_the_number_and_its_cause(
    dag: DagOutline, surroundings: dict[str, Any], expected: tuple[int, str | None, str | None]
) -> None:
    assert cause(capacity_of(dag, **surroundings)) == expected


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        pytest.param({"max_concurrency": 5, "max_active_tis_per_dagrun": 5}, "max_concurrency", id="own"),
        pytest.param({}, "pool", id="pool"),
        pytest.param({"pool": "default_pool"}, "max_active_tasks", id="max_active_tasks"),
        pytest.param({"pool": "default_pool", "max_active_tasks": 9}, "core.parallelism", id="parallelism"),
    ],
)
def test_of_equal_limits_the_one_nearest_to_the_author_is_named(limits: dict[str, Any], name: str) -> None:
    settings: dict[str, Any] = {"pool": "gpu", "max_active_tasks": 5, **limits}
    group = instances(9, max_concurrency=settings.pop("max_concurrency", None))

    found = capacity_of(
        dag_of(group, **settings),
        parallelism=5,
        executors=CELERY,
        workers=(Worker(concurrency=5, queues=frozenset({"default"})),),
    )

    assert cause(found)[:2] == (5, name)
    assert [limit.slots for limit in found.limits if limit.slots < 9].count(5) >= 2


def test_branches_in_several_pools_have_the_room_of_all() -> None:
    tasks = [task_of(f"work.work_{n}", pool="gpu", pool_slots=2) for n in range(6)]

    found = capacity_of(dag_of(static(9), tasks=tasks))

    assert found.effective == 2 + 3
    assert found.limit is not None
    assert found.limit.because == "pools have room for 3 in 'default_pool', 2 in 'gpu'"


def test_branches_of_different_pool_slots_count_from_the_smallest() -> None:
    tasks = [task_of(f"work.work_{n}", pool="gpu", pool_slots=n + 1) for n in range(3)]

    found = capacity_of(dag_of(static(3), tasks=tasks))

    assert (found.effective, found.limit and found.limit.where) == (2, "gpu")  # 1 + 2 slots of 5


def test_one_pool_that_is_unlimited_leaves_its_branches_free() -> None:
    tasks = [task_of(f"work.work_{n}", pool="wide") for n in range(6)]

    assert cause(capacity_of(dag_of(static(9), tasks=tasks, pool="gpu"))) == (9, None, None)


@pytest.mark.parametrize(
    ("group", "items_at_once", "tasks", "effective"),
    [
        pytest.param(instances(1000, items_per_task=50), 16, 20, 16, id="one item at a time"),
        pytest.param(instances(1000, items_per_task=50, item_concurrency=4), 64, 20, 16, id="four at a time"),
        pytest.param(
            instances(10, items_per_task=4, item_concurrency=4), 10, 3, 3, id="no more than there are"
        ),
        pytest.param(
            instances(100, items_per_task=2, item_concurrency=9), 32, 50, 16, id="no more than a task has"
        ),
        pytest.param(
            instances(None, items_per_task=50, item_concurrency=4), 64, None, 16, id="not known yet"
        ),
        pytest.param(instances(0, items_per_task=50), 0, 0, 0, id="none"),
    ],
)
def test_batches_are_counted_as_tasks_and_as_items(
    group: DeclaredGroup, items_at_once: int, tasks: int | None, effective: int
) -> None:
    found = capacity_of(dag_of(group))

    assert (found.items, found.tasks, found.effective) == (items_at_once, tasks, effective)
    assert found.declared == group.count


def test_a_number_known_only_at_run_time_has_a_limit_all_the_same() -> None:
    found = capacity_of(dag_of(instances(None), pool="gpu"))

    assert (found.declared, found.tasks, cause(found)) == (None, None, (5, "pool", "gpu"))


def test_a_run_tells_the_number_that_its_dag_does_not() -> None:
    group = instances(None)

    found = group_capacity(dag_of(group), group, Surroundings(), declared=7)

    assert (found.declared, found.tasks, found.effective, found.limit) == (7, 7, 7, None)


class TestBranchesOfSeveralTasks:
    STEPS = (".extract", ".train")

    def dag(self, **train: Any) -> DagOutline:
        group = static({f"b{n}": self.STEPS for n in range(20)})
        return dag_of(group, tasks=[task_of(f"work.b{n}.train", **train) for n in range(20)])

    def test_a_branch_takes_one_slot(self) -> None:
        assert cause(capacity_of(self.dag())) == (16, "max_active_tasks", "the Dag")

    def test_a_step_that_lets_fewer_through_is_told_apart(self) -> None:
        dag = self.dag(pool="gpu", pool_slots=2)
        (group,) = dag.groups.values()

        found = capacity_of(dag)

        assert cause(found)[:2] == (16, "max_active_tasks")
        (narrow,) = narrow_steps(dag, group, Surroundings(pools=POOLS), found)
        assert (narrow.slots, narrow.because) == (2, "pool 'gpu' has 5 slots, each branch takes 2")

    def test_steps_in_different_pools_make_room_for_each_other(self) -> None:
        dag = dag_of(
            static({f"b{n}": self.STEPS for n in range(20)}),
            tasks=[task_of(f"work.b{n}.train", pool="disk") for n in range(20)],
            pool="gpu",
        )

        found = capacity_of(dag, pools={**POOLS, "disk": 3})

        assert (found.effective, found.limit and found.limit.where) == (5 + 3, "disk, gpu")

    def test_instances_of_steps_are_limited_each(self) -> None:
        group = instances(20, *self.STEPS)
        dag = dag_of(group, max_active_tis_per_dagrun=3)

        found = capacity_of(dag)

        assert cause(found) == (6, "max_active_tis_per_dagrun", "work.each.extract, work.each.train")
        assert [limit.slots for limit in narrow_steps(dag, group, Surroundings(pools=POOLS), found)] == [3, 3]

    def test_a_step_without_a_limit_has_room_for_all_instances(self) -> None:
        group = instances(9, *self.STEPS)
        train = task_of("work.each.train", is_mapped=True, max_active_tis_per_dagrun=3)
        dag = dag_of(group, tasks=[train])

        found = capacity_of(dag)

        assert cause(found) == (9, None, None)
        (narrow,) = narrow_steps(dag, group, Surroundings(pools=POOLS), found)
        assert narrow.because == "max_active_tis_per_dagrun of work.each.train is 3"

    def test_the_step_that_takes_the_most_slots_of_a_pool_is_the_narrow_one(self) -> None:
        group = static({f"b{n}": self.STEPS for n in range(20)})
        tasks = [task_of(f"work.b{n}.train", pool="gpu", pool_slots=2) for n in range(20)]
        dag = dag_of(group, tasks=tasks, pool="gpu")

        found = capacity_of(dag)

        assert cause(found) == (5, "pool", "gpu")
        assert [limit.slots for limit in narrow_steps(dag, group, Surroundings(pools=POOLS), found)] == [2]

    def test_a_branch_of_one_task_has_no_narrow_step(self) -> None:
        dag = dag_of(static(20), pool="gpu")
        (group,) = dag.groups.values()

        assert narrow_steps(dag, group, Surroundings(pools=POOLS), capacity_of(dag)) == []


def test_branches_on_another_executor_are_not_held_back_by_celery() -> None:
    tasks = [task_of(f"work.work_{n}", executor="LocalExecutor") for n in range(4)]
    workers = (Worker(concurrency=6, queues=frozenset({"default"})),)
    executors = (*CELERY, Executor(name="LocalExecutor"))

    found = capacity_of(dag_of(static(15), tasks=tasks), executors=executors, workers=workers)

    assert cause(found) == (4 + 6, "executor", "CeleryExecutor")


def test_celery_queues_share_the_workers_that_take_both() -> None:
    both = Worker(concurrency=3, queues=frozenset({"a", "b"}))
    tasks = [task_of(f"work.work_{n}", queue="a" if n % 2 else "b") for n in range(10)]

    found = capacity_of(dag_of(static(10), tasks=tasks), executors=CELERY, workers=(both,))

    assert (found.effective, found.limit and found.limit.because) == (
        3,
        "1 Celery worker on queues 'a', 'b' runs 3 tasks at once",
    )
