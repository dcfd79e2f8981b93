from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param, TaskGroup, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import DeclarationError, DeclarationTypeError
from airflow_fanout.execution_time.recording import record_failure

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
def maps_itself(item: str) -> Any:
    return use.expand(value=[item])


def declare(**arguments: Any) -> FanOutGroup:
    return FanOutGroup("g", **{"branch": work, **arguments})


def ids(group: FanOutGroup) -> list[str]:
    return sorted(each.task_id for each in group.iter_tasks())


class TestIds:
    @pytest.mark.parametrize(
        "items",
        [["a", "b"], ("a", "b"), range(2), {"x": 1, "y": 2}],
        ids=["list", "tuple", "range", "mapping"],
    )
    def test_literal_items_need_one_task(self, items: Any) -> None:
        assert ids(declare(items=items, mapped=True)) == ["g.each"]

    def test_items_of_run_time_too(self) -> None:
        assert ids(declare(items=load())) == ["g.each"]

    def test_a_count_of_run_time_needs_another(self, dag: DAG) -> None:
        dag.params["n"] = Param(3)
        group = declare(branch=number, count=dag.param("n"))

        assert (ids(group), group.split_task_id) == (["g.each", "g.split"], "g.split")

    def test_a_task_group_has_its_tasks(self) -> None:
        group = declare(branch=chain, items=["a"], mapped=True)

        assert group.declared.each == ("g.each.first", "g.each.second")

    def test_zero_literal_items_leave_a_placeholder(self) -> None:
        group = declare(items=[], mapped=True)

        assert (group.placeholder_task_id, group.declared.known_count) == ("g.no_branches", 0)

    def test_a_fan_in_waits_for_the_last_task(self) -> None:
        group = declare(branch=chain, items=load())

        assert FanInOperator(task_id="f", fan_out=group).upstream_task_ids == {"g.each.second"}


class TestSettings:
    def test_max_concurrency_limits_the_instances(self, dag: DAG) -> None:
        declare(items=["a", "b"], mapped=True, max_concurrency=2)

        assert dag.get_task("g.each").max_active_tis_per_dagrun == 2

    def test_a_limit_of_the_branch_itself_contradicts_it(self) -> None:
        branch = task(max_active_tis_per_dagrun=7)(work)
        with pytest.raises(
            DeclarationError, match="max_concurrency: found 2, and branch sets max_active_tis"
        ):
            declare(branch=branch, items=["a"], mapped=True, max_concurrency=2)

    def test_so_does_one_of_the_groups_default_args(self) -> None:
        said = (
            "max_concurrency: found 5, and default_args sets max_active_tis_per_dagrun=3; leave one of them"
        )
        with pytest.raises(DeclarationError, match=said):
            declare(
                items=["a"],
                mapped=True,
                max_concurrency=5,
                default_args={"max_active_tis_per_dagrun": 3},
            )

    def test_it_is_nearer_than_the_default_args_around_the_group(self, dag: DAG) -> None:
        around: Any = {"max_active_tis_per_dagrun": 3}
        with TaskGroup("outer", default_args=around):
            declare(items=["a"], mapped=True, max_concurrency=5)

        assert dag.get_task("outer.g.each").max_active_tis_per_dagrun == 5

    def test_the_authors_template_of_names_wins(self, dag: DAG) -> None:
        declare(items=["a"], mapped=True, default_args={"map_index_template": "mine"})

        assert dag.get_task("g.each").map_index_template == "mine"

    def test_instances_show_their_names(self, dag: DAG) -> None:
        group = declare(items={"x": 1, "y": 2}, mapped=True)

        assert "branch_name(ti.map_index)" in str(dag.get_task("g.each").map_index_template)
        assert [group.branch_name(index) for index in range(3)] == ["x", "y", "2"]

    def test_default_args_reach_the_task(self, dag: DAG) -> None:
        declare(items=["a"], mapped=True, default_args={"retries": 4, "pool": "small"})

        assert (dag.get_task("g.each").retries, dag.get_task("g.each").pool) == (4, "small")

    def test_our_hooks_come_before_the_authors_own(self, dag: DAG) -> None:
        def theirs(context: Any) -> None: ...

        declare(items=["a"], mapped=True, default_args={"on_failure_callback": theirs})
        each: Any = dag.get_task("g.each")

        assert list(each.partial_kwargs["on_failure_callback"]) == [record_failure, theirs]

    def test_the_tooltip_says_what_holds_them_back(self) -> None:
        group = declare(items=list("abcd"), mapped=True, max_concurrency=2)

        assert group.tooltip == "Fan-out: 4 branches, at most 2 at once: max_concurrency is 2"

    def test_the_tooltip_of_a_number_of_run_time(self) -> None:
        assert declare(items=load()).tooltip == "Fan-out: as many branches as there are at run time"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param({"mapped": False}, "mapped: found False, but a number known only at", id="mapped=False"),
        pytest.param(
            {"prefix_group_id": False}, "prefix_group_id: .*'each', which would stand", id="no prefix"
        ),
        pytest.param(
            {"item_concurrency": 2}, "item_concurrency: .*give items_per_task", id="item_concurrency"
        ),
        pytest.param({"branch": chain, "max_concurrency": 2}, "max_concurrency: .*pool", id="limited group"),
        pytest.param({"branch": maps_itself}, "branch: .*maps a task itself", id="a mapping within"),
        pytest.param({"mapped": 1}, "mapped: expected True or False, found 1", id="mapped=1"),
    ],
)
def test_what_cannot_take_effect_on_items_of_run_time_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(DeclarationError, match=f"'g': {said}"):
        declare(**{"items": load(), **arguments})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            {"branch": {"a": work}}, "mapped: .*mapping of several; leave mapped out", id="functions"
        ),
        pytest.param(
            {"items": {1: "a"}}, "items: expected texts as names, found 1 of type int", id="a number"
        ),
        pytest.param({"items": {"": "a"}}, "items: expected names of at least one character", id="no name"),
        pytest.param({"items": {"a", "b"}}, "items: .*no order; use sorted", id="a set"),
        pytest.param({"items": (x for x in "ab")}, "items: .*use .*list", id="a generator"),
        pytest.param({"count": -1}, "count: expected 0 or more", id="negative"),
        pytest.param(
            {"branch": BashOperator, "items": ["ls"]}, "items: .*dict of the arguments", id="operator"
        ),
        *(
            pytest.param(
                {
                    "branch": BashOperator,
                    "items": [{"bash_command": "ls"}, {"bash_command": "ls", name: None}],
                    "stop_after_failures": 1,
                },
                rf"items: item 1 gives '{name}', .*partial\(BashOperator, {name}=…\), or leave mapped out",
                id=f"{name} of an item",
            )
            for name in ("retries", "pool", "on_failure_callback", "pre_execute", "post_execute")
        ),
        pytest.param(
            {"branch": chain, "items": [], "max_concurrency": 2},
            "max_concurrency: .*pool",
            id="a limited group of no items",
        ),
    ],
)
def test_what_cannot_be_mapped_is_refused(arguments: Any, said: str) -> None:
    given = {"mapped": True, **arguments}
    if not {"items", "count"} & given.keys() and not isinstance(given.get("branch"), dict):
        given["items"] = ["a"]
    with pytest.raises(DeclarationError, match=f"'g': {said}"):
        declare(**given)


def test_a_custom_key_can_not_be_mapped_over() -> None:
    with pytest.raises(
        DeclarationError, match="items: Airflow maps over what a task returns, not over its XCom"
    ):
        declare(items=load()["rows"])


def test_a_param_object_is_no_count() -> None:
    with pytest.raises(DeclarationTypeError, match=r'count: expected a number or dag.param\("name"\)'):
        declare(count=Param(3))


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        pytest.param("mapped", lambda _: {"items": ["a"], "mapped": True}, id="a mapped group"),
        pytest.param("items_per_task", lambda _: {"items": ["a"], "items_per_task": 1}, id="a batched group"),
        pytest.param("items", lambda word: {"items": word}, id="items that are its own parameter"),
        pytest.param("count", lambda word: {"count": word}, id="a count that is its own parameter"),
        pytest.param("items", lambda _: {"items": load()}, id="items of a task"),
        pytest.param(
            "items", lambda word: {"items": word, "items_per_task": 1}, id="a batched group of its parameter"
        ),
    ],
)
def test_within_a_mapped_task_group_only_static_groups(
    argument: str, arguments: Callable[[Any], dict[str, Any]]
) -> None:
    @task_group
    def outer(word: str) -> None:
        FanOutGroup("g", branch=work, **arguments(word))

    said = f"'g': {argument}: Airflow can't map a task within the mapped task group 'outer', so only a static"
    with pytest.raises(DeclarationError, match=said):
        outer.expand(word=["a", "b"])


def test_a_tolerance_above_a_known_number_is_refused() -> None:
    group = declare(items=["a", "b"], mapped=True)

    with pytest.raises(DeclarationError, match="min_success: 3 is above the 2 branches"):
        FanInOperator(task_id="f", fan_out=group, min_success=3)


def test_one_above_a_number_of_run_time_is_not() -> None:
    assert FanInOperator(task_id="f", fan_out=declare(items=load()), min_success=3).policy.min_success == 3
