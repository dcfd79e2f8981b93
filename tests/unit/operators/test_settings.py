from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import DAG, Param, task
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import (
    DeclarationError,
    DeclarationTypeError,
    SettingError,
    TooFewBranchesError,
)
from airflow_fanout.rules.policy import AT_RUN_TIME
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.serialization.outline import outline
from airflow_fanout.testing import simulate
from tests.unit.fake_batch import batch_operator, run_batch, task_instance
from tests.unit.fake_run import FakeRun, run_fan_in

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")

GROUP_SETTINGS = ("items_per_task", "item_concurrency", "stop_after_failures")
TOLERANCES = ("min_success", "min_success_ratio")


def work(item: int = 0) -> int:
    return item


@task
def tell() -> int:
    return 2


@task
def list_items() -> list[int]:
    return []


def group_of(**arguments: Any) -> FanOutGroup:
    return FanOutGroup("g", **{"branch": work, "items": [1, 2, 3, 4], "items_per_task": 4, **arguments})


def declare(setting: str, value: Any) -> Any:
    """Declare a group or a fan-in with such a setting; return the group, or the fan-in."""
    if setting in TOLERANCES:
        return FanInOperator(task_id="combine", fan_out=group_of(), **{setting: value})
    return group_of(**{setting: value})


def told(dag: DAG, operator: Any, **params: Any) -> Any:
    """Have an operator's template fields say what they do in a run with such Dag params."""
    rendered = operator.prepare_for_execution()
    run = mock.Mock(spec=["conf"], conf=params)
    context: Any = {"params": params, "dag_run": run, "dag": dag, "task": rendered}
    rendered.render_template_fields(context)
    return rendered


def execute(operator: Any, ti: Any) -> Any:
    with mock.patch.object(ExecutorSafeguard, "test_mode", new=True):
        return operator.execute({"ti": ti})


def split_of(dag: DAG, **params: Any) -> Any:
    return told(dag, dag.get_task("g.split"), **params)


@pytest.mark.parametrize("setting", [*GROUP_SETTINGS, *TOLERANCES])
class TestWhatMayBeKnownAtRunTime:
    @pytest.mark.parametrize(
        "give",
        [
            pytest.param(lambda dag: dag.param("n", 2), id="a-dag-param"),
            pytest.param(lambda _: tell(), id="an-output"),
        ],
    )
    def test_it_is_declared_as_such_in_the_serialized_dag(
        self, setting: str, give: Callable[[DAG], Any], dag: DAG
    ) -> None:
        declare(setting, give(dag))

        read = outline(DagSerialization.from_dict(DagSerialization.to_dict(dag)))
        declared = read.fan_ins[0].policy if setting in TOLERANCES else read.groups["g"]
        assert getattr(declared, setting) == AT_RUN_TIME

    def test_its_task_comes_before_whatever_takes_it(self, setting: str, dag: DAG) -> None:
        declare(setting, tell())

        takers = {"g.split", "g.each"} - ({"g.each"} if setting == "items_per_task" else set())
        takers = {"combine"} if setting in TOLERANCES else takers
        assert dag.get_task("tell").downstream_task_ids == takers

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            pytest.param(Param(2), "<airflow.sdk.*Param object> of type Param; ", id="a-param"),
            pytest.param("{{ params.n }}", "'{{ params.n }}' of type str; ", id="a-template"),
        ],
    )
    def test_what_is_meant_to_be_one_is_refused_with_the_way_to_say_it(
        self, setting: str, value: Any, found: str
    ) -> None:
        message = rf'{setting}: expected a number or dag.param\("name"\), found {found}give the Dag params='
        with pytest.raises(DeclarationTypeError, match=message):
            declare(setting, value)

    def test_a_group_is_no_number(self, setting: str) -> None:
        with pytest.raises(TypeError, match="was handed to a task as an argument"):
            declare(setting, FanOutGroup("other", branch=work, count=1))

    @pytest.mark.parametrize("value", [-1, True, "many", [2], 1.5, float("nan")], ids=repr)
    def test_in_a_run_it_is_refused_as_it_is_when_the_dag_is_parsed(
        self, setting: str, value: Any, dag: DAG
    ) -> None:
        with DAG("another", schedule=None), pytest.raises(DeclarationError) as at_parse:
            declare(setting, value)
        declare(setting, dag.param("n", 1))

        taker = dag.get_task("combine") if setting in TOLERANCES else dag.get_task("g.split")
        with pytest.raises(SettingError) as in_run:
            execute(told(dag, taker, n=value), task_instance())
        assert str(in_run.value) == str(at_parse.value)

    def test_nothing_is_no_number_in_a_run(self, setting: str, dag: DAG) -> None:
        """A task that pushed nothing does not mean that there is no limit."""
        declare(setting, dag.param("n", 1))

        taker = dag.get_task("combine") if setting in TOLERANCES else dag.get_task("g.split")
        with pytest.raises(SettingError, match=f"{setting}: expected a .*number.*, found None"):
            execute(told(dag, taker, n=None), task_instance())


class TestSplit:
    @pytest.mark.parametrize("told", [3, "3", " 3\n"], ids=repr)
    def test_it_cuts_as_the_run_says(self, told: Any, dag: DAG) -> None:
        group_of(items_per_task=dag.param("n", 1))

        assert execute(split_of(dag, n=told), task_instance()) == [[0, 3, 1], [3, 4, 1]]

    @pytest.mark.parametrize(
        ("literal", "of_run", "refused"),
        [
            pytest.param(
                {"item_concurrency": 3},
                {"items_per_task": 2},
                "item_concurrency: found 3, but a task has 2 items; lower it, or raise items_per_task",
                id="more-at-once-than-a-task-has",
            ),
            pytest.param(
                {"items_per_task": 2},
                {"item_concurrency": 3},
                "item_concurrency: found 3, but a task has 2 items; lower it, or raise items_per_task",
                id="more-at-once-than-are-declared",
            ),
            pytest.param(
                {},
                {"stop_after_failures": 4},
                "stop_after_failures: 4 failures of 4 branches leave none to stop; choose a number below 4",
                id="none-left-to-stop",
            ),
        ],
    )
    def test_numbers_that_do_not_fit_together_are_refused_as_when_the_dag_is_parsed(
        self, literal: dict[str, int], of_run: dict[str, int], refused: str, dag: DAG
    ) -> None:
        with DAG("another", schedule=None), pytest.raises(DeclarationError, match=refused):
            group_of(**literal, **of_run)
        group_of(**literal, **{name: dag.param(name, 1) for name in of_run})

        with pytest.raises(SettingError, match=f"FanOutGroup 'g': {refused}"):
            execute(split_of(dag, **of_run), task_instance())

    def test_the_tooltip_says_that_the_run_does(self, dag: DAG) -> None:
        group = group_of(items_per_task=dag.param("n", 1))

        assert group.tooltip == "Fan-out: 4 items, as many in a task as the run says"


class TestBatch:
    def batch(self, dag: DAG, group: FanOutGroup, **params: Any) -> Any:
        return run_batch(group, operator=told(dag, batch_operator(group, 0, 4), **params))

    def test_as_many_items_run_at_once_as_the_run_says(self, dag: DAG) -> None:
        group = group_of(item_concurrency=dag.param("n", 1))

        assert self.batch(dag, group, n=3).record["concurrency"] == 3

    def test_a_mapping_runs_all_at_once_unless_the_run_says_otherwise(self, dag: DAG) -> None:
        group = FanOutGroup("g", branch=dict.fromkeys("abcd", lambda: 1), items_per_task=dag.param("n", 4))

        assert self.batch(dag, group).record["concurrency"] == 4
        assert group.declared.item_concurrency == AT_RUN_TIME

    def test_after_as_many_failures_as_the_run_says_none_is_started(self, dag: DAG) -> None:
        def fail(item: int) -> None:
            raise ValueError(item)

        group = group_of(branch=fail, stop_after_failures=dag.param("n", 1))
        record = self.batch(dag, group, n=2).record

        assert record["statuses"] == "FFXX"
        assert record["stopped"].endswith("2 or more items of 'g' have failed (stop_after_failures=2)")

    def test_one_that_can_not_be_used_fails_it(self, dag: DAG) -> None:
        group = group_of(item_concurrency=dag.param("n", 1))

        error = self.batch(dag, group, n=0).error
        assert isinstance(error, SettingError)
        assert str(error) == "FanOutGroup 'g': item_concurrency: expected 1 or more, found 0"


class TestStaticBranches:
    def asked(self, dag: DAG, limit: Any, **params: Any) -> str:
        FanOutGroup("p", branch=work, items=[1, 2, 3, 4], stop_after_failures=limit)
        operator: Any = dag.get_task("p.p_3")
        ti = task_instance(map_index=-1)
        ti._ti_context_from_server = mock.Mock(next_method=None, task_reschedule_count=0)
        reader = FakeRun().fail("p.p_0").fail("p.p_1").reader()
        context = {"ti": ti, "task": operator, "params": params, "dag_run": mock.Mock(spec=["conf"], conf={})}
        with mock.patch("airflow_fanout.execution_time.xcom.RunReader", return_value=reader):
            try:
                operator._pre_execute_hook(context)
            except Exception as raised:
                return f"{type(raised).__name__}: {raised}"
        return "started"

    @pytest.mark.parametrize(
        ("number", "became"),
        [
            (3, "started"),
            (
                2,
                "AirflowSkipException: not started: 2 of 4 branches of 'p' have failed (stop_after_f",
            ),
            (0, "SettingError: FanOutGroup 'p': stop_after_failures: expected 1 or more, found 0"),
            (4, "SettingError: FanOutGroup 'p': stop_after_failures: 4 failures of 4 branches leave none"),
        ],
    )
    def test_each_asks_how_many_may_fail(self, number: int, became: str, dag: DAG) -> None:
        dag.params["n"] = 9

        assert self.asked(dag, dag.param("n"), n=number).startswith(became)

    @pytest.mark.parametrize("mapped", [None, True], ids=["static", "mapped"])
    def test_the_task_that_tells_it_comes_before_each(self, mapped: bool | None, dag: DAG) -> None:
        FanOutGroup("p", branch=work, items=[1, 2, 3], mapped=mapped, stop_after_failures=tell())

        branches = {task_id for task_id in dag.task_dict if task_id.startswith("p.")}
        assert dag.get_task("tell").downstream_task_ids == branches


class TestFanIn:
    def fan_in(self, dag: DAG, value: Any, **arguments: Any) -> Any:
        (name,) = arguments
        FanInOperator(task_id="combine", fan_out=FanOutGroup("g", branch=work, count=4), **arguments)
        return told(dag, dag.get_task("combine"), **{name: value})

    @pytest.mark.parametrize(
        ("setting", "value", "needed"),
        [
            ("min_success", 2, 2),
            pytest.param("min_success", "2", 2, id="a-text"),
            ("min_success", 0, 0),
            ("min_success_ratio", 0.5, 2),
            ("min_success_ratio", "0.51", 3),
            ("min_success_ratio", "3/4", 3),
            ("min_success_ratio", Fraction(1, 4), 1),
            ("min_success_ratio", 1, 4),
        ],
    )
    def test_it_asks_for_as_many_as_the_run_says(
        self, setting: str, value: Any, needed: int, dag: DAG
    ) -> None:
        fan_in = self.fan_in(dag, value, **{setting: dag.param(setting, 1)})
        run = FakeRun().succeed("g.g_0", 1).succeed("g.g_1", 1).fail("g.g_2").fail("g.g_3")

        did = run_fan_in(fan_in, run)

        assert did.report is not None
        assert did.report["needed"] == needed
        assert isinstance(did.error, TooFewBranchesError) == (needed > 2)
        assert did.report["degraded"] == (needed <= 2)

    def test_more_than_the_group_declares_is_refused_before_anything_is_read(self, dag: DAG) -> None:
        did = run_fan_in(self.fan_in(dag, 5, min_success=dag.param("min_success", 1)), FakeRun())

        assert isinstance(did.error, SettingError)
        assert str(did.error) == (
            "FanInOperator 'combine': min_success: 5 is above the 4 branches that group 'g' declares"
        )
        assert did.requests == 0

    def test_one_of_run_time_is_a_tolerance(self, dag: DAG) -> None:
        """So that what would wait for ever, or what a fail_fast Dag can't keep, is refused when parsed."""
        past: Any = {"depends_on_past": True}
        with pytest.raises(DeclarationError, match="depends_on_past"):
            FanInOperator(
                task_id="combine",
                fan_out=FanOutGroup("g", branch=work, count=4, default_args=past),
                min_success=tell(),
            )


class TestSimulate:
    def test_it_is_told_what_only_a_run_knows(self, dag: DAG) -> None:
        group = group_of(items_per_task=dag.param("n", 1), stop_after_failures=tell())
        fan_in = FanInOperator(task_id="combine", fan_out=group, min_success=tell())
        settings = {"items_per_task": 2, "stop_after_failures": 1}
        outcomes = {"g_0": "failed", "g_1": "stopped", "g_2": "success", "g_3": "success"}

        did = [simulate(fan_in, outcomes, settings={**settings, "min_success": n}) for n in (2, 3, 9)]

        assert [each.state for each in did] == ["degraded", "failed", "failed"]
        assert did[2].error == (
            "SettingError: FanInOperator 'combine': min_success: "
            "9 is above the 4 branches that group 'g' declares"
        )

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "only a run has min_success; give settings={'min_success': …}"),
            ({"min_success": 1}, "only a run has items_per_task; give settings={'items_per_task': …}"),
            ({"min_success": 1, "items_per_task": 0}, "items_per_task: expected 1 or more, found 0"),
            (
                {"min_success": 1, "items_per_task": 1, "min_success_ratio": 1},
                "a run is not asked for 'min_success_ratio'; it is for 'items_per_task', 'min_success'",
            ),
        ],
    )
    def test_what_is_not_told_or_of_no_use_is_refused(
        self, settings: dict[str, Any], message: str, dag: DAG
    ) -> None:
        group = group_of(items_per_task=dag.param("n", 1))
        fan_in = FanInOperator(task_id="combine", fan_out=group, min_success=tell())

        with pytest.raises(DeclarationError) as refused:
            simulate(fan_in, settings=settings)
        assert message in str(refused.value)


def test_items_of_a_task_come_in_as_many_batches_as_the_run_says(dag: DAG) -> None:
    FanOutGroup("g", branch=work, items=list_items(), items_per_task=dag.param("n", 1))
    split = split_of(dag, n=2)
    split.items = mock.Mock(spec=["resolve"], **{"resolve.return_value": [1, 2, 3]})
    ti = task_instance()

    assert [cut[:3] for cut in execute(split, ti)] == [[0, 2, 1], [2, 3, 1]]
    assert [call.args[0] for call in ti.xcom_push.call_args_list] == ["batch_0", "batch_1"]
    assert RETURN_VALUE not in {call.args[0] for call in ti.xcom_push.call_args_list}
