from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import DeclarationError, FanInError
from airflow_fanout.execution_time.recording import record_failure
from tests.unit.fake_run import FakeRun, run_fan_in

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


def other(item: str = "") -> str:
    return item


@task
def load() -> list[str]:
    return []


@task
def text() -> str:
    return ""


@task.bash
def command(item: str = "") -> str:
    return item


@task.virtualenv
def elsewhere(item: str) -> str:
    return item


@task_group
def chain(item: str) -> Any:
    return text()


def declare(**arguments: Any) -> FanOutGroup:
    how_many = (
        {} if isinstance(arguments.get("branch"), dict) or "count" in arguments else {"items": ["a", "b"]}
    )
    return FanOutGroup("g", **{"branch": work, "items_per_task": 2, **how_many, **arguments})


@pytest.mark.parametrize("arguments", [{}, {"count": 3}, {"branch": {"x": work, "y": other}}])
def test_there_is_a_task_and_one_that_splits(arguments: Any) -> None:
    group = declare(**arguments)

    assert sorted(each.task_id for each in group.iter_tasks()) == ["g.each", "g.split"]
    assert FanInOperator(task_id="f", fan_out=group).upstream_task_ids == {"g.each"}


def test_zero_literal_items_leave_a_placeholder() -> None:
    assert declare(items=[]).placeholder_task_id == "g.no_branches"


def test_it_waits_for_what_is_bound(dag: DAG) -> None:
    declare(branch=functools.partial(lambda text, item: item), partial={"text": text()})

    assert dag.get_task("g.each").upstream_task_ids == {"g.split", "text"}


def test_it_waits_for_what_is_in_items(dag: DAG) -> None:
    declare(items=["a", {"b": text()}])

    assert "text" in dag.get_task("g.each").upstream_task_ids


def test_max_concurrency_limits_the_tasks(dag: DAG) -> None:
    declare(max_concurrency=3)

    assert dag.get_task("g.each").max_active_tis_per_dagrun == 3


def test_settings_of_the_function_are_the_batches(dag: DAG) -> None:
    declare(branch=task(retries=7, pool="small")(work))

    assert (dag.get_task("g.each").retries, dag.get_task("g.each").pool) == (7, "small")


@pytest.mark.parametrize("listed", [list, lambda callbacks: callbacks[0]], ids=["a list", "one"])
def test_our_hook_comes_before_the_authors_own(dag: DAG, listed: Callable[[Any], Any]) -> None:
    def theirs(context: Any) -> None: ...

    declare(default_args={"on_failure_callback": listed([theirs])})
    each: Any = dag.get_task("g.each")

    assert each.partial_kwargs["on_failure_callback"] == [record_failure, theirs]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            {"branch": BashOperator, "items": [{}]},
            "branch: BashOperator is an operator class",
            id="operator",
        ),
        pytest.param({"branch": chain}, "branch: chain is a @task_group, and the items", id="task_group"),
        pytest.param({"branch": command}, "branch: command is @task.bash, and the items", id="bash"),
        pytest.param({"branch": elsewhere}, "branch: elsewhere is @task.virtualenv", id="virtualenv"),
        pytest.param(
            {"branch": {"a": work, "b": command}}, r"branch\['b'\]: command is", id="one of several"
        ),
        pytest.param({"prefix_group_id": False}, "prefix_group_id: .*leave it out", id="no prefix"),
        pytest.param({"mapped": False}, "mapped: found False, but items_per_task=", id="mapped=False"),
        pytest.param({"items_per_task": 0}, "items_per_task: expected 1 or more", id="0 per task"),
        pytest.param({"items_per_task": True}, "items_per_task: expected a whole number", id="True per task"),
        pytest.param(
            {"item_concurrency": 1.5}, "item_concurrency: expected a whole number", id="1.5 at once"
        ),
        pytest.param(
            {"item_concurrency": 3},
            "item_concurrency: found 3, above the 2 items that a task has; lower it, or raise items_per_task",
            id="more at once than a task has",
        ),
        pytest.param(
            {"max_concurrency": 5, "default_args": {"max_active_tis_per_dagrun": 3}},
            "max_concurrency: found 5, and default_args sets max_active_tis_per_dagrun=3",
            id="two limits for the group",
        ),
        *(
            pytest.param({"branch": branch, "items": []}, f"branch: {said}", id=f"no items: {said}")
            for branch, said in ((BashOperator, "BashOperator is an op"), (command, "command is @task.bash"))
        ),
        pytest.param(
            {"items": [], "default_args": {"do_xcom_push": False}},
            "default_args: do_xcom_push=False",
            id="no items, none push",
        ),
        pytest.param(
            {"items": [], "branch": task(max_active_tis_per_dagrun=3)(work), "max_concurrency": 2},
            "max_concurrency: found 2, and branch sets",
            id="no items, two limits",
        ),
        pytest.param({"max_concurrency": 0}, "max_concurrency: expected 1 or more", id="0 tasks at once"),
        pytest.param({"stop_after_failures": 2}, "stop_after_failures: .*none to stop", id="stops nothing"),
        pytest.param({"items": {1: "a"}}, "items: expected texts as names, found 1", id="a number as name"),
        pytest.param({"items": {"": "a"}}, "items: expected names of at least one", id="no name"),
        pytest.param(
            {"branch": {"": work}}, "branch: expected names of at least one", id="no name of a branch"
        ),
        pytest.param(
            {"branch": {2: work}}, "branch: expected texts as names, found 2", id="a number of branch"
        ),
        pytest.param({"branch": {}}, "branch: is an empty mapping", id="no functions"),
        pytest.param(
            {"branch": {"a": task(retries=1)(work), "b": task(retries=2)(other)}},
            r"branch\['b'\]: other has other settings than the functions before it",
            id="settings that differ",
        ),
        pytest.param(
            {"branch": task(work).override(do_xcom_push=False)},
            "branch: work sets 'do_xcom_push'",
            id="no push",
        ),
        pytest.param({"branch": task(multiple_outputs=True)(work)}, "sets multiple_outputs", id="outputs"),
        pytest.param(
            {"default_args": {"do_xcom_push": False}}, "default_args: do_xcom_push=False", id="none push"
        ),
        pytest.param(
            {"branch": task(max_active_tis_per_dagrun=3)(work), "max_concurrency": 2},
            "max_concurrency: found 2, and branch sets",
            id="two limits",
        ),
    ],
)
def test_what_cannot_take_effect_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(DeclarationError, match=f"'g': .*{said}"):
        declare(**arguments)


def test_a_function_that_returns_a_dict_is_no_setting() -> None:
    @task
    def returns_dict(item: str) -> dict[str, str]:
        return {"a": item}

    assert declare(branch=returns_dict).declared.mode == "batched"


def test_within_a_mapped_task_group_only_static_groups() -> None:
    @task_group
    def outer(word: str) -> None:
        declare()

    with pytest.raises(DeclarationError, match="items_per_task: Airflow can't map a task within the mapped"):
        outer.expand(word=["a"])


@pytest.mark.parametrize(
    ("count", "more", "said"),
    [
        pytest.param(
            100,
            {"items_per_task": 10, "max_concurrency": 4},
            "100 items in 10 tasks, at most 4 at once: max_concurrency is 4",
            id="limited",
        ),
        pytest.param(3, {"items_per_task": 10}, "3 items in 1 task", id="one task"),
        pytest.param(1, {"items_per_task": 10}, "1 item in 1 task", id="one item"),
    ],
)
def test_the_tooltip_counts_items_and_tasks(count: int, more: Any, said: str) -> None:
    assert declare(count=count, **more).tooltip == f"Fan-out: {said}"


class TestTheFanIn:
    @pytest.mark.parametrize("arguments", [{}, {"items": []}], ids=["items", "no items"])
    def test_another_key_is_refused(self, arguments: Any) -> None:
        with pytest.raises(
            DeclarationError, match="key: found 'rows', but the items of a batched group, 'g', have"
        ):
            FanInOperator(task_id="f", fan_out=declare(**arguments), key="rows")

    def test_another_key_by_prefix_fails_before_anything_is_read(self) -> None:
        fan_in = FanInOperator(task_id="f", task_id_prefix="g.", key="rows")
        declare() >> fan_in
        verdict = run_fan_in(fan_in, FakeRun())

        assert isinstance(verdict.error, FanInError)
        assert (
            "found 'rows', but the items of a batched group, 'g', have only what they return"
            in verdict.message
        )
        assert verdict.reader.calls == []
