from __future__ import annotations

import functools
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Label, TaskGroup, TriggerRule, chain, task, task_group
from airflow.sdk.exceptions import FailFastDagInvalidTriggerRule

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from airflow_fanout.decorators import fan_out
from airflow_fanout.exceptions import DeclarationError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


def combine(results: FanInResults, threshold: int = 0) -> int:
    return len(results) + threshold


def strict(results: FanInResults, threshold: int) -> int:
    return len(results) + threshold


@functools.wraps(strict)
def filled(results: FanInResults) -> int:
    return strict(results, threshold=1)


class Combining:
    def __call__(self, results: FanInResults, threshold: int = 0) -> int:
        return combine(results, threshold)

    def method(self, results: FanInResults) -> int:
        return len(results)


@task
def load() -> str:
    return "text"


def plain_group() -> TaskGroup:
    with TaskGroup("plain") as plain:
        EmptyOperator(task_id="inner")
    return plain


async def combine_async(results: FanInResults) -> int:
    return len(results)


def group(group_id: str = "process", **arguments: Any) -> FanOutGroup:
    return FanOutGroup(group_id, **{"branch": work, "count": 8, **arguments})


def declare(**arguments: Any) -> FanInOperator:
    given = {"task_id": "combine", **arguments}
    if "fan_out" not in given and "task_id_prefix" not in given:
        given["fan_out"] = group()
    return FanInOperator(**given)


class TestWiring:
    def test_fan_out_wires_the_group_before_the_fan_in(self) -> None:
        process = group(count=2)
        fan_in = declare(fan_out=process)

        assert fan_in.upstream_task_ids == {"process.process_0", "process.process_1"}

    def test_a_prefix_wires_nothing(self) -> None:
        group()

        assert declare(task_id_prefix="process.").upstream_task_ids == set()

    def test_several_fan_ins_collect_one_group(self) -> None:
        process = group(count=1)
        first, second = declare(task_id="first", fan_out=process), declare(task_id="second", fan_out=process)

        assert first.upstream_task_ids == second.upstream_task_ids == {"process.process_0"}

    def test_op_kwargs_with_the_value_of_a_task_wire_that_task(self) -> None:
        fan_in = declare(fan_out=group(count=1), python_callable=combine, op_kwargs={"threshold": load()})

        assert fan_in.upstream_task_ids == {"process.process_0", "load"}

    def test_a_fan_out_can_take_what_a_fan_in_returns(self) -> None:
        fan_in = declare()
        second = FanOutGroup("second", branch=work, count=2, partial={"item": fan_in.output})

        assert all(operator.upstream_task_ids == {"combine"} for operator in second)

    def test_it_can_stand_in_a_group(self) -> None:
        with TaskGroup("outer"):
            fan_in = declare(fan_out=group("inner", count=1))

        assert fan_in.task_id == "outer.combine"
        assert fan_in.upstream_task_ids == {"outer.inner.inner_0"}

    def test_other_tasks_can_be_wired_before_it_and_after_it(self) -> None:
        before, after = EmptyOperator(task_id="before"), EmptyOperator(task_id="after")
        fan_in = declare(fan_out=group(count=1))

        chain(before, Label("too"), fan_in, after)

        assert fan_in.upstream_task_ids == {"process.process_0", "before"}
        assert fan_in.downstream_task_ids == {"after"}

    def test_it_is_told_its_dag_by_the_group(self) -> None:
        """As any operator that is wired to one that has a Dag."""
        process = group(count=1)

        assert declare(fan_out=process).dag is process.dag


class TestTriggerRule:
    def test_it_is_all_done(self) -> None:
        assert declare().trigger_rule == TriggerRule.ALL_DONE
        assert declare(task_id="other", task_id_prefix="process").trigger_rule == TriggerRule.ALL_DONE

    @pytest.mark.usefixtures("no_dag")
    def test_it_is_all_done_before_there_is_a_dag(self) -> None:
        assert declare(task_id_prefix="process").trigger_rule == TriggerRule.ALL_DONE

    def test_that_of_the_dag_is_not_taken(self) -> None:
        with DAG("d", schedule=None, default_args={"trigger_rule": "none_failed"}):
            assert declare().trigger_rule == TriggerRule.ALL_DONE

    @pytest.mark.parametrize(
        "rule", ["all_success", "none_failed", TriggerRule.ALWAYS, "all_done", "nonsense"]
    )
    def test_one_given_by_the_author_is_refused(self, rule: str) -> None:
        with pytest.raises(
            ValueError,
            match=rf"FanInOperator 'combine': trigger_rule: found '{rule}'; .*min_success=.*leave it out",
        ):
            declare(trigger_rule=rule)

    def test_one_given_in_the_fan_ins_own_default_args_is_refused(self) -> None:
        with pytest.raises(ValueError, match="trigger_rule: found 'none_failed'"):
            declare(default_args={"trigger_rule": "none_failed"})


class TestFailFast:
    """Airflow allows no rule but all_success in such a Dag."""

    def test_the_rule_is_the_one_that_airflow_allows(self) -> None:
        with DAG("d", schedule=None, fail_fast=True):
            assert declare().trigger_rule == TriggerRule.ALL_SUCCESS

    def test_airflow_would_refuse_another(self) -> None:
        with (
            DAG("d", schedule=None, fail_fast=True),
            pytest.raises(FailFastDagInvalidTriggerRule),
        ):
            EmptyOperator(task_id="t", trigger_rule="all_done")

    def test_the_dag_may_be_given_by_name(self) -> None:
        narrow = DAG("d", schedule=None, fail_fast=True)
        with narrow:
            process = group()

        assert declare(fan_out=process, dag=narrow).trigger_rule == TriggerRule.ALL_SUCCESS

    @pytest.mark.usefixtures("no_dag")
    def test_the_dag_may_be_that_of_the_group_it_collects(self) -> None:
        with DAG("d", schedule=None, fail_fast=True):
            process = group()

        assert declare(fan_out=process).trigger_rule == TriggerRule.ALL_SUCCESS
        with pytest.raises(ValueError, match="'combine': min_success: in a fail_fast Dag"):
            declare(fan_out=process, min_success=1)

    @pytest.mark.usefixtures("no_dag")
    def test_the_dag_may_be_that_of_the_group_it_is_in(self) -> None:
        with DAG("d", schedule=None, fail_fast=True), TaskGroup("outer") as outer:
            pass

        fan_in = declare(task_id_prefix="process.", task_group=outer)

        assert fan_in.trigger_rule == TriggerRule.ALL_SUCCESS

    @pytest.mark.parametrize(
        "tolerance", [{"min_success": 1}, {"min_success_ratio": 0.5}], ids=["number", "ratio"]
    )
    def test_a_tolerance_is_refused(self, tolerance: dict[str, Any]) -> None:
        with (
            DAG("d", schedule=None, fail_fast=True),
            pytest.raises(ValueError, match=f"'combine': {next(iter(tolerance))}: in a fail_fast Dag"),
        ):
            declare(**tolerance)

    @pytest.mark.parametrize("on_empty", ["succeed", "fail"])
    def test_on_empty_other_than_skip_is_refused(self, on_empty: str) -> None:
        with (
            DAG("d", schedule=None, fail_fast=True),
            pytest.raises(ValueError, match=f"on_empty: '{on_empty}': in a fail_fast Dag .*use 'skip'"),
        ):
            declare(on_empty=on_empty)

    def test_skip_is_taken(self) -> None:
        with DAG("d", schedule=None, fail_fast=True):
            assert declare(on_empty="skip").policy.when_empty == "skip"


BAD_INPUT = [
    pytest.param(
        {"task_id_prefix": "p", "fan_out": "group"},
        ValueError,
        "fan_out: expected fan_out= or task_id_prefix=, found both",
        id="both",
    ),
    pytest.param(
        {"fan_out": None},
        ValueError,
        "fan_out: expected fan_out= or task_id_prefix=, found neither",
        id="neither",
    ),
    pytest.param(
        {"fan_out": "process"}, TypeError, "fan_out: expected a FanOutGroup, found 'process'", id="a text"
    ),
    pytest.param(
        {"fan_out": ["a"]}, TypeError, "fan_out: expected a FanOutGroup, .*of type list", id="a list"
    ),
    pytest.param({"fan_out": False}, TypeError, "fan_out: expected a FanOutGroup, found False", id="False"),
    pytest.param(
        {"task_id_prefix": 8}, TypeError, "task_id_prefix: expected a str, found 8 of type int", id="prefix 8"
    ),
    pytest.param(
        {"task_id_prefix": ["a"]},
        TypeError,
        "task_id_prefix: expected a str, .*of type list",
        id="a list of prefixes",
    ),
    pytest.param(
        {"task_id_prefix": ""},
        ValueError,
        "task_id_prefix: is empty, which every task id",
        id="an empty prefix",
    ),
    pytest.param({"key": ""}, ValueError, "key: is empty; leave it out", id="an empty key"),
    pytest.param({"key": None}, TypeError, "key: expected the key of an XCom, found None", id="key None"),
    pytest.param({"key": ["a"]}, TypeError, "key: .*of type list", id="several keys"),
    pytest.param(
        {"min_success": 0}, ValueError, "min_success: expected 1 or more, found 0", id="min_success 0"
    ),
    pytest.param(
        {"min_success": -1}, ValueError, "min_success: expected 1 or more, found -1", id="min_success -1"
    ),
    pytest.param(
        {"min_success": 9},
        ValueError,
        "min_success: 9 is above the 8 branches that group 'process' declares",
        id="min_success above what is declared",
    ),
    pytest.param(
        {"min_success": True},
        TypeError,
        "min_success: expected a whole number.*True of type bool",
        id="min_success True",
    ),
    pytest.param({"min_success": "6"}, TypeError, "min_success: .*'6' of type str", id="min_success as text"),
    pytest.param({"min_success": 0.9}, TypeError, "min_success: .*0.9 of type float", id="min_success 0.9"),
    pytest.param({"min_success": 6.0}, TypeError, "min_success: .*6.0 of type float", id="min_success 6.0"),
    pytest.param(
        {"min_success_ratio": 0}, ValueError, "min_success_ratio: expected 0 < ratio <= 1", id="ratio 0"
    ),
    pytest.param({"min_success_ratio": -0.1}, ValueError, "min_success_ratio: .*found -0.1", id="ratio -0.1"),
    pytest.param({"min_success_ratio": 1.01}, ValueError, "min_success_ratio: .*found 1.01", id="ratio 1.01"),
    pytest.param(
        {"min_success_ratio": 95},
        ValueError,
        r"min_success_ratio: expected 0 < ratio <= 1, found 95; did you mean 0\.95\?",
        id="a percentage",
    ),
    pytest.param({"min_success_ratio": 101}, ValueError, "found 101$", id="more than a percentage"),
    pytest.param(
        {"min_success_ratio": Decimal("99.5")}, ValueError, r"mean 0\.995\?", id="Decimal percentage"
    ),
    pytest.param(
        {"min_success_ratio": float("nan")}, ValueError, "min_success_ratio: .*found nan", id="ratio nan"
    ),
    pytest.param(
        {"min_success_ratio": float("inf")}, ValueError, "min_success_ratio: .*found inf", id="ratio inf"
    ),
    pytest.param(
        {"min_success_ratio": Decimal("NaN")},
        ValueError,
        "min_success_ratio: .*found NaN",
        id="ratio Decimal NaN",
    ),
    pytest.param(
        {"min_success_ratio": Fraction(10, 9)}, ValueError, "min_success_ratio: .*found 10/9", id="ratio 10/9"
    ),
    pytest.param(
        {"min_success_ratio": "0.9"}, TypeError, "min_success_ratio: .*'0.9' of type str", id="ratio as text"
    ),
    pytest.param(
        {"min_success_ratio": True}, TypeError, "min_success_ratio: .*True of type bool", id="ratio True"
    ),
    pytest.param(
        {"min_success": 1, "count_skipped": "ignore"},
        ValueError,
        "count_skipped: expected one of 'exclude', 'success', 'failure', found 'ignore'",
        id="unknown count_skipped",
    ),
    pytest.param(
        {"min_success": 1, "count_skipped": None},
        ValueError,
        "count_skipped: expected .*found None",
        id="None",
    ),
    pytest.param(
        {"min_success": 1, "count_skipped": ["success"]},
        ValueError,
        "count_skipped: .*found",
        id="an unhashable one",
    ),
    pytest.param(
        {"count_skipped": "success"},
        ValueError,
        "count_skipped: 'success' means something only with min_success= or min_success_ratio=",
        id="count_skipped without a tolerance",
    ),
    pytest.param(
        {"on_empty": "ignore"},
        ValueError,
        "on_empty: expected one of 'succeed', 'fail', 'skip'.*found 'ignore'",
        id="unknown on_empty",
    ),
    pytest.param({"on_empty": "success"}, ValueError, "on_empty: .*found 'success'", id="on_empty, almost"),
    pytest.param(
        {"python_callable": "combine"},
        TypeError,
        "python_callable: expected a function, found 'combine' of type str",
        id="python_callable as text",
    ),
    pytest.param(
        {"python_callable": task(combine)},
        TypeError,
        "python_callable: expected a plain function, found a @task; leave the decorator out",
        id="a @task",
    ),
    pytest.param(
        {"python_callable": combine_async},
        TypeError,
        "python_callable: .*found an async def; use asyncio.run",
        id="async",
    ),
    pytest.param(
        {"python_callable": lambda: None},
        TypeError,
        "python_callable: can't be called with the results first",
        id="a function without parameters",
    ),
    pytest.param(
        {"python_callable": lambda *, results: None},
        TypeError,
        "can't be called with the results first",
        id="by name",
    ),
    pytest.param(
        {"python_callable": combine, "op_kwargs": {"treshold": 1}},
        TypeError,
        "python_callable: can't be called .*op_kwargs 'treshold'",
        id="op_kwargs that it does not take",
    ),
    pytest.param(
        {"python_callable": combine, "op_kwargs": {"results": 1}},
        TypeError,
        "python_callable: .*multiple values for argument 'results'",
        id="op_kwargs that give the results again",
    ),
    pytest.param(
        {"python_callable": lambda params: None},
        (TypeError, ValueError),
        "python_callable: .*'params'",
        id="the results under a name that Airflow fills",
    ),
    pytest.param(
        {"python_callable": strict},
        TypeError,
        r"python_callable: needs 'threshold' after the results, which nobody gives; "
        r"give op_kwargs=\{'threshold': …\}, or give it a default",
        id="a required parameter that nobody gives",
    ),
    pytest.param(
        {"python_callable": lambda results, ti, *, low, high: None, "op_kwargs": {"low": 1}},
        TypeError,
        "python_callable: needs 'high' after the results",
        id="one by name that nobody gives, beside one of op_kwargs and one of the context",
    ),
    pytest.param(
        {"python_callable": functools.partial(lambda results, low, high: None, high=1)},
        TypeError,
        "python_callable: needs 'low' after the results",
        id="one that functools.partial doesn't bind",
    ),
    pytest.param(
        {"python_callable": combine, "op_kwargs": [1]},
        TypeError,
        "op_kwargs: expected a dict",
        id="op_kwargs, a list",
    ),
    pytest.param(
        {"op_kwargs": {"threshold": 1}},
        ValueError,
        "op_kwargs: binds 'threshold' and there is no python_callable",
        id="op_kwargs without python_callable",
    ),
]


class TestBadInput:
    @pytest.mark.parametrize(("declared", "error", "message"), BAD_INPUT)
    def test_it_is_refused_with_the_way_out(
        self, declared: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        given = {**declared, "fan_out": group()} if declared.get("fan_out") == "group" else declared

        with pytest.raises(error, match=f"FanInOperator 'combine': .*{message}") as raised:
            declare(**given)

        assert isinstance(raised.value, DeclarationError)
        assert raised.value.owner == "FanInOperator 'combine'"

    @pytest.mark.parametrize(
        ("other", "prefix"),
        [
            pytest.param(load, "'load'", id="an output"),
            pytest.param(
                lambda: task(work).override(task_id="score").expand(item=["a"]), "'score'", id="mapped"
            ),
            pytest.param(lambda: load()["key"], "'load'", id="an XCom of a task"),
            pytest.param(lambda: EmptyOperator(task_id="plain"), "'plain'", id="a task"),
            pytest.param(
                lambda: BashOperator.partial(task_id="bash").expand(bash_command=["true"]),
                "'bash'",
                id="a mapped operator",
            ),
            pytest.param(lambda: [load(), load()], "'load'", id="several outputs"),
            pytest.param(
                lambda: [load(), EmptyOperator(task_id="plain")], " instead", id="tasks without a prefix"
            ),
            pytest.param(plain_group, r"'plain\.'", id="a task group"),
        ],
    )
    def test_tasks_as_fan_out_are_shown_the_prefix(self, other: Callable[[], Any], prefix: str) -> None:
        with pytest.raises(
            TypeError,
            match=rf"fan_out: expected a FanOutGroup, found .*; .*use task_id_prefix={prefix}.*"
            r" and wire them: tasks >> fan_in",
        ):
            declare(fan_out=other())

    @pytest.mark.parametrize(
        ("function", "way_out"),
        [
            pytest.param(load, r"make one: FanOutGroup\('load', branch=load, …\)", id="@task"),
            pytest.param(fan_out(work, count=2), r"a @task\.fan_out function; call it", id="@task.fan_out"),
        ],
    )
    def test_a_function_as_fan_out_is_shown_what_to_do_with_it(self, function: Any, way_out: str) -> None:
        with pytest.raises(TypeError, match=rf"fan_out: expected a FanOutGroup, found .*{way_out}"):
            declare(fan_out=function)

    @pytest.mark.parametrize("misspelt", ["min_sucess", "count", "fanout", "op_args", "items"])
    def test_an_argument_that_there_is_not_is_refused(self, misspelt: str) -> None:
        with pytest.raises(TypeError, match=rf"(?s)combine.*{misspelt}"):
            declare(**{misspelt: 1})

    def test_task_id_cannot_be_left_out(self) -> None:
        with pytest.raises(TypeError, match="task_id"):
            FanInOperator(fan_out=group())

    def test_arguments_are_given_by_name(self) -> None:
        fan_in_class: Any = FanInOperator

        with pytest.raises(TypeError, match="keyword arguments"):
            fan_in_class("combine", group())

    def test_a_task_of_the_same_id_is_refused_by_airflow(self) -> None:
        declare()

        with pytest.raises(Exception, match="Task id 'combine' has already been added"):
            declare(fan_out=group("other"))

    def test_a_number_above_zero_declared_branches_is_for_on_empty(self) -> None:
        """A literal zero comes from a configuration."""
        assert declare(fan_out=group(count=0), min_success=3).policy.when_empty == "fail"

    def test_a_number_above_what_a_prefix_will_find_is_known_at_run_time_only(self) -> None:
        assert declare(task_id_prefix="p", min_success=1000).policy.min_success == 1000

    @pytest.mark.parametrize("number", [1, 8])
    def test_a_number_up_to_what_is_declared_is_taken(self, number: int) -> None:
        assert declare(min_success=number).policy.min_success == number

    @pytest.mark.parametrize("ratio", [1, 1.0, 0.01, Fraction(1, 3), Decimal("0.9")], ids=repr)
    def test_a_ratio_up_to_all_is_taken(self, ratio: Any) -> None:
        assert declare(min_success_ratio=ratio).policy.min_success_ratio == ratio

    @pytest.mark.parametrize(
        "python_callable",
        [
            pytest.param(combine, id="a function"),
            pytest.param(lambda results, **context: None, id="any keyword"),
            pytest.param(lambda *everything: None, id="any position"),
            pytest.param(lambda results, ti, ds: None, id="context names"),
            pytest.param(functools.partial(combine, threshold=1), id="functools.partial"),
            pytest.param(functools.partial(strict, threshold=1), id="functools.partial of what is required"),
            pytest.param(filled, id="a wrapper that fills what the function requires"),
            pytest.param(Combining(), id="an object that can be called"),
            pytest.param(Combining().method, id="a method"),
            pytest.param(lambda results, *rest, **more: None, id="any others"),
            pytest.param(len, id="a builtin"),
            pytest.param(sorted, id="another builtin"),
        ],
    )
    def test_what_can_be_called_with_the_results_is_taken(self, python_callable: Callable[..., Any]) -> None:
        assert declare(python_callable=python_callable).python_callable is python_callable


@pytest.mark.parametrize("threshold", [3, "{{ ds }}", load], ids=["a value", "a template", "an output"])
def test_op_kwargs_give_what_the_function_requires(threshold: Any) -> None:
    given = threshold() if threshold is load else threshold

    assert declare(python_callable=strict, op_kwargs={"threshold": given}).op_kwargs == {"threshold": given}


@pytest.mark.parametrize(
    "mapping",
    [
        pytest.param(lambda fan_in: fan_in.partial(task_id="combine"), id="partial"),
        pytest.param(
            lambda fan_in: fan_in.partial(task_id="c", fan_out=None).expand(key=["a"]),
            id="partial and expand",
        ),
        pytest.param(lambda fan_in: fan_in.partial(), id="partial of nothing"),
        pytest.param(lambda fan_in: fan_in.expand(key=["a"]), id="expand alone"),
        pytest.param(lambda fan_in: fan_in.expand_kwargs([{"key": "a"}]), id="expand_kwargs alone"),
        pytest.param(lambda _: declare().expand(key=["a"]), id="expand of one that is made"),
    ],
)
def test_a_fan_in_cannot_be_mapped(mapping: Callable[[type[FanInOperator]], object]) -> None:
    with pytest.raises(
        TypeError, match=r"FanInOperator can't be mapped .*FanOutGroup\(…, items=fan_in.output\)"
    ):
        mapping(FanInOperator)


class TestWaitingOnThePast:
    """The next run would hang."""

    @pytest.mark.parametrize(
        "tolerance", [{"min_success": 1}, {"min_success_ratio": 0.5}], ids=["number", "ratio"]
    )
    @pytest.mark.parametrize("setting", ["depends_on_past", "wait_for_downstream"])
    @pytest.mark.parametrize("level", ["dag", "group", "operator"])
    def test_a_tolerance_over_such_branches_is_refused(
        self, tolerance: dict[str, Any], setting: str, level: str
    ) -> None:
        given: Any = {setting: True}
        with DAG("d", schedule=None, default_args=given if level == "dag" else {}):
            process = group(
                branch=task(**given)(work) if level == "operator" else work,
                default_args=given if level == "group" else {},
                count=2,
            )
            with pytest.raises(
                ValueError,
                match=rf"'combine': {next(iter(tolerance))}: a tolerance over tasks with depends_on_past or "
                r"wait_for_downstream \('process.process_0', 'process.process_1'\)",
            ):
                declare(fan_out=process, **tolerance)

    def test_one_such_branch_is_enough(self) -> None:
        process = group(branch={"a": work, "b": task(depends_on_past=True)(work)}, count=None)

        with pytest.raises(ValueError, match=r"min_success: .*\('process.b'\)"):
            declare(fan_out=process, min_success=1)

    def test_without_a_tolerance_they_are_taken(self) -> None:
        assert declare(fan_out=group(default_args={"depends_on_past": True})).task_id == "combine"

    def test_the_fan_in_itself_may_wait(self) -> None:
        assert declare(min_success=1, depends_on_past=True).depends_on_past is True


class TestMappedTaskGroups:
    """Groups in a mapped task group."""

    def test_group_and_fan_in_may_be_in_the_same(self, dag: DAG) -> None:
        @task_group
        def each(number: int) -> None:
            declare(fan_out=group(count=1))

        each.expand(number=[1, 2])

        assert dag.get_task("each.combine").upstream_task_ids == {"each.process.process_0"}

    def test_a_fan_in_outside_is_refused(self) -> None:
        @task_group
        def each(number: int) -> None:
            inside.append(group(count=1))

        inside: list[FanOutGroup] = []
        each.expand(number=[1, 2])

        with pytest.raises(
            ValueError,
            match=r"group 'each\.process' is in the mapped task group 'each', and the fan-in in no mapped",
        ):
            declare(fan_out=inside[0])

    def test_a_group_outside_is_refused(self) -> None:
        outside = group(count=1)

        @task_group
        def each(number: int) -> None:
            declare(fan_out=outside)

        with pytest.raises(
            ValueError, match="is in no mapped task group, and the fan-in in the mapped task group 'each'"
        ):
            each.expand(number=[1, 2])


class TestAnOperator:
    def test_arguments_of_every_operator_are_taken(self) -> None:
        fan_in = declare(retries=3, pool="small", doc_md="# mine")

        assert (fan_in.retries, fan_in.pool, fan_in.doc_md) == (3, "small", "# mine")

    def test_default_args_of_the_dag_hold(self) -> None:
        with DAG("d", schedule=None, default_args={"retries": 3}):
            assert declare().retries == 3

    def test_its_template_fields_are(self) -> None:
        assert tuple(FanInOperator.template_fields) == ("task_id_prefix", "op_kwargs")

    @pytest.mark.parametrize("field", FanInOperator.template_fields)
    def test_every_template_field_is_an_attribute(self, field: str) -> None:
        assert hasattr(declare(), field)

    def test_templates_are_rendered(self) -> None:
        fan_in = declare(
            task_id_prefix="part_{{ ds }}", python_callable=combine, op_kwargs={"threshold": "{{ 1 + 1 }}"}
        )

        fan_in.render_template_fields({"ds": "2026-01-01"})

        assert fan_in.task_id_prefix == "part_2026-01-01"
        assert fan_in.op_kwargs == {"threshold": "2"}

    def test_the_authors_op_kwargs_are_not_changed(self) -> None:
        op_kwargs = {"threshold": "{{ 1 + 1 }}"}
        fan_in = declare(python_callable=combine, op_kwargs=op_kwargs)

        fan_in.render_template_fields({})

        assert op_kwargs == {"threshold": "{{ 1 + 1 }}"}
