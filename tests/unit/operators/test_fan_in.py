from __future__ import annotations

import functools
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Label, TaskGroup, TriggerRule, chain, setup, task, task_group

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from airflow_fanout.decorators import fan_out
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from tests.unit.refused import wrong_type, wrong_value

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
    def test_a_group_is_wired_before_each_of_its_fan_ins(self) -> None:
        process = group(count=2)
        first, second = declare(task_id="first", fan_out=process), declare(task_id="second", fan_out=process)

        assert first.upstream_task_ids == {"process.process_0", "process.process_1"}
        assert second.upstream_task_ids == first.upstream_task_ids
        assert first.dag is process.dag

    def test_a_prefix_wires_nothing(self) -> None:
        group()

        assert declare(task_id_prefix="process.").upstream_task_ids == set()

    def test_it_is_wired_and_named_as_any_task(self) -> None:
        with TaskGroup("outer"):
            fan_in = declare(
                fan_out=group("inner", count=1), python_callable=combine, op_kwargs={"threshold": load()}
            )
        before, after = EmptyOperator(task_id="before"), EmptyOperator(task_id="after")
        chain(before, Label("too"), fan_in, after)
        FanOutGroup("second", branch=work, count=2, partial={"item": fan_in.output})

        assert fan_in.task_id == "outer.combine"
        assert fan_in.upstream_task_ids == {"outer.inner.inner_0", "outer.load", "before"}
        assert fan_in.downstream_task_ids == {"after", "second.second_0", "second.second_1"}


class TestTriggerRule:
    def test_it_is_all_done(self) -> None:
        assert declare().trigger_rule == TriggerRule.ALL_DONE
        with DAG("d", schedule=None, default_args={"trigger_rule": "none_failed"}):
            assert declare().trigger_rule == TriggerRule.ALL_DONE

    @pytest.mark.usefixtures("no_dag")
    def test_it_is_all_done_before_there_is_a_dag(self) -> None:
        assert declare(task_id_prefix="process").trigger_rule == TriggerRule.ALL_DONE

    @pytest.mark.parametrize(
        "arguments",
        [
            *({"trigger_rule": rule} for rule in ("none_failed", TriggerRule.NONE_FAILED, "all_done")),
            {"default_args": {"trigger_rule": "none_failed"}},
        ],
        ids=["a text", "an enum", "the right one", "in its own default_args"],
    )
    def test_one_given_by_the_author_is_refused(self, arguments: dict[str, Any]) -> None:
        message = "'combine': trigger_rule: found '(none_failed|all_done)'; leave it out: .*min_success="
        with pytest.raises(DeclarationValueError, match=message):
            declare(**arguments)


class TestFailFast:
    """Airflow allows no rule but all_success in such a Dag."""

    @pytest.mark.usefixtures("no_dag")
    @pytest.mark.parametrize("where", ["given", "of the group", "around"])
    def test_the_rule_is_the_one_that_airflow_allows(self, where: str) -> None:
        with DAG("d", schedule=None, fail_fast=True) as dag:
            process = group()
            with TaskGroup("outer") as outer:
                pass
        given: dict[str, Any] = {
            "given": {"fan_out": process, "dag": dag},
            "of the group": {"fan_out": process},
            "around": {"task_id_prefix": "process.", "task_group": outer},
        }

        assert declare(on_empty="skip", **given[where]).trigger_rule == TriggerRule.ALL_SUCCESS

    @pytest.mark.parametrize(
        ("argument", "value", "problem"),
        [
            ("min_success", 1, "in a fail_fast Dag the first failure ends the run"),
            ("min_success_ratio", 0.5, "in a fail_fast Dag the first failure ends the run"),
            ("on_empty", "succeed", "found 'succeed', but a fail_fast Dag skips .*use 'skip'"),
            ("on_empty", "fail", "found 'fail', but a fail_fast Dag skips .*use 'skip'"),
        ],
    )
    def test_what_it_could_not_decide_is_refused(self, argument: str, value: Any, problem: str) -> None:
        with (
            DAG("d", schedule=None, fail_fast=True),
            pytest.raises(DeclarationValueError, match=f"'combine': {argument}: {problem}"),
        ):
            declare(**{argument: value})


REFUSED = [
    wrong_value("fan_out: expected fan_out= or task_id_prefix=, found neither", fan_out=None),
    wrong_type("fan_out: expected a FanOutGroup, found 'process' of type str$", fan_out="process"),
    wrong_type("fan_out: expected a FanOutGroup, .*of type list$", fan_out=["a"]),
    wrong_type("fan_out: expected a FanOutGroup, found False", fan_out=False),
    wrong_value("task_id_prefix: found '', with which every task id starts; name the", task_id_prefix=""),
    wrong_type("task_id_prefix: expected a str, found 8 of type int", task_id_prefix=8),
    wrong_value("key: found ''; leave it out to read what each branch returned", key=""),
    wrong_type("key: expected the key of an XCom, found None", key=None),
    wrong_type("key: expected the key of an XCom, .*of type list", key=["a"]),
    wrong_value("min_success: expected 0 or more, found -1", min_success=-1),
    wrong_value("min_success: 9 is above the 8 branches that group 'process' declares", min_success=9),
    *(
        wrong_type(f"min_success: expected a whole number.*{value!r} of type", min_success=value)
        for value in (True, "6", 6.0)
    ),
    *(
        wrong_value(f"min_success_ratio: expected 0 <= ratio <= 1, found {ratio}", min_success_ratio=ratio)
        for ratio in (-0.1, 1.01, 95, float("nan"), float("inf"), Decimal("NaN"), Fraction(10, 9))
    ),
    *(
        wrong_type(f"min_success_ratio: expected a number, found {value!r} of type", min_success_ratio=value)
        for value in (True, "0.9")
    ),
    *(
        wrong_value(f"count_skipped: expected one of .*found .*{found}", count_skipped=value, min_success=1)
        for found, value in (("ignore", "ignore"), ("None", None), ("success", ["success"]))
    ),
    wrong_value("count_skipped: found 'success', which needs min_success= or", count_skipped="success"),
    wrong_value("on_empty: expected one of 'succeed', 'fail', 'skip', None, found 'x'", on_empty="x"),
    wrong_value("op_kwargs: binds 'low', but there is no python_callable", op_kwargs={"low": 1}),
    wrong_type("pool_slots: expected a whole number, 1 or more, found 'a' of type str", pool_slots="a"),
    wrong_type("op_kwargs: expected a dict, found", python_callable=combine, op_kwargs=[1]),
    wrong_type("python_callable: expected a plain function, found 'x' of type str", python_callable="x"),
    wrong_type("python_callable: .*found a @task; leave the decorator out", python_callable=task(combine)),
    wrong_type("python_callable: .*found an async def; use asyncio.run", python_callable=combine_async),
    wrong_type("python_callable: can't be called with the results first", python_callable=lambda: None),
    wrong_type("python_callable: can't be called with", python_callable=lambda *, results: None),
    wrong_type("python_callable: .*op_kwargs 'treshold'", python_callable=combine, op_kwargs={"treshold": 1}),
    wrong_type("python_callable: .*multiple values for", python_callable=combine, op_kwargs={"results": 1}),
    wrong_type("python_callable: .* Airflow fills 'params'; rename it", python_callable=lambda params: None),
    wrong_type(r"python_callable: needs 'threshold' .*op_kwargs=\{'threshold': …\}", python_callable=strict),
    wrong_type(
        "python_callable: needs 'high'",
        python_callable=lambda results, ti, *, low, high: 0,
        op_kwargs={"low": 1},
    ),
    wrong_type(
        "python_callable: needs 'low'", python_callable=functools.partial(lambda _, low, high: 0, high=1)
    ),
]


class TestRefusedArguments:
    @pytest.mark.parametrize(("declared", "error", "message"), REFUSED)
    def test_an_argument_is_refused_by_name(
        self, declared: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=f"^FanInOperator 'combine': {message}"):
            declare(**declared)

    def test_group_and_prefix_together_are_refused(self) -> None:
        with pytest.raises(DeclarationValueError, match=r"fan_out: expected .*, found both"):
            declare(fan_out=group(), task_id_prefix="p")

    def test_what_a_setup_returns_is_refused_where_airflow_would_refuse_the_dag(self) -> None:
        message = "{}: takes what the setup 'load.*' returns.*a plain @task between them.*xcom_pull"
        with pytest.raises(DeclarationValueError, match=message.format("op_kwargs")):
            declare(python_callable=combine, op_kwargs={"threshold": [setup(load.function)()]})
        with DAG("c", schedule=None), pytest.raises(DeclarationValueError, match=message.format("min_s.*")):
            declare(min_success=setup(load.function)())

        with DAG("d", schedule=None, fail_fast=True) as dag:
            declare(python_callable=combine, op_kwargs={"threshold": setup(load.function)()})
        dag.validate_setup_teardown()  # type: ignore[no-untyped-call]

    @pytest.mark.parametrize(
        ("make", "way_out"),
        [
            *(
                pytest.param(make, "for tasks of your own use task_id_prefix= .*wire them", id=name)
                for name, make in {
                    "an output": load,
                    "a mapped output": lambda: task(work).override(task_id="score").expand(item=["a"]),
                    "a task": lambda: EmptyOperator(task_id="plain"),
                    "a mapped task": lambda: BashOperator.partial(task_id="b").expand(bash_command=["true"]),
                    "several": lambda: [load(), EmptyOperator(task_id="plain")],
                    "a task group": plain_group,
                }.items()
            ),
            pytest.param(lambda: load, r"make one: FanOutGroup\('load', branch=load, …\)", id="@task"),
            pytest.param(
                lambda: fan_out(work, count=2), r"a @task.fan_out function; call", id="@task.fan_out"
            ),
        ],
    )
    def test_tasks_and_functions_as_fan_out_are_refused_with_the_way_out(
        self, make: Callable[[], Any], way_out: str
    ) -> None:
        with pytest.raises(DeclarationTypeError, match=f"fan_out: expected a FanOutGroup, found .*{way_out}"):
            declare(fan_out=make())


class TestTakenArguments:
    @pytest.mark.parametrize(
        ("number", "source"),
        [
            pytest.param(1, dict, id="1"),
            pytest.param(8, dict, id="all"),
            pytest.param(3, lambda: {"fan_out": group(count=0)}, id="a literal zero, which is for on_empty"),
            pytest.param(1000, lambda: {"task_id_prefix": "p"}, id="what a prefix will find"),
        ],
    )
    def test_a_number_that_may_be_reached_is_taken(self, number: int, source: Callable[[], Any]) -> None:
        assert declare(min_success=number, **source()).policy.min_success == number

    @pytest.mark.parametrize("ratio", [1, 1.0, 0.01, Fraction(1, 3), Decimal("0.9")], ids=repr)
    def test_a_ratio_up_to_all_is_taken(self, ratio: Any) -> None:
        assert declare(min_success_ratio=ratio).policy.min_success_ratio == ratio

    @pytest.mark.parametrize(
        "python_callable",
        [
            pytest.param(combine, id="a function"),
            pytest.param(lambda results, *rest, **more: None, id="any others"),
            pytest.param(lambda *everything: None, id="any position"),
            pytest.param(lambda results, ti, ds: None, id="context names"),
            pytest.param(functools.partial(strict, threshold=1), id="functools.partial"),
            pytest.param(filled, id="a wrapper that fills what the function requires"),
            pytest.param(Combining(), id="an object that can be called"),
            pytest.param(Combining().method, id="a method"),
            pytest.param(sorted, id="a builtin"),
        ],
    )
    def test_what_can_be_called_with_the_results_is_taken(self, python_callable: Callable[..., Any]) -> None:
        assert declare(python_callable=python_callable).python_callable is python_callable

    @pytest.mark.parametrize(
        "give", [lambda: 3, lambda: "{{ ds }}", load], ids=["a value", "a template", "an output"]
    )
    def test_op_kwargs_give_what_the_function_requires(self, give: Callable[[], Any]) -> None:
        op_kwargs = {"threshold": give()}

        assert declare(python_callable=strict, op_kwargs=op_kwargs).op_kwargs == op_kwargs


@pytest.mark.parametrize(
    "mapping",
    [
        pytest.param(lambda fan_in: fan_in.partial(task_id="c", fan_out=None).expand(key=["a"]), id="both"),
        pytest.param(lambda fan_in: fan_in.partial(), id="partial of nothing"),
        pytest.param(lambda fan_in: fan_in.expand(key=["a"]), id="expand alone"),
        pytest.param(lambda fan_in: fan_in.expand_kwargs([{"key": "a"}]), id="expand_kwargs alone"),
        pytest.param(lambda _: declare().expand(key=["a"]), id="expand of one that is made"),
    ],
)
def test_a_fan_in_can_not_be_mapped(mapping: Callable[[type[FanInOperator]], object]) -> None:
    message = r"FanInOperator can't be mapped .*FanOutGroup\(…, items=fan_in.output\)"
    with pytest.raises(TypeError, match=message):
        mapping(FanInOperator)


class TestWaitingOnThePast:
    """The next run would hang."""

    @pytest.mark.parametrize("tolerance", [{"min_success": 1}, {"min_success_ratio": 0.5}], ids=str)
    @pytest.mark.parametrize("setting", ["depends_on_past", "wait_for_downstream"])
    @pytest.mark.parametrize("level", ["dag", "group", "operator"])
    def test_a_tolerance_over_such_branches_is_refused(
        self, tolerance: dict[str, Any], setting: str, level: str
    ) -> None:
        given: Any = {setting: True}
        with DAG("d", schedule=None, default_args=given if level == "dag" else {}):
            branch = task(**given)(work) if level == "operator" else work
            process = group(branch=branch, default_args=given if level == "group" else {}, count=2)
            message = (
                f"'combine': {next(iter(tolerance))}: a tolerance over tasks with depends_on_past or "
                r"wait_for_downstream \('process.process_0', 'process.process_1'\)"
            )
            with pytest.raises(DeclarationValueError, match=message):
                declare(fan_out=process, **tolerance)

    def test_one_such_branch_is_enough(self) -> None:
        process = group(branch={"a": work, "b": task(depends_on_past=True)(work)}, count=None)

        with pytest.raises(DeclarationValueError, match=r"min_success: .*\('process.b'\)"):
            declare(fan_out=process, min_success=1)

    def test_they_are_taken_without_a_tolerance_and_so_is_a_fan_in_that_waits(self) -> None:
        assert declare(fan_out=group(default_args={"depends_on_past": True})).task_id == "combine"
        assert declare(
            task_id="g", fan_out=group("other"), min_success=1, depends_on_past=True
        ).depends_on_past


class TestMappedTaskGroups:
    def test_group_and_fan_in_may_be_in_the_same(self, dag: DAG) -> None:
        @task_group
        def each(number: int) -> None:
            declare(fan_out=group(count=1))

        each.expand(number=[1, 2])

        assert dag.get_task("each.combine").upstream_task_ids == {"each.process.process_0"}

    def test_a_fan_in_outside_is_refused(self) -> None:
        inside: list[FanOutGroup] = []

        @task_group
        def each(number: int) -> None:
            inside.append(group(count=1))

        each.expand(number=[1, 2])

        message = r"group 'each\.process' is in the mapped task group 'each', and the fan-in in no mapped"
        with pytest.raises(DeclarationValueError, match=message):
            declare(fan_out=inside[0])

    def test_a_group_outside_is_refused(self) -> None:
        outside = group(count=1)

        @task_group
        def each(number: int) -> None:
            declare(fan_out=outside)

        message = "is in no mapped task group, and the fan-in in the mapped task group 'each'; put them into"
        with pytest.raises(DeclarationValueError, match=message):
            each.expand(number=[1, 2])


class TestAnOperator:
    def test_templates_are_rendered_and_the_authors_op_kwargs_stay(self) -> None:
        op_kwargs = {"threshold": "{{ 1 + 1 }}"}
        fan_in = declare(task_id_prefix="part_{{ ds }}", python_callable=combine, op_kwargs=op_kwargs)

        fan_in.render_template_fields({"ds": "2026-01-01"})

        assert (fan_in.task_id_prefix, fan_in.op_kwargs) == ("part_2026-01-01", {"threshold": "2"})
        assert op_kwargs == {"threshold": "{{ 1 + 1 }}"}
