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
    """Says its address."""


class Rude:
    def __str__(self) -> str:
        message = "no text of mine"
        raise LookupError(message)


@dataclass
class Said:
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


class TestWhatIsStored:
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param([1, "a", None, 2.5, b"b"], id="plain values"),
            pytest.param({"a": {"b": [1, (2, 3)]}}, id="containers"),
            pytest.param(OrderedDict(a=1), id="a dict of another kind"),
            pytest.param({"a", "b"}, id="a set that Airflow sorts"),
            pytest.param(set(), id="an empty set"),
            pytest.param([work, functools.partial(work, 1), len, Plain], id="what has a source"),
            pytest.param(Said(), id="an object with a text of its own"),
            pytest.param(Pair(1, 2), id="a named tuple"),
        ],
    )
    def test_what_is_stored_alike_stays_the_same_object(self, value: object) -> None:
        assert storable(value) is value

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            pytest.param(PLAIN, PLAIN_TEXT, id="an object"),
            pytest.param(
                [1, {"a": (PLAIN,)}], f"[1, {{'a': ({PLAIN_TEXT},)}}]", id="an object in containers"
            ),
            pytest.param(Around(), f"<{__name__}.Around object>", id="an object that says another's"),
            pytest.param(Rude(), f"<{__name__}.Rude object>", id="an object that can't say anything"),
            pytest.param(Pair(PLAIN, 1), f"Pair(first={PLAIN_TEXT}, second=1)", id="a named tuple"),
            pytest.param(frozenset("ba"), "{'a', 'b'}", id="a frozenset"),
            pytest.param({"a", 1, None}, "{'a', 1, None}", id="a set that can't be sorted"),
            pytest.param({("b", 1), ("a", 2)}, "{('a', 2), ('b', 1)}", id="a set of tuples"),
            pytest.param({PLAIN}, f"{{{PLAIN_TEXT}}}", id="an object in a set"),
        ],
    )
    def test_an_address_or_an_order_of_hashes_is_not(self, value: object, text: str) -> None:
        assert repr(storable(value)) == text

    def test_a_lock_says_its_kind(self) -> None:
        assert repr(storable(Lock())) == "<_thread.lock object>"

    def test_a_param_says_its_name_wherever_it_is(self, dag: DAG) -> None:
        assert repr(storable({"a": [dag.param("n", 3)]})) == "{'a': [DagParam('n')]}"

    def test_an_output_stays_a_reference(self) -> None:
        output = load()

        assert storable([output])[0] is output

    def test_an_operators_objects_stay_where_airflow_renders_nothing(self, dag: DAG) -> None:
        given = {"rendered": [PLAIN], "fixed": [PLAIN], "params": [dag.param("n", 3)]}

        found = storable_arguments(given, template_fields=("rendered",))

        assert repr(found["rendered"]) == f"[{PLAIN_TEXT}]"
        assert found["fixed"] is given["fixed"]
        assert repr(found["params"]) == "[DagParam('n')]"


class TestStorableItems:
    def test_they_are_stored_alike_and_got_as_they_are(self) -> None:
        items = StorableItems([PLAIN, [PLAIN]])

        assert repr(list(iter(items))) == f"[{PLAIN_TEXT}, [{PLAIN_TEXT}]]"
        assert [items[0], items[1]] == [PLAIN, [PLAIN]]

    def test_all_of_them_say_little(self) -> None:
        assert repr(StorableItems(range(1000))) == "<1000 items>"

    @pytest.mark.parametrize(
        "wrap",
        [lambda value: value, lambda value: {"a": [value]}, lambda value: (1, value)],
        ids=["bare", "in containers", "in a tuple"],
    )
    def test_what_is_known_at_run_time_is_no_literal(self, dag: DAG, wrap: Callable[[Any], Any]) -> None:
        assert holds_run_time_values(wrap(dag.param("n", 3)))
        assert holds_run_time_values(wrap(load()))
        assert not holds_run_time_values(wrap({"n", 3}))


def rendered(dag: DAG, task_id: str, index: int = 0) -> Any:
    """Return an instance of a mapped task, rendered as before it runs."""
    operator: Any = dag.get_task(task_id)
    run = Mock(conf={"n": 7})
    context: Any = {"ti": Mock(map_index=index), "task": operator, "dag": dag, "dag_run": run, "params": {}}
    context["word"] = "rendered"
    operator.render_template_fields(context)
    return context["task"]


VALUES = [
    pytest.param(lambda _: PLAIN, PLAIN, id="an object"),
    pytest.param(lambda _: [{"a": (PLAIN,)}], [{"a": (PLAIN,)}], id="an object in containers"),
    pytest.param(lambda _: {1, "a"}, {1, "a"}, id="a set"),
    pytest.param(lambda _: frozenset({1, "a"}), frozenset({1, "a"}), id="a frozenset"),
    pytest.param(lambda _: {"{{ word }}", 1}, {"rendered", 1}, id="templates in a set"),
    pytest.param(lambda dag: dag.param("n", 3), 7, id="a param"),
    pytest.param(lambda dag: [dag.param("n", 3), {"a": dag.param("n", 3)}], [7, {"a": 7}], id="params"),
    pytest.param(lambda _: work, work, id="a function"),
]


@pytest.mark.parametrize(("give", "found"), VALUES)
class TestWhatTheTaskGets:
    """The real values, whatever is stored of them."""

    def test_as_an_item(self, dag: DAG, give: Callable[[DAG], Any], found: object) -> None:
        FanOutGroup("g", branch=work, items=["a", give(dag)], mapped=True)

        assert rendered(dag, "g.each", 1).op_kwargs == {"item": found}

    def test_as_a_bound_argument(self, dag: DAG, give: Callable[[DAG], Any], found: object) -> None:
        FanOutGroup("g", branch=work, items=["a"], mapped=True, partial={"given": give(dag)})

        assert rendered(dag, "g.each").op_kwargs == {"given": found, "item": "a"}

    def test_as_a_bound_argument_of_a_batch(
        self, dag: DAG, give: Callable[[DAG], Any], found: object
    ) -> None:
        FanOutGroup("g", branch=work, items=["a"], items_per_task=1, partial={"given": give(dag)})
        each: Any = dag.get_task("g.each")
        context: Any = {"task": each, "dag_run": Mock(conf={"n": 7}), "params": {}, "word": "rendered"}

        each = each.unmap({"batch": [0, 1]})
        each.render_template_fields({**context, "task": each})

        assert each.op_kwargs == {"": {"given": found}}


class TestAnOperator:
    def test_gets_what_it_renders(self, dag: DAG) -> None:
        env: Any = {"A": dag.param("n", 3)}
        branch = functools.partial(BashOperator, env=env)
        FanOutGroup("g", branch=branch, items=[{"bash_command": "ls"}], mapped=True)

        assert repr(dag.get_task("g.each").partial_kwargs["env"]) == "{'A': DagParam('n')}"  # type: ignore[union-attr]
        assert rendered(dag, "g.each").env == {"A": 7}

    def test_gets_what_it_renders_of_an_item(self, dag: DAG) -> None:
        items = [{"bash_command": "ls", "env": {"A": dag.param("n", 3)}}]
        FanOutGroup("g", branch=BashOperator, items=items, mapped=True)

        assert rendered(dag, "g.each").env == {"A": 7}


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
    def test_airflow_resolves_no_item_of_its_own(self, dag: DAG, give: Callable[[DAG], Any]) -> None:
        with pytest.raises(
            DeclarationValueError,
            match=r"'g': items: item 1 is known only at run time, .*leave mapped out, or let a task return",
        ):
            FanOutGroup("g", branch=steps, items=["a", give(dag)], mapped=True)

    def test_a_group_among_its_items_has_to_be_collected(self) -> None:
        group = FanOutGroup("first", branch=work, items=["a"])

        with pytest.raises(TypeError, match=r"'first' was handed to a task.*FanInOperator\(task_id="):
            FanOutGroup("g", branch=steps, items=["a", group], mapped=True)


def test_a_group_as_a_bound_argument_has_to_be_collected() -> None:
    group = FanOutGroup("first", branch=work, items=["a"])

    with pytest.raises(TypeError, match=r"'first' was handed to a task.*FanInOperator\(task_id="):
        FanOutGroup("g", branch=work, items=["a"], mapped=True, partial={"given": [group]})
