from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.dag_check import DagCheck, check_dag, threshold
from airflow_fanout.reports.group_capacity import Executor, Surroundings, Worker
from airflow_fanout.rules.policy import Policy
from tests.unit.outlines import dag_of, fan_in_of, instances, static, task_of

if TYPE_CHECKING:
    from airflow_fanout.serialization.declaration import DeclaredGroup
    from airflow_fanout.serialization.outline import DagOutline

POOLS = {"default_pool": 128, "gpu": 2, "wide": -1, "closed": 0}
CELERY = (Executor(name="CeleryExecutor", aliases=frozenset({"celery", "pkg.CeleryExecutor"})),)


def check(dag: DagOutline, **surroundings: Any) -> DagCheck:
    return check_dag(dag, Surroundings(**{"pools": POOLS, **surroundings}))


def problems(dag: DagOutline, **surroundings: Any) -> list[str]:
    return [problem.kind for problem in check(dag, **surroundings).problems]


def collecting(prefix: str, *upstream: str, beside: tuple[str, ...] = (), **policy: Any) -> DagOutline:
    """A fan-in by prefix, and tasks that it isn't wired to."""
    fan_in = fan_in_of("combine", prefix=prefix, policy=Policy(**policy))
    tasks = [task_of(task_id, downstream=frozenset({"combine"})) for task_id in upstream]
    tasks += [task_of(task_id) for task_id in beside]
    return dag_of(
        tasks=[*tasks, task_of("combine", operator="FanInOperator", upstream=frozenset(upstream))],
        fan_ins=[fan_in],
    )


def waiting(group: DeclaredGroup, *steps: str, **policy: Any) -> DagOutline:
    """A fan-in by prefix after a branch of two tasks, of which the first waits for the run before."""
    first, last = steps
    mapped = bool(group.each)
    tasks = [
        task_of(first, waits_on_past=True, is_mapped=mapped),
        task_of(last, upstream=frozenset({first}), is_mapped=mapped),
        task_of("combine", operator="FanInOperator", upstream=frozenset({last})),
    ]
    fan_in = fan_in_of("combine", prefix="work.", policy=Policy(**policy))
    return dag_of(group, tasks=tasks, fan_ins=[fan_in])


@pytest.mark.parametrize(
    ("dag", "surroundings", "kind", "said"),
    [
        pytest.param(
            dag_of(static(2), pool="gone"),
            {},
            "missing_pool",
            "Pool 'gone' doesn't exist, so 'work.work_0', 'work.work_1' wait for ever.",
            id="no such pool",
        ),
        pytest.param(
            dag_of(tasks=[task_of("before", pool="gone")]),
            {},
            "missing_pool",
            "so 'before' waits for ever. Make it (airflow pools set gone SLOTS DESCRIPTION), or name one of "
            "'closed', 'default_pool', 'gpu', 'wide'",
            id="no such pool of a task that is no branch",
        ),
        pytest.param(
            dag_of(static(1), pool="closed"), {}, "pool_too_small", "'closed' has 0 slots", id="closed pool"
        ),
        pytest.param(
            dag_of(static(1), pool="gpu", pool_slots=3),
            {},
            "pool_too_small",
            "Pool 'gpu' has 2 slots and pool_slots asks for 3, so 'work.work_0' waits for ever. "
            "Enlarge it to 3",
            id="more slots than the pool has",
        ),
        pytest.param(
            dag_of(static(1), executor="celery"),
            {},
            "unknown_executor",
            "Executor 'celery' isn't configured, so 'work.work_0' waits for ever. Add it to [core] executor, "
            "or name one of 'LocalExecutor'",
            id="executor that isn't configured",
        ),
        pytest.param(
            dag_of(instances(1), max_active_tis_per_dag=0),
            {},
            "no_slots",
            "max_active_tis_per_dag is below 1, so 'work.each' waits for ever",
            id="no instance may run",
        ),
        pytest.param(
            dag_of(static(1), max_active_tasks=0),
            {},
            "no_slots",
            "max_active_tasks of the Dag is 0",
            id="no task of the Dag may run",
        ),
        pytest.param(
            dag_of(static(1)), {"parallelism": 0}, "no_slots", "[core] parallelism is 0", id="no parallelism"
        ),
        pytest.param(
            dag_of(instances(1025, items_per_task=1)),
            {},
            "too_many_tasks",
            "Group 'work': its 1025 items make 1025 tasks, which will fail: [core] max_map_length allows "
            "1024. Give items_per_task=2 or more",
            id="too many batches",
        ),
        pytest.param(
            collecting("score", "part_1", "part_2"),
            {},
            "prefix_matches_nothing",
            "Fan-in 'combine': no upstream task id starts with 'score'; upstream: 'part_1', 'part_2'",
            id="prefix that takes nothing",
        ),
        pytest.param(
            collecting("part", "part_1", beside=("part_2", "other")),
            {},
            "prefix_matches_others",
            "Fan-in 'combine': it will fail, because its prefix 'part' also takes 'part_2', which is not "
            "wired to it. Wire it (part_2 >> combine), or choose a prefix that takes less",
            id="prefix of a task that isn't wired",
        ),
        pytest.param(
            collecting("part", "part_1", beside=("part_3", "part_2")),
            {},
            "prefix_matches_others",
            "also takes 'part_2', 'part_3', which are not wired to it. Wire them (part_2 >> combine)",
            id="prefix of tasks that aren't wired",
        ),
        pytest.param(
            collecting("part_1", "part_1", "part_10", "part_11"),
            {},
            "prefix_ambiguous",
            "'part_1' takes 'part_1', and also 'part_10', 'part_11', whose number goes on",
            id="number that goes on",
        ),
        pytest.param(
            collecting("part_1", "part_1.load", "part_1.save", "part_10.load"),
            {},
            "prefix_ambiguous",
            "takes 'part_1.load', 'part_1.save', and also 'part_10.load'",
            id="number of a group that goes on",
        ),
        pytest.param(
            collecting("part", "part_1", "part_2", min_success=3),
            {},
            "min_success_unreachable",
            "Fan-in 'combine': min_success=3 can't be met by the 2 branches that it collects",
            id="more successes than branches",
        ),
        pytest.param(
            waiting(static({"a": [".read", ".write"]}), "work.a.read", "work.a.write", min_success=1),
            {},
            "tolerance_waits_on_past",
            "Fan-in 'combine': a tolerance over tasks with depends_on_past or wait_for_downstream "
            "('work.a.read')",
            id="branch whose first task waits for the run before",
        ),
        pytest.param(
            waiting(
                instances(2, ".read", ".write"), "work.each.read", "work.each.write", min_success_ratio=0.5
            ),
            {},
            "tolerance_waits_on_past",
            "('work.each.read')",
            id="mapped branch whose first task does",
        ),
    ],
)
def test_a_problem_says_what_is_wrong_and_where(
    dag: DagOutline, surroundings: dict[str, Any], kind: str, said: str
) -> None:
    (problem,) = check(dag, **surroundings).problems

    assert problem.kind == kind
    assert said in problem.message


@pytest.mark.parametrize(
    ("dag", "surroundings"),
    [
        pytest.param(dag_of(static(50)), {}, id="more branches than slots"),
        pytest.param(dag_of(static(9), pool="gpu", pool_slots=2), {}, id="a pool with room for one"),
        pytest.param(dag_of(static(9), pool="wide", pool_slots=99), {}, id="an unlimited pool"),
        pytest.param(dag_of(static(9), executor="celery"), {"executors": CELERY}, id="an executor's alias"),
        pytest.param(
            dag_of(static(9), executor="CeleryExecutor"), {"executors": CELERY}, id="an executor's class"
        ),
        pytest.param(dag_of(instances(1024, items_per_task=1)), {}, id="as many batches as may be"),
        pytest.param(dag_of(instances(9999)), {}, id="literal items of a mapped group"),
        pytest.param(collecting("part_", "part_1", "part_10"), {}, id="a prefix before the number"),
        pytest.param(collecting("part_1", "part_10", "part_11"), {}, id="a prefix that takes only longer"),
        pytest.param(collecting("part", "part1", "part_total"), {}, id="a prefix that ends in no number"),
        pytest.param(collecting("part_1", "part_1.a", "part_1.b"), {}, id="a prefix of one group"),
        pytest.param(collecting("{{ ds }}", "part_1"), {}, id="a templated prefix"),
        pytest.param(collecting("part", "part_1", "part_2", min_success=2), {}, id="as many as there are"),
        pytest.param(collecting("part", "part_1", beside=("combine_later",)), {}, id="others beside"),
    ],
)
def test_no_alarm_is_false(dag: DagOutline, surroundings: dict[str, Any]) -> None:
    assert problems(dag, **surroundings) == []


def test_only_the_tasks_that_ask_for_too_much_are_named() -> None:
    dag = dag_of(static(3), tasks=[task_of("work.work_1", pool="gpu", pool_slots=3)], pool="gpu")

    (problem,) = check(dag).problems

    assert problem.task_ids == ("work.work_1",)


def test_a_task_downstream_that_starts_alike_is_no_stray() -> None:
    fan_in = fan_in_of("combine", prefix="part")
    tasks = [
        task_of("part_1", downstream=frozenset({"combine"})),
        task_of("combine", upstream=frozenset({"part_1"}), downstream=frozenset({"part_done"})),
        task_of("part_done", upstream=frozenset({"combine"})),
    ]

    assert problems(dag_of(tasks=tasks, fan_ins=[fan_in])) == []


class TestWhatAFanInCollects:
    def test_a_group(self) -> None:
        group = static({"a": [".extract", ".load"], "b": [".extract", ".load"]})
        tasks = [task_of("combine", upstream=frozenset({"work.a.load", "work.b.load"}))]

        (found,) = check(dag_of(group, tasks=tasks, fan_ins=[fan_in_of("combine", group_id="work")])).fan_ins

        assert (found.group_id, found.matches, found.count) == ("work", ("work.a.load", "work.b.load"), 2)

    @pytest.mark.parametrize(
        ("items", "count"), [pytest.param(30, 31, id="known"), pytest.param(None, None, id="at run time")]
    )
    def test_a_prefix_takes_the_items_of_batches(self, items: int | None, count: int | None) -> None:
        upstream = frozenset({"work.each", "work.split", "work.more"})
        tasks = [
            task_of("combine", upstream=upstream),
            task_of("work.split", operator="SplitOperator"),
            task_of("work.more"),
        ]
        group = instances(items, items_per_task=10)

        (found,) = check(dag_of(group, tasks=tasks, fan_ins=[fan_in_of("combine", prefix="work.")])).fan_ins

        assert (found.matches, found.count) == (("work.each", "work.more"), count)

    def test_instances_of_a_mapped_task_are_known_only_at_run_time(self) -> None:
        tasks = [
            task_of("combine", upstream=frozenset({"part_1", "part_2"})),
            task_of("part_1"),
            task_of("part_2", is_mapped=True),
        ]

        (found,) = check(dag_of(tasks=tasks, fan_ins=[fan_in_of("combine", prefix="part")])).fan_ins

        assert (found.matches, found.count) == (("part_1", "part_2"), None)

    @pytest.mark.parametrize(
        ("around", "count"), [pytest.param("docs", 1, id="the same"), pytest.param(None, None, id="none")]
    )
    def test_one_instance_of_the_mapped_group_that_it_is_in(
        self, around: str | None, count: int | None
    ) -> None:
        tasks = [
            task_of("docs.combine", upstream=frozenset({"docs.part"}), mapped_group=around),
            task_of("docs.part", mapped_group="docs"),
        ]

        (found,) = check(dag_of(tasks=tasks, fan_ins=[fan_in_of("docs.combine", prefix="docs.p")])).fan_ins

        assert found.count == count


@pytest.mark.parametrize("label", ["work.work_", "work.", "wo"])
def test_a_prefix_of_a_group_without_branches_takes_nothing_and_that_is_fine(label: str) -> None:
    helper = task_of("work.no_branches", operator="EmptyOperator")
    tasks = [helper, task_of("combine", upstream=frozenset({helper.task_id}))]

    found = check(dag_of(static(0), tasks=tasks, fan_ins=[fan_in_of("combine", prefix=label)]))

    assert found.problems == ()
    assert found.fan_ins[0].matches == ()


@pytest.mark.parametrize(
    ("policy", "count", "words"),
    [
        pytest.param(Policy(), 8, "every branch has to succeed", id="none"),
        pytest.param(
            Policy(min_success=6),
            8,
            "at least 6 branches have to succeed (6 of 8); skipped ones don't count",
            id="number",
        ),
        pytest.param(
            Policy(min_success_ratio=Fraction(9, 10), count_skipped="failure"),
            8,
            "at least 0.9 of all branches have to succeed (8 of 8); skipped ones count as failures",
            id="ratio",
        ),
        pytest.param(
            Policy(min_success=2, min_success_ratio=0.28, count_skipped="success"),
            None,
            "at least 2 and at least 0.28 of all branches have to succeed; skipped ones count as successes",
            id="both, of a number known only at run time",
        ),
    ],
)
def test_the_threshold_in_words(policy: Policy, count: int | None, words: str) -> None:
    assert threshold(policy, count) == words


@pytest.mark.parametrize(
    ("dag", "surroundings", "said"),
    [
        pytest.param(
            dag_of(
                static(
                    {"a": [".extract", ".train"], "b": [".extract", ".train"], "c": [".extract", ".train"]}
                ),
                tasks=[task_of(f"work.{name}.train", pool="gpu") for name in "abc"],
            ),
            {},
            "Group 'work': not every step lets as many through, 2 at once: pool 'gpu' has 2 slots",
            id="a step that lets fewer through",
        ),
        pytest.param(
            dag_of(static(2), mapped_group="docs"),
            {},
            "Group 'work' is in the mapped task group 'docs'",
            id="in a mapped task group",
        ),
        pytest.param(
            dag_of(static(2)),
            {"executors": CELERY, "worker_concurrency": 7},
            "No Celery worker answered, so that what they have room for is unknown; each runs 7 tasks",
            id="silent workers",
        ),
        pytest.param(
            dag_of(static(2), queue="gpu"),
            {"executors": CELERY, "workers": (Worker(concurrency=6, queues=frozenset({"default"})),)},
            "No Celery worker that answered takes tasks from: 'gpu'",
            id="a queue without a worker",
        ),
        pytest.param(
            dag_of(static(2)),
            {"executors": (Executor(name="KubernetesExecutor"),)},
            "How many tasks there is room for behind KubernetesExecutor is not known here",
            id="another executor",
        ),
        pytest.param(
            collecting("part_{{ ds }}", "part_1"),
            {},
            "Fan-in 'combine': its prefix 'part_{{ ds }}' is known only at run time",
            id="a templated prefix",
        ),
    ],
)
def test_what_is_good_to_know_is_a_note(dag: DagOutline, surroundings: dict[str, Any], said: str) -> None:
    found = check(dag, **surroundings)

    assert [note for note in found.notes if said in note] == list(found.notes)
    assert len(found.notes) == 1
    assert found.problems == ()


def test_groups_are_in_natural_order() -> None:
    dag = dag_of(*(static(1, group_id=f"g{n}") for n in (10, 9, 1)))

    assert [group.group_id for group in check(dag).groups] == ["g1", "g9", "g10"]


def test_without_a_tolerance_branches_may_wait_for_the_run_before() -> None:
    group = static({"a": [".read", ".write"]})

    assert problems(waiting(group, "work.a.read", "work.a.write")) == []
