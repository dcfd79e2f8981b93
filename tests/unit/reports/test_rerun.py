from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.metadata.clearing import setups_and_teardowns
from airflow_fanout.reports.branches import UnknownGroupError
from airflow_fanout.reports.rerun import RerunPlan, fingerprint, plan_rerun
from airflow_fanout.reports.runs import RunFacts, TaskRun
from airflow_fanout.serialization.outline import outline
from tests.unit.run_facts import NOON, batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.sdk import DAG


@task
def score(index: int) -> int:
    return index


@task
def rate(item: Any) -> Any:
    return item


@task
def list_items() -> list[int]:
    return [1, 2, 3]


@task(trigger_rule="all_done")
def publish() -> None: ...


def count_up(index: int) -> int:
    return index


def rerun(dag: DAG, states: Mapping[Any, str | None] | None = None, **options: Any) -> RerunPlan:
    """Plan for a run in which all has succeeded but what is given another state; mapped tasks by index."""
    given = {key if isinstance(key, tuple) else (key, -1): state for key, state in (states or {}).items()}
    mapped = {task_id for task_id, index in given if index >= 0}
    for task_id in set(dag.task_ids) - mapped:
        given.setdefault((task_id, -1), "success")
    task_runs = [
        TaskRun(
            task_id=task_id,
            map_index=index,
            state=state,
            values={"return_value": "present" if state == "success" else "absent"},
        )
        for (task_id, index), state in given.items()
    ]
    return planned(dag, task_runs, **options)


def planned(
    dag: DAG, task_runs: Iterable[TaskRun], *, known: Mapping[str, Any] | None = None, **options: Any
) -> RerunPlan:
    facts = RunFacts(
        dag_id=dag.dag_id,
        run_id="a_run",
        state="failed",
        outline=outline(dag),
        task_runs=tuple(task_runs),
        **(known or {}),
    )
    related = partial(setups_and_teardowns, dag)
    return plan_rerun(facts, setups_and_teardowns=related, **options)


def names(task_runs: Iterable[TaskRun]) -> set[str]:
    return {task_run.name for task_run in task_runs}


@pytest.fixture
def three(dag: DAG) -> DAG:
    """Three branches, a fan-in, a task after it and one that has nothing to do with them."""
    group = FanOutGroup("group", branch=score, count=3)
    FanInOperator(task_id="collect", fan_out=group, min_success=1) >> publish()
    publish.override(task_id="aside")()
    return dag


@pytest.fixture
def several(dag: DAG) -> DAG:
    """Two branches of two tasks, and a fan-in."""

    @task_group
    def chain(index: int) -> Any:
        return rate.override(task_id="second")(score.override(task_id="first")(index))

    FanInOperator(task_id="collect", fan_out=FanOutGroup("load", branch=chain, count=2))
    return dag


@pytest.fixture
def stages(dag: DAG) -> DAG:
    """Two groups with fan-ins; the second one is over what comes after the first."""
    first = FanOutGroup("first", branch=score, count=2)
    collect = FanInOperator(task_id="collect_first", fan_out=first, min_success=1)
    second = FanOutGroup("second", branch=rate, items=rate.override(task_id="source")(collect.output))
    FanInOperator(task_id="collect_second", fan_out=second)
    return dag


class TestBranches:
    @pytest.mark.parametrize("state", ["failed", "upstream_failed", "skipped"])
    def test_what_is_no_success_runs_again_with_all_that_comes_after_it(self, three: DAG, state: str) -> None:
        plan = rerun(three, {"group.group_1": state})

        assert names(plan.task_runs) == {"group.group_1", "collect", "publish"}

    def test_where_all_is_fine_nothing_runs_again(self, three: DAG) -> None:
        assert rerun(three).task_runs == ()

    def test_a_dag_without_fan_outs_has_a_note(self, dag: DAG) -> None:
        publish()

        assert rerun(dag, {"publish": "failed"}).notes == ("Dag 'pipeline' has no fan-out and no fan-in",)

    def test_what_is_no_longer_declared_is_not_cleared(self, three: DAG) -> None:
        assert rerun(three, {"group.group_1": "removed"}).task_runs == ()

    @pytest.mark.parametrize("state", [None, "scheduled", "queued", "running", "deferred", "up_for_retry"])
    def test_what_has_not_ended_is_not_cleared_but_named(self, three: DAG, state: str | None) -> None:
        plan = rerun(three, {"group.group_0": "failed", "group.group_1": state})

        assert names(plan.task_runs) == {"group.group_0", "collect", "publish"}
        assert plan.notes == (
            f"group: not cleared, because they have not ended: 'group_1 ({state or 'waiting'})'",
        )

    @pytest.mark.parametrize(
        ("first", "whole_branches", "cleared"),
        [
            pytest.param("success", False, {"load.load_0.second"}, id="what succeeded stays"),
            pytest.param("success", True, {"load.load_0.first", "load.load_0.second"}, id="whole"),
            pytest.param("running", True, {"load.load_0.second"}, id="what has not ended stays"),
        ],
    )
    def test_tasks_of_a_branch_of_several_run_again(
        self, several: DAG, first: str, whole_branches: bool, cleared: set[str]
    ) -> None:
        states = {"load.load_0.first": first, "load.load_0.second": "failed"}

        plan = rerun(several, states, whole_branches=whole_branches)

        assert names(plan.task_runs) == {*cleared, "collect"}

    def test_a_failed_task_of_a_branch_is_no_cause_of_the_others(self, several: DAG) -> None:
        states = {"load.load_0.first": "failed", "load.load_0.second": "upstream_failed"}

        plan = rerun(several, states)

        assert (names(plan.task_runs), plan.causes) == ({*states, "collect"}, ())

    def test_a_success_without_a_value_runs_its_last_task_again(self, three: DAG) -> None:
        plan = planned(
            three,
            [
                TaskRun(task_id="group.group_0", state="success", values={"return_value": "present"}),
                TaskRun(task_id="group.group_1", state="success"),
                TaskRun(task_id="group.group_2", state="removed"),
                TaskRun(task_id="collect", state="success"),
            ],
        )

        assert names(plan.task_runs) == {"group.group_1", "collect"}
        assert plan.notes == ("group: succeeded without a value, so their last task runs again: 'group_1'",)

    def test_of_a_mapped_group_only_the_instances_run_that_failed(self, dag: DAG) -> None:
        group = FanOutGroup("group", branch=rate, items=list_items())
        FanInOperator(task_id="collect", fan_out=group)
        states = {("group.each", index): "failed" if index % 4 == 0 else "success" for index in range(300)}

        failed = {f"group.each[{index}]" for index in range(0, 300, 4)}
        assert names(rerun(dag, states).task_runs) == {*failed, "collect"}

    def test_tasks_that_a_prefix_brings_together_are_branches_too(self, dag: DAG) -> None:
        tasks = [publish.override(task_id=f"part_{index}")() for index in range(3)]
        tasks >> FanInOperator(task_id="collect", task_id_prefix="part_")

        assert names(rerun(dag, {"part_2": "failed"}).task_runs) == {"part_2", "collect"}

    def test_a_prefix_that_was_not_rendered_is_named(self, dag: DAG) -> None:
        publish.override(task_id="part_0")() >> FanInOperator(task_id="collect", task_id_prefix="{{ ds }}")

        (note,) = rerun(dag, {"part_0": "failed"}).notes

        assert note.startswith("collect: its branches are not known, because its prefix '{{ ds }}'")


class TestBatches:
    @pytest.fixture
    def batched(self, dag: DAG) -> DAG:
        group = FanOutGroup("docs", branch=count_up, count=8, items_per_task=4)
        FanInOperator(task_id="collect", fan_out=group)
        return dag

    @pytest.mark.parametrize(
        ("states", "state", "runs"),
        [
            pytest.param("SSFS", "failed", True, id="an item failed"),
            pytest.param("SSFS", "success", True, id="marked as success"),
            pytest.param("SXXX", "success", True, id="items were stopped"),
            pytest.param("SSKS", "success", False, id="an item skipped itself"),
            pytest.param("SSSS", "success", False, id="all is fine"),
        ],
    )
    def test_which_batch_runs_again(self, batched: DAG, states: str, state: str, runs: bool) -> None:
        batches = [batch(0, "SSSS"), batch(1, states, state=state, start=4, stopped="not started: why")]

        plan = planned(batched, [*batches, TaskRun(task_id="collect", state="success")])

        assert names(plan.task_runs) == ({"docs.each[1]", "collect"} if runs else set())

    def test_a_batch_tells_how_many_of_its_items_are_without_success(self, batched: DAG) -> None:
        (group,) = planned(batched, [batch(0, "SFFS", state="failed")]).groups

        assert [(again.branch.name, again.items) for again in group.branches] == [("docs batch 0", 2)]

    def test_items_that_are_cut_otherwise_now_run_in_their_new_batches(self, dag: DAG) -> None:
        """Only ``split`` was cleared, after ``items_per_task`` had been raised from 2 to 3."""
        FanInOperator(
            task_id="collect",
            fan_out=FanOutGroup("docs", branch=rate.function, items=list_items(), items_per_task=3),
        )
        batches = [batch(0, "SS"), batch(1, "SS"), batch(2, "FS", state="failed")]
        bounds = {"docs.split": [(0, 3, 2), (3, 6, 2)]}

        plan = planned(dag, [*batches, TaskRun(task_id="collect", state="success")], known={"bounds": bounds})

        # The failed item's new batch takes the place of some that had succeeded, which run again in theirs.
        assert names(plan.task_runs) == {*(f"docs.each[{number}]" for number in range(3)), "collect"}

    def test_a_batch_that_is_no_longer_too_many_runs_again(self, dag: DAG) -> None:
        """Airflow removed it when there were fewer items, and leaves it so."""
        group = FanOutGroup("docs", branch=rate.function, items=list_items(), items_per_task=2)
        FanInOperator(task_id="collect", fan_out=group)
        batches = [batch(0, "SS"), batch(1, "SS", state="removed"), batch(2, "SS", state="removed")]
        bounds = {"docs.split": [(0, 2, 1), (2, 4, 1)]}

        plan = planned(dag, [*batches, TaskRun(task_id="collect", state="success")], known={"bounds": bounds})

        assert names(plan.task_runs) == {"docs.each[1]", "collect"}


class TestItemsThatAreOthersNow:
    """Their task has run again by itself since ``split`` cut them."""

    def plan(self, dag: DAG, *, yielded: Any, fan_in: str = "success", state: str = "success") -> RerunPlan:
        items: Any = list_items()
        if yielded is None:  # only a fan-in can tell what they are
            items = items.concat(items)
        group = FanOutGroup("docs", branch=rate.function, items=items, items_per_task=2)
        FanInOperator(task_id="collect", fan_out=group)
        task_runs = [
            batch(0, "SS"),
            batch(1, "S" if state == "success" else "F", state=state),
            TaskRun(task_id="docs.split", state="success"),
            TaskRun(task_id="collect", state=fan_in),
        ]
        known: dict[str, Any] = {"bounds": {"docs.split": [(0, 2, 1), (2, 3, 1)]}, "cut_before": {"docs"}}
        return planned(
            dag, task_runs, known=known | ({} if yielded is None else {"yielded": {"docs": yielded}})
        )

    ALL = frozenset({"docs.split", "docs.each[0]", "docs.each[1]", "collect"})

    @pytest.mark.parametrize("fan_in", ["failed", "success"])
    def test_are_cut_anew_and_all_run_where_some_are_missing(self, dag: DAG, fan_in: str) -> None:
        plan = self.plan(dag, yielded=4, fan_in=fan_in)

        assert names(plan.task_runs) == self.ALL
        (note,) = plan.notes
        assert note.startswith("docs: its items' task has run again by itself, so all of it runs again")

    @pytest.mark.parametrize("yielded", [3, 2])
    def test_run_nothing_again_where_all_of_them_have_succeeded(self, dag: DAG, yielded: int) -> None:
        assert self.plan(dag, yielded=yielded).task_runs == ()

    def test_run_only_what_failed_where_they_are_the_same(self, dag: DAG) -> None:
        plan = self.plan(dag, yielded=3, fan_in="failed", state="failed")

        assert names(plan.task_runs) == {"docs.each[1]", "collect"}

    @pytest.mark.parametrize(("fan_in", "runs"), [("failed", True), ("success", False)])
    def test_are_cut_anew_where_they_are_not_known_and_the_fan_in_has_failed(
        self, dag: DAG, fan_in: str, runs: bool
    ) -> None:
        plan = self.plan(dag, yielded=None, fan_in=fan_in)

        assert names(plan.task_runs) == (self.ALL if runs else set())


class TestADagThatChanged:
    """Its instances run what is at their positions now."""

    @staticmethod
    def ran(task_id: str, index: int, name: str, state: str = "success") -> TaskRun:
        record = {"state": state, "map_index": index, "name": name, "has_value": True}
        values: Any = {"return_value": "present" if state == "success" else "absent"}
        return TaskRun(task_id=task_id, map_index=index, state=state, record=record, values=values)

    def plan(self, dag: DAG, names: str, *task_runs: TaskRun) -> RerunPlan:
        group = FanOutGroup("group", branch=rate, items=dict.fromkeys(names, 0), mapped=True)
        FanInOperator(task_id="collect", fan_out=group)
        return planned(dag, [*task_runs, TaskRun(task_id="collect", state="success")])

    def test_what_ran_in_the_place_of_another_runs_again_too(self, dag: DAG) -> None:
        states = {"d": "success", "f": "success", "u": "success"}
        task_runs = [self.ran("group.each", n, name, state) for n, (name, state) in enumerate(states.items())]
        plan = self.plan(dag, "adfu", *task_runs)
        (group,) = plan.groups

        assert [(again.branch.name, names(again.task_runs)) for again in group.branches] == [
            ("a", {"group.each[0]"}),
            ("d", {"group.each[1]"}),
            ("f", {"group.each[2]"}),
            ("u", set()),  # Airflow makes its instance when one of the others runs again
        ]
        assert names(plan.task_runs) == {"group.each[0]", "group.each[1]", "group.each[2]", "collect"}
        (displaced,) = plan.notes
        assert displaced == (
            "group: succeeded, and run again, because the Dag, or its items, changed, "
            "and others run in their place: 'd', 'f', 'u'"
        )

    def test_what_airflow_had_removed_and_is_declared_again_runs(self, dag: DAG) -> None:
        removed = [
            replace(self.ran("group.each", n, name), state="removed") for n, name in ((1, "b"), (2, "c"))
        ]

        plan = self.plan(dag, "ab", self.ran("group.each", 0, "a"), *removed)

        assert names(plan.task_runs) == {"group.each[1]", "collect"}

    def test_what_has_no_instance_waits_until_another_one_runs_again(self, dag: DAG) -> None:
        plan = self.plan(dag, "ab", self.ran("group.each", 0, "a"))

        assert plan.task_runs == ()
        assert plan.notes == (
            "group: have no task instance: Airflow makes it when one of the others runs again: 'b'",
        )

    def test_what_succeeded_and_is_in_nobodys_way_does_not_run_again(self, dag: DAG) -> None:
        task_runs = [
            self.ran("group.each", 0, "a"),
            self.ran("group.each", 1, "x"),
            self.ran("group.each", 2, "c"),
        ]

        assert names(self.plan(dag, "abc", *task_runs).task_runs) == {"group.each[1]", "collect"}

    def test_what_only_changed_places_does_not_run_again(self, dag: DAG) -> None:
        plan = self.plan(dag, "ba", self.ran("group.each", 0, "a"), self.ran("group.each", 1, "b"))

        assert (plan.groups, plan.notes) == ((), ())

    def test_a_failed_one_runs_where_it_is_now(self, dag: DAG) -> None:
        task_runs = [self.ran("group.each", 0, "a", "failed"), self.ran("group.each", 1, "b")]

        assert names(self.plan(dag, "ba", *task_runs).task_runs) == {
            "group.each[0]",
            "group.each[1]",
            "collect",
        }

    @pytest.mark.parametrize("source", ["success", "skipped"])
    @pytest.mark.parametrize("size", [None, 2], ids=["mapped", "batched"])
    def test_what_had_no_items_and_has_some_now_is_expanded(
        self, dag: DAG, size: int | None, source: str
    ) -> None:
        group = FanOutGroup("group", branch=rate, items=list_items(), items_per_task=size)
        FanInOperator(task_id="collect", fan_out=group)
        states = {"list_items": source, "group.each": "skipped", "collect": "success"}
        states |= {} if size is None else {"group.split": source}
        task_runs = [TaskRun(task_id=task_id, state=state) for task_id, state in states.items()]
        known = (
            {"yielded": {"group": 3}} if size is None else {"bounds": {"group.split": [(0, 2, 2), (2, 3, 2)]}}
        )
        plan = planned(dag, task_runs, known=known)

        assert names(plan.task_runs) == ({"group.each", "collect"} if source == "success" else set())


class TestFanIns:
    @pytest.mark.parametrize("state", ["failed", "upstream_failed"])
    def test_a_fan_in_that_failed_by_itself_runs_again(self, three: DAG, state: str) -> None:
        assert names(rerun(three, {"collect": state}).task_runs) == {"collect", "publish"}

    @pytest.mark.parametrize("state", ["running", "queued"])
    def test_a_fan_in_that_has_not_ended_is_not_cleared_but_named(self, three: DAG, state: str) -> None:
        plan = rerun(three, {"group.group_1": "failed", "collect": state, "publish": None})

        assert names(plan.task_runs) == {"group.group_1"}
        assert plan.notes[0].startswith(
            f"group: not cleared, because they have not ended: 'collect ({state})'; if they have started"
        )

    def test_what_comes_after_a_fan_in_that_is_cleared_already_runs_again(self, three: DAG) -> None:
        plan = rerun(three, {"group.group_1": "failed", "collect": None})

        assert names(plan.task_runs) == {"group.group_1", "publish"}

    def test_without_downstream_the_fan_in_is_the_last(self, three: DAG) -> None:
        plan = rerun(three, {"group.group_1": "failed"}, downstream=False)

        assert names(plan.task_runs) == {"group.group_1", "collect"}

    def test_all_fan_ins_of_a_group_run_again(self, dag: DAG) -> None:
        group = FanOutGroup("group", branch=score, count=2)
        FanInOperator(task_id="collect", fan_out=group)
        FanInOperator(task_id="by_prefix", task_id_prefix="group.") << group

        plan = rerun(dag, {"group.group_1": "failed"})

        assert names(plan.task_runs) == {"group.group_1", "collect", "by_prefix"}

    def test_a_fan_out_that_comes_after_runs_again_as_a_whole(self, stages: DAG) -> None:
        states = {"first.first_1": "failed", ("second.each", 0): "success", ("second.each", 1): "success"}

        plan = rerun(stages, states)

        second = {"source", "second.each[0]", "second.each[1]", "collect_second"}
        assert names(plan.task_runs) == {"first.first_1", "collect_first", *second}

    def test_in_a_mapped_task_group_only_its_own_index_runs_again(self, dag: DAG) -> None:
        @task_group
        def each(number: int) -> None:
            group = FanOutGroup("pair", branch=rate, items=[1, 2])
            FanInOperator(task_id="collect", fan_out=group) >> publish()
            rate.override(task_id="number")(number)

        each.expand(number=[1, 2]) >> publish.override(task_id="at_last")()
        inside = ["each.pair.pair_0", "each.pair.pair_1", "each.collect", "each.publish", "each.number"]
        states = {(task_id, index): "success" for task_id in inside for index in (0, 1)}

        plan = rerun(dag, states | {("each.pair.pair_1", 1): "failed"})

        its_index = {"each.pair.pair_1[1]", "each.collect[1]", "each.publish[1]"}
        assert names(plan.task_runs) == {*its_index, "at_last"}


class TestCauses:
    @pytest.fixture
    def mapped(self, dag: DAG) -> DAG:
        source = list_items()
        group = FanOutGroup("group", branch=rate, items=rate.override(task_id="mend")(source))
        FanInOperator(task_id="collect", fan_out=group)
        publish.override(task_id="aside")() << source
        return dag

    def test_a_failed_task_before_the_branches_is_named_with_what_stands_between(self, mapped: DAG) -> None:
        blocked = dict.fromkeys(["mend", "group.each", "aside"], "upstream_failed")

        plan = rerun(mapped, {"list_items": "failed", **blocked, "collect": "failed"})

        assert names(plan.task_runs) == {"group.each", "collect"}
        assert (names(plan.causes), names(plan.between)) == ({"list_items"}, {"mend"})
        assert names(plan.with_causes) == {"list_items", "mend", "group.each", "collect"}

    def test_what_was_skipped_after_a_cause_stands_between(self, dag: DAG) -> None:
        first = rate.override(task_id="first")(list_items())
        second = rate.override(task_id="second")(first)
        FanInOperator(task_id="collect", fan_out=FanOutGroup("group", branch=rate, items=second))
        states = {"list_items": "failed", "first": "skipped", "second": "skipped"}

        plan = rerun(dag, states | {"group.each": "upstream_failed", "collect": "failed"})

        assert (names(plan.causes), names(plan.between)) == ({"list_items"}, {"first", "second"})

    def test_what_was_skipped_by_itself_does_not_stand_between(self, dag: DAG) -> None:
        aside = publish.override(task_id="skips")()
        source = list_items()
        group = FanOutGroup("group", branch=rate, items=source)
        aside >> group
        FanInOperator(task_id="collect", fan_out=group)
        states = {"list_items": "failed", "skips": "skipped", "group.each": "upstream_failed"}

        plan = rerun(dag, states)

        assert (names(plan.causes), names(plan.between)) == ({"list_items"}, set())

    def test_a_group_over_nothing_does_not_run_again(self, mapped: DAG) -> None:
        assert rerun(mapped, {"group.each": "skipped"}).task_runs == ()

    def test_what_runs_again_anyway_is_no_cause(self, stages: DAG) -> None:
        blocked = {"source": "upstream_failed", "second.each": "upstream_failed"}
        states = {"first.first_1": "failed", "collect_first": "failed", **blocked, "collect_second": "failed"}

        both, second = rerun(stages, states), rerun(stages, states, group_ids=["second"])

        assert (names(both.downstream), both.causes) == ({"source"}, ())
        assert names(second.task_runs) == {"second.each", "collect_second"}
        assert (names(second.causes), names(second.between)) == (
            {"first.first_1"},
            {"collect_first", "source"},
        )

    def test_a_failure_that_a_fan_in_tolerated_is_no_cause(self, stages: DAG) -> None:
        states = {"first.first_1": "failed", "source": "failed", "second.each": "upstream_failed"}

        assert names(rerun(stages, states, group_ids=["second"]).causes) == {"source"}

    def test_a_failed_task_that_a_fan_in_waits_for_is_a_cause(self, dag: DAG) -> None:
        group = FanOutGroup("group", branch=score, count=2)
        fan_in = FanInOperator(task_id="collect", fan_out=group)
        publish.override(task_id="gate")() >> fan_in

        plan = rerun(dag, {"gate": "failed", "collect": "failed"})

        assert (names(plan.task_runs), names(plan.causes)) == ({"collect"}, {"gate"})


class TestSetupsAndTeardowns:
    @pytest.fixture
    def clusters(self, dag: DAG) -> DAG:
        @task_group
        def on_cluster(index: int) -> Any:
            made = publish.override(task_id="make")().as_setup()
            work = score.override(task_id="work")(index)
            made >> work >> publish.override(task_id="drop")().as_teardown(setups=made)
            return work

        group = FanOutGroup("group", branch=on_cluster, count=2)
        FanInOperator(task_id="collect", fan_out=group)
        return dag

    def test_setup_and_teardown_of_a_task_come_with_it(self, clusters: DAG) -> None:
        plan = rerun(clusters, {"group.group_1.work": "failed"})

        assert names(plan.setups_and_teardowns) == {"group.group_1.make", "group.group_1.drop"}
        assert names(plan.task_runs) == {"group.group_1.work", "collect", *names(plan.setups_and_teardowns)}

    def test_a_teardown_that_has_not_ended_is_not_cleared(self, clusters: DAG) -> None:
        plan = rerun(clusters, {"group.group_1.work": "failed", "group.group_1.drop": "running"})

        assert names(plan.setups_and_teardowns) == {"group.group_1.make"}

    def test_a_failed_setup_runs_again(self, clusters: DAG) -> None:
        blocked = dict.fromkeys(["group.group_1.work", "group.group_1.drop"], "upstream_failed")

        plan = rerun(clusters, {"group.group_1.make": "failed", **blocked})

        assert names(plan.task_runs) == {"group.group_1.make", *blocked, "collect"}


class TestGroups:
    def test_only_the_groups_that_are_asked_for_run_again(self, stages: DAG) -> None:
        states = {"first.first_0": "failed", ("second.each", 0): "failed"}

        assert names(rerun(stages, states, group_ids=["second"]).task_runs) == {
            "second.each[0]",
            "collect_second",
        }
        assert len(rerun(stages, states, group_ids=["first", "second"]).groups) == 2

    def test_an_unknown_group_is_an_error_that_names_the_known(self, stages: DAG) -> None:
        with pytest.raises(
            UnknownGroupError, match=r"no fan-out group 'third' .* there are 'first', 'second'"
        ):
            rerun(stages, group_ids=["third"])


def test_nothing_is_cleared_twice(three: DAG) -> None:
    plan = rerun(three, {"group.group_1": "failed"})

    assert len(replace(plan, downstream=(*plan.downstream, *plan.downstream)).task_runs) == 3


class TestFingerprint:
    @pytest.fixture
    def plan(self, three: DAG) -> RerunPlan:
        return rerun(three, {"group.group_1": "failed"})

    def test_the_same_plan_has_the_same_one(self, three: DAG, plan: RerunPlan) -> None:
        assert fingerprint(rerun(three, {"group.group_1": "failed"})) == fingerprint(plan)

    def test_a_plan_is_of_one_run(self, plan: RerunPlan) -> None:
        others = [replace(plan, dag_id="another"), replace(plan, run_id="another")]

        assert len({fingerprint(each) for each in (plan, *others)}) == 3

    @pytest.mark.parametrize(
        "later",
        [
            pytest.param({"tries": 2}, id="failed-again"),
            pytest.param({"ended": NOON}, id="upstream_failed-again"),
            pytest.param({"state": "upstream_failed"}, id="another-state"),
        ],
    )
    def test_a_run_that_came_to_the_same_again_has_another(
        self, plan: RerunPlan, later: dict[str, Any]
    ) -> None:
        (fan_in,) = plan.groups[0].fan_ins
        group = replace(plan.groups[0], fan_ins=(replace(fan_in, **later),))

        assert fingerprint(replace(plan, groups=(group,))) != fingerprint(plan)
