from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.reports.branches import UnknownGroupError
from airflow_fanout.reports.rerun import RerunPlan, plan_rerun
from airflow_fanout.reports.runs import RunFacts, TaskRun
from airflow_fanout.rules.records import BATCH
from airflow_fanout.serialization.outline import outline
from tests.unit.run_facts import NOON

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


def said(dag: DAG, states: Mapping[Any, str | None] | None = None, **options: Any) -> RerunPlan:
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


def planned(dag: DAG, task_runs: Iterable[TaskRun], **options: Any) -> RerunPlan:
    facts = RunFacts(
        dag_id=dag.dag_id, run_id="a_run", state="failed", outline=outline(dag), task_runs=tuple(task_runs)
    )
    return plan_rerun(facts, **options)


def names(task_runs: Iterable[TaskRun]) -> set[str]:
    return {each.name for each in task_runs}


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


class TestBranches:
    @pytest.mark.parametrize("state", ["failed", "upstream_failed", "skipped"])
    def test_what_is_no_success_runs_again_with_all_that_comes_after_it(self, three: DAG, state: str) -> None:
        plan = said(three, {"group.group_1": state})

        assert names(plan.task_runs) == {"group.group_1", "collect", "publish"}

    def test_where_all_is_fine_nothing_runs_again(self, three: DAG) -> None:
        assert said(three).task_runs == ()

    def test_where_there_are_none_it_says_so(self, dag: DAG) -> None:
        publish()

        assert said(dag, {"publish": "failed"}).notes == ("Dag 'pipeline' has no fan-out and no fan-in",)

    def test_what_is_no_longer_declared_is_left_alone(self, three: DAG) -> None:
        assert said(three, {"group.group_1": "removed"}).task_runs == ()

    @pytest.mark.parametrize("state", [None, "scheduled", "queued", "running", "deferred", "up_for_retry"])
    def test_what_is_on_its_way_is_left_alone_and_named(self, three: DAG, state: str | None) -> None:
        plan = said(three, {"group.group_0": "failed", "group.group_1": state})

        assert names(plan.task_runs) == {"group.group_0", "collect", "publish"}
        assert plan.notes == (f"group: on their way, left alone: 'group_1' ({state or 'waiting'})",)

    def test_what_was_stopped_says_so(self, three: DAG) -> None:
        stopped = TaskRun(
            task_id="group.group_1",
            state="skipped",
            started=NOON,
            ended=NOON + timedelta(seconds=1),
            record={"state": "stopped", "error": "not started: why"},
        )

        (group,) = planned(three, [stopped]).groups

        assert (group.branches[0].branch.is_stopped, group.branches[0].branch.error) == (
            True,
            "not started: why",
        )

    def test_of_a_branch_of_several_tasks_those_that_succeeded_stay(self, dag: DAG) -> None:
        @task_group
        def chain(index: int) -> Any:
            return rate.override(task_id="third")(rate.override(task_id="second")(score(index)))

        FanInOperator(task_id="collect", fan_out=FanOutGroup("chains", branch=chain, count=2))
        failed = {"chains.chains_1.second": "failed", "chains.chains_1.third": "upstream_failed"}

        assert names(said(dag, failed).task_runs) == {*failed, "collect"}
        assert said(dag, failed).causes == ()

    def test_one_that_succeeded_without_a_value_runs_its_last_task(self, three: DAG) -> None:
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
        assert plan.notes == ("group: succeeded but have no value, their last task runs again: 'group_1'",)

    def test_of_a_mapped_group_only_the_instances_run_that_failed(self, dag: DAG) -> None:
        group = FanOutGroup("group", branch=rate, items=list_items())
        FanInOperator(task_id="collect", fan_out=group)
        states = {("group.each", index): "failed" if index % 4 == 0 else "success" for index in range(300)}

        failed = {f"group.each[{index}]" for index in range(0, 300, 4)}
        assert names(said(dag, states).task_runs) == {*failed, "collect"}

    def test_tasks_that_a_prefix_brings_together_are_branches_too(self, dag: DAG) -> None:
        tasks = [publish.override(task_id=f"part_{index}")() for index in range(3)]
        tasks >> FanInOperator(task_id="collect", task_id_prefix="part_")

        assert names(said(dag, {"part_2": "failed"}).task_runs) == {"part_2", "collect"}

    def test_where_a_prefix_is_not_known_it_says_so(self, dag: DAG) -> None:
        publish.override(task_id="part_0")() >> FanInOperator(task_id="collect", task_id_prefix="{{ ds }}")

        (note,) = said(dag, {"part_0": "failed"}).notes

        assert note.startswith("collect: its branches are not known, because its prefix '{{ ds }}'")

    def test_of_several_tasks_those_that_succeeded_run_again_if_the_whole_branch_is_to(
        self, several: DAG
    ) -> None:
        states = {"load.load_0.second": "failed"}

        assert names(said(several, states).task_runs) == {"load.load_0.second", "collect"}
        whole = said(several, states, whole_branches=True)
        assert names(whole.task_runs) == {"load.load_0.first", "load.load_0.second", "collect"}

    def test_a_branch_that_has_a_task_on_its_way_keeps_that_one(self, several: DAG) -> None:
        states = {"load.load_0.first": "running", "load.load_0.second": "failed"}

        plan = said(several, states, whole_branches=True)

        assert names(plan.task_runs) == {"load.load_0.second", "collect"}


class TestBatches:
    @pytest.fixture
    def batched(self, dag: DAG) -> DAG:
        group = FanOutGroup("group", branch=count_up, count=8, items_per_task=4)
        FanInOperator(task_id="collect", fan_out=group)
        return dag

    @staticmethod
    def batch(number: int, states: str, state: str) -> TaskRun:
        record = {
            "state": BATCH,
            "map_index": number,
            "start": number * 4,
            "names": None,
            "statuses": states,
            "errors": {},
            "stopped": "not started: why",
            "seconds": [1.0] * 4,
            "cpu_seconds": [1.0] * 4,
        }
        return TaskRun(
            task_id="group.each",
            map_index=number,
            state=state,
            record=record,
            values={"return_value": "present"},
        )

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
        its = [self.batch(0, "SSSS", "success"), self.batch(1, states, state)]

        plan = planned(batched, [*its, TaskRun(task_id="collect", state="success")])

        assert names(plan.task_runs) == ({"group.each[1]", "collect"} if runs else set())

    def test_it_tells_how_many_items_are_without_success(self, batched: DAG) -> None:
        (group,) = planned(batched, [self.batch(0, "SFFS", "failed")]).groups

        assert [(each.branch.name, each.items) for each in group.branches] == [("group batch 0", 2)]


class TestFanIns:
    @pytest.mark.parametrize("state", ["failed", "upstream_failed"])
    def test_one_that_failed_by_itself_runs_again(self, three: DAG, state: str) -> None:
        assert names(said(three, {"collect": state}).task_runs) == {"collect", "publish"}

    @pytest.mark.parametrize("state", ["running", "queued"])
    def test_one_that_is_on_its_way_is_left_alone_and_named(self, three: DAG, state: str) -> None:
        plan = said(three, {"group.group_1": "failed", "collect": state, "publish": None})

        assert names(plan.task_runs) == {"group.group_1"}
        assert plan.notes[0].startswith(f"group: on their way, left alone: 'collect' ({state}); what had")

    def test_what_comes_after_one_that_was_cleared_already_runs_again(self, three: DAG) -> None:
        plan = said(three, {"group.group_1": "failed", "collect": None})

        assert names(plan.task_runs) == {"group.group_1", "publish"}

    def test_without_downstream_it_is_the_last(self, three: DAG) -> None:
        assert names(said(three, {"group.group_1": "failed"}, downstream=False).task_runs) == {
            "group.group_1",
            "collect",
        }

    def test_all_that_collect_a_group_run_again(self, dag: DAG) -> None:
        group = FanOutGroup("group", branch=score, count=2)
        FanInOperator(task_id="collect", fan_out=group)
        FanInOperator(task_id="by_prefix", task_id_prefix="group.") << group

        assert names(said(dag, {"group.group_1": "failed"}).task_runs) == {
            "group.group_1",
            "collect",
            "by_prefix",
        }

    def test_a_fan_out_that_comes_after_runs_again_as_a_whole(self, dag: DAG) -> None:
        first = FanOutGroup("first", branch=score, count=2)
        collect = FanInOperator(task_id="collect", fan_out=first, min_success=1)
        second = FanOutGroup("second", branch=rate, items=collect.output)
        FanInOperator(task_id="collect_second", fan_out=second)

        plan = said(
            dag, {"first.first_1": "failed", ("second.each", 0): "success", ("second.each", 1): "success"}
        )

        assert names(plan.task_runs) == {
            "first.first_1",
            "collect",
            "second.each[0]",
            "second.each[1]",
            "collect_second",
        }

    def test_in_a_mapped_task_group_only_its_own_index_runs_again(self, dag: DAG) -> None:
        @task_group
        def each(number: int) -> None:
            group = FanOutGroup("pair", branch=rate, items=[1, 2])
            FanInOperator(task_id="collect", fan_out=group) >> publish()
            rate.override(task_id="number")(number)

        each.expand(number=[1, 2]) >> publish.override(task_id="at_last")()
        inside = ["each.pair.pair_0", "each.pair.pair_1", "each.collect", "each.publish", "each.number"]
        states: dict[Any, str | None] = {
            (task_id, index): "success" for task_id in inside for index in (0, 1)
        }
        states["each.pair.pair_1", 1] = "failed"

        assert names(said(dag, states).task_runs) == {
            "each.pair.pair_1[1]",
            "each.collect[1]",
            "each.publish[1]",
            "at_last",
        }


class TestCauses:
    @pytest.fixture
    def mapped(self, dag: DAG) -> DAG:
        source = list_items()
        group = FanOutGroup("group", branch=rate, items=rate.override(task_id="mend")(source))
        FanInOperator(task_id="collect", fan_out=group)
        publish.override(task_id="aside")() << source
        return dag

    def test_a_failed_task_before_the_branches_is_named_with_what_stands_between(self, mapped: DAG) -> None:
        plan = said(
            mapped,
            {
                "list_items": "failed",
                "mend": "upstream_failed",
                "group.each": "upstream_failed",
                "collect": "failed",
                "aside": "upstream_failed",
            },
        )

        assert names(plan.task_runs) == {"group.each", "collect"}
        assert (names(plan.causes), names(plan.between)) == ({"list_items"}, {"mend"})
        assert names(plan.with_causes) == {"list_items", "mend", "group.each", "collect"}

    def test_what_was_skipped_after_it_stands_between(self, dag: DAG) -> None:
        first = rate.override(task_id="first")(list_items())
        second = rate.override(task_id="second")(first)
        FanInOperator(task_id="collect", fan_out=FanOutGroup("group", branch=rate, items=second))
        states = {"list_items": "failed", "first": "skipped", "second": "skipped"}

        plan = said(dag, states | {"group.each": "upstream_failed", "collect": "failed"})

        assert (names(plan.causes), names(plan.between)) == ({"list_items"}, {"first", "second"})

    def test_what_was_skipped_by_itself_does_not(self, dag: DAG) -> None:
        aside = publish.override(task_id="skips")()
        source = list_items()
        group = FanOutGroup("group", branch=rate, items=source)
        aside >> group
        FanInOperator(task_id="collect", fan_out=group)
        states = {"list_items": "failed", "skips": "skipped", "group.each": "upstream_failed"}

        plan = said(dag, states)

        assert (names(plan.causes), names(plan.between)) == ({"list_items"}, set())

    def test_a_group_over_nothing_is_none_that_failed(self, mapped: DAG) -> None:
        assert said(mapped, {"group.each": "skipped"}).task_runs == ()

    def test_one_that_runs_again_anyway_is_no_cause(self, dag: DAG) -> None:
        first = FanOutGroup("first", branch=score, count=2)
        collect = FanInOperator(task_id="collect", fan_out=first)
        second = FanOutGroup("second", branch=rate, items=collect.output)
        FanInOperator(task_id="collect_second", fan_out=second)
        states = {
            "first.first_1": "failed",
            "collect": "failed",
            "second.each": "upstream_failed",
            "collect_second": "failed",
        }

        assert said(dag, states).causes == ()
        assert said(dag, states).downstream == ()  # its groups name it all
        only = said(dag, states, group_ids=["second"])
        assert names(only.task_runs) == {"second.each", "collect_second"}
        assert (names(only.causes), names(only.between)) == ({"first.first_1"}, {"collect"})

    def test_a_failure_that_a_fan_in_tolerated_is_none(self, dag: DAG) -> None:
        first = FanOutGroup("first", branch=score, count=2)
        collect = FanInOperator(task_id="collect", fan_out=first, min_success=1)
        source = rate.override(task_id="source")(collect.output)
        second = FanOutGroup("second", branch=rate, items=source)
        FanInOperator(task_id="collect_second", fan_out=second)
        states = {"first.first_1": "failed", "source": "failed", "second.each": "upstream_failed"}

        assert names(said(dag, states, group_ids=["second"]).causes) == {"source"}

    def test_a_task_that_a_failed_fan_in_waits_for_is_one(self, dag: DAG) -> None:
        group = FanOutGroup("group", branch=score, count=2)
        fan_in = FanInOperator(task_id="collect", fan_out=group)
        publish.override(task_id="gate")() >> fan_in

        plan = said(dag, {"gate": "failed", "collect": "failed"})

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

    def test_those_of_a_task_come_with_it(self, clusters: DAG) -> None:
        plan = said(clusters, {"group.group_1.work": "failed"})

        assert names(plan.scaffolding) == {"group.group_1.make", "group.group_1.drop"}
        assert names(plan.task_runs) == {"group.group_1.work", "collect", *names(plan.scaffolding)}

    def test_those_that_are_on_their_way_are_left_alone(self, clusters: DAG) -> None:
        plan = said(clusters, {"group.group_1.work": "failed", "group.group_1.drop": "running"})

        assert names(plan.scaffolding) == {"group.group_1.make"}

    def test_a_failed_setup_runs_again(self, clusters: DAG) -> None:
        plan = said(
            clusters,
            {
                "group.group_1.make": "failed",
                "group.group_1.work": "upstream_failed",
                "group.group_1.drop": "upstream_failed",
            },
        )

        assert names(plan.task_runs) == {f"group.group_1.{each}" for each in ("make", "work", "drop")} | {
            "collect"
        }


class TestGroups:
    @pytest.fixture
    def two(self, dag: DAG) -> DAG:
        for group_id in ("first", "second"):
            group = FanOutGroup(group_id, branch=score, count=2)
            FanInOperator(task_id=f"collect_{group_id}", fan_out=group)
        return dag

    def test_only_those_that_are_asked_for_run_again(self, two: DAG) -> None:
        states = {"first.first_0": "failed", "second.second_0": "failed"}

        plan = said(two, states, group_ids=["second"])

        assert names(plan.task_runs) == {"second.second_0", "collect_second"}

    def test_one_that_is_not_there_is_an_error_that_names_those_that_are(self, two: DAG) -> None:
        with pytest.raises(
            UnknownGroupError, match=r"no fan-out group 'third' .* there are 'first', 'second'"
        ):
            said(two, group_ids=["third"])


def test_nothing_is_cleared_twice(three: DAG) -> None:
    plan = said(three, {"group.group_1": "failed"})

    assert len(replace(plan, downstream=(*plan.downstream, *plan.downstream)).task_runs) == 3
