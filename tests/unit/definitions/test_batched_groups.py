from __future__ import annotations

import functools
import inspect
import operator
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, BaseOperator, ObjectStoragePath, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import DeclarationError, DeclarationValueError, FanInError
from airflow_fanout.execution_time.recording import record_failure
from airflow_fanout.rules.policy import AT_RUN_TIME
from airflow_fanout.serialization.declaration import DeclaredGroup
from airflow_fanout.storage import Reuse
from tests.unit.fake_run import FakeRun, run_fan_in
from tests.unit.refused import wrong_type, wrong_value

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


def other(item: str = "") -> str:
    return item


async def wait(item: str = "") -> str:
    return item


@task
def text() -> str:
    return ""


async def join(a: str, b: str) -> str:
    return a + b


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
    return FanOutGroup(**{"group_id": "g", "branch": work, "items_per_task": 2, **how_many, **arguments})


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


def policy() -> Any:
    """Airflow's ``retry_policy``, from 3.3 on; before, anything, for it is not asked."""
    import airflow.sdk

    made = getattr(airflow.sdk, "ExceptionRetryPolicy", None)
    return object() if made is None else made(rules=[])


HAS_POLICIES = "retry_policy" in inspect.signature(BaseOperator.__init__).parameters
since_3_3 = pytest.mark.skipif(not HAS_POLICIES, reason="Airflow has retry_policy from 3.3 on")


@since_3_3
@pytest.mark.parametrize(
    "declared",
    [
        pytest.param({"default_args": {"retry_policy": policy()}}, id="the group's"),
        pytest.param({"branch": task(work).override(retry_policy=policy())}, id="the branch's"),
    ],
)
def test_a_policy_of_retries_is_the_tasks_too(dag: DAG, declared: Any) -> None:
    declare(item_retries=1, **declared)
    each: Any = dag.get_task("g.each")

    assert isinstance(each.partial_kwargs["retry_policy"], type(policy()))


def test_an_airflow_that_would_ignore_a_policy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldOperator:
        def __init__(self, retries: int = 0) -> None: ...

    monkeypatch.setattr("airflow_fanout.definitions.group_checks.BaseOperator", OldOperator)
    with pytest.raises(DeclarationError, match=r"'g': retry_policy: Airflow has it from 3\.3 on"):
        declare(item_retries=1, default_args={"retry_policy": policy()})


@since_3_3
def test_a_policy_of_the_dag_can_be_taken_off_the_group() -> None:
    with DAG("other", default_args={"retry_policy": policy()}):
        with pytest.raises(DeclarationError, match=r"retry_policy: .*default_args=\{'retry_policy': None\}"):
            declare()
        declare(group_id="h", default_args={"retry_policy": None})


NO_PYTHON = "but items of one task are calls of a plain Python function"

REFUSED = [
    wrong_type(f"branch: chain is a @task_group, {NO_PYTHON}", branch=chain),
    wrong_type(r"branch\['b'\]: command is @task.bash", branch={"a": work, "b": command}),
    wrong_value("prefix_group_id: .*leave it out", prefix_group_id=False),
    wrong_value("mapped: found False, but items_per_task= needs a mapped task", mapped=False),
    wrong_value("item_concurrency: found 3, but a task has 2 items; lower it, or raise", item_concurrency=3),
    wrong_value(
        "item_executor: found 'process', but wait is async def, .* or make it a plain function",
        branch=wait,
        item_executor="process",
    ),
    wrong_value(
        "item_timeout: found 60 s, but its task has execution_timeout=0:01:00, .* raise execution_timeout",
        item_timeout=60,
        default_args={"execution_timeout": timedelta(minutes=1)},
    ),
    wrong_value(
        "item_timeout: found 90 s, but its task has execution_timeout=0:01:00",
        item_timeout=timedelta(seconds=90),
        branch=task(execution_timeout=timedelta(minutes=1))(work),
    ),
    wrong_value("item_executor: .*wait is async", branch={"a": work, "b": wait}, item_executor="process"),
    wrong_value("stop_after_failures: .*none to stop", stop_after_failures=2),
    wrong_value(
        "retry_policy: .*no effect; give item_retries" if HAS_POLICIES else "retry_policy: .*from 3.3 on",
        default_args={"retry_policy": policy()},
    ),
    wrong_value("retry_policy: ", branch=task(work).override(retry_policy=policy())),
    wrong_type("items: expected texts as names, found 1", items={1: "a"}),
    wrong_value(r"items: .* refuse a name: 'a\\x00b' has a zero character", items={"a\0b": 1}),
    wrong_value(r"branch: .* refuse a name: '\\ud800' has a lone surrogate", branch={"\ud800": work}),
    wrong_type("branch: expected texts as names, found ''", branch={"": work}),
    wrong_value(
        r"branch\['b'\]: other has other settings",
        branch={"a": task(retries=1)(work), "b": task(retries=2)(other)},
    ),
    wrong_value(
        "combine: folds the values of the items of one task; give it", items_per_task=None, combine=max
    ),
    wrong_value(
        "results_path: is for the values of the items of one task; give items_per_task",
        items_per_task=None,
        results_path="/to/{{ run_id }}",
    ),
    wrong_value("results_path: found '/to/here', which is the same in every run", results_path="/to/here"),
    wrong_value(
        "results_path: keeps the value of each item, but combine keeps none",
        results_path="/to/{{ run_id }}",
        combine=max,
    ),
    wrong_value(
        "results_path: .* but reuse keeps values in its own store",
        results_path="/to/{{ run_id }}",
        reuse=Reuse("/to/store", version="1"),
    ),
    wrong_type("results_path: expected a text, or an ObjectStoragePath, found 3", results_path=3),
    wrong_value(
        "results_format: expected 'jsonl' or 'parquet', found 'csv'",
        results_path="/to/{{ run_id }}",
        results_format="csv",
    ),
    wrong_type("results_format: expected 'jsonl' or 'parquet', found None", results_format=None),
    wrong_value("results_format: .*; give results_path too", results_format="parquet"),
    wrong_value("combine_by: gives the key .*; give combine= too", combine_by=str),
    wrong_type("combine: expected a plain function of 2 values, found 'sum'", combine="sum"),
    wrong_type("combine: expected .*, found a @task, text; give the function without", combine=text),
    wrong_type(r"combine: expected .*, found work\(item\)", combine=work),
    wrong_type("combine: expected .*, found the async def join; write def", combine=join),
    wrong_type(r"combine: .* found <lambda>\(a, b, c\); let it take a value and", combine=lambda a, b, c: a),
    wrong_type("combine_by: expected a plain function of 1 value, found 3", combine=max, combine_by=3),
    wrong_type(r"combine_by: .*<lambda>\(a, b\)", combine=max, combine_by=lambda a, b: a),
    wrong_value("branch: work sets 'do_xcom_push'", branch=task(work).override(do_xcom_push=False)),
    wrong_value("branch: work sets multiple_outputs, but an", branch=task(multiple_outputs=True)(work)),
]

REFUSED_EVEN_WITHOUT_ITEMS = [
    wrong_type(f"branch: BashOperator is an operator class, {NO_PYTHON}", branch=BashOperator),
    wrong_type(f"branch: command is @task.bash, {NO_PYTHON}", branch=command),
    wrong_value("default_args: do_xcom_push=False would lose", default_args={"do_xcom_push": False}),
    wrong_value(
        "max_concurrency: .*branch sets", branch=task(max_active_tis_per_dagrun=3)(work), max_concurrency=2
    ),
    wrong_value(
        "max_concurrency: .*default_args", default_args={"max_active_tis_per_dagrun": 3}, max_concurrency=2
    ),
]


@pytest.mark.parametrize(("declared", "error", "message"), REFUSED)
def test_what_can_not_take_effect_is_refused(declared: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"'g': {message}"):
        declare(**declared)


@pytest.mark.parametrize("items", [[], [{}]], ids=["no items", "an item"])
@pytest.mark.parametrize(("declared", "error", "message"), REFUSED_EVEN_WITHOUT_ITEMS)
def test_it_is_refused_even_if_there_is_nothing_to_run_today(
    declared: Any, error: type[Exception], message: str, items: list[Any]
) -> None:
    with pytest.raises(error, match=f"'g': {message}"):
        declare(items=items, **declared)


@pytest.mark.parametrize(
    ("combine", "combine_by"),
    [
        pytest.param(max, None, id="without a signature"),
        pytest.param(operator.add, operator.itemgetter(0), id="an operator"),
        pytest.param(lambda a, b=0, *more: a, len, id="more than it is given"),
        pytest.param(functools.partial(lambda by, a, b: a, 2), str, id="the rest is bound"),
        pytest.param(Counter.__add__, dict.popitem, id="methods"),
    ],
)
def test_values_may_be_combined_by_any_function_of_two(dag: DAG, combine: Any, combine_by: Any) -> None:
    group = declare(combine=combine, combine_by=combine_by)

    assert group.declared.combined
    assert not declare(group_id="other").declared.combined
    each: Any = dag.get_task("g.each")
    assert DeclaredGroup.from_json(each.partial_kwargs["declared_group"]) == group.declared


@pytest.mark.parametrize("path", [Path("/to/{{ run_id }}"), ObjectStoragePath("file:///to/{{ run_id }}")])
def test_a_path_of_results_may_be_a_path(dag: DAG, path: Any) -> None:
    group = declare(results_path=path, results_format="parquet")

    assert (group.declared.results_path, group.declared.results_format) == (str(path), "parquet")
    each: Any = dag.get_task("g.each")
    assert each.partial_kwargs["results_path"] == str(path)


def test_a_path_of_results_may_be_known_at_run_time(dag: DAG) -> None:
    @task
    def folder() -> str:
        return "/to/here"

    group = declare(results_path=folder())

    assert group.declared.results_path == AT_RUN_TIME
    assert "folder" in dag.get_task("g.each").upstream_task_ids


def test_two_groups_with_one_folder_are_refused() -> None:
    declare(results_path="/to/{{ run_id }}")

    with pytest.raises(DeclarationValueError, match="which 'g' has too, and they would write over each"):
        declare(group_id="other", results_path="/to/{{ run_id }}")


def test_none_at_all_are_combined_too() -> None:
    assert declare(items=[], combine=max).declared.combined


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
        assert verdict.reader.calls == []
