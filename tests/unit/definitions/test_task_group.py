from __future__ import annotations

import functools
import inspect
import math
from contextlib import ExitStack
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, Label, Param, TaskGroup, chain, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from tests.unit.refused import wrong_type, wrong_value

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")

needs_doc_md = pytest.mark.skipif(
    not hasattr(TaskGroup, "doc_md"), reason="task groups have a doc_md from Airflow 3.3 on"
)


def work(item: str = "", text: str = "") -> str:
    return item + text


@task
def load() -> str:
    return "text"


@task
def use(value: Any, other: Any = None) -> Any:
    return value


def documented(doc: str) -> str:
    return doc


@task_group
def steps(index: int) -> Any:
    return use(use(index))


def declare(group_id: str = "process", **arguments: Any) -> FanOutGroup:
    return FanOutGroup(group_id, **{"branch": work, **arguments})


def ids(group: FanOutGroup) -> list[str]:
    return [operator.task_id for operator in group]


def names(group: FanOutGroup) -> list[str]:
    return [branch.name for branch in group.declared.branches]


UNUSUAL = ["größe", "名前", "a-b", "a.b", "1", "_"]


class TestNamesAndIds:
    @pytest.mark.parametrize(
        ("declared", "expected"),
        [
            pytest.param({"count": 2}, ["process.process_0", "process.process_1"], id="a count"),
            pytest.param({"items": ["b", "a"]}, ["process.process_0", "process.process_1"], id="a list"),
            pytest.param({"items": range(2)}, ["process.process_0", "process.process_1"], id="a range"),
            pytest.param({"items": {"b": 1, "a": 2}}, ["process.b", "process.a"], id="a dict, in its order"),
            pytest.param({"items": MappingProxyType({"b": 1})}, ["process.b"], id="a mapping"),
            pytest.param({"branch": {"b": work, "a": load}}, ["process.b", "process.a"], id="branches"),
            pytest.param(
                {"count": 8, "prefix_group_id": False}, [f"process_{i}" for i in range(8)], id="short"
            ),
            pytest.param({"items": {"a": 1}, "prefix_group_id": False}, ["a"], id="unprefixed"),
            pytest.param({"count": 1, "group_display_name": "Work"}, ["process.process_0"], id="displayed"),
            pytest.param(
                {"items": dict.fromkeys(UNUSUAL)},
                [f"process.{name}" for name in UNUSUAL],
                id="all that Airflow takes",
            ),
            pytest.param({"items": {"n" * 242: 1}}, [f"process.{'n' * 242}"], id="250 characters"),
        ],
    )
    def test_ids_are(self, declared: dict[str, Any], expected: list[str]) -> None:
        assert ids(declare(**declared)) == expected

    @pytest.mark.parametrize(
        ("prefixes", "arguments", "expected"),
        [
            pytest.param({"a": True}, {}, "a.process.process_0", id="one group"),
            pytest.param({"a": True, "b": True}, {}, "a.b.process.process_0", id="two groups"),
            pytest.param({"a": False}, {}, "process.process_0", id="unprefixed"),
            pytest.param({"a": True}, {"prefix_group_id": False}, "process_0", id="itself unprefixed"),
        ],
    )
    def test_within_groups_names_leave_out_the_parents(
        self, prefixes: dict[str, bool], arguments: dict[str, Any], expected: str
    ) -> None:
        with ExitStack() as stack:
            for group_id, is_prefix in prefixes.items():
                stack.enter_context(TaskGroup(group_id, prefix_group_id=is_prefix))
            group = declare(count=1, **arguments)

        assert (names(group), ids(group)) == (["process_0"], [expected])

    def test_a_suffix_that_airflow_gives_the_group_is_part_of_the_names(self) -> None:
        declare(count=1)
        group = declare(count=1, add_suffix_on_collision=True)

        assert ids(group) == ["process__1.process__1_0"]

    def test_the_declaration_is_plain_values(self) -> None:
        with TaskGroup("parent"):
            declared = declare(items={"b": 1, "a": 2}).declared

        assert (declared.group_id, declared.prefix) == ("parent.process", "parent.process.")
        assert [(branch.name, branch.task_ids) for branch in declared.branches] == [
            ("b", ("parent.process.b",)),
            ("a", ("parent.process.a",)),
        ]


class TestRefusedNames:
    @pytest.mark.parametrize(
        ("argument", "declared"),
        [
            pytest.param("items", lambda name: {"items": {"good": 1, name: 2}}, id="items"),
            pytest.param("branch", lambda name: {"branch": {"good": work, name: work}}, id="branch"),
        ],
    )
    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            pytest.param("a b", "'a b' may have only letters, digits, '_', '-' and '.'", id="a blank"),
            pytest.param("", "'' may have only letters", id="empty"),
            pytest.param(1, "expected a str, found 1 of type int", id="a number"),
            pytest.param("n" * 243, "makes a task id of 251 characters; Airflow takes 250", id="too long"),
        ],
    )
    def test_a_name_that_airflow_would_refuse_is_refused(
        self, argument: str, declared: Callable[[object], dict[str, Any]], name: object, problem: str
    ) -> None:
        message = f"FanOutGroup 'process': {argument}: Airflow would refuse a name: .*{problem}"
        with pytest.raises(DeclarationValueError, match=message):
            declare(**declared(name))

    def test_a_long_group_id_is_named_where_it_makes_the_name_too_long(self) -> None:
        with pytest.raises(DeclarationValueError, match=r"'x+': group_id: .* makes a task id of 253"):
            declare("x" * 125, count=1)

    @pytest.mark.parametrize(
        ("existing", "declared"),
        [
            pytest.param("process_1", {"count": 2, "prefix_group_id": False}, id="a task, unprefixed"),
            pytest.param("a", {"items": {"a": 1}, "prefix_group_id": False}, id="a mapping's key"),
            pytest.param("a", {"branch": {"a": work}, "prefix_group_id": False}, id="a branch's key"),
            pytest.param("process.process_1", {"count": 2}, id="a task with a dot in its id"),
        ],
    )
    @pytest.mark.parametrize("kind", ["task", "group"])
    def test_an_id_that_the_dag_has_already_is_refused(
        self, existing: str, declared: dict[str, Any], kind: str
    ) -> None:
        """Airflow itself would silently append ``__1``."""
        if kind == "task" or "." in existing:
            EmptyOperator(task_id=existing)
        else:
            TaskGroup(existing)

        message = f"'process': .*the Dag has tasks or groups with the ids '{existing}'; rename one of each"
        with pytest.raises(DeclarationValueError, match=message):
            declare(**declared)

    def test_an_id_of_the_group_itself_is_refused(self) -> None:
        with pytest.raises(DeclarationValueError, match="the Dag has tasks or groups with the ids 'process'"):
            declare(items={"process": 1}, prefix_group_id=False)

    def test_all_ids_that_two_unprefixed_groups_share_are_named(self) -> None:
        declare("first", items={"a": 1, "b": 2, "c": 3}, prefix_group_id=False)

        with pytest.raises(DeclarationValueError, match=r"'second': items: .* the ids 'a', 'c'; rename"):
            declare("second", items={"c": 1, "d": 2, "a": 3}, prefix_group_id=False)


POOL = r'make a pool with that many slots and give default_args=\{"pool": …\}'
TWO = {"a": work, "b": work}

RETRIED: dict[str, Any] = {"count": 2, "items_per_task": 2, "item_retries": 1}
IN_ONE_TASK: dict[str, Any] = {"count": 2, "items_per_task": 2}
DELAYS: list[tuple[Any, str]] = [
    *(
        (-1, "-1"),
        (timedelta(seconds=-1), "datetime.timedelta"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (10**400, "1000"),
    ),
]

REFUSED = [
    wrong_value("count: expected count=, items= or a mapping as branch, found none"),
    wrong_value("count: .*found count and items", count=2, items=["a"]),
    wrong_value("count: .*found count and items$", count=0, items=[]),
    wrong_value("count: .*found count and a mapping as branch", count=2, branch=TWO),
    wrong_value("items: .*found items and a mapping as branch", items=["x"], branch=TWO),
    wrong_value("branch: found an empty mapping; name at least one", branch={}),
    wrong_value("count: expected 0 or more branches, found -1", count=-1),
    *(
        wrong_type(f"count: expected a whole number of branches, found {count!r} of type", count=count)
        for count in (True, False, 2.0, "8")
    ),
    wrong_type("count: .*of type list", count=[8]),
    wrong_type(r"count: .*was not called; call it: load\(\)$", count=load),
    wrong_type("count: .*found a Param; give it to the Dag", count=Param(8)),
    wrong_type('count: .*a Dag param, dag.param."name"., or the output of a task', count="{{ params.n }}"),
    wrong_type(
        r"max_concurrency: expected a number that is known when .* found '{{ n }}' .*; write a number",
        count=2,
        mapped=True,
        max_concurrency="{{ n }}",
    ),
    wrong_type(r"default_args\['pool_slots'\]: .*found 'a'", count=2, default_args={"pool_slots": "a"}),
    wrong_type(
        r"items: expected a list or a mapping by name, found 'abc' of type .*; use \[…\]", items="abc"
    ),
    wrong_type(r"items: .*of type bytes; use \[…\]", items=b"abc"),
    wrong_type("items: .*of type set, which has no order; use sorted", items={"a", "b"}),
    wrong_type("items: .*of type frozenset, which has no order", items=frozenset("a")),
    wrong_type(r"items: .*of type generator; use .*list\(", items=(item for item in "ab")),
    wrong_type("items: .*of type dict_keys", items={"a": 1}.keys()),
    wrong_type("items: .*8 of type int", items=8),
    wrong_type("items: .*let a task return the param's value", items=Param(["a"])),
    wrong_type(r"items: .*was not called; call it: load\(\)$", items=load),
    wrong_type(r"items: .*was not called; call it: work\(\)$", items=work),
    wrong_type(r"items: .*give its output: <the task>\.output", items=BaseOperator(task_id="listed")),
    wrong_type("partial: expected a dict of arguments, found", count=1, partial=[("a", 1)]),
    wrong_type("partial: expected parameter names as keys, found 1", count=1, partial={1: "a"}),
    wrong_value(rf"max_concurrency: .*{POOL}, or .*mapped=True, or .*task=$", count=2, max_concurrency=1),
    wrong_value(f"max_concurrency: .*{POOL}, or .* items_per_task=$", branch=TWO, max_concurrency=1),
    wrong_value(
        f"max_concurrency: .*{POOL}, or .* mapped=True$", branch=EmptyOperator, count=2, max_concurrency=1
    ),
    wrong_value(
        f"max_concurrency: .*{POOL}, and weight_rule='upstream', so that",
        branch=steps,
        count=2,
        max_concurrency=1,
    ),
    wrong_value("item_concurrency: .*give items_per_task too", count=2, item_concurrency=2),
    wrong_value("item_executor: .*give items_per_task too", count=2, item_executor="thread"),
    wrong_value("item_timeout: .*give items_per_task too, or .*execution_timeout", count=2, item_timeout=9),
    *(
        wrong_value(f"item_timeout: expected more than 0 s, found {found}", count=2, item_timeout=seconds)
        for seconds, found in ((0, "0 "), (-1.5, "-1.5 "), (timedelta(0), "datetime"), (math.nan, "nan"))
    ),
    wrong_type("item_timeout: expected a timedelta, or seconds, found True", count=2, item_timeout=True),
    wrong_type("item_timeout: expected a timedelta, or seconds, found '9'", count=2, item_timeout="9"),
    wrong_value(
        'item_executor: expected "thread" or "process", found \'processes\'',
        count=2,
        item_executor="processes",
    ),
    wrong_type('item_executor: expected "thread" or "process", found 2', count=2, item_executor=2),
    wrong_value("item_retries: .*give items_per_task too", count=2, item_retries=2),
    wrong_value("item_retries: .*give items_per_task too", items=["a"], mapped=True, item_retries=2),
    wrong_value("item_retries: expected 0 or more, found -1", count=2, items_per_task=2, item_retries=-1),
    wrong_type("item_retries: .*found True of type bool", count=2, items_per_task=2, item_retries=True),
    wrong_type("item_retries: .*found 1.0 of type float", count=2, items_per_task=2, item_retries=1.0),
    wrong_value("item_retry_delay: .*give item_retries too", count=2, items_per_task=2, item_retry_delay=1),
    *(
        wrong_value(
            f"item_retry_delay: expected 0 s or more, found {found}", **RETRIED, item_retry_delay=delay
        )
        for delay, found in DELAYS
    ),
    wrong_type("item_retry_delay: .*timedelta, or seconds, found True", **RETRIED, item_retry_delay=True),
    wrong_type("item_retry_delay: .*timedelta, or seconds, found '1'", **RETRIED, item_retry_delay="1"),
    wrong_value("items_per_second: .*give items_per_task too", count=2, items_per_second=2),
    wrong_value(
        "items_per_second: .*give items_per_task too",
        items=["a"],
        mapped=True,
        max_concurrency=1,
        items_per_second=2,
    ),
    wrong_value("items_per_second: .*give max_concurrency", count=3, items_per_task=2, items_per_second=2),
    wrong_value(
        "items_per_second: .*give max_concurrency", items=load(), items_per_task=2, items_per_second=2
    ),
    *(
        wrong_value(f"items_per_second: .*above 0, .*found {found}", **IN_ONE_TASK, items_per_second=rate)
        for rate, found in [(0, 0), (-1, -1), (math.nan, "nan"), (math.inf, "inf"), (10**400, "1000")]
    ),
    wrong_type(
        "items_per_second: expected a number above 0, found True", **IN_ONE_TASK, items_per_second=True
    ),
    wrong_type("items_per_second: expected a number above 0, found '5'", **IN_ONE_TASK, items_per_second="5"),
    wrong_value(
        "items_per_second: found 1.5 for 4 tasks, .*max_concurrency=3, and item_concurrency",
        **{**IN_ONE_TASK, "count": 9, "max_concurrency": 4},
        items_per_second=1.5,
    ),
    wrong_value(
        "items_per_second: found 0.1 for 2 tasks, .*max_concurrency=1, and item_concurrency",
        **{**IN_ONE_TASK, "count": 3, "max_concurrency": 2},
        items_per_second=0.1,
    ),
    wrong_value("stop_after_failures: 2 .* of 2 .* choose a number below 2", count=2, stop_after_failures=2),
    wrong_type("mapped: expected True or False, found 1 of type int", count=2, mapped=1),
    *(
        row
        for limit in ("max_concurrency", "items_per_task", "item_concurrency", "stop_after_failures")
        for row in (
            wrong_value(f"{limit}: expected 1 or more, found 0", **{"count": 2, limit: 0}),
            wrong_type(f"{limit}: expected a whole number, 1 .*found True", **{"count": 2, limit: True}),
            wrong_type(f"{limit}: expected a whole number, 1 or more, found 2.0", **{"count": 2, limit: 2.0}),
        )
    ),
]


class TestRefusedArguments:
    @pytest.mark.parametrize(("declared", "error", "message"), REFUSED)
    def test_an_argument_is_refused_by_name_and_leaves_nothing_behind(
        self, dag: DAG, declared: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        existing = set(dag.task_ids)
        with pytest.raises(error, match=f"^FanOutGroup 'process': {message}"):
            declare(**declared)

        assert set(dag.task_ids) == existing

    @pytest.mark.parametrize(
        ("unknown", "way_out"),
        [
            pytest.param("cuont", r"did you mean 'count'\?", id="a misspelt one"),
            pytest.param("document", "there are 'add_suffix_on_collision', ", id="like none"),
            pytest.param("min_success", "there are ", id="the fan-in's"),
            pytest.param("task_id", "there are ", id="a task's id"),
            *(
                pytest.param(name, rf"settings .*tasks go into default_args={{'{name}': …}}", id=name)
                for name in ("retries", "pool", "max_active_tis_per_dag")
            ),
        ],
    )
    def test_an_unknown_argument_is_refused_with_the_way_out(self, unknown: str, way_out: str) -> None:
        message = f"'process': {unknown}: got an unexpected keyword argument '{unknown}'; {way_out}"
        with pytest.raises(DeclarationTypeError, match=message):
            declare(**{"count": 1, unknown: 1})  # type: ignore[arg-type]

    @pytest.mark.parametrize("branch", [documented, task(documented)], ids=["plain", "@task"])
    def test_a_parameter_of_the_branch_goes_into_items_or_partial(self, branch: Any) -> None:
        """'doc' is also a setting of Airflow's tasks."""
        message = r"doc: .*the branch's: give it as items=, one for each branch, or in partial=\{'doc': …\}"
        with pytest.raises(DeclarationTypeError, match=message):
            declare(branch=branch, doc=load())

    @pytest.mark.parametrize("second", ["shown", work], ids=["a display name", "a branch"])
    def test_only_the_id_is_given_by_position(self, second: object) -> None:
        group_class: Any = FanOutGroup

        message = (
            "'process': group_id: is the one argument given by position, found .*write branch=…, count=…"
        )
        with pytest.raises(DeclarationTypeError, match=message):
            group_class("process", second, branch=work, count=2)
        kinds = {name: each.kind for name, each in inspect.signature(FanOutGroup).parameters.items()}
        assert [name for name, kind in kinds.items() if kind is not inspect.Parameter.KEYWORD_ONLY] == [
            "group_id"
        ]

    def test_a_large_value_does_not_flood_the_log(self) -> None:
        with pytest.raises(TypeError) as raised:
            declare(items="x" * 10_000)

        assert len(str(raised.value)) < 300


LIMIT: Any = {"max_active_tis_per_dagrun": 1}
NO_LIMIT = "limits the instances of one task, but 'process.*' is a single one, and the branches run at once"


class TestLimitsThatAirflowCountsByTask:
    @pytest.mark.parametrize("name", ["max_active_tis_per_dagrun", "max_active_tis_per_dag"])
    @pytest.mark.parametrize(
        ("argument", "give"),
        [
            pytest.param("branch", lambda given: {"branch": task(**given)(work), "count": 2}, id="a @task"),
            pytest.param(
                "branch",
                lambda given: {"branch": functools.partial(EmptyOperator, **given), "count": 2},
                id="an operator",
            ),
            pytest.param("branch", lambda given: {"branch": EmptyOperator, "items": [given]}, id="an item"),
            pytest.param(
                "branch", lambda given: {"branch": steps.override(default_args=given), "count": 2}, id="steps"
            ),
            pytest.param(
                "branch", lambda given: {"branch": {"a": work, "b": task(**given)(work)}}, id="one of two"
            ),
            pytest.param(
                "default_args", lambda given: {"count": 2, "default_args": given}, id="default_args"
            ),
        ],
    )
    def test_on_branches_of_a_static_group_they_are_refused_with_what_limits(
        self, name: str, argument: str, give: Any
    ) -> None:
        with pytest.raises(
            DeclarationValueError, match=f"'process': {argument}: {name}=1 {NO_LIMIT}.*; {POOL}"
        ):
            declare(**give({name: 1}))

    @pytest.mark.parametrize("mapped", [True, None], ids=["mapped", "batched"])
    def test_on_instances_of_one_task_they_are_taken(self, dag: DAG, mapped: bool | None) -> None:
        batches: Any = {} if mapped else {"items_per_task": 1}
        declare(items=["a"], mapped=mapped, default_args=LIMIT, **batches)

        assert dag.get_task("process.each").max_active_tis_per_dagrun == 1

    def test_those_of_the_dag_and_of_groups_around_may_be_for_other_tasks(self) -> None:
        with DAG("d", schedule=None, default_args=LIMIT):
            assert len(ids(declare(count=2))) == 2
        with TaskGroup("outer", default_args=LIMIT):
            assert len(ids(declare(count=2, default_args={"pool": "small"}))) == 2

    def test_mapped_tasks_of_a_branch_are_limited(self) -> None:
        @task_group
        def branch() -> None:
            use.override(task_id="last")(use.expand(value=[1, 2]))

        assert len(declare(branch=branch, count=1, default_args=LIMIT).declared.branches) == 1

    def test_branches_in_a_mapped_task_group_are_limited(self) -> None:
        @task_group
        def outer(item: str) -> None:
            declare(count=2, default_args=LIMIT)

        outer.expand(item=["a", "b"])


class TestATaskGroup:
    def test_it_is_wired_as_any_task_group(self) -> None:
        before = [EmptyOperator(task_id="a"), EmptyOperator(task_id="b")]
        first, second = declare("first", count=2), declare("second", count=2)
        after = EmptyOperator(task_id="after")

        before >> first >> second
        chain(second, Label("each"), after)

        assert isinstance(first, TaskGroup)
        assert [operator.upstream_task_ids for operator in first] == [{"a", "b"}] * 2
        assert [operator.upstream_task_ids for operator in second] == [set(ids(first))] * 2
        assert after.upstream_task_ids == set(ids(second))

    def test_outputs_in_partial_and_items_come_before_the_branches_that_use_them(self) -> None:
        with_partial = declare("bound", count=2, partial={"item": load()})
        with_output, with_literal = declare(items=[load(), "literal"])

        assert [operator.upstream_task_ids for operator in with_partial] == [{"load"}] * 2
        assert (with_output.upstream_task_ids, with_literal.upstream_task_ids) == ({"load__1"}, set())
        assert not any(operator.downstream_task_ids for operator in with_partial)

    def test_a_task_can_be_added_to_it(self) -> None:
        group = declare(count=1)
        with group:
            EmptyOperator(task_id="own")

        assert (ids(group), names(group)) == (["process.process_0", "process.own"], ["process_0"])

    @pytest.mark.usefixtures("no_dag")
    def test_it_can_be_given_its_dag(self) -> None:
        another = DAG("another", schedule=None)

        assert ids(declare(count=1, dag=another)) == another.task_ids

    @pytest.mark.parametrize(
        "branch",
        [
            pytest.param(task(owner="own")(work), id="@task"),
            pytest.param(task(owner="dag")(work).override(owner="own"), id=".override()"),
            pytest.param(functools.partial(BashOperator, bash_command="ls", owner="own"), id="an operator"),
            pytest.param(steps.override(default_args={"owner": "own"}), id="a task group"),
        ],
    )
    def test_the_nearest_setting_holds_for_every_branch(self, branch: Any) -> None:
        levels = ("dag", "outer", "group", "own")
        settings = ("run_as_user", "pool", "queue", "owner")
        given: Any = [dict.fromkeys(settings[at:], level) for at, level in enumerate(levels)]
        dag_args, outer, inner, _ = given
        with DAG("d", schedule=None, default_args=dag_args), TaskGroup("outer", default_args=outer):
            group = declare(count=2, branch=branch, default_args=inner)
        outside = EmptyOperator(task_id="outside")

        for operator in group.iter_tasks():
            assert isinstance(operator, BaseOperator)
            assert (operator.run_as_user, operator.pool, operator.queue, operator.owner) == levels
        assert outside.pool == "default_pool"


FOUR = "max_active_tasks of the Dag is 4"
TWO_AT_ONCE = {"max_concurrency": 2}


class TestDocumentation:
    @pytest.mark.parametrize(
        ("declared", "slots", "tooltip"),
        [
            ({"count": 8}, 16, "8 branches, all at once"),
            ({"count": 8}, 4, f"8 branches, at most 4 at once: {FOUR}"),
            ({"branch": steps, "count": 8}, 4, f"8 branches, at most 4 of their tasks at once: {FOUR}"),
            (
                {"count": 4, "mapped": True, **TWO_AT_ONCE},
                16,
                "4 branches, at most 2 at once: max_concurrency is 2",
            ),
            (
                {"count": 100, "items_per_task": 10, **TWO_AT_ONCE},
                16,
                "100 items in 10 tasks, at most 2 at once: max_concurrency is 2",
            ),
            ({"count": 1, "items_per_task": 10}, 16, "1 item in 1 task"),
            ({"count": 0}, 16, "no branches"),
        ],
    )
    def test_the_tooltip_says_how_many_run_at_once(
        self, declared: dict[str, Any], slots: int, tooltip: str
    ) -> None:
        with DAG("d", schedule=None, max_active_tasks=slots):
            assert declare(**declared).tooltip == f"Fan-out: {tooltip}"

    def test_the_tooltip_of_a_number_of_run_time_says_so(self) -> None:
        assert declare(items=load()).tooltip == "Fan-out: as many branches as there are at run time"

    @needs_doc_md
    @pytest.mark.parametrize(
        ("declared", "doc_md"),
        [
            pytest.param(
                {"items": {"b": 1, "a": 2}},
                ": 2 branches, all at once.\n\nEach runs `work`.\n\nIn order: `b`, `a`.",
                id="one function",
            ),
            pytest.param(
                {"branch": {"a": work, "b": load, "c": work}},
                ": 3 branches, all at once.\n\nThey run `work`, `load`.\n\nIn order: `a`, `b`, `c`.",
                id="several functions",
            ),
            pytest.param({"count": 0}, ": no branches.", id="none"),
        ],
    )
    def test_doc_md_names_functions_and_branches(self, declared: dict[str, Any], doc_md: str) -> None:
        assert declare(**declared).doc_md == f"**Fan-out** `process`{doc_md}"

    @needs_doc_md
    @pytest.mark.parametrize(
        ("count", "end"), [(20, "`process_19`."), (21, "`process_19` and 1 more."), (500, "and 480 more.")]
    )
    def test_doc_md_names_twenty_branches(self, count: int, end: str) -> None:
        doc_md = declare(count=count).doc_md or ""

        assert doc_md.endswith(end)
        assert doc_md.count("`process_") == 20

    @pytest.mark.parametrize("name", ["tooltip", pytest.param("doc_md", marks=needs_doc_md)])
    def test_what_the_author_gave_stays(self, name: str) -> None:
        assert getattr(declare(count=8, **{name: "# mine"}), name) == "# mine"


class TestNoBranches:
    """Zero branches keep what is before them before the fan-in."""

    @pytest.mark.parametrize(
        ("declared", "placeholder"),
        [
            pytest.param({"count": 0}, "process.no_branches", id="count=0"),
            pytest.param({"items": []}, "process.no_branches", id="items=[]"),
            pytest.param({"items": {}}, "process.no_branches", id="items={}"),
            pytest.param({"items": [], "mapped": True}, "process.no_branches", id="mapped"),
            pytest.param({"items": [], "items_per_task": 2}, "process.no_branches", id="batched"),
            pytest.param({"count": 0, "prefix_group_id": False}, "process_no_branches", id="unprefixed"),
        ],
    )
    def test_a_placeholder_keeps_the_order(self, declared: dict[str, Any], placeholder: str) -> None:
        before = EmptyOperator(task_id="before")
        group = declare(partial={"text": load()}, **declared)

        before >> group
        fan_in = FanInOperator(task_id="combine", fan_out=group)

        assert fan_in.upstream_task_ids == {placeholder} == {group.placeholder_task_id}
        assert fan_in.get_flat_relative_ids(upstream=True) == {placeholder, "before", "load"}
        assert isinstance(group.dag.get_task(placeholder), EmptyOperator)
        assert group.declared.known_count == 0

    def test_it_makes_no_cycle_in_a_parent(self, dag: DAG) -> None:
        with TaskGroup("parent"):
            EmptyOperator(task_id="before") >> declare(count=0) >> EmptyOperator(task_id="after")

        dag.check_cycle()
        assert dag.get_task("parent.after").upstream_task_ids == {"parent.process.no_branches"}

    def test_the_function_is_checked_all_the_same(self) -> None:
        with pytest.raises(DeclarationTypeError, match="binds 'nobody'"):
            declare(count=0, partial={"nobody": 1})


def test_a_group_has_no_output() -> None:
    group = declare(count=2)

    assert not hasattr(group, "output")
    with pytest.raises(AttributeError, match=r"'process' has no output, .*fan_out=<the group>, .*\.output"):
        group.output  # noqa: B018


@pytest.mark.parametrize(
    "hand_over",
    [
        pytest.param(use, id="a @task"),
        pytest.param(lambda group: use({"a": [group]}), id="in a dict"),
        pytest.param(lambda group: use.expand(value=[group]), id="expand"),
        pytest.param(lambda group: BashOperator(task_id="b", bash_command="ls", env={"A": group}), id="Bash"),
        pytest.param(lambda group: declare("other", count=1, partial={"item": group}), id="partial"),
        pytest.param(
            lambda group: declare("other", items=["a"], mapped=True, partial={"text": [group]}), id="mapped"
        ),
        pytest.param(lambda group: declare("other", items=[group]), id="an item of a group"),
        pytest.param(
            lambda group: FanOutGroup("other", branch=steps, items=[group], mapped=True), id="an item, mapped"
        ),
        pytest.param(lambda group: declare("other", items=group), id="items of a group"),
        pytest.param(lambda group: declare("other", count=group), id="count of a group"),
        pytest.param(
            lambda group: FanInOperator(
                task_id="combine",
                task_id_prefix="x",
                python_callable=use.function,
                op_kwargs={"other": group},
            ),
            id="op_kwargs of a fan-in",
        ),
        pytest.param(lambda group: group.resolve({}), id="rendering"),
    ],
)
def test_a_group_has_no_value_that_a_task_could_be_given(hand_over: Callable[[FanOutGroup], object]) -> None:
    group = declare(count=2)

    with pytest.raises(
        TypeError, match=r"'process' was handed to a task.*FanInOperator\(task_id=…, fan_out=<t"
    ):
        hand_over(group)
