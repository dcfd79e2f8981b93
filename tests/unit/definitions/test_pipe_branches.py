from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import pytest
from airflow.sdk import setup, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanOutGroup
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError

pytestmark = pytest.mark.usefixtures("dag")


@task
def load() -> str:
    return "text"


def strip(text: str) -> str:
    """Half of it."""
    return text.strip()


def repeat(text: str, times: int = 2) -> str:
    return text * times


def join(text: str, other: str) -> str:
    return text + other


def label(text: str, ds: str, *, run_id: str) -> str:
    return f"{text} {ds} {run_id}"


def every_context(text: str, **context: Any) -> list[str]:
    return [text, *sorted(context)]


def by_position(text: str, /) -> str:
    return text.upper()


def any_number(*texts: str) -> str:
    return ",".join(texts)


def no_task(text: str) -> None: ...


def constant() -> str:
    return "constant"


def with_index(index: int) -> int:
    return index


async def later(text: str) -> str:
    return text


class Shouter:
    def __call__(self, text: str) -> str:
        return text

    def shout(self, text: str) -> str:
        return text.upper() + "!"


def declare(*functions: Any, **declared: Any) -> list[Any]:
    """Tasks of a group over a list of functions."""
    return list(FanOutGroup("process", branch=list(functions), **{"items": [" a "], **declared}))


def called(*functions: Any, **declared: Any) -> Any:
    """What the first branch returns, called with the arguments of its task."""
    made = declare(*functions, **declared)[0]
    context = {"ds": "today", "run_id": "run", "ti": None}
    with mock.patch(
        "airflow_fanout.definitions.function_branches.get_current_context",
        autospec=True,
        return_value=context,
    ):
        return made.python_callable(*made.op_args, **made.op_kwargs)


class TestWhatEachFunctionIsGiven:
    @pytest.mark.parametrize(
        ("functions", "value"),
        [
            pytest.param([strip], "a", id="the only one gets the item"),
            pytest.param([strip, repeat], "aa", id="a later one the value before it"),
            pytest.param([strip, repeat, repeat, by_position], "AAAA", id="four"),
            pytest.param([strip, any_number], "a", id="*args"),
            pytest.param([strip, lambda text: text + "?"], "a?", id="a lambda"),
            pytest.param([strip, Shouter().shout], "A!", id="a method"),
            pytest.param([strip, functools.partial(join, "x")], "xa", id="functools.partial by position"),
            pytest.param([strip, functools.partial(join, other="x")], "ax", id="functools.partial by name"),
            pytest.param([strip, task(join).partial(other="x")], "ax", id=".partial()"),
            pytest.param([functools.partial(join, "x"), repeat], "x a x a ", id="the first bound"),
            pytest.param([task(strip), task(repeat)], "aa", id="bare @tasks"),
            pytest.param([task(strip).override(task_id="mine"), repeat], "aa", id="a @task with a name"),
            pytest.param([strip, label], "a today run", id="context names"),
            pytest.param([strip, every_context], ["a", "ds", "run_id", "ti"], id="the whole context"),
            pytest.param([lambda item: {"text": item}, lambda text: text], {"text": " a "}, id="a dict"),
        ],
    )
    def test_values_are_handed_on(self, functions: list[Any], value: Any) -> None:
        assert called(*functions) == value

    @pytest.mark.parametrize("value", [None, 0, "", [], False], ids=repr)
    def test_a_value_that_is_nothing_much_is_handed_on(self, value: Any) -> None:
        assert called(lambda item: item, lambda before: [before], items=[value]) == [value]

    def test_partial_goes_to_the_first(self) -> None:
        def default(text: str, other: str = "default") -> str:
            return f"{text} {other}"

        assert called(join, default, items=["a"], partial={"other": "x"}) == "ax default"

    def test_a_count_gives_the_first_its_index(self) -> None:
        assert [each.op_kwargs for each in declare(with_index, repeat, items=None, count=2)] == [
            {"index": 0},
            {"index": 1},
        ]

    def test_a_call_can_not_change_what_a_later_function_has_bound(self) -> None:
        def append(text: str, words: list[str]) -> list[str]:
            words.append(text)
            return words

        made = declare(strip, functools.partial(append, words=["x"]), items=["a"])[0]

        assert [made.python_callable("a"), made.python_callable("b")] == [["x", "a"], ["x", "b"]]

    @pytest.mark.parametrize("error", [ValueError, AirflowSkipException])
    def test_an_exception_ends_the_branch(self, error: type[Exception]) -> None:
        last = mock.create_autospec(strip)

        with pytest.raises(error):
            called(strip, mock.create_autospec(repeat, side_effect=error), last)

        last.assert_not_called()


class TestItsTask:
    def test_each_branch_has_one_with_the_names_of_its_functions(self) -> None:
        declared: Any = {"a": [constant, repeat], "b": (constant, by_position)}
        group = list(FanOutGroup("process", branch=declared))

        assert [each.task_id for each in group] == ["process.a", "process.b"]
        assert [each.python_callable.__name__ for each in group] == [
            "constant | repeat",
            "constant | by_position",
        ]
        assert [each.python_callable() for each in group] == ["constant" * 2, "CONSTANT"]

    def test_it_has_the_groups_settings_and_not_the_documentation_of_a_function(self) -> None:
        given: Any = {"retries": 3}
        (made,) = declare(strip, repeat, default_args=given)

        assert (made.retries, made.multiple_outputs, made.doc_md) == (3, False, None)

    def test_airflow_renders_the_arguments_of_the_first_function(self, dag: Any) -> None:
        (made,) = declare(join, partial={"other": "{{ ds }}"})
        (bound,) = FanOutGroup("other", branch=[functools.partial(join, other=load()), strip], items=["a"])
        made.render_template_fields({"dag": dag, "ds": "today"})

        assert made.op_kwargs["other"] == "today"
        assert bound.upstream_task_ids == {"load"}


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        pytest.param(
            [strip, join],
            r"branch\[1\]: join\(text, other\) also needs 'other', but gets one value, .*functools\.partial",
            id="a later one takes two values",
        ),
        pytest.param([strip, constant], r"branch\[1\]: .*no free .*before it", id="a later one takes none"),
        pytest.param([strip, lambda ti: ti], r"branch\[1\]: .*no free", id="a later one takes ti"),
        pytest.param([strip, functools.partial(join, "x", "y")], r"branch\[1\]: .*no free", id="all bound"),
        pytest.param(
            [strip, functools.partial(join, *"xyz")],
            r"branch\[1\]: .* does not fit: too",
            id="too many bound",
        ),
        pytest.param([join, strip], r"branch: join \| strip\(text, other\) needs 'other'", id="the first"),
        pytest.param([constant, strip], r"branch: constant .*no free .* its item", id="no item"),
        pytest.param([strip, later], r"branch\[1\]: expected a plain .*an async def", id="async"),
        pytest.param([later], r"branch\[0\]: expected a plain .*an async def", id="async 1"),
        pytest.param([strip, task.bash(strip)], r"branch\[1\]: strip is a _Bash.*share one", id="@task.bash"),
        pytest.param(
            [task(retries=2)(strip), repeat], r"branch\[0\]: .*'retries', .*default_args", id="settings"
        ),
        pytest.param([strip, "repeat"], r"branch\[1\]: .* found 'repeat' of type str", id="a text"),
        pytest.param([strip, [repeat]], r"branch\[1\]: expected a plain .*of type list", id="a list"),
        pytest.param([strip, len], r"branch\[1\]: .*; wrap it in a function", id="a builtin"),
        pytest.param([strip, Shouter()], r"branch\[1\]: .*of type Shouter", id="an object"),
        pytest.param([task_group(no_task)], r"branch\[0\]: expected a plain function", id="@task_group"),
    ],
)
def test_a_list_that_can_not_be_one_task_is_refused(functions: list[Any], message: str) -> None:
    with pytest.raises(DeclarationTypeError, match=f"^FanOutGroup 'process': {message}"):
        declare(*functions)


def test_what_the_first_has_bound_is_not_bound_again() -> None:
    with pytest.raises(DeclarationTypeError, match="partial: binds 'other', which branch has bound already"):
        declare(functools.partial(join, other="x"), strip, partial={"other": "y"})


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        pytest.param([], "branch: found an empty list; name at least one function", id="empty"),
        pytest.param([strip, setup(task(strip))], r"branch\[1\]: strip is a @setup", id="@setup"),
    ],
)
def test_a_list_without_work_is_refused(functions: list[Any], message: str) -> None:
    with pytest.raises(DeclarationValueError, match=f"^FanOutGroup 'process': {message}"):
        declare(*functions)


def test_a_function_of_a_list_in_a_mapping_is_named() -> None:
    with pytest.raises(
        DeclarationTypeError, match=r"'process': branch\['b'\]\[1\]: expected a plain function"
    ):
        FanOutGroup("process", branch={"a": constant, "b": [constant, None]})


@pytest.mark.parametrize("bind", [lambda value: value, lambda value: [value]], ids=["alone", "in a list"])
def test_a_value_of_run_time_is_refused_where_airflow_would_not_render_it(bind: Any) -> None:
    bound = functools.partial(join, other=bind(load()))

    message = r"branch\[1\]: binds 'other' of join to a value known only at run time, which only the first"
    with pytest.raises(DeclarationTypeError, match=message):
        declare(strip, bound)
