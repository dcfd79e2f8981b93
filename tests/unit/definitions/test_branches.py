from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import TaskGroup, setup, task, task_group, teardown
from airflow.sdk.bases.decorator import DecoratedOperator

from airflow_fanout import FanOutGroup
from airflow_fanout.decorators import fan_out
from airflow_fanout.exceptions import DeclarationTypeError
from tests.unit.refused import wrong_type, wrong_value

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


def one(item: str) -> str:
    return item


def two(first: str, second: str = "") -> str:
    return first + second


def with_context(ti: Any, ds: str, item: str, **context: Any) -> str:
    return item


def keyword_only(*, item: str) -> str:
    return item


def positional_only(item: str, /) -> str:
    return item


def any_number(*items: str) -> str:
    return "".join(items)


def one_and_any_number(first: str, *rest: str) -> str:
    return first + "".join(rest)


def any_keyword(**keywords: str) -> str:
    return "".join(keywords)


def nothing() -> dict[str, str]:
    """Return nothing much."""
    return {}


def with_index(index: int) -> int:
    return index


def keyword_index(*, index: int, text: str = "") -> int:
    return index


def make_task() -> None:
    EmptyOperator(task_id="t")


class Worker:
    def method(self, item: str) -> str:
        return item

    @staticmethod
    def static(item: str) -> str:
        return item


def declare(**declared: Any) -> list[Any]:
    """Tasks of the branches."""
    return list(FanOutGroup("process", **declared))


def given(**declared: Any) -> list[dict[str, Any]]:
    """Arguments by name of each branch's task, which has no others."""
    tasks = declare(**declared)
    assert not any(each.op_args for each in tasks)
    return [dict(each.op_kwargs) for each in tasks]


def called(**declared: Any) -> list[Any]:
    """What each branch's function returns, called with the arguments of its task."""
    return [each.python_callable(*each.op_args, **each.op_kwargs) for each in declare(**declared)]


class TestTheItem:
    @pytest.mark.parametrize(
        ("branch", "partial", "arguments"),
        [
            pytest.param(one, {}, {"item": "i"}, id="the only parameter"),
            pytest.param(two, {}, {"first": "i"}, id="the first"),
            pytest.param(two, {"first": "x"}, {"first": "x", "second": "i"}, id="partial"),
            pytest.param(with_context, {}, {"item": "i"}, id="context names before it"),
            pytest.param(keyword_only, {}, {"item": "i"}, id="keyword-only"),
            pytest.param(task(two), {}, {"first": "i"}, id="@task"),
            pytest.param(task(two).partial(first="x"), {}, {"first": "x", "second": "i"}, id=".partial()"),
            pytest.param(functools.partial(two, first="x"), {}, {"first": "x", "second": "i"}, id="name"),
            pytest.param(functools.partial(two, "x"), {}, {"first": "x", "second": "i"}, id="by position"),
            pytest.param(functools.partial(task(two), "x"), {}, {"first": "x", "second": "i"}, id="task"),
            pytest.param(functools.partial(two, second="x"), {}, {"first": "i", "second": "x"}, id="second"),
            pytest.param(
                functools.partial(functools.partial(two, "x")), {}, {"first": "x", "second": "i"}, id="nested"
            ),
        ],
    )
    def test_it_goes_to_the_first_parameter_that_is_not_bound(
        self, branch: Any, partial: dict[str, Any], arguments: dict[str, Any]
    ) -> None:
        assert given(branch=branch, items=["i"], partial=partial) == [arguments]

    @pytest.mark.parametrize(
        ("branch", "value"),
        [
            pytest.param(positional_only, "i", id="a positional-only parameter"),
            pytest.param(any_number, "i", id="*args"),
            pytest.param(keyword_only, "i", id="a keyword-only parameter"),
            pytest.param(Worker().method, "i", id="a method"),
            pytest.param(Worker.static, "i", id="a static method"),
            pytest.param(lambda item: item, "i", id="a lambda"),
            pytest.param(functools.partial(two, "x"), "xi", id="functools.partial by position"),
            pytest.param(functools.partial(two, second="x"), "ix", id="functools.partial by name"),
        ],
    )
    def test_the_function_can_be_called_with_it(self, branch: Callable[..., Any], value: str) -> None:
        assert called(branch=branch, items=["i"]) == [value]

    @pytest.mark.parametrize(
        "branch",
        [
            pytest.param(functools.partial(lambda bound, item, /: item, "x"), id="positional-only"),
            pytest.param(functools.partial(one_and_any_number, "x"), id="before *args"),
            pytest.param(functools.partial(one_and_any_number, "x", "y"), id="in *args"),
            pytest.param(lambda ti, item, /: item, id="a positional-only context name"),
        ],
    )
    def test_a_call_that_airflow_can_not_make_by_name_is_refused(self, branch: Callable[..., Any]) -> None:
        with pytest.raises(DeclarationTypeError, match="FanOutGroup 'process': branch: "):
            declare(branch=branch, items=["i"])

    def test_it_is_given_as_it_is_and_none_is_one(self) -> None:
        items = [None, 0, "", {"nested": [1]}]
        arguments = [each["item"] for each in given(branch=one, items=items)]

        assert arguments == items
        assert arguments[3] is items[3]


class TestWhatElseABranchIsGiven:
    @pytest.mark.parametrize(
        "branch", [with_index, task(with_index), keyword_index], ids=["plain", "@task", "*"]
    )
    def test_a_count_gives_its_index(self, branch: Any) -> None:
        assert given(branch=branch, count=2) == [{"index": 0}, {"index": 1}]

    @pytest.mark.parametrize("branch", [nothing, any_keyword])
    def test_a_function_without_a_parameter_index_gets_none(self, branch: Any) -> None:
        assert given(branch=branch, count=1) == [{}]

    def test_without_a_count_index_is_an_ordinary_parameter(self) -> None:
        assert given(branch=with_index, items=[7, 8]) == [{"index": 7}, {"index": 8}]

    @pytest.mark.parametrize(
        ("branch", "arguments"),
        [
            pytest.param(any_keyword, [{"first": "x"}], id="any keyword"),
            pytest.param({"one": lambda first: first}, [{"first": "x"}], id="one of a mapping"),
            pytest.param(
                {"a": task(two).partial(second="a"), "b": functools.partial(two, second="b"), "c": two},
                [{"first": "x", "second": "a"}, {"first": "x", "second": "b"}, {"first": "x"}],
                id="beside what each branch of a mapping binds",
            ),
        ],
    )
    def test_partial_is_bound_in_every_branch(self, branch: Any, arguments: list[dict[str, Any]]) -> None:
        how_many = {} if isinstance(branch, dict) else {"count": 1}

        assert given(branch=branch, partial={"first": "x"}, **how_many) == arguments

    @pytest.mark.parametrize("where", ["group", "outer", "own"])
    def test_default_args_fill_a_parameter_wherever_they_stand(self, where: str) -> None:
        args: dict[str, Any] = {"group": {}, "outer": {}, "own": {}, where: {"item": "x"}}
        with TaskGroup("outer", default_args=args["outer"]):
            branch = task(one).override(default_args=args["own"])
            assert given(branch=branch, count=1, default_args=args["group"]) == [{"item": "x"}]


class TestItsTask:
    def test_a_task_function_can_be_used_again(self) -> None:
        decorated = task(two).partial(second="x")
        group = FanOutGroup("first", branch=decorated, items=["a"])
        other = FanOutGroup("second", branch=decorated, items=["b"])

        assert [each.op_kwargs["first"] for each in (*group, *other)] == ["a", "b"]
        assert task(two)("b").operator.op_args == ("b",)

    def test_an_overridden_task_id_does_not_replace_the_branchs(self) -> None:
        (made,) = declare(branch=task(one).override(task_id="mine"), items=["a"])

        assert made.task_id == "process.process_0"

    def test_a_plain_function_is_documented_and_pushes_a_dict_as_one_value(self) -> None:
        (made,) = declare(branch=nothing, count=1)

        assert isinstance(made, DecoratedOperator)
        assert (made.multiple_outputs, made.doc_md) == (False, "Return nothing much.")

    @pytest.mark.parametrize("decorator", [task.bash, task.virtualenv, task.sensor])
    def test_other_task_functions_are_branches_too(self, decorator: Any) -> None:
        assert [each.task_id for each in declare(branch=decorator(nothing), count=1)] == ["process.process_0"]


NO_BRANCHES = [
    pytest.param(lambda: "text", "'text' of type str$", id="a text"),
    pytest.param(lambda: None, "None of type NoneType$", id="None"),
    pytest.param(lambda: len, ".*; wrap it in a function", id="a builtin"),
    pytest.param(lambda: str, ".*; wrap it in a function", id="a class"),
    pytest.param(lambda: functools.partial(len), ".*; wrap it in a function", id="functools.partial"),
    pytest.param(
        lambda: task(nothing)(),  # noqa: PLW0108 - within a Dag
        "the result of calling one; .* items=…",
        id="called",
    ),
    pytest.param(lambda: task(one).expand(item=["a"]), "the result of calling one; hand", id="expanded"),
    pytest.param(
        lambda: task_group(group_id="made")(make_task)(),  # noqa: PLW0108 - within a Dag
        "the task group 'made', .* already",
        id="group",
    ),
    pytest.param(
        lambda: EmptyOperator(task_id="made"),
        r"the task 'made', but each branch needs .* its own; hand over functools.partial\(EmptyOperator, …\)",
        id="a task",
    ),
    pytest.param(
        lambda: BashOperator.partial(task_id="t").expand(bash_command=["ls"]),
        r"BashOperator\.partial\(…\), which has frozen .*functools\.partial\(BashOperator, …\), and items=",
        id="an expanded operator",
    ),
    pytest.param(
        lambda: BashOperator.partial(task_id="t").expand(bash_command=["ls"]).output,
        r"BashOperator\.partial\(…\), which has frozen",
        id="the output of an expanded operator",
    ),
    pytest.param(lambda: fan_out(nothing, count=2), r"a @task.fan_out .*itself; call it", id="fan_out"),
]


@pytest.mark.parametrize("in_mapping", [False, True], ids=["branch", "one of a mapping"])
@pytest.mark.parametrize(("make", "found"), NO_BRANCHES)
def test_what_can_not_be_a_branch_is_refused_with_the_way_out(
    make: Callable[[], object], found: str, in_mapping: bool
) -> None:
    value = make()
    declared = (
        {"branch": {"words": nothing, "topics": value}} if in_mapping else {"branch": value, "count": 2}
    )
    argument = r"branch\['topics'\]" if in_mapping else "branch"

    message = f"FanOutGroup 'process': {argument}: expected a @task or @task_group function.*found {found}"
    with pytest.raises(DeclarationTypeError, match=message):
        declare(**declared)


def test_airflows_partial_that_is_not_expanded_is_refused() -> None:
    partial = EmptyOperator.partial(task_id="t")

    with pytest.raises(DeclarationTypeError, match=r"EmptyOperator\.partial\(…\), which has frozen"):
        declare(branch=partial, count=2)

    partial.expand(doc=["Airflow warns of one that is never mapped"])


def test_a_call_is_refused_though_it_has_taken_the_groups_id() -> None:
    with pytest.raises(DeclarationTypeError, match="the result of calling one"):
        FanOutGroup("nothing", branch=task(nothing)(), count=2)


NO_FREE = r"has no free parameter for its item: .*context names, such as ti and ds, don't count"

REFUSED = [
    wrong_type(rf"branch: nothing\(\) {NO_FREE}", branch=nothing, items=["a"]),
    wrong_type(rf"branch: one\(item\) {NO_FREE}", branch=one, items=["a"], partial={"item": "x"}),
    wrong_type(rf"branch: <lambda>\(ti, ds\) {NO_FREE}", branch=lambda ti, ds: None, items=["a"]),
    wrong_type(rf"branch: any_keyword\(\*\*keywords\) {NO_FREE}", branch=any_keyword, items=["a"]),
    wrong_type(
        rf"branch: .*\*rest\) {NO_FREE}", branch=one_and_any_number, items=["a"], partial={"first": "x"}
    ),
    wrong_type(
        "partial: binds 'item', which nothing.. does", branch={"a": one, "b": nothing}, partial={"item": "x"}
    ),
    wrong_type(
        r"branch\['a'\]: one\(item\) needs 'item'; bind it .*partial=\{'item': …\}", branch={"a": one}
    ),
    wrong_type(r"branch: .*\(zebra, apple\) needs 'apple'", branch=lambda zebra, apple: None, items=["a"]),
    wrong_type(
        r"branch: .* needs 'apple', 'zebra'; .*partial=\{'apple'", branch=lambda zebra, apple: None, count=2
    ),
    wrong_type(
        "partial: binds 'second', which branch has bound already; bind it once",
        branch=task(two).partial(second="x"),
        items=["a"],
        partial={"second": "y"},
    ),
    wrong_type(
        "partial: binds 'ds', .*; leave it out", branch=with_context, items=["a"], partial={"ds": "today"}
    ),
    wrong_type(
        "branch: binds 'ds', which Airflow gives",
        branch=functools.partial(with_context, ds="today"),
        items=["a"],
    ),
    wrong_type(
        r"branch: functools.partial does not fit: too many", branch=functools.partial(one, *"xyz"), count=1
    ),
    wrong_type(
        r"branch: <lambda>\(index\) takes 'index' by .*leave out '/'", branch=lambda index, /: index, count=1
    ),
    wrong_type(
        r"branch: positional_only\(item\) takes its item by position only, but a mapped task gives",
        branch=positional_only,
        items=["a"],
        mapped=True,
    ),
    wrong_value(
        r"partial: .*'index', which .* from count=", branch=with_index, count=2, partial={"index": 1}
    ),
    wrong_value(r"partial: binds 'index', which", branch=functools.partial(with_index, 1), count=2),
    wrong_value("branch: nothing is a _?BranchPython.*, which skips", branch=task.branch(nothing), count=2),
    wrong_value("branch: nothing is a _?ShortCircuit.*skips", branch=task.short_circuit(nothing), count=2),
    wrong_value(
        "branch: .* skips the tasks after it, so that .*AirflowSkipException",
        branch=task.short_circuit(ignore_downstream_trigger_rules=False)(nothing),
        count=2,
    ),
    wrong_value("branch: nothing is a @setup; .*wire the setup around the", branch=setup(nothing), count=2),
    wrong_value("branch: nothing is a @setup", branch=setup(task(nothing)), count=2),
    wrong_value("branch: nothing is a @teardown; .*wire the teardown", branch=teardown(nothing), count=2),
]


@pytest.mark.parametrize(("declared", "error", "message"), REFUSED)
def test_what_does_not_fit_or_is_no_work_is_refused(
    declared: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"FanOutGroup 'process': {message}"):
        declare(**declared)


def needs_two(first: str, second: str) -> Any:
    return first + second


@pytest.mark.parametrize(
    "branch", [needs_two, task(needs_two), task_group(needs_two)], ids=["plain", "@task", "group"]
)
@pytest.mark.parametrize("name", [None, "a"], ids=["a list", "a mapping"])
def test_dicts_of_several_arguments_are_refused_with_what_takes_them(branch: Any, name: str | None) -> None:
    item = {"first": "a", "second": "b"}
    message = (
        r"items: each item goes to one parameter of needs_two\(first, second\), but is a dict for several; "
        r"let it take the dict, or give branch=lambda item: needs_two\(\*\*item\)"
    )
    with pytest.raises(DeclarationTypeError, match=message):
        declare(branch=branch, items=[item] if name is None else {name: item})
