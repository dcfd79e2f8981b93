"""``@task.fan_out`` and ``@task.fan_in``; mypy checks that the wrong uses here are refused, too."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, BaseOperator, Param, TaskGroup, XComArg, dag, setup, task, task_group, teardown
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from airflow_fanout.decorators import (
    FAN_IN_OPTIONS,
    FAN_OUT_OPTIONS,
    FanInFunction,
    FanOutFunction,
    fan_in,
    fan_out,
)
from airflow_fanout.exceptions import DeclarationError, DeclarationTypeError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


@task
def load() -> str:
    return "text"


@task
def list_documents() -> list[str]:
    return ["a", "b"]


@task
def use(value: Any) -> Any:
    return value


def process(text: str, lang: str = "en") -> dict[str, str]:
    """Process a text."""
    return {lang: text}


async def process_async(text: str) -> str:
    return text


def combine(results: FanInResults, threshold: int, word: str = "") -> str:
    """Combine texts."""
    return word * (len(results) + threshold)


def collect(results: FanInResults) -> int:
    return len(results)


def operator_of(output: XComArg) -> Any:
    return next(iter(output.iter_references()))[0]


def ids(group: FanOutGroup) -> list[str]:
    return [operator.task_id for operator in group]


def serialized(declare: Callable[[], object]) -> Any:
    with DAG("twin", schedule=None) as twin:
        declare()
    return DagSerialization.to_dict(twin)


NO_FUNCTION: Any = 8

HOW: dict[str, Any] = {"static": {}, "mapped": {"mapped": True}, "batched": {"items_per_task": 1}}
"""Options that decide how branches run."""


def test_airflow_finds_the_very_same_functions() -> None:
    found: Any = task

    assert (found.fan_out, found.fan_in) == (fan_out, fan_in)


EVERY_OPTION: dict[str, Any] = {
    "key": "other",
    "retries": 3,
    "min_success": 1,
    "min_success_ratio": 0.5,
    "count_skipped": "failure",
    "on_empty": "skip",
}

TWINS = [
    pytest.param(
        lambda: fan_in(combine, min_success=2)(fan_out(process, count=3, retries=2)(load()), threshold=1),
        lambda: FanInOperator(
            task_id="combine",
            fan_out=FanOutGroup(
                "process",
                branch=task(retries=2, multiple_outputs=False)(process),
                count=3,
                partial={"text": load()},
            ),
            python_callable=combine,
            op_kwargs={"threshold": 1},
            min_success=2,
            doc_md=combine.__doc__,
        ),
        id="a count",
    ),
    *(
        pytest.param(
            lambda how=how: fan_in(collect)(fan_out(process_async, **how).expand(text=list_documents())),
            lambda how=how: FanInOperator(
                task_id="collect",
                fan_out=FanOutGroup("process_async", branch=process_async, items=list_documents(), **how),
                python_callable=collect,
            ),
            id=f"items of run time: {how}",
        )
        for how in ({}, {"items_per_task": 2})
    ),
    pytest.param(
        lambda: fan_in(combine, task_id_prefix="process_", **EVERY_OPTION)(threshold=1),
        lambda: FanInOperator(
            task_id="combine",
            task_id_prefix="process_",
            python_callable=combine,
            op_kwargs={"threshold": 1},
            doc_md=combine.__doc__,
            **EVERY_OPTION,
        ),
        id="a prefix",
    ),
]


class TestTwins:
    """What they declare is what one would write by hand."""

    @pytest.mark.parametrize(("decorated", "by_hand"), TWINS)
    def test_the_serialized_dags_are_the_same(self, decorated: Any, by_hand: Any) -> None:
        assert serialized(decorated) == serialized(by_hand)

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({}, id="static"),
            pytest.param({"mapped": True, "max_concurrency": 2}, id="mapped"),
            pytest.param({"items_per_task": 2, "item_concurrency": 2}, id="batched"),
            pytest.param({"items_per_task": 2, "item_executor": "process"}, id="processes"),
            pytest.param({"stop_after_failures": 1, "tooltip": "Texts", "prefix_group_id": True}, id="more"),
            pytest.param({"default_args": {"pool": "texts"}}, id="default_args"),
        ],
    )
    @pytest.mark.parametrize("items", [["a", "b"], {"eu": "a", "us": "b"}], ids=["list", "mapping"])
    def test_literal_items_are_the_same(self, options: Any, items: Any) -> None:
        def decorated() -> None:
            fan_in(collect)(fan_out(process, **options).partial(lang="de").expand(text=items))

        def by_hand() -> None:
            group = FanOutGroup("process", branch=process, items=items, partial={"lang": "de"}, **options)
            FanInOperator(task_id="collect", fan_out=group, python_callable=collect)

        assert serialized(decorated) == serialized(by_hand)

    def test_a_count_may_be_chosen_for_each_run(self) -> None:
        @dag(schedule=None, params={"number": Param(2, type="integer")})
        def chosen(number: int = 2) -> None:
            fan_in(collect)(fan_out(count=number)(process)("text"))

        assert chosen().task_ids == ["process.split", "process.each", "collect"]


class TestFanOut:
    def test_its_id_is_the_functions_name_with_a_number_for_a_second_call(self) -> None:
        processing = fan_out(process, count=2)
        groups = [processing("text") for _ in range(3)]
        with TaskGroup("inner"):
            groups.append(processing("text"))

        assert ids(groups[0]) == ["process.process_0", "process.process_1"]
        assert [group.group_id for group in groups] == [
            "process",
            "process__1",
            "process__2",
            "inner.process",
        ]
        assert fan_out(process, count=1, group_id="first")("text").group_id == "first"

    def test_override_replaces_options_of_a_copy_that_keeps_bound_arguments(self) -> None:
        processing = fan_out(process, count=1).partial(lang="de")
        group = processing.override(group_id="second", count=2)("text")

        assert (group.group_id, len(ids(group)), group.partial) == (
            "second",
            2,
            {"lang": "de", "text": "text"},
        )
        assert len(ids(processing("text"))) == 1

    @pytest.mark.parametrize(
        "call",
        [
            pytest.param(lambda each: each("text", "de"), id="by position"),
            pytest.param(lambda each: each(lang="de", text="text"), id="by name"),
            pytest.param(lambda each: each.partial(lang="de")("text"), id="some of them before"),
            pytest.param(lambda each: each.partial(lang="de").partial(text="text")(), id="all before"),
        ],
    )
    def test_arguments_of_a_call_are_bound_in_every_branch(self, call: Any) -> None:
        assert call(fan_out(process, count=2)).partial == {"text": "text", "lang": "de"}

    @pytest.mark.parametrize("options", HOW.values(), ids=HOW)
    def test_settings_of_a_task_hold_for_every_branch(self, options: Any) -> None:
        settings: Any = {"retries": 3, "execution_timeout": timedelta(minutes=5), "owner": "team"}
        group = fan_out(process, **options, **settings).expand(text=["a"])
        each = group.dag.get_task(group.declared.all_task_ids[-1])

        assert {name: getattr(each, name) for name in settings} == settings

    @pytest.mark.parametrize(("options", "apart"), [({}, False), ({"multiple_outputs": True}, True)], ids=str)
    def test_a_dict_is_one_value_unless_told_otherwise(self, options: Any, apart: bool) -> None:
        """Airflow's ``@task`` would push each key apart, because of ``-> dict``."""
        (each,) = fan_out(process, count=1, **options)("text")

        assert (each.multiple_outputs, each.doc_md) == (apart, "Process a text.")

    def test_the_function_can_still_be_called(self) -> None:
        processing = fan_out(count=2)(process)

        assert processing.function("text") == {"en": "text"}
        assert inspect.signature(processing) == inspect.signature(process)
        assert (processing.__name__, processing.__doc__) == ("process", "Process a text.")

    def test_above_another_decorator_it_makes_branches_of_that(self) -> None:
        @fan_out(count=1)
        @task.bash(env={"A": "1"})
        def shell(text: str) -> str:
            return f"echo {text}"

        @fan_out
        @task_group
        def both(text: str, unused: str = "") -> Any:
            return use(use(text))

        (each,) = shell("text")
        assert (each.task_id, each.env) == ("shell.shell_0", {"A": "1"})
        assert ids(both.expand(text={"eu": "a"})) == ["both.eu.use", "both.eu.use__1"]


def numbers(first: int = 1, second: int = 2) -> tuple[int, int]:
    return first, second


class TestExpand:
    @pytest.mark.parametrize("options", HOW.values(), ids=HOW)
    def test_an_item_goes_to_the_parameter_that_was_named(self, options: Any) -> None:
        group = fan_out(numbers, **options).expand(second=[20])

        if group.work is not None:
            assert group.work.functions[""].bind({}, 20) == ((), {"second": 20})
        else:
            (each,) = group
            assert (each.op_kwargs_expand_input.value[0] if options else each.op_kwargs) == {"second": 20}

    def test_any_name_and_a_branch_of_several_tasks_take_the_item_too(self) -> None:
        def work(**given: int) -> dict[str, int]:
            return given

        @fan_out(mapped=True)
        @task_group
        def both(first: int = 1, second: int = 2) -> Any:
            return use(use([first, second]))

        (each,) = fan_out(work).partial(a=1).expand(b=[20])
        assert each.op_kwargs == {"a": 1, "b": 20}
        assert ids(both.expand(second=[20])) == ["both.each.use", "both.each.use__1"]


REFUSED_FAN_OUTS: list[tuple[Callable[[Any], object], str]] = [
    (lambda each: each.expand(), "expand: expected the items of a parameter, found none"),
    (lambda each: each.expand(text="a", lang=["en"]), "product: text: expected a list .*found 'a' of type"),
    (lambda each: each.expand(text=["a"], ds=["b"]), "call: does not fit process"),
    (lambda each: each.partial(lang="en").expand(text=["a"], lang=["b"]), "call: gives 'lang', which"),
    (lambda each: each.expand_kwargs([{}]), r"items: item 0 lacks 'text', which process\(text, lang\) needs"),
    (lambda each: each.expand_kwargs("abc"), "items: expected a list .*found 'abc' of type str"),
    (lambda each: each.expand(doc=["a"]), r"call: does not fit process\(text, lang\): .*argument 'doc'"),
    (lambda each: each.partial(text="a").expand(text=["a"]), r"call: gives 'text', which \.partial\(…\) has"),
    (lambda each: each.override(count=2).expand(text=["a"]), "count: .*found count and items"),
    (lambda each: each.expand(text="abc"), r"items: .*found 'abc' of type str; use \[…\]"),
    (
        lambda each: each("text"),
        r"count: expected .*@task\.fan_out\(count=8\), or .*process\.expand\(<parameter>=\[…\]\), after",
    ),
    (lambda each: each("a", "b", "c"), "call: .*too many positional arguments"),
    (lambda each: each(txt="a"), "call: .*unexpected keyword argument 'txt'"),
    (lambda each: each("a", text="b"), "call: .*multiple values for argument 'text'"),
    (lambda each: each.partial(text="a")("b"), "call: gives 'text', which .partial"),
    (lambda each: each.partial(txt="a"), "call: .* keyword argument 'txt'$"),
    (lambda each: each.override(count=2)(), r"branch: process\(text, lang\) needs 'text'"),
    (
        lambda _: fan_out(lambda *texts: texts, count=2)("a", "b"),
        r"call: gives 'b' to \*texts; give arguments",
    ),
    (lambda _: fan_out(lambda ds: ds).expand(ds=["a"]), "expand: 'ds' is what Airflow gives to every task"),
    (
        lambda _: fan_out(use, count=2, retries=3)("text"),
        "retries: is a setting of tasks, which the decorator below makes; give it there",
    ),
    (lambda _: fan_out(NO_FUNCTION), "expected a function, found 8; give arguments by name"),
    (lambda _: fan_out(setup(task(collect)), count=2)(), "branch: collect is a @setup"),
    (lambda _: setup(fan_out(process, count=2)), "setup: is neither a @setup nor a @teardown"),
    (lambda _: teardown(fan_in(collect)), "'collect': setup: is neither a @setup nor a @teardown"),
]


@pytest.mark.parametrize(
    ("declare", "message"), REFUSED_FAN_OUTS, ids=[message for _, message in REFUSED_FAN_OUTS]
)
def test_a_fan_out_that_can_not_be_made_is_refused(declare: Callable[[Any], object], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare(fan_out(process))


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "way_out"),
        [
            ("cuont", r"did you mean 'count'\?"),
            ("retrys", r"did you mean 'retries'\?"),
            ("xyz", "there are "),
            ("items", r"hand them over in \.expand"),
            ("partial", "give arguments in the call"),
            ("branch", "leave it out: the function is what each branch runs"),
            ("task_id", "say group_id="),
            ("task_group", "say parent_group="),
        ],
    )
    def test_an_unknown_or_misplaced_option_of_a_fan_out_is_refused(self, option: str, way_out: str) -> None:
        message = rf"@task\.fan_out 'process': {option}: is no argument of @task\.fan_out; {way_out}"
        unknown: Any = {option: 1}
        with pytest.raises(DeclarationTypeError, match=message):
            fan_out(**unknown)(process)
        with pytest.raises(DeclarationTypeError, match=message):
            fan_out(process).override(**unknown)

    @pytest.mark.parametrize(
        ("option", "way_out"),
        [
            ("min_sucess", r"did you mean 'min_success'\?"),
            ("fan_out", "call the function with the group"),
            ("op_kwargs", "give arguments in the call"),
            ("python_callable", "leave it out: it is the function"),
        ],
    )
    def test_an_unknown_or_misplaced_option_of_a_fan_in_is_refused(self, option: str, way_out: str) -> None:
        unknown: Any = {option: 1}
        message = rf"'collect': {option}: is no argument of @task\.fan_in; {way_out}"
        with pytest.raises(DeclarationTypeError, match=message):
            fan_in(**unknown)(collect)

    def test_all_settings_of_airflow_are_taken(self) -> None:
        settings = inspect.signature(BaseOperator.__init__).parameters.keys() - {"self", "kwargs"}
        group = inspect.signature(TaskGroup).parameters.keys()

        assert not ({*settings, *group} - FAN_OUT_OPTIONS) - {"task_id", "task_group"}
        assert not settings - FAN_IN_OPTIONS

    def test_mypy_refuses_own_options_of_another_type(self) -> None:
        """It reports an unused ``type: ignore`` if it does not."""
        with pytest.raises(DeclarationError):
            fan_out(count="2")(process)("text")  # type: ignore[call-overload]
        with pytest.raises(DeclarationError):
            fan_out(process).expand(text=5)  # type: ignore[arg-type]
        with pytest.raises(DeclarationError):
            fan_in(count_skipped="never", min_success=1)(collect)(  # type: ignore[call-overload]
                fan_out(process, count=2)("text")
            )
        with pytest.raises(DeclarationError):
            fan_in(collect)(5)  # type: ignore[call-overload]

    def test_mypy_knows_what_they_return(self) -> None:
        processing: FanOutFunction[..., dict[str, str]] = fan_out(count=2, retry_delay=timedelta(1))(process)
        group: FanOutGroup = processing.partial(lang="de").override(pool="texts")(text=load())
        combining: FanInFunction[..., str] = fan_in(min_success_ratio=0.5)(combine)
        output: XComArg = combining(group, threshold=3)

        assert isinstance(output, XComArg)


class TestFanIn:
    @pytest.mark.parametrize(
        "decorate", [lambda: fan_in(collect), lambda: fan_in()(collect)], ids=["bare", "with parentheses"]
    )
    def test_it_returns_the_fan_ins_output(self, decorate: Any) -> None:
        operator = operator_of(decorate()(fan_out(process, count=2)("text")))

        assert isinstance(operator, FanInOperator)
        assert (operator.task_id, operator.python_callable) == ("collect", collect)
        assert operator.upstream_task_ids == {"process.process_0", "process.process_1"}

    def test_its_id_is_the_functions_name_with_a_number_for_a_second_call(self) -> None:
        group = fan_out(process, count=2)("text")
        combining = fan_in(collect)
        outputs = [combining(group), combining(group), combining.override(task_id="other")(group)]

        assert [operator_of(output).task_id for output in outputs] == ["collect", "collect__1", "other"]

    @pytest.mark.parametrize(
        "call",
        [
            pytest.param(lambda each, group: each(group, 3, "a"), id="by position"),
            pytest.param(lambda each, group: each(group, word="a", threshold=3), id="by name"),
        ],
    )
    def test_arguments_of_a_call_are_the_functions(self, call: Any) -> None:
        operator = operator_of(call(fan_in(combine), fan_out(process, count=2)("text")))

        assert operator.op_kwargs == {"threshold": 3, "word": "a"}

    def test_outputs_are_wired_before_and_after_it(self) -> None:
        combined = fan_in(combine)(fan_out(process, count=1)("text"), threshold=load())
        group = fan_out(process, group_id="next").expand(text=combined)

        assert operator_of(combined).upstream_task_ids == {"process.process_0", "load"}
        assert group.dag.get_task("next.each").upstream_task_ids == {"combine"}

    @pytest.mark.parametrize(
        ("options", "doc_md"),
        [({}, "Combine texts."), ({"doc_md": "Mine"}, "Mine"), ({"doc": "Mine"}, None)],
        ids=["the docstring", "doc_md", "doc"],
    )
    def test_the_docstring_describes_it_unless_something_else_does(self, options: Any, doc_md: Any) -> None:
        assert operator_of(fan_in(combine, task_id_prefix="a", **options)(threshold=1)).doc_md == doc_md


NO_GROUP = r"call: has task_id_prefix=, so it takes no group and no results; wire .*tasks >> combine\(…\)"

REFUSED_FAN_INS: list[tuple[Callable[[], object], str]] = [
    (fan_in(collect), r"call: expected the group to collect; write collect\(<group>, …\)"),
    (lambda: fan_in(collect)(load()), "fan_out: expected a FanOutGroup, found XComArg"),
    (lambda: fan_in(combine, task_id_prefix="use")(fan_out(process, count=2)("text")), NO_GROUP),
    (lambda: fan_in(combine, task_id_prefix="use")(use.expand(value=["a"])), f"{NO_GROUP}, and give other"),  # type: ignore[call-overload]
    (fan_in(combine, task_id_prefix="a"), "needs 'threshold' beside the results; give it"),
    (
        lambda: fan_in(combine, task_id_prefix="a")(results=2),
        "call: .*multiple values for argument 'results'",
    ),
    (lambda: fan_in(combine, task_id_prefix="a")(wrod=2), "call: .*unexpected keyword argument 'wrod'"),
    (fan_in(process_async, task_id_prefix="a"), "found an async def"),
    (fan_in(use, task_id_prefix="a"), "found a @task; leave the decorator out"),
    (fan_in(lambda ti: ti, task_id_prefix="a", task_id="b"), "Airflow fills 'ti'; rename"),
    (
        lambda: FanInOperator(task_id="a", task_id_prefix="a", python_callable=fan_in(collect)),
        r"found a @task\.fan_in; leave the decorator out",
    ),
]


@pytest.mark.parametrize(
    ("declare", "message"), REFUSED_FAN_INS, ids=[message for _, message in REFUSED_FAN_INS]
)
def test_a_fan_in_that_can_not_be_made_is_refused(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(DeclarationTypeError, match=message):
        declare()


@pytest.mark.parametrize("name", ["partial", "expand", "expand_kwargs"])
def test_a_fan_in_can_not_be_mapped(name: str) -> None:
    with pytest.raises(TypeError, match=r"FanInOperator can't be mapped"):
        getattr(fan_in(collect), name)(threshold=[1])
