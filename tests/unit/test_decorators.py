"""``@task.fan_out`` and ``@task.fan_in``; mypy checks that the wrong uses here are refused, too."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, BaseOperator, Param, TaskGroup, XComArg, dag, setup, task, task_group, teardown
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from airflow_fanout.decorators import FanInFunction, FanOutFunction, fan_in, fan_out
from airflow_fanout.exceptions import DeclarationError, DeclarationTypeError, DeclarationValueError

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


def serialized(declare: Callable[[], None]) -> Any:
    with DAG("twin", schedule=None) as twin:
        declare()
    return DagSerialization.to_dict(twin)


class TestRegistration:
    def test_airflow_finds_the_very_same_functions(self) -> None:
        found: Any = task

        assert found.fan_out is fan_out
        assert found.fan_in is fan_in


class TestTwins:
    """What they declare is what one would write by hand."""

    @pytest.mark.parametrize("mapped", [None, True], ids=["static", "mapped"])
    def test_a_count(self, mapped: bool | None) -> None:
        def decorated() -> None:
            group = fan_out(process, count=3, mapped=mapped, retries=2)(load())
            fan_in(combine, min_success=2)(group, threshold=1)

        def by_hand() -> None:
            group = FanOutGroup(
                "process",
                branch=task(retries=2, multiple_outputs=False)(process),
                count=3,
                mapped=mapped,
                partial={"text": load()},
            )
            FanInOperator(
                task_id="combine",
                fan_out=group,
                python_callable=combine,
                op_kwargs={"threshold": 1},
                min_success=2,
                doc_md=combine.__doc__,
            )

        assert serialized(decorated) == serialized(by_hand)

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({}, id="static"),
            pytest.param({"mapped": True, "max_concurrency": 2}, id="mapped"),
            pytest.param({"items_per_task": 2, "item_concurrency": 2}, id="batched"),
            pytest.param({"stop_after_failures": 1, "tooltip": "Texts", "prefix_group_id": True}, id="more"),
            pytest.param({"default_args": {"pool": "texts"}}, id="default_args"),
        ],
    )
    @pytest.mark.parametrize("items", [["a", "b"], {"eu": "a", "us": "b"}], ids=["list", "mapping"])
    def test_items(self, options: Any, items: Any) -> None:
        def decorated() -> None:
            fan_in(collect)(fan_out(process, **options).partial(lang="de").expand(text=items))

        def by_hand() -> None:
            group = FanOutGroup("process", branch=process, items=items, partial={"lang": "de"}, **options)
            FanInOperator(task_id="collect", fan_out=group, python_callable=collect)

        assert serialized(decorated) == serialized(by_hand)

    @pytest.mark.parametrize("options", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
    def test_items_known_at_run_time(self, options: Any) -> None:
        def decorated() -> None:
            fan_in(collect)(fan_out(process_async, **options).expand(text=list_documents()))

        def by_hand() -> None:
            group = FanOutGroup("process_async", branch=process_async, items=list_documents(), **options)
            FanInOperator(task_id="collect", fan_out=group, python_callable=collect)

        assert serialized(decorated) == serialized(by_hand)

    def test_a_prefix(self) -> None:
        def decorated() -> None:
            fan_in(combine, task_id_prefix="process_")(threshold=1)

        def by_hand() -> None:
            FanInOperator(
                task_id="combine",
                task_id_prefix="process_",
                python_callable=combine,
                op_kwargs={"threshold": 1},
                doc_md=combine.__doc__,
            )

        assert serialized(decorated) == serialized(by_hand)

    def test_a_count_chosen_for_each_run(self) -> None:
        @dag(schedule=None, params={"number": Param(2, type="integer")})
        def chosen(number: int = 2) -> None:
            fan_in(collect)(fan_out(count=number)(process)("text"))

        assert chosen().task_ids == ["process.split", "process.each", "collect"]


class TestFanOut:
    def test_it_is_named_after_the_function(self) -> None:
        assert ids(fan_out(process, count=2)("text")) == ["process.process_0", "process.process_1"]

    def test_a_second_call_has_a_number(self) -> None:
        processing = fan_out(process, count=1)

        assert [processing("text").group_id for _ in range(3)] == ["process", "process__1", "process__2"]

    def test_in_a_group_it_is_unique_there(self) -> None:
        processing = fan_out(process, count=1)
        processing("text")
        with TaskGroup("inner"):
            assert processing("text").group_id == "inner.process"

    def test_another_id_may_be_given(self) -> None:
        assert fan_out(process, count=1, group_id="first")("text").group_id == "first"
        assert fan_out(process, count=1).override(group_id="second")("text").group_id == "second"

    def test_override_leaves_the_decorator_as_it_was(self) -> None:
        processing = fan_out(process, count=1)
        processing.override(count=3)

        assert len(ids(processing("text"))) == 1

    def test_override_keeps_what_partial_bound(self) -> None:
        group = fan_out(process).partial(lang="de").override(count=1)("text")

        assert group.partial == {"lang": "de", "text": "text"}

    @pytest.mark.parametrize(
        "call",
        [
            pytest.param(lambda each: each("text", "de"), id="by position"),
            pytest.param(lambda each: each(lang="de", text="text"), id="by name"),
            pytest.param(lambda each: each.partial(lang="de")("text"), id="some of them before"),
            pytest.param(lambda each: each.partial(lang="de").partial(text="text")(), id="all before"),
        ],
    )
    def test_a_calls_arguments_are_bound_in_every_branch(self, call: Any) -> None:
        group = call(fan_out(process, count=2))

        assert group.partial == {"text": "text", "lang": "de"}

    def test_the_output_of_another_task_is_wired_before_it(self) -> None:
        group = fan_out(process, count=2)(load())

        assert [operator.upstream_task_ids for operator in group] == [{"load"}] * 2

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("retries", 3), ("pool", "texts"), ("execution_timeout", timedelta(minutes=5)), ("owner", "team")],
    )
    @pytest.mark.parametrize(
        "options", [{}, {"mapped": True}, {"items_per_task": 1}], ids=["static", "mapped", "batched"]
    )
    def test_a_setting_of_a_task_holds_for_every_branch(self, setting: Any, value: Any, options: Any) -> None:
        group = fan_out(process, **{**options, setting: value}).expand(text=["a"])
        each: Any = group.dag.get_task(group.declared.all_task_ids[-1])

        assert getattr(each, setting) == value

    def test_a_dict_is_one_value(self) -> None:
        """Airflow's ``@task`` would push each key apart, because of ``-> dict``."""
        (each,) = fan_out(process, count=1)("text")

        assert each.multiple_outputs is False

    def test_it_may_push_each_key_apart(self) -> None:
        (each,) = fan_out(process, count=1, multiple_outputs=True)("text")

        assert each.multiple_outputs is True

    def test_the_docstring_describes_each_branch(self) -> None:
        (each,) = fan_out(process, count=1)("text")

        assert each.doc_md == "Process a text."

    def test_the_function_can_still_be_called(self) -> None:
        processing = fan_out(count=2)(process)

        assert processing.function("text") == {"en": "text"}
        assert inspect.signature(processing) == inspect.signature(process)
        assert (processing.__name__, processing.__doc__) == ("process", "Process a text.")

    def test_a_function_under_another_task_decorator_is_that_task(self) -> None:
        @fan_out(count=1)
        @task.bash(env={"A": "1"})
        def shell(text: str) -> str:
            return f"echo {text}"

        (each,) = shell("text")
        assert (each.task_id, each.env) == ("shell.shell_0", {"A": "1"})

    def test_a_function_that_makes_several_tasks_is_a_branch_of_several_tasks(self) -> None:
        @fan_out
        @task_group
        def both(text: str, unused: str = "") -> Any:
            return use(use(text))

        group = both.expand(text={"eu": "a"})

        assert ids(group) == ["both.eu.use", "both.eu.use__1"]


class TestExpand:
    @pytest.mark.parametrize(
        "options", [{}, {"mapped": True}, {"items_per_task": 1}], ids=["static", "mapped", "batched"]
    )
    def test_an_item_goes_to_the_parameter_that_was_named(self, options: Any) -> None:
        def work(first: int = 1, second: int = 2) -> tuple[int, int]:
            return first, second

        group = fan_out(work, **options).expand(second=[20])

        if group.work is not None:
            assert group.work.functions[""].bind({}, 20) == ((), {"second": 20})
        else:
            (each,) = group
            given = each.op_kwargs_expand_input.value[0] if options else each.op_kwargs
            assert given == {"second": 20}

    def test_so_it_does_where_the_function_takes_any_name(self) -> None:
        def work(**given: int) -> dict[str, int]:
            return given

        (each,) = fan_out(work).partial(a=1).expand(b=[20])

        assert each.op_kwargs == {"a": 1, "b": 20}

    def test_so_it_does_in_a_branch_of_several_tasks(self) -> None:
        @fan_out(mapped=True)
        @task_group
        def both(first: int = 1, second: int = 2) -> Any:
            return use(use([first, second]))

        assert ids(both.expand(second=[20])) == ["both.each.use", "both.each.use__1"]

    @pytest.mark.parametrize(
        ("expand", "message"),
        [
            pytest.param(
                lambda each: each.expand(text=["a"], lang=["en"]),
                r"one parameter, found 'lang', 'text'; bind the others with \.partial",
                id="two",
            ),
            pytest.param(lambda each: each.expand(), "one parameter, found none", id="none"),
            pytest.param(
                lambda each: each.expand_kwargs([{"text": "a"}]),
                r"let that take a dict: \.expand\(item=",
                id="expand_kwargs",
            ),
            pytest.param(
                lambda each: each.expand(document=["a"]),
                r"does not fit process\(text, lang\): got an unexpected keyword argument 'document'",
                id="an unknown parameter",
            ),
            pytest.param(
                lambda each: each.partial(text="a").expand(text=["a"]),
                r"gives 'text', which \.partial\(…\) has bound already",
                id="a bound parameter",
            ),
            pytest.param(
                lambda each: each.override(count=2).expand(text=["a"]),
                "count=2 says how many branches there are, and so do items",
                id="a count too",
            ),
            pytest.param(
                lambda each: each.expand(text="abc"), r"found 'abc' of type str; use \[…\]", id="a text"
            ),
        ],
    )
    def test_what_it_refuses(self, expand: Any, message: str) -> None:
        with pytest.raises(DeclarationTypeError, match=message):
            expand(fan_out(process))

    def test_what_airflow_gives_is_no_item(self) -> None:
        def work(ds: str = "") -> str:
            return ds

        with pytest.raises(DeclarationTypeError, match="'ds' is what Airflow gives to every task itself"):
            fan_out(work).expand(ds=["2026-01-01"])


class TestBadFanOut:
    def test_somebody_has_to_say_how_many(self) -> None:
        with pytest.raises(
            DeclarationValueError,
            match=r"write @task\.fan_out\(count=8\), or .*process\.expand\(lang=\[…\]\), after \.partial",
        ):
            fan_out(process)("text")

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            pytest.param(lambda each: each("a", "b", "c"), "too many positional arguments", id="too many"),
            pytest.param(lambda each: each(txt="a"), "unexpected keyword argument 'txt'", id="unknown"),
            pytest.param(lambda each: each("a", text="b"), "multiple values for argument 'text'", id="twice"),
            pytest.param(
                lambda each: each.partial(text="a")("b"), "gives 'text', which .partial", id="bound already"
            ),
            pytest.param(lambda each: each(), r"process\(text, lang\) needs 'text'", id="too few"),
            pytest.param(lambda each: each.partial(txt="a"), "keyword argument 'txt'", id="partial"),
        ],
    )
    def test_a_call_that_does_not_fit(self, call: Any, message: str) -> None:
        with pytest.raises(DeclarationTypeError, match=message):
            call(fan_out(process, count=2))

    def test_arguments_are_given_by_name_where_there_are_stars(self) -> None:
        def work(*texts: str) -> int:
            return len(texts)

        with pytest.raises(DeclarationTypeError, match=r"gives 'b' to \*texts; give arguments by name"):
            fan_out(work, count=2)("a", "b")

    @pytest.mark.parametrize(
        ("option", "way_out"),
        [
            ("cuont", r"did you mean count=\?"),
            ("retrys", r"did you mean retries=\?"),
            ("xyz", "leave it out"),
            ("items", r"hand them over in \.expand"),
            ("partial", "give arguments in the call"),
            ("branch", "leave it out: the function is what each branch runs"),
            ("task_id", "say group_id="),
            ("task_group", "say parent_group="),
        ],
    )
    def test_an_unknown_option_is_named(self, option: str, way_out: str) -> None:
        message = rf"@task\.fan_out 'process': {option}: is no argument of @task\.fan_out; {way_out}"
        unknown: Any = {option: 1}
        with pytest.raises(DeclarationTypeError, match=message):
            fan_out(**unknown)(process)
        with pytest.raises(DeclarationTypeError, match=message):
            fan_out(process, count=1).override(**unknown)

    def test_mypy_refuses_wrong_options_too(self) -> None:
        """It reports an unused ``type: ignore`` if it does not."""
        with pytest.raises(DeclarationError):
            fan_out(cuont=2)(process)  # type: ignore[call-overload]
        with pytest.raises(DeclarationError):
            fan_out(count="2")(process)("text")  # type: ignore[call-overload]
        with pytest.raises(DeclarationError):
            fan_out(process).override(item_concurency=2)  # type: ignore[call-arg]
        with pytest.raises(DeclarationError):
            fan_out(process).expand(text=5)  # type: ignore[arg-type]

    def test_settings_of_a_function_that_is_decorated_already_are_given_there(self) -> None:
        with pytest.raises(
            DeclarationTypeError,
            match="retries: is a setting of tasks, which the decorator below makes; give it there",
        ):
            fan_out(use, count=2, retries=3)("text")

    def test_options_are_given_by_name(self) -> None:
        with pytest.raises(DeclarationTypeError, match="expected a function, found 8; give arguments by"):
            fan_out(8)  # type: ignore[call-overload]

    @pytest.mark.parametrize("decorator", [setup, teardown], ids=["setup", "teardown"])
    @pytest.mark.parametrize("fan", [fan_out(process, count=2), fan_in(collect)], ids=["fan_out", "fan_in"])
    def test_it_is_no_setup(self, decorator: Any, fan: Any) -> None:
        with pytest.raises(DeclarationTypeError, match="is neither a @setup nor a @teardown"):
            decorator(fan)

    def test_nor_is_a_branch(self) -> None:
        load_once: Any = setup(task(collect))

        with pytest.raises(DeclarationValueError, match="collect is a @setup"):
            fan_out(load_once, count=2)()

    def test_a_group_is_no_argument_of_another_task(self) -> None:
        group = fan_out(process, count=2)("text")

        with pytest.raises(TypeError, match=r"FanInOperator\(task_id=…, fan_out=.* a @task\.fan_in function"):
            use(group)

    @pytest.mark.parametrize(
        "options", [{}, {"mapped": True}, {"items_per_task": 1}], ids=["static", "mapped", "batched"]
    )
    def test_nor_of_another_fan_out(self, options: Any) -> None:
        group = fan_out(process, count=2)("text")

        with pytest.raises(TypeError, match="a group has no single value"):
            fan_out(process, group_id="next", count=2, **options)(group)
        with pytest.raises(TypeError, match="a group has no single value"):
            fan_out(process, group_id="then", **options).expand(text=group)  # type: ignore[arg-type]

    def test_it_is_no_branch_of_a_group(self) -> None:
        with pytest.raises(DeclarationTypeError, match=r"found a @task\.fan_out function, which makes a"):
            FanOutGroup("group", branch=fan_out(process, count=2), count=2)


class TestFanIn:
    def test_it_returns_the_fan_ins_output(self) -> None:
        output = fan_in(collect)(fan_out(process, count=2)("text"))

        operator = operator_of(output)
        assert isinstance(operator, FanInOperator)
        assert operator.task_id == "collect"
        assert operator.upstream_task_ids == {"process.process_0", "process.process_1"}
        assert operator.python_callable is collect

    @pytest.mark.parametrize(
        "decorate",
        [
            pytest.param(lambda: fan_in(collect), id="bare"),
            pytest.param(lambda: fan_in()(collect), id="with parentheses"),
        ],
    )
    def test_parentheses_make_no_difference(self, decorate: Any) -> None:
        group = fan_out(process, count=2)("text")

        assert operator_of(decorate()(group)).task_id == "collect"

    def test_a_second_call_has_a_number(self) -> None:
        group = fan_out(process, count=2)("text")
        combining = fan_in(collect)

        assert [operator_of(combining(group)).task_id for _ in range(2)] == ["collect", "collect__1"]

    def test_another_id_may_be_given(self) -> None:
        group = fan_out(process, count=2)("text")

        assert operator_of(fan_in(collect).override(task_id="other")(group)).task_id == "other"

    @pytest.mark.parametrize(
        "call",
        [
            pytest.param(lambda each, group: each(group, 3, "a"), id="by position"),
            pytest.param(lambda each, group: each(group, word="a", threshold=3), id="by name"),
        ],
    )
    def test_a_calls_arguments_are_the_functions(self, call: Any) -> None:
        operator = operator_of(call(fan_in(combine), fan_out(process, count=2)("text")))

        assert operator.op_kwargs == {"threshold": 3, "word": "a"}

    def test_the_output_of_another_task_is_wired_before_it(self) -> None:
        operator = operator_of(fan_in(combine)(fan_out(process, count=1)("text"), threshold=load()))

        assert operator.upstream_task_ids == {"process.process_0", "load"}

    def test_it_takes_every_argument_of_the_operator(self) -> None:
        operator = operator_of(
            fan_in(
                collect,
                key="other",
                min_success=1,
                min_success_ratio=0.5,
                count_skipped="failure",
                on_empty="skip",
                retries=3,
            )(fan_out(process, count=2)("text"))
        )

        assert (operator.key, operator.retries) == ("other", 3)
        policy = operator.policy
        assert (policy.min_success, policy.min_success_ratio) == (1, 0.5)
        assert (policy.count_skipped, policy.on_empty) == ("failure", "skip")

    @pytest.mark.parametrize(
        ("options", "doc_md"), [({}, "Combine texts."), ({"doc_md": "Mine"}, "Mine"), ({"doc": "Mine"}, None)]
    )
    def test_the_docstring_describes_it_unless_something_else_does(self, options: Any, doc_md: Any) -> None:
        assert operator_of(fan_in(combine, task_id_prefix="a", **options)(threshold=1)).doc_md == doc_md

    def test_its_output_is_what_the_next_fan_out_is_over(self) -> None:
        first = fan_in(collect)(fan_out(process, count=2)("text"))

        group = fan_out(process, group_id="next").expand(text=first)

        assert group.dag.get_task("next.each").upstream_task_ids == {"collect"}

    def test_the_function_can_still_be_called(self) -> None:
        results: Any = {"process_0": 1}

        assert fan_in(collect).function(results) == 1


class TestBadFanIn:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            pytest.param(fan_in(collect), r"write collect\(<group>, …\)", id="no group"),
            pytest.param(
                lambda: fan_in(collect)(load()),
                "expected a FanOutGroup, found XComArg",
                id="no group, but a task",
            ),
            pytest.param(
                lambda: fan_in(collect, task_id_prefix="a")(fan_out(process, count=2)("text")),
                "has task_id_prefix=, so it takes no group",
                id="prefix and group",
            ),
            pytest.param(
                lambda: fan_in(collect, task_id_prefix="lo")(load()),
                r"call it without them, and wire them: tasks >> collect\(\)",
                id="prefix and an output",
            ),
            pytest.param(
                lambda: fan_in(combine, task_id_prefix="use")(  # type: ignore[call-overload]
                    use.expand(value=["a"])
                ),
                r"call it without them, and wire them: tasks >> combine\(\); .* by name",
                id="prefix and a mapped output, which would be the threshold",
            ),
            pytest.param(
                fan_in(combine, task_id_prefix="a"),
                r"combine\(results, threshold, word\) needs 'threshold'",
                id="an argument is missing",
            ),
            pytest.param(
                lambda: fan_in(combine, task_id_prefix="a")(threshold=1, results=2),
                "multiple values for argument 'results'",
                id="the results",
            ),
            pytest.param(
                lambda: fan_in(combine, task_id_prefix="a")(threshold=1, wrod=2),
                "unexpected keyword argument 'wrod'",
                id="an unknown argument",
            ),
            pytest.param(fan_in(process_async, task_id_prefix="a"), "found an async def", id="async def"),
            pytest.param(
                fan_in(use, task_id_prefix="a"),
                "found a @task; leave the decorator out",
                id="@task",
            ),
            pytest.param(
                fan_in(lambda ti: ti, task_id_prefix="a", task_id="first"),
                "has the name 'ti' that Airflow fills",
                id="a context name",
            ),
            pytest.param(
                lambda: FanInOperator(task_id="a", task_id_prefix="a", python_callable=fan_in(collect)),
                r"found a @task\.fan_in; leave the decorator out",
                id="decorated by hand",
            ),
        ],
    )
    def test_what_it_refuses(self, call: Any, message: str) -> None:
        with pytest.raises(DeclarationTypeError, match=message):
            call()

    @pytest.mark.parametrize("name", ["partial", "expand"])
    def test_it_is_not_mapped(self, name: str) -> None:
        with pytest.raises(TypeError, match=r"FanInOperator can't be mapped"):
            getattr(fan_in(collect), name)(threshold=[1])

    def test_nor_with_expand_kwargs(self) -> None:
        with pytest.raises(TypeError, match=r"FanInOperator can't be mapped"):
            fan_in(collect).expand_kwargs([{"threshold": 1}])

    @pytest.mark.parametrize(
        ("option", "way_out"),
        [
            ("min_sucess", r"did you mean min_success=\?"),
            ("fan_out", "call the function with the group"),
            ("op_kwargs", "give arguments in the call"),
            ("python_callable", "it is the function"),
        ],
    )
    def test_an_unknown_option_is_named(self, option: str, way_out: str) -> None:
        unknown: Any = {option: 1}
        with pytest.raises(DeclarationTypeError, match=f"{option}: is no argument of .*; .*{way_out}"):
            fan_in(**unknown)(collect)

    def test_mypy_refuses_wrong_options_too(self) -> None:
        with pytest.raises(DeclarationError):
            fan_in(min_sucess=2)(collect)  # type: ignore[call-overload]
        with pytest.raises(DeclarationError):
            fan_in(collect, count_skipped="never", min_success=1)(  # type: ignore[call-overload]
                fan_out(process, count=2)("text")
            )
        with pytest.raises(DeclarationError):
            fan_in(collect)(5)  # type: ignore[call-overload]


class TestTypes:
    """What mypy says of right uses, beside the example Dag; at run time nothing can fail here."""

    def test_functions_keep_their_types(self) -> None:
        processing: FanOutFunction[..., dict[str, str]] = fan_out(count=2, retry_delay=timedelta(1))(process)
        group: FanOutGroup = processing.partial(lang="de").override(pool="texts")(text=load())
        combining: FanInFunction[..., str] = fan_in(min_success_ratio=0.5)(combine)
        output: XComArg = combining(group, threshold=3)

        assert isinstance(output, XComArg)

    def test_options_are_those_of_airflow(self) -> None:
        """A new setting of Airflow's is to be typed; until then it is taken, but no editor completes it."""
        known = set(inspect.signature(BaseOperator.__init__).parameters) - {"self", "kwargs", "sla"}

        assert known - FanOutOptions.__optional_keys__ == {"task_id", "task_group"}
        assert known - FanInOptions.__optional_keys__ == {"trigger_rule"}
