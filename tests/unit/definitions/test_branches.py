from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import TaskGroup, setup, task, teardown
from airflow.sdk.bases.decorator import DecoratedOperator

from airflow_fanout import FanOutGroup
from airflow_fanout.execution_time.arguments import is_task_function

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


@task
def listed() -> list[str]:
    return ["a"]


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


def positional_only_after_another(bound: str, item: str, /) -> str:
    return bound + item


def any_number(*items: str) -> str:
    return "".join(items)


def one_and_any_number(first: str, *rest: str) -> str:
    return first + "".join(rest)


def any_keyword(**keywords: str) -> str:
    return "".join(keywords)


def empty() -> None:
    return None


def nothing() -> str:
    return ""


def with_index(index: int) -> int:
    return index


def keyword_index(*, index: int, text: str = "") -> int:
    return index


class Worker:
    def method(self, item: str) -> str:
        return item

    @staticmethod
    def static(item: str) -> str:
        return item

    @classmethod
    def of_the_class(cls, item: str) -> str:
        return item


def arguments(group_id: str = "process", **declared: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Positional and keyword arguments of each branch's task."""
    found = []
    for operator in FanOutGroup(group_id, **declared):
        assert isinstance(operator, DecoratedOperator)
        found.append((tuple(operator.op_args), dict(operator.op_kwargs)))
    return found


def called(**declared: Any) -> list[Any]:
    """What each branch's function returns, called with the arguments of its task."""
    found = []
    for operator in FanOutGroup("process", **declared):
        assert isinstance(operator, DecoratedOperator)
        found.append(operator.python_callable(*operator.op_args, **operator.op_kwargs))
    return found


@pytest.mark.parametrize(
    ("branch", "partial", "parameter"),
    [
        pytest.param(one, {}, "item", id="the only one"),
        pytest.param(two, {}, "first", id="the first"),
        pytest.param(two, {"first": "x"}, "second", id="the first that partial has not bound"),
        pytest.param(with_context, {}, "item", id="the first that Airflow does not fill from the context"),
        pytest.param(keyword_only, {}, "item", id="a keyword-only one"),
        pytest.param(task(two), {}, "first", id="the first of a @task"),
        pytest.param(
            task(two).partial(first="x"), {}, "second", id="the first that .partial() has not bound"
        ),
        pytest.param(
            functools.partial(two, first="x"),
            {},
            "second",
            id="the first that functools.partial has not bound",
        ),
        pytest.param(
            functools.partial(two, "x"), {}, "second", id="the first after the positions of functools.partial"
        ),
        pytest.param(
            functools.partial(task(two), "x"), {}, "second", id="the same, with functools.partial of a @task"
        ),
        pytest.param(
            functools.partial(two, second="x"),
            {},
            "first",
            id="the first, where functools.partial binds the second",
        ),
        pytest.param(
            functools.partial(functools.partial(two, "x")), {}, "second", id="functools.partial of another"
        ),
    ],
)
def test_the_item_goes_to(branch: Callable[..., Any], partial: dict[str, Any], parameter: str) -> None:
    ((by_position, by_name),) = arguments(branch=branch, items=["item"], partial=partial)

    assert by_position == ()
    assert by_name == {
        **({"first": "x"} if parameter == "second" else {}),
        **({"second": "x"} if getattr(branch, "keywords", {}).get("second") else {}),
        parameter: "item",
    }


@pytest.mark.parametrize(
    ("branch", "value"),
    [
        pytest.param(positional_only, "item", id="a positional-only parameter"),
        pytest.param(any_number, "item", id="*args"),
        pytest.param(keyword_only, "item", id="a keyword-only parameter"),
        pytest.param(Worker().method, "item", id="a method"),
        pytest.param(Worker.static, "item", id="a static method"),
        pytest.param(Worker.of_the_class, "item", id="a class method"),
        pytest.param(lambda item: item, "item", id="a lambda"),
        pytest.param(functools.partial(two, "x"), "xitem", id="functools.partial by position"),
        pytest.param(functools.partial(two, second="x"), "itemx", id="functools.partial by name"),
    ],
)
def test_the_function_can_be_called_with_its_item(branch: Callable[..., Any], value: str) -> None:
    assert called(branch=branch, items=["item"]) == [value]


@pytest.mark.parametrize(
    ("branch", "value"),
    [
        pytest.param(
            functools.partial(positional_only_after_another, "x"), "xitem", id="positional-only parameters"
        ),
        pytest.param(functools.partial(one_and_any_number, "x"), "xitem", id="the place of *args"),
        pytest.param(functools.partial(one_and_any_number, "x", "y"), "xyitem", id="a place after *args"),
    ],
)
def test_what_functools_partial_binds_by_position_is_kept_or_refused(
    branch: Callable[..., Any], value: str
) -> None:
    """Airflow can give some parameters by name alone: then the author has to be told which branch it is."""
    try:
        assert called(branch=branch, items=["item"]) == [value]
    except TypeError as refused:
        assert "FanOutGroup 'process': branch: " in str(refused)  # noqa: PT017 - either is right


def test_what_functools_partial_binds_is_not_given_under_the_name_of_star_args() -> None:
    def star_args_and_keywords(first: str, *rest: str, **keywords: str) -> tuple[Any, ...]:
        return (first, rest, keywords)

    branch = functools.partial(star_args_and_keywords, "x", "y")

    try:
        assert called(branch=branch, count=1) == [("x", ("y",), {})]
    except TypeError as refused:
        assert "FanOutGroup 'process': branch: " in str(refused)  # noqa: PT017 - either is right


def test_none_is_an_item() -> None:
    assert arguments(branch=one, items=[None, 0, ""]) == [((), {"item": item}) for item in (None, 0, "")]


@pytest.mark.parametrize(
    "branch", [with_index, task(with_index), keyword_index], ids=["plain", "@task", "by name"]
)
def test_index_is_the_place_of_the_branch(branch: Callable[..., Any]) -> None:
    assert arguments(branch=branch, count=3) == [((), {"index": index}) for index in range(3)]


def test_a_function_without_index_gets_none() -> None:
    assert arguments(branch=nothing, count=2) == [((), {}), ((), {})]


def test_any_keyword_is_not_a_parameter_named_index() -> None:
    assert arguments(branch=any_keyword, count=1) == [((), {})]


def test_index_is_an_ordinary_parameter_where_there_is_no_count() -> None:
    assert arguments(branch=with_index, items=[7, 8]) == [((), {"index": 7}), ((), {"index": 8})]
    assert arguments(group_id="other", branch={"a": with_index}, partial={"index": 9}) == [((), {"index": 9})]


def test_partial_is_bound_in_every_branch() -> None:
    assert arguments(branch=two, items=["a", "b"], partial={"second": "x"}) == [
        ((), {"first": "a", "second": "x"}),
        ((), {"first": "b", "second": "x"}),
    ]


def test_partial_is_bound_in_every_function_of_a_mapping() -> None:
    branch = {"one": one, "two": lambda item: item}

    assert arguments(branch=branch, partial={"item": "x"}) == [((), {"item": "x"}), ((), {"item": "x"})]


def test_each_branch_of_a_mapping_may_bind_its_own() -> None:
    branch = {
        "a": task(two).partial(second="a"),
        "b": functools.partial(two, second="b"),
        "c": two,
    }

    assert arguments(branch=branch, partial={"first": "x"}) == [
        ((), {"first": "x", "second": "a"}),
        ((), {"first": "x", "second": "b"}),
        ((), {"first": "x"}),
    ]


def test_any_keyword_takes_whatever_partial_binds() -> None:
    assert arguments(branch=any_keyword, count=1, partial={"whatever": 1}) == [((), {"whatever": 1})]


def test_items_are_given_as_they_are() -> None:
    item = {"nested": [1]}

    ((_, by_name),) = arguments(branch=one, items=[item])

    assert by_name["item"] is item


def test_the_same_task_can_be_the_branch_of_two_groups() -> None:
    decorated = task(two).partial(second="x")

    first = arguments(group_id="first", branch=decorated, items=["a"])
    second = arguments(group_id="second", branch=decorated, items=["b"])

    assert first == [((), {"first": "a", "second": "x"})]
    assert second == [((), {"first": "b", "second": "x"})]


def test_a_task_can_still_be_called_after_it_was_a_branch() -> None:
    decorated = task(two)
    FanOutGroup("process", branch=decorated.partial(second="x"), items=["a"])

    assert decorated("b").operator.op_args == ("b",)


@pytest.mark.parametrize(
    ("branch", "retries"),
    [
        pytest.param(task(one), 1, id="that of the group"),
        pytest.param(task(retries=2)(one), 2, id="that of the @task"),
        pytest.param(task(retries=2)(one).override(retries=3), 3, id="that of .override()"),
        pytest.param(one, 1, id="that of the group for a plain function"),
    ],
)
def test_retries_are(branch: Callable[..., Any], retries: int) -> None:
    default_args: Any = {"retries": 1}
    operators = list(FanOutGroup("process", branch=branch, items=["a", "b"], default_args=default_args))

    assert [operator.retries for operator in operators] == [retries, retries]


def test_a_name_given_with_override_does_not_replace_the_branchs() -> None:
    group = FanOutGroup("process", branch=task(one).override(task_id="mine"), items=["a"])

    assert [operator.task_id for operator in group] == ["process.process_0"]


def test_a_plain_function_that_returns_a_dict_pushes_one_value() -> None:
    def many() -> dict[str, str]:
        return {"a": "b"}

    (operator,) = FanOutGroup("process", branch=many, count=1)

    assert isinstance(operator, DecoratedOperator)
    assert operator.multiple_outputs is False


def test_the_doc_of_a_function_is_that_of_its_task() -> None:
    def documented() -> None:
        """What it does."""

    (operator,) = FanOutGroup("process", branch=documented, count=1)

    assert operator.doc_md == "What it does."


REFUSED = [
    pytest.param("text", "found 'text' of type str", id="a text"),
    pytest.param(None, "found None of type NoneType", id="None"),
    pytest.param(8, "found 8 of type int", id="a number"),
    pytest.param(len, "wrap it in a function", id="a builtin"),
    pytest.param(str, "wrap it in a function", id="a class"),
    pytest.param(functools.partial(len), "wrap it in a function", id="functools.partial of a builtin"),
]


@pytest.mark.parametrize(("branch", "found"), REFUSED)
def test_what_is_no_branch_is_refused(branch: object, found: str) -> None:
    with pytest.raises(
        TypeError, match="FanOutGroup 'process': branch: expected a @task or @task_group"
    ) as raised:
        FanOutGroup("process", branch=branch, count=2)

    assert found in str(raised.value)


@pytest.mark.parametrize(("branch", "found"), REFUSED)
def test_a_mapping_says_which_of_its_branches_is_refused(branch: object, found: str) -> None:
    with pytest.raises(
        TypeError, match=r"FanOutGroup 'process': branch\['topics'\]: expected a @task or @task_group"
    ) as raised:
        FanOutGroup("process", branch={"words": one, "topics": branch}, partial={"item": "x"})

    assert found in str(raised.value)


def test_the_result_of_a_call_is_refused() -> None:
    with pytest.raises(TypeError, match="the result of calling one; hand over the function itself"):
        FanOutGroup("process", branch=task(nothing)(), count=2)


def test_the_result_of_a_call_is_refused_though_it_has_taken_the_groups_id() -> None:
    with pytest.raises(TypeError, match="the result of calling one; hand over the function itself"):
        FanOutGroup("nothing", branch=task(nothing)(), count=2)


@pytest.mark.parametrize(
    ("expand", "way_out"),
    [
        pytest.param(
            lambda: task(two).partial(second="b").expand(first=listed()),
            r"two\.expand\(first=…\); .*branch=two, items=listed\(\), partial=\{'second': …\}$",
            id="over an output",
        ),
        pytest.param(lambda: task(one).expand(item=["a"]), r"branch=one, items=…$", id="over a literal"),
        pytest.param(
            lambda: task(two).expand(first=["a"], second=["b"]),
            r"second=….*branch=two, items=…$",
            id="over two",
        ),
        pytest.param(
            lambda: task(one).expand_kwargs([{"item": "a"}]), r"branch=one, items=…$", id="over arguments"
        ),
        pytest.param(
            lambda: BashOperator.partial(task_id="t").expand(bash_command=["ls"]).output,
            r"functools\.partial\(BashOperator, …\), and items=",
            id="an operator's output",
        ),
    ],
)
def test_what_was_expanded_already_is_shown_branch_and_items(
    expand: Callable[[], object], way_out: str
) -> None:
    with pytest.raises(TypeError, match=f"FanOutGroup 'process': branch: .*{way_out}"):
        FanOutGroup("process", branch=expand())


def test_a_task_that_was_made_already_is_refused() -> None:
    with pytest.raises(
        TypeError, match="found the task 'made'; a branch is made once for each name: hand over"
    ):
        FanOutGroup("process", branch=EmptyOperator(task_id="made"), count=2)


def test_airflows_partial_of_an_operator_is_refused_because_of_its_frozen_defaults() -> None:
    partial = EmptyOperator.partial(task_id="t")

    with pytest.raises(
        TypeError, match=r"FanOutGroup 'process': branch: .*EmptyOperator.partial.*default_args"
    ):
        FanOutGroup("process", branch=partial, count=2)

    partial.expand(doc=["Airflow warns of one that is never mapped"])


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        pytest.param(
            {"branch": nothing, "items": ["a"]},
            r"branch: nothing\(\) has no free parameter for its item",
            id="no parameter at all",
        ),
        pytest.param(
            {"branch": one, "items": ["a"], "partial": {"item": "x"}},
            r"branch: one\(item\) has no free parameter for its item.*bind fewer in partial",
            id="partial binds the only one",
        ),
        pytest.param(
            {"branch": lambda ti, ds: None, "items": ["a"]},
            r"no free parameter for its item.*context names, such as ti and ds, don't count",
            id="context names alone",
        ),
        pytest.param(
            {"branch": any_keyword, "items": ["a"]},
            r"branch: any_keyword\(\*\*keywords\) has no free parameter",
            id="**kwargs alone",
        ),
        pytest.param(
            {"branch": one_and_any_number, "items": ["a"], "partial": {"first": "x"}},
            r"no free parameter for its item",
            id="*args after what is given by name",
        ),
        pytest.param(
            {"branch": one, "count": 2, "partial": {"other": "x"}},
            r"partial: binds 'other', which one\(item\) does not take",
            id="partial binds what it doesn't take",
        ),
        pytest.param(
            {"branch": {"a": one, "b": nothing}, "partial": {"item": "x"}},
            r"partial: binds 'item', which nothing\(\) does not take",
            id="partial binds what one of a mapping doesn't take",
        ),
        pytest.param(
            {"branch": one, "count": 2},
            r"branch: one\(item\) needs 'item', which no branch is given; "
            r"bind it in every branch with partial=\{'item': …\}",
            id="a parameter that nothing fills",
        ),
        pytest.param(
            {"branch": {"a": one}},
            r"branch\['a'\]: one\(item\) needs 'item', which no branch is given",
            id="a parameter of one of a mapping that nothing fills",
        ),
        pytest.param(
            {"branch": lambda first, second: None, "items": ["a"]},
            r"needs 'second', which no branch is given",
            id="a second parameter",
        ),
        pytest.param(
            {"branch": lambda zebra, apple: None, "count": 2},
            r"needs 'apple', 'zebra', which no branch is given; .*partial=\{'apple': …\}",
            id="several parameters, in the same order on every parse",
        ),
        pytest.param(
            {"branch": task(two).partial(second="x"), "items": ["a"], "partial": {"second": "y"}},
            r"partial: binds 'second', which branch has bound already; bind it once",
            id="bound twice",
        ),
        pytest.param(
            {"branch": with_context, "items": ["a"], "partial": {"ds": "today"}},
            r"partial: binds 'ds', which Airflow gives to every task itself",
            id="a context name bound",
        ),
        pytest.param(
            {"branch": functools.partial(one, *"xyz"), "count": 1},
            r"branch: functools\.partial does not fit: too many positional arguments",
            id="functools.partial with too many",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=rf"FanOutGroup 'process': .*{message}"):
        FanOutGroup("process", **declared)


@pytest.mark.parametrize(
    ("branch", "partial"),
    [
        pytest.param(with_index, {"index": 1}, id="in partial"),
        pytest.param(task(with_index).partial(index=1), {}, id="with .partial()"),
        pytest.param(functools.partial(with_index, 1), {}, id="with functools.partial"),
    ],
)
def test_index_bound_together_with_count_is_refused(branch: object, partial: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"FanOutGroup 'process': .*binds 'index', which count= gives to each branch"
    ):
        FanOutGroup("process", branch=branch, count=2, partial=partial)


@pytest.mark.parametrize(
    "declared",
    [
        pytest.param(
            {"branch": lambda ti, item, /: item, "items": ["a"]}, id="a context name before the item"
        ),
        pytest.param({"branch": lambda index, /: index, "count": 1}, id="index"),
    ],
)
def test_a_positional_only_parameter_that_airflow_cannot_fill_is_refused(declared: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="FanOutGroup 'process': branch: "):
        FanOutGroup("process", **declared)


@pytest.mark.parametrize(
    ("branch", "kind"),
    [
        pytest.param(task.branch(nothing), "BranchPythonDecoratedOperator", id="@task.branch"),
        pytest.param(task.short_circuit(nothing), "ShortCircuitDecoratedOperator", id="@task.short_circuit"),
        pytest.param(
            task.short_circuit(ignore_downstream_trigger_rules=False)(nothing),
            "ShortCircuitDecoratedOperator",
            id="@task.short_circuit that heeds trigger rules",
        ),
        pytest.param(
            task.branch_virtualenv(nothing),
            "BranchPythonVirtualenvDecoratedOperator",
            id="@task.branch_virtualenv",
        ),
    ],
)
def test_a_task_that_can_skip_the_fan_in_is_refused(branch: object, kind: str) -> None:
    """Branches that would skip the fan-in."""
    with pytest.raises(
        ValueError,
        match=rf"branch: nothing is a _?{kind}, which skips the tasks after it.*AirflowSkipException",
    ):
        FanOutGroup("process", branch=branch, count=2)


@pytest.mark.parametrize(
    ("branch", "kind"),
    [
        pytest.param(setup(nothing), "setup", id="@setup"),
        pytest.param(teardown(nothing), "teardown", id="@teardown"),
        pytest.param(setup(task(nothing)), "setup", id="@setup of a @task"),
    ],
)
def test_a_setup_or_teardown_is_no_branch(branch: object, kind: str) -> None:
    """Setups and teardowns."""
    with pytest.raises(ValueError, match=f"branch: nothing is a @{kind}, .*wire the {kind} around the group"):
        FanOutGroup("process", branch=branch, count=2)


@pytest.mark.parametrize(
    "branch",
    [
        pytest.param(task.bash(nothing), id="@task.bash"),
        pytest.param(task.virtualenv(nothing), id="@task.virtualenv"),
        pytest.param(task.sensor(nothing), id="@task.sensor"),
    ],
)
def test_other_task_functions_are_branches(branch: object) -> None:
    group = FanOutGroup("process", branch=branch, count=2)

    assert [operator.task_id for operator in group] == ["process.process_0", "process.process_1"]


@pytest.mark.parametrize(
    "where",
    [
        pytest.param({"group": {"item": "x"}}, id="the group"),
        pytest.param({"parent": {"item": "x"}}, id="a group around"),
        pytest.param({"operator": {"item": "x"}}, id="the @task"),
    ],
)
def test_a_parameter_that_default_args_fill_is_filled(where: dict[str, Any]) -> None:
    branch = task(one).override(default_args=where.get("operator", {}))
    with TaskGroup("outer", default_args=where.get("parent", {})):
        group = FanOutGroup("process", branch=branch, count=2, default_args=where.get("group", {}))

    assert [operator.op_kwargs for operator in group] == [{"item": "x"}, {"item": "x"}]


def test_a_task_function_is_told_from_others() -> None:
    assert is_task_function(task(one))
    assert is_task_function(task(one).override(retries=1))
    assert not is_task_function(one)
    assert not is_task_function(EmptyOperator)
