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
def text() -> str:
    return ""


@task
def returns_dict(item: str) -> dict[str, str]:
    return {"a": item}


@task.bash
def command(item: str = "") -> str:
    return item


@task_group
def chain(item: str) -> Any:
    return text()


def declare(**arguments: Any) -> FanOutGroup:
    has_number = isinstance(arguments.get("branch"), dict) or "count" in arguments
    how_many = {} if has_number else {"items": ["a", "b"]}
    return FanOutGroup("g", **{"branch": work, "items_per_task": 2, **how_many, **arguments})


@pytest.mark.parametrize(
    "arguments",
    [{}, {"count": 3}, {"branch": {"x": work, "y": other}}, {"branch": returns_dict}],
    ids=["a list", "a count", "functions", "a function with a dict"],
)
def test_one_task_splits_and_another_runs_the_batches(arguments: Any) -> None:
    group = declare(**arguments)

    assert sorted(each.task_id for each in group.iter_tasks()) == ["g.each", "g.split"]
    assert FanInOperator(task_id="f", fan_out=group).upstream_task_ids == {"g.each"}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(lambda: {"partial": {"text": text()}}, id="partial"),
        pytest.param(lambda: {"items": ["a", {"b": text()}]}, id="items"),
    ],
)
def test_the_batches_wait_for_the_values_that_they_use(dag: DAG, arguments: Any) -> None:
    declare(branch=functools.partial(lambda text, item: item), **{"partial": {"text": ""}, **arguments()})

    assert dag.get_task("g.each").upstream_task_ids == {"g.split", "text"}


def test_settings_of_group_and_function_are_the_batches(dag: DAG) -> None:
    declare(branch=task(retries=7, pool="small")(work), max_concurrency=3)
    each = dag.get_task("g.each")

    assert (each.retries, each.pool, each.max_active_tis_per_dagrun) == (7, "small", 3)


@pytest.mark.parametrize("listed", [list, lambda callbacks: callbacks[0]], ids=["a list", "one"])
def test_our_hook_comes_before_the_authors_own(dag: DAG, listed: Callable[[Any], Any]) -> None:
    def theirs(context: Any) -> None: ...

    declare(default_args={"on_failure_callback": listed([theirs])})
    each: Any = dag.get_task("g.each")

    assert each.partial_kwargs["on_failure_callback"] == [record_failure, theirs]


NO_ITEMS: tuple[str, ...] = ()

REFUSED = [
    *(
        pytest.param(
            {"branch": branch, "items": items},
            f"branch: {found}, but items of one task are calls of a plain Python function",
            id=f"{found}, {len(items)} items",
        )
        for branch, found in (
            (BashOperator, "BashOperator is an operator class"),
            (chain, "chain is a @task_group"),
            (command, "command is @task.bash"),
        )
        for items in (NO_ITEMS, ("a",))
    ),
    pytest.param(
        {"branch": {"a": work, "b": command}}, r"branch\['b'\]: command is @task.bash", id="one of several"
    ),
    pytest.param({"prefix_group_id": False}, "prefix_group_id: .*leave it out", id="no prefix"),
    pytest.param({"mapped": False}, "mapped: found False, but items_per_task=", id="mapped=False"),
    pytest.param(
        {"item_concurrency": 3},
        "item_concurrency: found 3, but a task has 2 items; lower it, or raise items_per_task",
        id="more at once than a task has",
    ),
    pytest.param({"stop_after_failures": 2}, "stop_after_failures: .*none to stop", id="stops nothing"),
    pytest.param({"items": {1: "a"}}, "items: expected texts as names, found 1", id="a number as name"),
    pytest.param(
        {"branch": {"": work}}, "branch: expected texts as names, found ''", id="no name of a branch"
    ),
    pytest.param(
        {"branch": {"a": task(retries=1)(work), "b": task(retries=2)(other)}},
        r"branch\['b'\]: other has other settings than the functions before it",
        id="settings that differ",
    ),
    pytest.param(
        {"branch": task(work).override(do_xcom_push=False)}, "branch: work sets 'do_xcom_push'", id="no push"
    ),
    pytest.param(
        {"branch": task(multiple_outputs=True)(work)}, "sets multiple_outputs, but an item", id="outputs"
    ),
    *(
        pytest.param({"items": items, **arguments}, message, id=f"{message}, {len(items)} items")
        for message, arguments in (
            ("default_args: do_xcom_push=False would lose", {"default_args": {"do_xcom_push": False}}),
            (
                "max_concurrency: found 2, but branch sets",
                {"branch": task(max_active_tis_per_dagrun=3)(work), "max_concurrency": 2},
            ),
            (
                "max_concurrency: found 2, but default_args sets",
                {"default_args": {"max_active_tis_per_dagrun": 3}, "max_concurrency": 2},
            ),
        )
        for items in (NO_ITEMS, ("a",))
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_can_not_take_effect_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=f"'g': {message}|'g': branch: .*{message}"):
        declare(**arguments)


class TestAnotherKey:
    @pytest.mark.parametrize("arguments", [{}, {"items": []}], ids=["items", "no items"])
    def test_it_is_refused(self, arguments: Any) -> None:
        message = "key: found 'rows', but the items of the batched group 'g' have no XComs of their own"
        with pytest.raises(DeclarationError, match=message):
            FanInOperator(task_id="f", fan_out=declare(**arguments), key="rows")

    def test_by_prefix_it_fails_before_anything_is_read(self) -> None:
        fan_in = FanInOperator(task_id="f", task_id_prefix="g.", key="rows")
        declare() >> fan_in
        verdict = run_fan_in(fan_in, FakeRun())

        assert isinstance(verdict.error, FanInError)
        assert "found 'rows', but the items of the batched group 'g' have no XComs" in verdict.message
        verdict.reader.states.assert_not_called()
