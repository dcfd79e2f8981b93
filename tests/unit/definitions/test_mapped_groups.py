from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, TaskGroup, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import DeclarationError
from airflow_fanout.execution_time.recording import record_failure
from tests.unit.refused import wrong_type, wrong_value

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


def number(index: int) -> int:
    return index


@task
def load() -> list[str]:
    return []


@task
def use(value: str) -> str:
    return value


@task_group
def chain(item: str) -> Any:
    return use.override(task_id="second")(use.override(task_id="first")(item))


@task_group
def passes_on(value: str) -> Any:
    return use(value)


@task_group
def maps_itself(item: str) -> Any:
    return use.expand(value=[item])


def declare(**arguments: Any) -> FanOutGroup:
    return FanOutGroup("g", **{"branch": work, **arguments})


@pytest.mark.parametrize(
    ("declared", "task_ids"),
    [
        pytest.param({"items": ["a"], "mapped": True}, ["g.each"], id="a list"),
        pytest.param({"items": range(2), "mapped": True}, ["g.each"], id="a range"),
        pytest.param({"items": {"x": 1}, "mapped": True}, ["g.each"], id="a mapping"),
        pytest.param({"count": 3, "branch": number, "mapped": True}, ["g.each"], id="a count"),
        pytest.param(lambda: {"items": load()}, ["g.each"], id="items of run time"),
        pytest.param(lambda: {"count": load(), "branch": number}, ["g.each", "g.split"], id="such a count"),
        pytest.param(
            {"branch": chain, "items": ["a"], "mapped": True},
            ["g.each.first", "g.each.second"],
            id="a task group",
        ),
    ],
)
def test_all_branches_are_instances_of_one_task_or_group(declared: Any, task_ids: list[str]) -> None:
    group = declare(**(declared() if callable(declared) else declared))
    fan_in = FanInOperator(task_id="f", fan_out=group)

    assert sorted(each.task_id for each in group.iter_tasks()) == task_ids
    assert {*group.declared.each, *filter(None, [group.split_task_id])} == set(task_ids)
    assert fan_in.upstream_task_ids == {group.declared.each[-1]}


class TestSettings:
    @pytest.mark.parametrize(
        "around", [{}, {"max_active_tis_per_dagrun": 3}], ids=["alone", "before the Dag's"]
    )
    def test_max_concurrency_limits_the_instances(self, dag: DAG, around: Any) -> None:
        with TaskGroup("outer", default_args=around):
            declare(items=["a", "b"], mapped=True, max_concurrency=2)

        assert dag.get_task("outer.g.each").max_active_tis_per_dagrun == 2

    def test_default_args_reach_the_task_with_our_hooks_in_front(self, dag: DAG) -> None:
        def theirs(context: Any) -> None: ...

        given: Any = {"retries": 4, "map_index_template": "mine", "on_failure_callback": theirs}
        declare(items=["a"], mapped=True, default_args=given)
        each: Any = dag.get_task("g.each")

        assert (each.retries, each.map_index_template) == (4, "mine")
        assert list(each.partial_kwargs["on_failure_callback"]) == [record_failure, theirs]

    def test_instances_show_their_names(self, dag: DAG) -> None:
        group = declare(items={"x": 1, "y": 2}, mapped=True)

        assert "branch_name(ti.map_index)" in str(dag.get_task("g.each").map_index_template)
        assert [group.branch_name(index) for index in range(3)] == ["x", "y", "2"]


LIMITED = {"items": ["a"], "mapped": True, "max_concurrency": 2}

REFUSED = [
    wrong_value(
        "max_concurrency: found 2, but branch sets max_active_tis_per_dagrun=7; leave one of them out",
        **LIMITED,
        branch=task(max_active_tis_per_dagrun=7)(work),
    ),
    wrong_value(
        "max_concurrency: found 2, but default_args sets max_active_tis_per_dagrun=7",
        **LIMITED,
        default_args={"max_active_tis_per_dagrun": 7},
    ),
    wrong_value("max_concurrency: Airflow can't .*several tasks", **LIMITED, branch=chain),
    wrong_value("max_concurrency: Airflow can't limit", **{**LIMITED, "items": []}, branch=chain),
    wrong_value("mapped: .*branch is a mapping, and .*leave mapped out", branch={"a": work}, mapped=True),
    wrong_type("items: expected texts as names, found 1 of type int", items={1: "a"}, mapped=True),
    wrong_value("items: .* refuse a name: .* has a zero character", items={"a\0b": 1}, mapped=True),
    wrong_value("items: .* refuse a name: .* has a lone surrogate", items={"\ud800": 1}, mapped=True),
    wrong_type("items: expected texts as names, found '' of type str", items={"": "a"}, mapped=True),
]

REFUSED_AT_RUN_TIME = [
    wrong_value("mapped: found False, but a number known only at run time needs a mapped", mapped=False),
    wrong_value("prefix_group_id: found False, but .* the id 'each'", prefix_group_id=False),
    wrong_value("branch: maps_itself maps a task itself", branch=maps_itself),
]


@pytest.mark.parametrize(("declared", "error", "message"), REFUSED)
def test_what_can_not_be_mapped_is_refused(declared: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"'g': {message}"):
        declare(**declared)


@pytest.mark.parametrize(("declared", "error", "message"), REFUSED_AT_RUN_TIME)
def test_what_can_not_be_mapped_over_items_of_run_time_is_refused(
    declared: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"'g': {message}"):
        declare(items=load(), **declared)


@pytest.mark.parametrize(
    ("declared", "items_from"),
    [
        pytest.param(lambda: {"items": load()}, "load", id="what a task returned"),
        pytest.param(lambda: {"items": load().map(str)}, "load", id="of which a value is made"),
        pytest.param(lambda: {"items": use.expand(value=load())}, None, id="what instances returned"),
        pytest.param(lambda: {"count": load()}, "load", id="a number"),
        pytest.param(lambda: {"items": {"x": 1}, "mapped": True}, None, id="known at parse time"),
        pytest.param(lambda: {"items": load(), "items_per_task": 2}, "load", id="what was cut into batches"),
    ],
)
def test_the_task_that_says_in_a_run_which_branches_there_are_is_declared(
    declared: Any, items_from: str | None
) -> None:
    assert declare(**declared()).declared.items_from == items_from


def test_another_xcom_than_what_a_task_returns_can_not_be_mapped_over() -> None:
    message = "items: found the XCom 'rows' of a task, but Airflow maps over what a task returns"
    with pytest.raises(DeclarationError, match=message):
        declare(items=load()["rows"])


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        pytest.param("mapped", lambda _: {"items": ["a"], "mapped": True}, id="a mapped group"),
        pytest.param("items_per_task", lambda _: {"items": ["a"], "items_per_task": 1}, id="a batched group"),
        pytest.param("items", lambda word: {"items": word}, id="items that are its own parameter"),
        pytest.param("count", lambda word: {"count": word}, id="a count that is its own parameter"),
        pytest.param("items", lambda _: {"items": load()}, id="items of a task"),
        pytest.param("items", lambda word: {"items": word, "items_per_task": 1}, id="batches of it"),
    ],
)
def test_within_a_mapped_task_group_only_static_groups_are_taken(
    argument: str, arguments: Callable[[Any], dict[str, Any]]
) -> None:
    @task_group
    def outer(word: str) -> None:
        declare(**arguments(word))

    message = (
        f"'g': {argument}: Airflow can't map a task within the mapped task group 'outer', so only a static"
    )
    with pytest.raises(DeclarationError, match=message):
        outer.expand(word=["a", "b"])


def test_a_tolerance_is_compared_with_the_number_of_branches_where_that_is_known() -> None:
    assert FanInOperator(task_id="f", fan_out=declare(items=load()), min_success=3).policy.min_success == 3
    with pytest.raises(DeclarationError, match="min_success: 3 is above the 2 branches"):
        FanInOperator(
            task_id="g", fan_out=FanOutGroup("two", branch=work, count=2, mapped=True), min_success=3
        )


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda output: output, id="itself"),
        pytest.param(lambda output: output.map(str), id="of which a value is made"),
        pytest.param(lambda output: load().zip(output), id="beside others"),
    ],
)
def test_what_a_task_in_a_mapped_task_group_returns_can_be_cut_into_batches_but_not_mapped_over(
    make: Callable[[Any], Any],
) -> None:
    items = make(passes_on.expand(value=load.override(task_id="load_all")()))
    message = "items: found the output of 'passes_on.use', which is in the mapped task group 'passes_on'"

    with pytest.raises(DeclarationError, match=message):
        declare(items=items)
    FanOutGroup("b", branch=work, items=items, items_per_task=2)
