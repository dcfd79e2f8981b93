from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import TaskGroup
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.reports.branches import group_runs
from airflow_fanout.reports.dag_check import DagCheck, check_dag, threshold
from airflow_fanout.reports.group_capacity import SchedulingLimits, Worker
from airflow_fanout.reports.runs import RunFacts, TaskRun
from airflow_fanout.rules.policy import AT_RUN_TIME, Policy
from airflow_fanout.serialization.outline import outline
from tests.unit.outlines import dag_of, fan_in_of, instances, static, task_of

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_fanout.serialization.declaration import DeclaredGroup
    from airflow_fanout.serialization.outline import DagOutline

POOLS = {"default_pool": 128, "gpu": 2, "wide": -1, "closed": 0}
CELERY = {"CeleryExecutor": ("celery", "pkg.CeleryExecutor")}


def work(index: int) -> int:
    return index


def check(dag: DagOutline, **scheduling: Any) -> DagCheck:
    return check_dag(dag, SchedulingLimits(**{"pools": POOLS, **scheduling}))


def collected(group: DeclaredGroup, **settings: Any) -> DagOutline:
    """A group with a fan-in of its own."""
    tasks = [*settings.pop("tasks", ()), task_of("combine", upstream=frozenset(group.all_task_ids))]
    return dag_of(group, tasks=tasks, fan_ins=[fan_in_of("combine", group_id=group.group_id)], **settings)


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


def problem(id_: str, dag: DagOutline, kind: str, text: str, **scheduling: Any) -> Any:
    return pytest.param(dag, scheduling, kind, text, id=id_)


def fine(id_: str, dag: DagOutline, **scheduling: Any) -> Any:
    return pytest.param(dag, scheduling, id=id_)


OF_ANOTHER_TASK = dag_of(tasks=[task_of("before", pool="gone")])


@pytest.mark.parametrize(
    ("dag", "scheduling", "kind", "text"),
    [
        problem(
            "no such pool",
            dag_of(static(2), pool="gone"),
            "missing_pool",
            "Pool 'gone' doesn't exist, so 'work.work_0', 'work.work_1' wait for ever. Create it (airflow "
            "pools set gone SLOTS DESCRIPTION), or name one of 'closed', 'default_pool', 'gpu', 'wide'",
        ),
        problem("of another task", OF_ANOTHER_TASK, "missing_pool", "so 'before' waits for ever."),
        problem("closed pool", dag_of(static(1), pool="closed"), "pool_too_small", "'closed' has 0 slots"),
        problem(
            "more slots than the pool has",
            dag_of(static(1), pool="gpu", pool_slots=3),
            "pool_too_small",
            "Pool 'gpu' has 2 slots and pool_slots asks for 3, so 'work.work_0' waits for ever. "
            "Enlarge it to 3",
        ),
        problem(
            "executor that isn't configured",
            dag_of(static(1), executor="celery"),
            "unknown_executor",
            "Executor 'celery' isn't configured, so 'work.work_0' waits for ever. Add it to [core] executor, "
            "or name one of 'LocalExecutor'",
        ),
        problem(
            "no instance may run",
            dag_of(instances(1), max_active_tis_per_dag=0),
            "no_slots",
            "max_active_tis_per_dag is below 1, so 'work.each' waits for ever",
        ),
        problem(
            "no task of the Dag may run",
            dag_of(static(1), max_active_tasks=0),
            "no_slots",
            "max_active_tasks of the Dag is 0, so no task ever starts",
        ),
        problem("no parallelism", dag_of(static(1)), "no_slots", "[core] parallelism is 0", parallelism=0),
        problem(
            "too many batches",
            dag_of(instances(1025, items_per_task=1)),
            "too_many_tasks",
            "Group 'work': its 1025 items make 1025 tasks, which will fail: [core] max_map_length allows "
            "1024. Give items_per_task=2 or more",
        ),
        problem(
            "no place for pieces",
            dag_of(instances(None, items_per_task=1, stored_items="SqlItems db", needs_pieces=True)),
            "no_storage_path",
            "Group 'work': SqlItems db can't be cut where it lies, and [fanout] storage_path isn't set, so "
            "its split will fail. Name a folder there that all workers reach",
        ),
        problem(
            "prefix that takes nothing",
            collecting("score", "part_1", "part_2"),
            "prefix_matches_nothing",
            "Fan-in 'combine': no upstream task id starts with 'score'; upstream: 'part_1', 'part_2'",
        ),
        problem(
            "prefix of a task that isn't wired",
            collecting("part", "part_1", beside=("part_2", "other")),
            "prefix_matches_others",
            "Fan-in 'combine': it will fail, because its prefix 'part' also takes 'part_2', which is not "
            "wired to it. Wire it (part_2 >> combine), or choose a prefix that takes less",
        ),
        problem(
            "prefix of tasks that aren't wired",
            collecting("part", "part_1", beside=("part_3", "part_2")),
            "prefix_matches_others",
            "also takes 'part_2', 'part_3', which are not wired to it. Wire them (part_2 >> combine)",
        ),
        problem(
            "number that goes on",
            collecting("part_1", "part_1", "part_10", "part_11"),
            "prefix_ambiguous",
            "its prefix 'part_1' takes 'part_1', and also 'part_10', 'part_11'. If all are meant",
        ),
        problem(
            "number of a group that goes on",
            collecting("part_1", "part_1.load", "part_1.save", "part_10.load"),
            "prefix_ambiguous",
            "takes 'part_1.load', 'part_1.save', and also 'part_10.load'",
        ),
        problem(
            "more successes than branches",
            collecting("part", "part_1", "part_2", min_success=3),
            "min_success_unreachable",
            "Fan-in 'combine': min_success=3 can't be met by the 2 branches that it collects",
        ),
        problem(
            "first task that waits for the run before",
            waiting(static({"a": [".read", ".write"]}), "work.a.read", "work.a.write", min_success=1),
            "tolerance_waits_on_past",
            "Fan-in 'combine': a tolerance over tasks with depends_on_past or wait_for_downstream "
            "('work.a.read')",
        ),
        problem(
            "mapped first task that does",
            waiting(instances(2, ".a", ".b"), "work.each.a", "work.each.b", min_success_ratio=0.5),
            "tolerance_waits_on_past",
            "('work.each.a')",
        ),
    ],
)
def test_a_problem_says_what_is_wrong_and_the_way_out(
    dag: DagOutline, scheduling: dict[str, Any], kind: str, text: str
) -> None:
    (found,) = check(dag, **scheduling).problems

    assert found.kind == kind
    assert text in found.message


@pytest.mark.parametrize(
    ("dag", "scheduling"),
    [
        fine("more branches than slots", dag_of(static(50))),
        fine("a pool with room for one", dag_of(static(9), pool="gpu", pool_slots=2)),
        fine("an unlimited pool", dag_of(static(9), pool="wide", pool_slots=99)),
        fine("an executor's alias", dag_of(static(9), executor="celery"), executors=CELERY),
        fine("an executor's class", dag_of(static(9), executor="CeleryExecutor"), executors=CELERY),
        fine("as many batches as may be", dag_of(instances(1024, items_per_task=1))),
        fine(
            "stored items that can be cut",
            dag_of(instances(None, items_per_task=1, stored_items="CsvItems x")),
        ),
        fine("literal items of a mapped group", dag_of(instances(9999))),
        fine("a prefix before the number", collecting("part_", "part_1", "part_10")),
        fine("a prefix that takes only longer ones", collecting("part_1", "part_10", "part_11")),
        fine("a prefix that ends in no number", collecting("part", "part1", "part_total")),
        fine("a prefix of one group", collecting("part_1", "part_1.a", "part_1.b")),
        fine("a templated prefix", collecting("{{ ds }}", "part_1")),
        fine("as many successes as branches", collecting("part", "part_1", "part_2", min_success=2)),
        fine("another task beside", collecting("part", "part_1", beside=("combine_later",))),
        fine(
            "no tolerance over tasks that wait for the run before",
            waiting(static({"a": [".read", ".write"]}), "work.a.read", "work.a.write"),
        ),
    ],
)
def test_no_alarm_is_false(dag: DagOutline, scheduling: dict[str, Any]) -> None:
    assert check(dag, **scheduling).problems == ()


def test_only_the_tasks_that_ask_for_too_many_slots_are_named() -> None:
    dag = dag_of(static(3), tasks=[task_of("work.work_1", pool="gpu", pool_slots=3)], pool="gpu")

    (found,) = check(dag).problems

    assert found.task_ids == ("work.work_1",)


def test_a_task_downstream_that_starts_alike_need_not_be_wired() -> None:
    fan_in = fan_in_of("combine", prefix="part")
    tasks = [
        task_of("part_1", downstream=frozenset({"combine"})),
        task_of("combine", upstream=frozenset({"part_1"}), downstream=frozenset({"part_done"})),
        task_of("part_done", upstream=frozenset({"combine"})),
    ]

    assert check(dag_of(tasks=tasks, fan_ins=[fan_in])).problems == ()


class TestWhatAFanInCollects:
    def test_it_is_the_last_tasks_of_a_group(self) -> None:
        group = static({"a": [".extract", ".load"], "b": [".extract", ".load"]})

        (found,) = check(collected(group)).fan_ins

        assert (found.matches, found.count) == (("work.a.load", "work.b.load"), 2)

    @pytest.mark.parametrize(
        ("items", "count"), [pytest.param(30, 31, id="known"), pytest.param(None, None, id="at run time")]
    )
    def test_a_prefix_takes_the_items_of_batches(self, items: int | None, count: int | None) -> None:
        tasks = [
            task_of("combine", upstream=frozenset({"work.each", "work.split", "work.more"})),
            task_of("work.split", operator="SplitOperator"),
            task_of("work.more"),
        ]
        group = instances(items, items_per_task=10)

        (found,) = check(dag_of(group, tasks=tasks, fan_ins=[fan_in_of("combine", prefix="work.")])).fan_ins

        assert (found.matches, found.count) == (("work.each", "work.more"), count)

    @pytest.mark.parametrize(
        ("part", "around", "count"),
        [
            pytest.param({"is_mapped": True}, None, None, id="a mapped task"),
            pytest.param({"mapped_group": "docs"}, "docs", 1, id="in the same mapped task group"),
            pytest.param({"mapped_group": "docs"}, None, None, id="in a mapped task group of its own"),
        ],
    )
    def test_instances_are_known_only_at_run_time(
        self, part: dict[str, Any], around: str | None, count: int | None
    ) -> None:
        tasks = [
            task_of("combine", upstream=frozenset({"part"}), mapped_group=around),
            task_of("part", **part),
        ]

        (found,) = check(dag_of(tasks=tasks, fan_ins=[fan_in_of("combine", prefix="p")])).fan_ins

        assert (found.matches, found.count) == (("part",), count)


def test_groups_have_the_ids_that_a_run_has(dag: DAG) -> None:
    FanInOperator(task_id="own_in", fan_out=FanOutGroup("own", branch=work, count=2))
    FanOutGroup("batched", branch=work, count=4, items_per_task=2)
    with TaskGroup("load"):
        tables = FanOutGroup("tables", branch=work, count=2)
        files = FanOutGroup("files", branch=work, count=2, mapped=True)
    tables >> FanInOperator(task_id="tables_in", task_id_prefix="load.tables")
    files >> FanInOperator(task_id="files_in", task_id_prefix="load.files")
    stored = outline(DagSerialization.from_dict(DagSerialization.to_dict(dag)))
    task_runs = tuple(TaskRun(task_id=task_id) for task_id in stored.tasks)
    facts = RunFacts(dag_id="d", run_id="r", state="failed", outline=stored, task_runs=task_runs)

    ids = [group_id for group_id, _ in check(outline(dag)).groups]

    assert ids == sorted(run.title for run in group_runs(facts))
    assert ids == ["batched", "files_in", "own", "tables_in"]


def test_groups_are_in_natural_order() -> None:
    dag = dag_of(*(static(1, group_id=f"g{n}") for n in (10, 9, 1)))

    assert [group_id for group_id, _ in check(dag).groups] == ["g1", "g9", "g10"]


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
        pytest.param(Policy(min_success=0), 8, "it succeeds whatever its branches do", id="whatever fails"),
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
            "at least 2 branches and at least 0.28 of all have to succeed; skipped ones count as successes",
            id="both, of a number known only at run time",
        ),
        pytest.param(
            Policy(min_success=AT_RUN_TIME, min_success_ratio=AT_RUN_TIME),
            8,
            "at least as many branches as the run says and at least the share that the run says of all have "
            "to succeed; skipped ones don't count",
            id="known at run time",
        ),
        pytest.param(
            Policy(min_success=1),
            8,
            "at least 1 branch has to succeed (1 of 8); skipped ones don't count",
            id="one",
        ),
    ],
)
def test_the_threshold_in_words(policy: Policy, count: int | None, words: str) -> None:
    assert threshold(policy, count) == words


def note(id_: str, dag: DagOutline, text: str, **scheduling: Any) -> Any:
    return pytest.param(dag, scheduling, text, id=id_)


@pytest.mark.parametrize(
    ("dag", "scheduling", "text"),
    [
        note(
            "a step that lets fewer through",
            collected(
                static({name: [".extract", ".train"] for name in "abc"}),
                tasks=[task_of(f"work.{name}.train", pool="gpu") for name in "abc"],
            ),
            "Group 'work': a step lets only 2 through at once: pool 'gpu' has 2 slots",
        ),
        note(
            "in a mapped task group",
            collected(static(2), mapped_group="docs"),
            "Group 'work' is in the mapped task group 'docs'",
        ),
        note(
            "a group without a fan-in",
            dag_of(static(2)),
            "Group 'work': report and rerun don't show it, as no fan-in is known to collect it",
        ),
        note(
            "silent workers",
            collected(static(2)),
            "No Celery worker answered, so what they have room for is not known; each runs 7 tasks",
            executors=CELERY,
            worker_concurrency=7,
        ),
        note(
            "a queue without a worker",
            collected(static(2), queue="gpu"),
            "No Celery worker that answered takes tasks from: 'gpu'",
            executors=CELERY,
            workers=(Worker(concurrency=6, queues=frozenset({"default"})),),
        ),
        note(
            "a rate of which a part is not used",
            collected(instances(100, items_per_task=10, items_per_second=8, max_concurrency=4)),
            "4 tasks share items_per_second=8, but 2 can run at once, so at most 4 items a second start",
            parallelism=2,
        ),
        note(
            "another executor",
            collected(static(2)),
            "How many tasks KubernetesExecutor has room for is not known here",
            executors={"KubernetesExecutor": ()},
        ),
    ],
)
def test_what_is_good_to_know_and_no_problem_is_a_note(
    dag: DagOutline, scheduling: dict[str, Any], text: str
) -> None:
    found = check(dag, **scheduling)

    (only,) = found.notes
    assert text in only
    assert found.problems == ()


@pytest.mark.parametrize(
    ("path", "executors", "notes"),
    [
        ("/data", {"LocalExecutor": ()}, 0),
        ("s3://bucket/fanout", CELERY, 0),
        ("/data", CELERY, 1),
        ("file:///data", CELERY, 1),
    ],
)
def test_a_folder_of_one_machine_is_told_where_there_may_be_several(
    path: str, executors: Any, notes: int
) -> None:
    dag = dag_of(instances(None, items_per_task=1, stored_items="SqlItems db", needs_pieces=True))
    found = [note for note in check(dag, storage_path=path, executors=executors).notes if "below" in note]

    assert len(found) == notes
    assert all("name one that all reach, in [fanout] storage_path" in note for note in found)


@pytest.mark.parametrize(
    ("dag", "notes"),
    [
        (collected(static(499)), 0),
        (collected(static(1000)), 1),
        (collected(instances(1000)), 0),
        (collected(instances(1000, items_per_task=1)), 0),
    ],
    ids=["few", "many", "mapped", "batched"],
)
def test_many_static_branches_are_told_what_they_cost_each_task(dag: DagOutline, notes: int) -> None:
    found = [note for note in check(dag).notes if "makes all" in note]

    assert len(found) == notes
    assert all("1000 branches again, some 0.2 s of CPU" in note and "mapped=True" in note for note in found)
