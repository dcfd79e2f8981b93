from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.group_capacity import (
    GroupCapacity,
    SchedulingLimits,
    Worker,
    group_capacity,
    narrow_steps,
)
from airflow_fanout.rules.capacity import UNKNOWN
from airflow_fanout.rules.policy import AT_RUN_TIME
from tests.unit.outlines import dag_of, instances, static, task_of

if TYPE_CHECKING:
    from airflow_fanout.serialization.outline import DagOutline

CELERY = {"CeleryExecutor": ("celery", "pkg.CeleryExecutor")}
POOLS = {"default_pool": 128, "gpu": 5, "wide": -1, "closed": 0}
STEPS = (".extract", ".train")


def worker(concurrency: int, *queues: str) -> Worker:
    return Worker(concurrency=concurrency, queues=frozenset(queues or ("default",)))


def capacity_of(dag: DagOutline, **scheduling: Any) -> GroupCapacity:
    (group,) = dag.groups.values()
    return group_capacity(dag, group, SchedulingLimits(**{"pools": POOLS, **scheduling}))


def cause(capacity: GroupCapacity) -> tuple[int, str | None, str | None]:
    effective, limit = capacity.tasks.effective, capacity.tasks.limit
    return (effective, None, None) if limit is None else (effective, limit.name, limit.where)


def case(id_: str, dag: DagOutline, expected: tuple[int, str | None, str | None], **scheduling: Any) -> Any:
    return pytest.param(dag, scheduling, expected, id=id_)


def on_celery(*workers: Worker, **executors: Any) -> dict[str, Any]:
    return {"executors": {**executors, **CELERY}, "workers": workers}


ALL = (None, None)
THE_DAG = ("max_active_tasks", "the Dag")
EXECUTOR = ("executor", "CeleryExecutor")
PARALLELISM = ("core.parallelism", "")
MANY, WIDE = dag_of(static(50)), dag_of(static(50), max_active_tasks=40)
ON_GPU_QUEUE = dag_of(static(50), queue="gpu")
SOME_LOCAL = [task_of(f"work.work_{n}", executor="LocalExecutor") for n in range(4)]
SOME_WIDE = [task_of(f"work.work_{n}", pool="wide") for n in range(6)]
LIMITED_STEP = [task_of("work.each.train", is_mapped=True, max_active_tis_per_dagrun=3)]
STATIC_LIMITED = dag_of(static(9), max_active_tis_per_dagrun=1, max_active_tis_per_dag=1)
MAPPED_STEPS = dag_of(instances(20, *STEPS), max_active_tis_per_dagrun=3)
BOTH_STEPS = "work.each.extract, work.each.train"
IN_DAGRUN, IN_DAG = "max_active_tis_per_dagrun", "max_active_tis_per_dag"


@pytest.mark.parametrize(
    ("dag", "scheduling", "expected"),
    [
        case("max_active_tasks", MANY, (16, *THE_DAG)),
        case("parallelism", WIDE, (32, *PARALLELISM)),
        case("parallelism of each scheduler", WIDE, (20, *PARALLELISM), parallelism=10, schedulers=2),
        case("pool", dag_of(static(9), pool="gpu"), (5, "pool", "gpu")),
        case("pool_slots", dag_of(static(9), pool="gpu", pool_slots=2), (2, "pool", "gpu")),
        case("more slots than there are", dag_of(static(9), pool="gpu", pool_slots=6), (0, "pool", "gpu")),
        case("closed pool", dag_of(static(9), pool="closed"), (0, "pool", "closed")),
        case("no such pool", dag_of(static(9), pool="gone"), (0, "pool", "gone")),
        case("unlimited pool", dag_of(static(50), pool="wide", pool_slots=9), (16, *THE_DAG)),
        case("one of two pools is unlimited", dag_of(static(9), tasks=SOME_WIDE, pool="gpu"), (9, *ALL)),
        case("as many branches as slots", dag_of(static(16)), (16, *ALL)),
        case("no branches", dag_of(static(0)), (0, *ALL)),
        case("a number known only at run time", dag_of(instances(None), pool="gpu"), (5, "pool", "gpu")),
        case(
            "max_concurrency",
            dag_of(instances(9, max_concurrency=4), max_active_tis_per_dagrun=4),
            (4, "max_concurrency", "work"),
        ),
        case(IN_DAGRUN, dag_of(instances(9), max_active_tis_per_dagrun=4), (4, IN_DAGRUN, "work.each")),
        case(IN_DAG, dag_of(instances(9), max_active_tis_per_dag=3), (3, IN_DAG, "work.each")),
        case("static branches are tasks", STATIC_LIMITED, (9, *ALL)),
        case("a branch takes one slot", dag_of(static({f"b{n}": STEPS for n in range(20)})), (16, *THE_DAG)),
        case(
            "each step",
            dag_of(instances(20, *STEPS), max_active_tis_per_dagrun=3),
            (6, IN_DAGRUN, BOTH_STEPS),
        ),
        case("a step without a limit", dag_of(instances(9, *STEPS), tasks=LIMITED_STEP), (9, *ALL)),
        case("celery workers", MANY, (12, *EXECUTOR), **on_celery(worker(6), worker(6))),
        case("of the queue", ON_GPU_QUEUE, (2, *EXECUTOR), **on_celery(worker(6), worker(2, "gpu"))),
        case(
            "executor of the branches",
            dag_of(static(50), executor="celery"),
            (6, *EXECUTOR),
            **on_celery(worker(6), LocalExecutor=()),
        ),
        case("another executor", MANY, (16, *THE_DAG), **on_celery(worker(6), LocalExecutor=())),
        case(
            "some branches on another executor",
            dag_of(static(15), tasks=SOME_LOCAL, executor="celery"),
            (4 + 6, *EXECUTOR),
            **on_celery(worker(6), LocalExecutor=()),
        ),
        case("celery workers that don't answer", MANY, (16, *THE_DAG), executors=CELERY),
        case("no celery worker of the queue", ON_GPU_QUEUE, (16, *THE_DAG), **on_celery(worker(6))),
    ],
)
def test_the_least_limit_sets_the_number(
    dag: DagOutline, scheduling: dict[str, Any], expected: tuple[int, str | None, str | None]
) -> None:
    assert cause(capacity_of(dag, **scheduling)) == expected


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

    capacity = capacity_of(dag_of(group, **settings), parallelism=5, executors=CELERY, workers=(worker(5),))

    assert cause(capacity)[:2] == (5, name)
    assert [limit.slots for limit in capacity.limits].count(5) >= 2


def each_task(**settings: Any) -> Any:
    """Tasks of the branches, whose settings are functions of their numbers."""
    numbers = range(10)
    return [task_of(f"work.work_{n}", **{key: of(n) for key, of in settings.items()}) for n in numbers]


@pytest.mark.parametrize(
    ("tasks", "scheduling", "effective", "explanation"),
    [
        pytest.param(
            each_task(pool=lambda n: "gpu" if n < 6 else "default_pool", pool_slots=lambda n: 1 + (n < 6)),
            {},
            2 + 4,
            "pools have room for 4 in 'default_pool', 2 in 'gpu'",
            id="several pools have the room of all",
        ),
        pytest.param(
            each_task(pool=lambda _: "gpu", pool_slots=lambda n: n + 1),
            {},
            2,  # 1 + 2 slots of 5
            "pool 'gpu' has 5 slots, a branch takes 1 to 10",
            id="different pool_slots count from the smallest",
        ),
        pytest.param(
            each_task(queue=lambda n: "a" if n % 2 else "b"),
            on_celery(worker(3, "a", "b")),
            3,
            "1 Celery worker runs 3 tasks at once from queues 'a', 'b'",
            id="queues share the workers that take both",
        ),
        pytest.param(
            each_task(queue=lambda n: "b" if n else "a"),
            on_celery(worker(9, "a"), worker(2, "b")),
            1 + 2,
            "2 Celery workers run 11 tasks at once from queues 'a', 'b'",
            id="a queue takes no more of its workers than it has branches",
        ),
    ],
)
def test_branches_that_differ_have_the_room_of_all_together(
    tasks: Any, scheduling: dict[str, Any], effective: int, explanation: str
) -> None:
    capacity = capacity_of(dag_of(static(10), tasks=tasks), **scheduling)

    assert capacity.tasks.effective == effective
    assert capacity.tasks.limit is not None
    assert capacity.tasks.limit.explanation == explanation


FOUR_OF_50 = {"items_per_task": 50, "item_concurrency": 4}


@pytest.mark.parametrize(
    ("count", "settings", "items_at_once", "tasks", "effective"),
    [
        pytest.param(1000, {"items_per_task": 50}, 16, 20, 16, id="one item at a time"),
        pytest.param(1000, FOUR_OF_50, 64, 20, 16, id="four at a time"),
        pytest.param(10, {"items_per_task": 4, "item_concurrency": 4}, 10, 3, 3, id="all there are"),
        pytest.param(100, {"items_per_task": 2, "item_concurrency": 9}, 32, 50, 16, id="all a task has"),
        pytest.param(None, FOUR_OF_50, 64, UNKNOWN, 16, id="not known yet"),
        pytest.param(0, {"items_per_task": 50}, 0, 0, 0, id="none"),
        pytest.param(1000, {"items_per_task": AT_RUN_TIME}, None, UNKNOWN, 16, id="size known in a run"),
        pytest.param(
            1000, {**FOUR_OF_50, "item_concurrency": AT_RUN_TIME}, None, 20, 16, id="items at once in a run"
        ),
    ],
)
def test_batches_are_counted_as_tasks_and_as_items(
    count: int | None, settings: dict[str, Any], items_at_once: int | None, tasks: int, effective: int
) -> None:
    capacity = capacity_of(dag_of(instances(count, **settings)))

    assert (capacity.items, capacity.tasks.declared) == (items_at_once, tasks)
    assert (capacity.declared, capacity.tasks.effective) == (count, effective)


def test_a_run_tells_the_number_that_its_dag_does_not() -> None:
    group = instances(None)

    capacity = group_capacity(dag_of(group), group, SchedulingLimits(), declared=7)

    assert (capacity.declared, capacity.tasks.declared, cause(capacity)) == (7, 7, (7, None, None))


class TestStepsOfABranch:
    """A step that lets fewer through than run at once is told apart."""

    @staticmethod
    def narrow(dag: DagOutline, **scheduling: Any) -> list[tuple[int, str]]:
        limits = SchedulingLimits(**{"pools": POOLS, **scheduling})
        return [
            (limit.slots, limit.explanation)
            for limit in narrow_steps(dag, capacity_of(dag, **scheduling), limits)
        ]

    @staticmethod
    def trained(in_pool: str, slots: int = 1, count: int = 20, **settings: Any) -> DagOutline:
        """Twenty branches of two steps; the second one takes slots of a pool in so many branches."""
        tasks = [task_of(f"work.b{n}.train", pool=in_pool, pool_slots=slots) for n in range(count)]
        return dag_of(static({f"b{n}": STEPS for n in range(20)}), tasks=tasks, **settings)

    def test_its_pool_may_have_less_room(self) -> None:
        dag = self.trained("gpu", 2)

        assert cause(capacity_of(dag))[:2] == (16, "max_active_tasks")
        assert self.narrow(dag) == [(2, "pool 'gpu' has 5 slots, each branch takes 2")]

    def test_it_may_take_more_slots_of_the_same_pool(self) -> None:
        dag = self.trained("gpu", 2, pool="gpu")

        assert cause(capacity_of(dag)) == (5, "pool", "gpu")
        assert [slots for slots, _ in self.narrow(dag)] == [2]

    def test_steps_in_different_pools_make_room_for_each_other(self) -> None:
        capacity = capacity_of(self.trained("disk", pool="gpu"), pools={**POOLS, "disk": 3})

        assert cause(capacity) == (5 + 3, "pool", "disk, gpu")

    def test_its_instances_may_be_limited(self) -> None:
        assert self.narrow(MAPPED_STEPS) == [
            (3, f"max_active_tis_per_dagrun of work.each{step} is 3") for step in STEPS
        ]

    def test_a_pool_that_few_branches_use_has_room_for_these(self) -> None:
        assert self.narrow(self.trained("gpu", count=5)) == []

    def test_a_branch_of_one_task_has_none(self) -> None:
        assert self.narrow(dag_of(static(20), pool="gpu")) == []
