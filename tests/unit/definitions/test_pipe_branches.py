from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import setup, task, task_group, teardown
from airflow.sdk.bases.decorator import DecoratedOperator
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanOutGroup

pytestmark = pytest.mark.usefixtures("dag")


def strip(text: str) -> str:
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


def declare(*functions: Any, **declared: Any) -> list[DecoratedOperator]:
    """Declare a group over a list of functions, and return its tasks."""
    found = []
    for operator in FanOutGroup("process", branch=list(functions), **declared):
        assert isinstance(operator, DecoratedOperator)
        found.append(operator)
    return found


def called(*functions: Any, item: Any = " a ", **declared: Any) -> Any:
    """What a branch returns, called with the arguments of its task."""
    (operator,) = declare(*functions, items=[item], **declared)
    context = {"ds": "today", "run_id": "run", "ti": None}
    with mock.patch(
        "airflow_fanout.definitions.function_branches.get_current_context",
        autospec=True,
        return_value=context,
    ):
        return operator.python_callable(*operator.op_args, **operator.op_kwargs)


class TestWhatEachFunctionIsGiven:
    @pytest.mark.parametrize(
        ("functions", "value"),
        [
            pytest.param([strip], "a", id="the only one gets the item"),
            pytest.param([strip, repeat], "aa", id="a later one gets what came before"),
            pytest.param([strip, repeat, repeat, by_position], "AAAA", id="four"),
            pytest.param([strip, by_position], "A", id="a positional-only parameter"),
            pytest.param([strip, any_number], "a", id="*args"),
            pytest.param([strip, lambda text: text + "?"], "a?", id="a lambda"),
            pytest.param([strip, Shouter().shout], "A!", id="a method"),
            pytest.param([strip, functools.partial(repeat, times=3)], "aaa", id="functools.partial"),
            pytest.param([strip, functools.partial(join, "x")], "xa", id="functools.partial by position"),
            pytest.param([strip, functools.partial(join, other="x")], "ax", id="functools.partial by name"),
            pytest.param([strip, task(join).partial(other="x")], "ax", id=".partial()"),
            pytest.param([task(strip), task(repeat)], "aa", id="bare @tasks"),
            pytest.param([task(strip).override(task_id="mine"), repeat], "aa", id="a @task with a name"),
            pytest.param([strip, label], "a today run", id="context names in a later one"),
            pytest.param([strip, every_context], ["a", "ds", "run_id", "ti"], id="the whole context"),
        ],
    )
    def test_values_are_handed_on(self, functions: list[Any], value: Any) -> None:
        assert called(*functions) == value

    def test_item_and_partial_go_to_the_first(self) -> None:
        def other(text: str, other: str = "default") -> str:
            return f"{text} {other}"

        assert called(join, other, item="a", partial={"other": "x"}) == "ax default"

    def test_the_first_may_have_arguments_bound(self) -> None:
        assert called(functools.partial(join, "x"), repeat, item="a") == "xaxa"

    def test_a_count_gives_the_first_its_index(self) -> None:
        assert [dict(each.op_kwargs) for each in declare(with_index, repeat, count=2)] == [
            {"index": 0},
            {"index": 1},
        ]

    def test_a_tuple_is_a_list(self) -> None:
        (operator,) = FanOutGroup("process", branch=(strip, repeat), items=[" a "])

        assert isinstance(operator, DecoratedOperator)
        assert operator.python_callable(" a ") == "aa"

    @pytest.mark.parametrize("value", [None, 0, "", [], False], ids=repr)
    def test_whatever_one_returns_is_handed_on(self, value: Any) -> None:
        assert called(lambda item: item, lambda before: [before], item=value) == [value]

    def test_a_dict_is_one_value(self) -> None:
        assert called(lambda item: {"text": item}, lambda text: text, item="a") == {"text": "a"}

    @pytest.mark.parametrize("error", [ValueError, AirflowSkipException])
    def test_an_exception_ends_the_branch(self, error: type[Exception]) -> None:
        calls: list[str] = []

        def broken(text: str) -> str:
            raise error(text)

        def note(text: str) -> None:
            calls.append(text)

        with pytest.raises(error):
            called(strip, broken, note)

        assert calls == []

    def test_each_branch_has_its_own_functions(self) -> None:
        group = FanOutGroup("process", branch={"a": [constant, repeat], "b": [constant, by_position]})

        assert [each.python_callable() for each in group] == ["constant" * 2, "CONSTANT"]


class TestItsTask:
    def test_it_is_one_with_the_names_of_its_functions(self) -> None:
        group = FanOutGroup("process", branch=[strip, repeat], items=["a", "b"])

        assert [each.task_id for each in group] == ["process.process_0", "process.process_1"]
        assert {each.python_callable.__name__ for each in group} == {"strip | repeat"}

    def test_its_documentation_is_not_that_of_the_first_alone(self) -> None:
        def documented(text: str) -> str:
            """Half of it."""
            return text

        (operator,) = declare(documented, repeat, items=["a"])

        assert operator.doc_md is None

    def test_retries_of_the_group_hold(self) -> None:
        given: Any = {"retries": 3}

        assert [each.retries for each in declare(strip, items=["a"], default_args=given)] == [3]

    def test_a_dict_is_pushed_as_one_value(self) -> None:
        def counts(text: str) -> dict[str, int]:
            return {text: 1}

        (operator,) = declare(counts, items=["a"])

        assert operator.multiple_outputs is False

    def test_a_template_for_the_first_is_rendered(self, dag: Any) -> None:
        (operator,) = declare(join, items=["a"], partial={"other": "{{ ds }}"})
        operator.render_template_fields({"dag": dag, "ds": "today"})

        assert operator.op_kwargs["other"] == "today"


@task
def load() -> str:
    return "text"


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        pytest.param(
            [strip, join],
            r"branch\[1\]: join\(text, other\) also needs 'other', but gets one value, .*functools\.partial",
            id="a later one takes two values",
        ),
        pytest.param(
            [strip, constant],
            r"branch\[1\]: constant\(\) has no free parameter for what the function before it returns",
            id="a later one takes none",
        ),
        pytest.param(
            [strip, lambda ti: ti],
            r"branch\[1\]: .*no free parameter",
            id="a later one takes the context alone",
        ),
        pytest.param(
            [strip, functools.partial(join, "x", "y")],
            r"branch\[1\]: .*no free parameter",
            id="a later one with all parameters bound",
        ),
        pytest.param(
            [strip, functools.partial(join, *"xyz")],
            r"branch\[1\]: functools\.partial does not fit: too many positional",
            id="functools.partial with too many",
        ),
        pytest.param(
            [join, strip],
            r"branch: join \| strip\(text, other\) needs 'other', which no branch",
            id="the first",
        ),
        pytest.param(
            [constant, strip],
            r"branch: constant \| strip\(\) has no free parameter for its item",
            id="the first takes none",
        ),
        pytest.param(
            [strip, later], r"branch\[1\]: expected a plain function, found an async def; use", id="async def"
        ),
        pytest.param(
            [later], r"branch\[0\]: expected a plain function, found an async", id="async def, first"
        ),
        pytest.param(
            [strip, task.bash(strip)],
            r"branch\[1\]: .*share one Python task, so that strip can't be a _BashDecoratedOperator; take",
            id="@task.bash",
        ),
        pytest.param(
            [task(retries=2)(strip), repeat],
            r"branch\[0\]: .*strip can't be a @task with 'retries'; .*settings in default_args",
            id="@task with settings",
        ),
        pytest.param(
            [strip, "repeat"],
            r"branch\[1\]: expected a plain function, found 'repeat' of type str",
            id="a text",
        ),
        pytest.param(
            [strip, [repeat]], r"branch\[1\]: expected a plain .*of type list", id="a list in a list"
        ),
        pytest.param(
            [strip, len],
            r"branch\[1\]: .*found <built-in.*; wrap it in a function",
            id="a builtin",
        ),
        pytest.param(
            [strip, Shouter()], r"branch\[1\]: .*of type Shouter", id="an object that can be called"
        ),
        pytest.param(
            [strip, BashOperator], r"branch\[1\]: expected a plain function", id="an operator class"
        ),
        pytest.param([task_group(no_task)], r"branch\[0\]: expected a plain function", id="@task_group"),
    ],
)
def test_what_is_no_list_of_functions_is_refused(functions: list[Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^FanOutGroup 'process': {message}"):
        FanOutGroup("process", branch=functions, items=["a"])


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        pytest.param([], "branch: is an empty list; name at least one function", id="empty"),
        pytest.param([strip, setup(task(strip))], r"branch\[1\]: strip is a @setup", id="@setup"),
        pytest.param([teardown(strip)], r"branch\[0\]: strip is a @teardown", id="@teardown"),
    ],
)
def test_a_list_that_can_be_no_branch_is_refused(functions: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^FanOutGroup 'process': {message}"):
        FanOutGroup("process", branch=functions, items=["a"])


def test_a_mapping_says_which_function_of_which_list_is_refused() -> None:
    with pytest.raises(TypeError, match=r"'process': branch\['b'\]\[1\]: expected a plain function"):
        FanOutGroup("process", branch={"a": constant, "b": [constant, None]})


def test_what_the_first_has_bound_already_is_not_bound_again() -> None:
    with pytest.raises(TypeError, match="partial: binds 'other', which branch has bound already"):
        FanOutGroup(
            "process",
            branch=[functools.partial(join, other="x"), strip],
            items=["a"],
            partial={"other": "y"},
        )


@pytest.mark.parametrize("bind", [lambda value: value, lambda value: [value]], ids=["alone", "in a list"])
@pytest.mark.parametrize("how", ["functools.partial", ".partial()"])
def test_a_value_known_at_run_time_is_refused_where_airflow_would_not_fill_it_in(how: str, bind: Any) -> None:
    value = bind(load())
    bound: Any = functools.partial(join, other=value)
    if how == ".partial()":
        bound = task(join).partial(other=value)

    message = r"branch\[1\]: binds 'other' of join to a value known only at run time, which only the first"
    with pytest.raises(TypeError, match=message):
        FanOutGroup("process", branch=[strip, bound], items=["a"])


def test_a_value_known_at_run_time_can_go_to_the_first() -> None:
    (operator,) = declare(functools.partial(join, other=load()), strip, items=["a"])

    assert operator.upstream_task_ids == {"load"}
