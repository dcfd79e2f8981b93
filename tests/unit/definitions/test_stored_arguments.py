"""Arguments of mapped tasks: stored alike at every parse, and real when the task runs."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import Mock

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task, task_group

from airflow_fanout import FanOutGroup
from airflow_fanout.definitions.stored_arguments import (
    StorableItems,
    holds_run_time_values,
    storable,
    storable_arguments,
)
from airflow_fanout.exceptions import DeclarationValueError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


class Plain:
    """Whose text is its address."""


class Rude:
    def __str__(self) -> str:
        message = "no text of mine"
        raise LookupError(message)


@dataclass
class Named:
    word: str = "a"


@dataclass
class Around:
    plain: Plain = field(default_factory=Plain)


class Pair(NamedTuple):
    first: Any
    second: Any


PLAIN = Plain()
PLAIN_TEXT = f"<{__name__}.Plain object>"


def work(item: Any, given: Any = None) -> Any:
    return item, given


@task
def load() -> str:
    return "text"


@task
def use(item: Any, given: Any = None) -> Any:
    return item, given


@task_group
def steps(item: Any, given: Any = None) -> Any:
    return use(item, given)


class TestStorable:
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param([1, "a", None, 2.5, b"b"], id="plain values"),
            pytest.param({"a": {"b": [1, (2, 3)]}}, id="containers"),
            pytest.param(OrderedDict(a=1), id="a dict of another kind"),
            pytest.param({"a", "b"}, id="a set that Airflow sorts"),
            pytest.param(set(), id="an empty set"),
            pytest.param([work, functools.partial(work, 1), len, Plain], id="what has a source"),
            pytest.param(Named(), id="an object with a text of its own"),
            pytest.param(Pair(1, 2), id="a named tuple"),
        ],
    )
    def test_what_airflow_stores_alike_stays_the_same_object(self, value: object) -> None:
        assert storable(value) is value

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            pytest.param(PLAIN, PLAIN_TEXT, id="an object"),
            pytest.param([1, {"a": (PLAIN,)}], f"[1, {{'a': ({PLAIN_TEXT},)}}]", id="containers"),
            pytest.param(Around(), f"<{__name__}.Around object>", id="an object with another in it"),
            pytest.param(Rude(), f"<{__name__}.Rude object>", id="an object without a text"),
            pytest.param(Lock(), "<_thread.lock object>", id="a lock"),
            pytest.param(Pair(PLAIN, 1), f"Pair(first={PLAIN_TEXT}, second=1)", id="a named tuple"),
            pytest.param(frozenset("ba"), "{'a', 'b'}", id="a frozenset"),
            pytest.param({"a", 1, None}, "{'a', 1, None}", id="a set that can't be sorted"),
            pytest.param({("b", 1), ("a", 2)}, "{('a', 2), ('b', 1)}", id="a set of tuples"),
            pytest.param({PLAIN}, f"{{{PLAIN_TEXT}}}", id="an object in a set"),
        ],
    )
    def test_a_text_stands_for_an_address_or_an_order_of_hashes(self, value: object, text: str) -> None:
        assert repr(storable(value)) == text

    def test_a_param_shows_its_name_and_an_output_stays_a_reference(self, dag: DAG) -> None:
        output = load()

        assert repr(storable({"a": [dag.param("n", 3)]})) == "{'a': [DagParam('n')]}"
        assert storable([output])[0] is output

    def test_of_an_operators_other_arguments_only_params_are_replaced(self, dag: DAG) -> None:
        given = {"rendered": [PLAIN], "fixed": [PLAIN], "params": [dag.param("n", 3)]}

        found = storable_arguments(given, template_fields=("rendered",))

        assert repr(found["rendered"]) == f"[{PLAIN_TEXT}]"
        assert found["fixed"] is given["fixed"]
        assert repr(found["params"]) == "[DagParam('n')]"

    def test_items_are_stored_alike_with_a_short_text_and_returned_as_they_are(self) -> None:
        items = StorableItems([PLAIN, [PLAIN]])

        assert repr(list(iter(items))) == f"[{PLAIN_TEXT}, [{PLAIN_TEXT}]]"
        assert [items[0], items[1]] == [PLAIN, [PLAIN]]
        assert repr(items) == "<2 items>"

    @pytest.mark.parametrize(
        "wrap",
        [lambda value: value, lambda value: {"a": [value]}, lambda value: (1, value)],
        ids=["bare", "in containers", "in a tuple"],
    )
    def test_values_of_run_time_are_found_wherever_they_are(
        self, dag: DAG, wrap: Callable[[Any], Any]
    ) -> None:
        assert holds_run_time_values(wrap(dag.param("n", 3)))
        assert holds_run_time_values(wrap(load()))
        assert not holds_run_time_values(wrap({"n", 3}))


def rendered(dag: DAG, index: int = 0, **unmapped: Any) -> Any:
    """An instance of the mapped task, rendered as before it runs."""
    each: Any = dag.get_task("g.each")
    operator = each.unmap(unmapped) if unmapped else each
    context: Any = {
        "ti": Mock(map_index=index),
        "task": operator,
        "dag": dag,
        "params": {},
        "word": "rendered",
    }
    context["dag_run"] = Mock(conf={"n": 7})
    operator.render_template_fields(context)
    return context["task"]


@pytest.mark.parametrize(
    ("give", "found"),
    [
        pytest.param(lambda _: PLAIN, PLAIN, id="an object"),
        pytest.param(lambda _: [{"a": (PLAIN,)}], [{"a": (PLAIN,)}], id="an object in containers"),
        pytest.param(lambda _: {1, "a"}, {1, "a"}, id="a set"),
        pytest.param(lambda _: frozenset({1, "a"}), frozenset({1, "a"}), id="a frozenset"),
        pytest.param(lambda _: {"{{ word }}", 1}, {"rendered", 1}, id="templates in a set"),
        pytest.param(lambda dag: [dag.param("n", 3), {"a": dag.param("n", 3)}], [7, {"a": 7}], id="params"),
        pytest.param(lambda _: work, work, id="a function"),
    ],
)
class TestWhatAFunctionGets:
    """The real values, whatever is stored of them."""

    def test_as_an_item(self, dag: DAG, give: Callable[[DAG], Any], found: object) -> None:
        FanOutGroup("g", branch=work, items=["a", give(dag)], mapped=True)

        assert rendered(dag, 1).op_kwargs == {"item": found}

    def test_as_a_bound_argument(self, dag: DAG, give: Callable[[DAG], Any], found: object) -> None:
        FanOutGroup("g", branch=work, items=["a"], mapped=True, partial={"given": give(dag)})

        assert rendered(dag).op_kwargs == {"given": found, "item": "a"}

    def test_as_a_bound_argument_of_a_batch(self, dag: DAG, give: Any, found: object) -> None:
        FanOutGroup("g", branch=work, items=["a"], items_per_task=1, partial={"given": give(dag)})

        assert rendered(dag, batch=[0, 1]).op_kwargs == {"": {"given": found}}


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "in an item"])
def test_an_operator_gets_what_it_renders(dag: DAG, bound: bool) -> None:
    env: Any = {"A": dag.param("n", 3)}
    branch = functools.partial(BashOperator, env=env) if bound else BashOperator
    item = {"bash_command": "ls"} if bound else {"bash_command": "ls", "env": env}
    FanOutGroup("g", branch=branch, items=[item], mapped=True)

    assert rendered(dag).env == {"A": 7}


class TestATaskGroup:
    @pytest.mark.parametrize(
        "item",
        [PLAIN, {1, "a"}, frozenset("ab"), work, [PLAIN]],
        ids=["an object", "a set", "a frozenset", "a function", "a list"],
    )
    def test_its_tasks_get_items_as_they_are(self, dag: DAG, item: Any) -> None:
        FanOutGroup("g", branch=steps, items=["a", item], mapped=True)
        (argument, _) = dag.get_task("g.each.use").op_args  # type: ignore[union-attr]

        assert argument.resolve({"ti": Mock(map_index=1)}) is item
        assert "<2 items>" in repr(argument)

    def test_its_function_gets_bound_objects_when_it_makes_the_tasks(self) -> None:
        seen = []

        @task_group
        def look(item: Any, given: Any) -> Any:
            seen.append(given)
            return use(item)

        given = {"objects": [PLAIN], "set": frozenset("ab")}
        FanOutGroup("g", branch=look, items=["a"], mapped=True, partial={"given": given})

        assert seen == [given]

    @pytest.mark.parametrize(
        "give", [lambda dag: dag.param("n", 3), lambda _: [load()]], ids=["a param", "an output in a list"]
    )
    def test_an_item_of_run_time_in_a_list_is_refused(self, dag: DAG, give: Callable[[DAG], Any]) -> None:
        message = "'g': items: item 1 is known only at run time, .*leave mapped out, or let a task return"
        with pytest.raises(DeclarationValueError, match=message):
            FanOutGroup("g", branch=steps, items=["a", give(dag)], mapped=True)
