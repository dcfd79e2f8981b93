from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.branches import group_runs
from airflow_fanout.rules.identity import NEVER_RAN
from airflow_fanout.rules.outcomes import MARKED_BY_HAND, NO_EXCEPTION_RECORDED
from airflow_fanout.serialization.outline import TaskOutline
from tests.unit.outlines import fan_in_of
from tests.unit.run_facts import NOON, batch, batched, by_prefix, facts_of, mapped, of_group, ran, static

if TYPE_CHECKING:
    from airflow_fanout.reports.runs import BranchRun, GroupRun, TaskRun
    from airflow_fanout.serialization.declaration import DeclaredGroup

pytestmark = pytest.mark.unit


def only(group: DeclaredGroup, *task_runs: TaskRun, **settings: Any) -> GroupRun:
    (run,) = group_runs(facts_of(task_runs, group, **settings))
    return run


def only_branch(group: DeclaredGroup, *task_runs: TaskRun, **settings: Any) -> BranchRun:
    (branch,) = only(group, *task_runs, **settings).branches
    return branch


class TestNames:
    def test_instances_are_called_as_they_recorded(self) -> None:
        us, eu = ran("load.each", 1, name="us"), ran("load.each", 0, name="eu")
        run = only(mapped(), us, eu, yielded={"load": ["eu", "us"]})

        assert [branch.name for branch in run.branches] == ["eu", "us"]
        assert (run.title, run.batches) == ("load", None)

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            pytest.param(None, ["load_0", "load_1"], id="numbered"),
            pytest.param(("eu", "us"), ["eu", "us"], id="named"),
        ],
    )
    def test_an_instance_that_never_started_is_called_as_declared(
        self, names: tuple[str, ...] | None, expected: list[str]
    ) -> None:
        never = [ran("load.each", n, "upstream_failed") for n in range(2)]

        run = only(mapped(names=names, count=2), *never)

        assert [branch.name for branch in run.branches] == expected

    def test_a_branch_of_several_tasks_is_called_as_any_of_them_knows_it(self) -> None:
        run = only(
            mapped("load.each.read", "load.each.write"),
            ran("load.each.read", 0, name="eu"),
            ran("load.each.write", 0),
            ran("load.each.read", 1, "failed", name="us"),
            ran("load.each.write", 1, "upstream_failed"),
            yielded={"load": ["eu", "us"]},
        )

        assert [branch.name for branch in run.branches] == ["eu", "us"]

    def test_instances_that_airflow_has_removed_are_not_expected(self) -> None:
        """Of items that several instances have returned, nobody else says how many there are."""
        run = only(mapped(), ran("load.each", 0), ran("load.each", 1, "removed"))

        assert [(branch.name, branch.state) for branch in run.branches] == [
            ("load_0", "success"),
            ("load_1", "removed"),
        ]

    def test_an_instance_that_died_before_it_told_its_name_is_called_as_the_items_task_did(self) -> None:
        died, told = ran("load.each", 0, "failed"), ran("load.each", 1, name="us")

        run = only(mapped(), died, told, yielded={"load": ["eu", "us"]})

        assert [branch.name for branch in run.branches] == ["eu", "us"]

    def test_what_a_batch_left_before_the_group_was_mapped_is_that_of_no_branch(self) -> None:
        left = replace(batch(0, "S", names=["eu"]), task_id="load.each")

        run = only(mapped(names=("eu",), count=1), left)

        assert [(branch.name, branch.state) for branch in run.branches] == [
            ("eu", "missing"),
            ("load batch 0", "removed"),
        ]

    def test_batches_have_a_number(self) -> None:
        run = only(batched(), batch(1, "S"), batch(0, "SS"))

        assert [each.name for each in run.ran] == ["docs batch 0", "docs batch 1"]


class TestStates:
    """What is decided of a state is in the tests of the judge."""

    @pytest.mark.parametrize(
        ("state", "expected"),
        [("success", "success"), ("queued", "queued"), ("up_for_retry", "up_for_retry"), (None, "waiting")],
    )
    def test_a_branch_may_be_on_its_way(self, state: str | None, expected: str) -> None:
        branch = only_branch(static("eu"), ran("etl.eu", state=state))

        assert (branch.state, branch.error) == (expected, None)

    def test_a_branch_without_a_task_instance_waits(self) -> None:
        branch = only_branch(static("eu"))

        assert (branch.state, branch.queued) == ("waiting", None)

    def test_the_record_of_another_state_is_of_an_earlier_try(self) -> None:
        earlier = {"state": "success", "seconds": 7.0, "error": "no"}

        branch = only_branch(static("eu"), ran("etl.eu", state="failed", record=earlier))

        assert (branch.error, branch.work_seconds) == (NO_EXCEPTION_RECORDED, None)

    def test_a_success_after_a_failure_of_which_nothing_is_left_was_marked_by_hand(self) -> None:
        """Its fan-in says so too, and ``rerun`` has to run it again."""
        failure = {"state": "failed", "error": "ValueError: no"}

        branch = only_branch(static("eu"), ran("etl.eu", value="absent", record=failure))

        assert (branch.state, branch.error) == ("missing", MARKED_BY_HAND)

    def test_what_never_expanded_has_no_branches(self) -> None:
        run = only(mapped(), ran("load.each", state="upstream_failed"))

        assert run.branches == ()
        assert run.unexpanded is not None
        assert run.unexpanded.state == "upstream_failed"

    def test_a_task_that_the_run_does_not_have_leaves_every_branch_missing(self) -> None:
        run = only(mapped("load.each", names=("de", "fr"), count=2))

        assert [(b.name, b.state, b.error) for b in run.branches] == [
            ("de", "missing", NEVER_RAN),
            ("fr", "missing", NEVER_RAN),
        ]

    @pytest.mark.parametrize(("source", "names"), [("success", ["docs_0"]), ("skipped", [])])
    def test_what_had_no_items_and_has_some_now_lacks_them(self, source: str, names: list[str]) -> None:
        upstream = TaskOutline(task_id="docs.each", upstream=frozenset({"docs.split"}))
        run = only(
            batched(),
            ran("docs.split", state=source),
            ran("docs.each", state="skipped"),
            tasks={"docs.each": upstream},
            bounds={"docs.split": [(0, 1, 2)]},
        )

        assert [branch.name for branch in run.branches] == names
        assert run.unexpanded is not None

    @pytest.mark.parametrize(
        ("pushed", "names"),
        [
            pytest.param({"followed": ["other"]}, [], id="skipped-it"),
            pytest.param({"followed": ["load.each"]}, ["de"], id="went-on"),
        ],
    )
    def test_what_a_branching_task_skipped_lacks_nothing(self, pushed: object, names: list[str]) -> None:
        run = only(
            mapped(),
            ran("source"),
            ran("choose"),
            ran("load.each", state="skipped"),
            tasks={"load.each": TaskOutline(task_id="load.each", upstream=frozenset({"source", "choose"}))},
            yielded={"load": ["de"]},
            skips={"choose": pushed},
        )

        assert [branch.name for branch in run.branches] == names

    def test_what_was_expanded_is_not_unexpanded(self) -> None:
        run = only(mapped(), ran("load.each", state="removed"), ran("load.each", 0))

        assert run.unexpanded is None


class TestSeveralTasks:
    def test_they_are_one_branch(self) -> None:
        branch = only_branch(
            static("eu", steps=("read", "write")),
            ran("etl.eu.read", second=1, seconds=1.5, cpu_seconds=0.5, peak_memory_bytes=9, read_bytes=5),
            ran(
                "etl.eu.write",
                second=3,
                seconds=0.5,
                cpu_seconds=0.25,
                peak_memory_bytes=7,
                tries=2,
                read_bytes=2,
            ),
        )

        assert (branch.work_seconds, branch.cpu_seconds, branch.peak_memory_bytes) == (2.0, 0.75, 9)
        assert (branch.read_bytes, branch.written_bytes) == (7, None)
        assert (branch.started, branch.ended) == (NOON + timedelta(seconds=1), NOON + timedelta(seconds=4))
        assert branch.tries == 2

    def test_a_mapped_one_is_put_together_by_its_index(self) -> None:
        run = only(
            mapped("load.each.read", "load.each.write"),
            *(ran("load.each.write", n, seconds=0.5) for n in range(2)),
            *(ran("load.each.read", n, seconds=1.5 + n) for n in range(2)),
        )

        assert [branch.work_seconds for branch in run.branches] == [2.0, 3.0]

    @pytest.mark.parametrize(
        "skipped",
        [
            pytest.param({"queued": None, "started": NOON, "ended": NOON}, id="by-airflow"),
            pytest.param({}, id="by-itself"),
        ],
    )
    def test_of_one_that_was_skipped_no_work_is_lacking(self, skipped: dict[str, Any]) -> None:
        branch = only_branch(
            static("eu", steps=("read", "check", "write")),
            ran("etl.eu.read", seconds=1.0),
            ran("etl.eu.check", state="skipped", **skipped),
            ran("etl.eu.write", seconds=0.5),
        )

        assert (branch.state, branch.work_seconds) == ("success", 1.5)

    def test_work_is_not_guessed_if_one_of_them_recorded_none(self) -> None:
        branch = only_branch(
            static("eu", steps=("read", "write")), ran("etl.eu.read", seconds=1.0), ran("etl.eu.write")
        )

        assert branch.work_seconds is None


class TestItems:
    def test_items_of_all_batches_have_names_states_and_seconds(self) -> None:
        run = only(
            batched(),
            batch(1, "F", state="failed", errors={"0": "ValueError: no"}),
            batch(0, "SK", seconds=[0.5, None]),
        )

        assert [(i.name, i.state, i.work_seconds, i.error) for i in run.branches] == [
            ("docs_0", "success", 0.5, None),
            ("docs_1", "skipped", None, None),
            ("docs_2", "failed", 1.0, "ValueError: no"),
        ]

    @pytest.mark.parametrize(
        "group",
        [
            pytest.param(batched(), id="as-they-came"),
            pytest.param(batched(names=("a.md", "b.md"), count=2), id="as-declared"),
        ],
    )
    def test_items_with_names_have_them(self, group: DeclaredGroup) -> None:
        run = only(group, batch(0, "SS", names=["a.md", "b.md"]))

        assert [item.name for item in run.branches] == ["a.md", "b.md"]

    @pytest.mark.parametrize(
        ("seconds", "record", "expected"),
        [
            pytest.param([1.0, None, 2.0], {"task_cpu_seconds": 0.5}, (3.0, 0.5), id="of its items"),
            pytest.param([1.0, 2.0], {"task_cpu_seconds": None}, (3.0, None), id="cpu-not-measured"),
            pytest.param([None, None], {}, (None, None), id="not-measured"),
        ],
    )
    def test_a_batchs_work_is_its_items_and_its_cpu_time_the_tasks(
        self, seconds: Any, record: Any, expected: tuple[float | None, ...]
    ) -> None:
        (task,) = only(batched(), batch(0, "S" * len(seconds), seconds=seconds, **record)).ran

        assert (task.work_seconds, task.cpu_seconds) == expected

    def test_a_batch_says_what_it_ran_on(self) -> None:
        (task,) = only(batched(), batch(0, "S", cores=4)).ran

        assert task.task_runs[0].cores == 4

    @pytest.mark.parametrize("state", ["failed", "running", "queued"])
    def test_items_of_a_batch_without_a_record_are_in_its_state(self, state: str) -> None:
        run = only(batched(count=3), batch(0, "SS"), ran("docs.each", 1, state, record=None))

        assert [(item.name, item.state) for item in run.branches] == [
            ("docs_0", "success"),
            ("docs_1", "success"),
            ("docs_2", state),
        ]

    def test_items_that_are_no_longer_cut_are_removed(self) -> None:
        """The items' task was cleared alone."""
        run = only(batched(), batch(0, "SFS", state="failed"), bounds={"docs.split": [(0, 2, 2)]})

        assert [(item.name, item.state) for item in run.branches] == [
            ("docs_0", "success"),
            ("docs_1", "failed"),
            ("docs_2", "removed"),
        ]

    def test_a_silent_batchs_items_are_where_they_were_cut(self) -> None:
        run = only(
            batched(),
            ran("docs.each", 0, "failed", record=None),
            ran("docs.each", 1, "failed", record=None),
            bounds={"docs.split": [(0, 3, 1), (3, 5, 1)]},
        )

        assert [item.task_runs[0].map_index for item in run.branches] == [0, 0, 0, 1, 1]

    def test_a_silent_batchs_items_are_called_as_they_came(self) -> None:
        run = only(
            batched(),
            ran("docs.each", 0, "failed", record=None),
            batch_names={("docs.split", 0): ["a.md", "b.md"]},
        )

        assert [item.name for item in run.branches] == ["a.md", "b.md"]


class TestPrefix:
    def test_what_it_matches_is_shown_by_instance_under_the_fan_in(self) -> None:
        upstream = frozenset({"p_a", "p_many", "other"})
        facts = facts_of(
            [ran("p_a", record=None), ran("p_many", 0), ran("p_many", 1), ran("other"), ran("combine")],
            fan_ins=[by_prefix("p_")],
            tasks={"combine": TaskOutline(task_id="combine", upstream=upstream)},
        )

        (run,) = group_runs(facts)

        assert (run.title, run.group, run.fan_in_ids) == ("combine", None, ("combine",))
        assert [branch.name for branch in run.branches] == ["p_a", "p_many[0]", "p_many[1]"]

    @pytest.mark.parametrize(
        ("around", "state", "names"),
        [
            pytest.param({"is_mapped": True}, "skipped", ["p_a"], id="a-task-over-nothing"),
            pytest.param({"mapped_group": "p"}, "skipped", ["p_a"], id="a-task-group-over-nothing"),
            pytest.param({"is_mapped": True}, "upstream_failed", ["p_a", "p_many"], id="over-what-failed"),
            pytest.param({"is_mapped": True}, None, ["p_a", "p_many"], id="not-yet-expanded"),
            pytest.param({}, "skipped", ["p_a", "p_many"], id="a-plain-task"),
        ],
    )
    def test_a_mapped_task_that_was_skipped_as_a_whole_is_no_branch(
        self, around: dict[str, Any], state: str | None, names: list[str]
    ) -> None:
        upstream = frozenset({"p_a", "p_many"})
        tasks = [TaskOutline(task_id="combine", upstream=upstream), TaskOutline(task_id="p_many", **around)]
        facts = facts_of(
            [ran("p_a"), ran("p_many", state=state), ran("combine")],
            fan_ins=[by_prefix("p_")],
            tasks={task.task_id: task for task in tasks},
        )

        assert [branch.name for run in group_runs(facts) for branch in run.branches] == names

    @pytest.mark.parametrize(
        ("record", "error"),
        [
            pytest.param({"state": "failed", "error": "E: no"}, "E: no", id="of-this-package"),
            pytest.param(None, None, id="of-others"),
        ],
    )
    def test_what_it_matches_has_the_error_that_it_recorded(self, record: Any, error: str | None) -> None:
        facts = facts_of(
            [ran("p_a", state="failed", record=record), ran("combine")],
            fan_ins=[by_prefix("p_")],
            tasks={"combine": TaskOutline(task_id="combine", upstream=frozenset({"p_a"}))},
        )

        assert [branch.error for run in group_runs(facts) for branch in run.branches] == [error]

    def test_a_group_that_it_matches_is_shown_as_the_group_it_is(self) -> None:
        facts = facts_of(
            [ran("etl.eu"), ran("etl_more"), ran("combine")],
            static("eu"),
            fan_ins=[by_prefix("etl")],
            tasks={"combine": TaskOutline(task_id="combine", upstream=frozenset({"etl.eu", "etl_more"}))},
        )

        branches = {run.title: [branch.name for branch in run.branches] for run in group_runs(facts)}

        assert branches == {"etl": ["eu"], "combine": ["etl_more"]}

    @pytest.mark.parametrize(
        ("prefixes", "titles"),
        [pytest.param({"combine": "p_"}, ["combine"], id="rendered"), pytest.param({}, [], id="not-yet")],
    )
    def test_one_with_a_template_is_taken_as_rendered(
        self, prefixes: dict[str, str], titles: list[str]
    ) -> None:
        facts = facts_of(
            [ran("p_a"), ran("combine")],
            fan_ins=[by_prefix("{{ params.prefix }}")],
            tasks={"combine": TaskOutline(task_id="combine", upstream=frozenset({"p_a"}))},
            prefixes=prefixes,
        )

        assert [run.title for run in group_runs(facts)] == titles


class TestInAMappedTaskGroup:
    def test_a_group_is_there_once_for_each_index(self) -> None:
        inside = {"etl.eu": TaskOutline(task_id="etl.eu", mapped_group="outer")}

        runs = group_runs(
            facts_of([ran("etl.eu", 1, second=5), ran("etl.eu", 0)], static("eu"), tasks=inside)
        )

        assert [(run.title, run.map_index) for run in runs] == [("etl[0]", 0), ("etl[1]", 1)]
        assert [branch.name for run in runs for branch in run.branches] == ["eu", "eu"]

    def test_a_group_that_was_never_expanded_is_there_once(self) -> None:
        inside = {"etl.eu": TaskOutline(task_id="etl.eu", mapped_group="outer")}

        (run,) = group_runs(facts_of([ran("etl.eu", state="upstream_failed")], static("eu"), tasks=inside))

        assert (run.title, [branch.state for branch in run.branches]) == ("etl", ["upstream_failed"])

    def test_a_fan_in_by_prefix_has_the_branches_of_its_own_index(self) -> None:
        tasks = {
            "p_a": TaskOutline(task_id="p_a", mapped_group="outer"),
            "combine": TaskOutline(
                task_id="combine", mapped_group="outer", upstream=frozenset({"p_a", "p_b"})
            ),
        }
        facts = facts_of(
            [ran("p_a", 0), ran("p_a", 1, "failed"), ran("p_b"), ran("combine", 0), ran("combine", 1)],
            fan_ins=[by_prefix("p_")],
            tasks=tasks,
        )

        branches = {run.title: [(b.name, b.state) for b in run.branches] for run in group_runs(facts)}

        assert branches == {
            "combine[0]": [("p_a", "success"), ("p_b", "success")],
            "combine[1]": [("p_a", "failed"), ("p_b", "success")],
        }


@pytest.mark.parametrize(
    ("keys", "state", "error"),
    [
        pytest.param(["return_value"], "success", None, id="of-the-value"),
        pytest.param(["score"], "missing", "it pushed nothing under the key 'score'", id="of-the-other"),
        pytest.param(["return_value", "score"], "missing", "under the key 'score'", id="of-both"),
    ],
)
def test_a_branch_is_missing_if_it_lacks_a_value_for_one_of_its_fan_ins(
    keys: list[str], state: str, error: str | None
) -> None:
    fan_ins = [fan_in_of(f"by_{key}", group_id="etl", key=key) for key in keys]

    branch = only_branch(static("eu"), ran("etl.eu"), fan_ins=fan_ins)

    assert branch.state == state
    assert (error or "None") in str(branch.error)


@pytest.mark.parametrize(
    ("group", "task_ids", "removed"),
    [
        pytest.param(
            static("eu"), ["etl.eu", "etl.eu.paris", "other"], ["eu.paris"], id="below-a-declared-one"
        ),
        pytest.param(
            static("eu", steps=("read", "write")),
            ["etl.eu.read", "etl.us.read", "etl.us.write", "etl.eu.lost"],
            ["us"],
            id="of-several-tasks-of-which-one-is-lost",
        ),
    ],
)
def test_static_branches_that_are_no_longer_declared_are_removed(
    group: DeclaredGroup, task_ids: list[str], removed: list[str]
) -> None:
    facts = facts_of(map(ran, task_ids), group)
    declared = {i: facts.outline.tasks[i] for i in facts.outline.tasks if i in {*group.all_task_ids, "other"}}
    (run,) = group_runs(replace(facts, outline=replace(facts.outline, tasks=declared)))

    assert [branch.name for branch in run.branches if branch.state == "removed"] == removed


def test_a_group_with_two_fan_ins_is_there_once() -> None:
    run = only(mapped(), ran("load.each", 0), fan_ins=[of_group("load", "a"), of_group("load", "b")])

    assert run.fan_in_ids == ("a", "b")


def test_groups_are_in_the_order_in_which_they_began() -> None:
    late = ran("etl.eu", queued=NOON + timedelta(seconds=1))

    runs = group_runs(facts_of([late, ran("load.each", 0)], static("eu"), mapped()))

    assert [run.title for run in runs] == ["load", "etl"]
