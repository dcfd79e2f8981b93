from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, BaseOperator, Label, Param, TaskGroup, chain, task, task_group
from airflow.sdk.exceptions import DuplicateTaskIdFound

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import DeclarationError, DeclarationTypeError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


needs_doc_md = pytest.mark.skipif(
    not hasattr(TaskGroup, "doc_md"), reason="task groups have a doc_md from Airflow 3.3 on"
)


def work(item: str = "") -> str:
    return item


@task
def load() -> str:
    return "text"


@task
def use(value: Any, other: Any = None) -> Any:
    return value


def documented(doc: str) -> str:
    return doc


def steps() -> None:
    use(use(1))


def declare(group_id: str = "process", **arguments: Any) -> FanOutGroup:
    return FanOutGroup(group_id, **{"branch": work, **arguments})


def ids(group: FanOutGroup) -> list[str]:
    return [operator.task_id for operator in group]


def names(group: FanOutGroup) -> list[str]:
    return [branch.name for branch in group.declared.branches]


class TestNames:
    def test_a_count_names_branches_after_the_group(self) -> None:
        group = declare(count=3)

        assert names(group) == ["process_0", "process_1", "process_2"]
        assert ids(group) == ["process.process_0", "process.process_1", "process.process_2"]

    def test_so_does_a_list(self) -> None:
        assert ids(declare(items=["b", "a"])) == ["process.process_0", "process.process_1"]

    @pytest.mark.parametrize("items", [("a", "b"), range(2)], ids=["a tuple", "a range"])
    def test_any_sequence_is_a_list(self, items: object) -> None:
        assert names(declare(items=items)) == ["process_0", "process_1"]

    @pytest.mark.parametrize(
        "mapping",
        [
            pytest.param({"second": 2, "first": 1}, id="dict"),
            pytest.param(OrderedDict(second=2, first=1), id="OrderedDict"),
            pytest.param(MappingProxyType({"second": 2, "first": 1}), id="another mapping"),
        ],
    )
    def test_a_mapping_names_them_itself_in_its_own_order(self, mapping: object) -> None:
        group = declare(items=mapping)

        assert names(group) == ["second", "first"]
        assert ids(group) == ["process.second", "process.first"]

    def test_so_does_a_mapping_as_branch(self) -> None:
        group = declare(branch={"topics": work, "words": load})

        assert ids(group) == ["process.topics", "process.words"]

    def test_without_a_prefix_ids_are_the_names(self) -> None:
        """The names of the ZenML page come out exactly."""
        group = declare(count=8, prefix_group_id=False)

        assert ids(group) == [f"process_{index}" for index in range(8)]

    def test_without_a_prefix_a_mappings_keys_are_the_ids(self) -> None:
        assert ids(declare(items={"a": 1, "b": 2}, prefix_group_id=False)) == ["a", "b"]

    def test_in_a_group_the_label_leaves_out_the_parents(self) -> None:
        with TaskGroup("parent"):
            group = declare(count=2)

        assert group.group_id == "parent.process"
        assert names(group) == ["process_0", "process_1"]
        assert ids(group) == ["parent.process.process_0", "parent.process.process_1"]

    def test_three_groups_deep_ids_have_all_parents(self) -> None:
        with TaskGroup("a"), TaskGroup("b"):
            assert ids(declare(count=1)) == ["a.b.process.process_0"]

    def test_in_an_unprefixed_group_ids_start_with_the_own_group(self) -> None:
        with TaskGroup("parent", prefix_group_id=False):
            assert ids(declare(count=1)) == ["process.process_0"]

    def test_unprefixed_in_a_group_ids_are_the_names(self) -> None:
        with TaskGroup("parent"):
            group = declare(count=2, prefix_group_id=False)

        assert ids(group) == ["process_0", "process_1"]
        assert group.declared.prefix == ""

    def test_a_suffix_that_airflow_gives_the_group_is_part_of_its_label(self) -> None:
        declare(count=1)
        group = declare(count=1, add_suffix_on_collision=True)

        assert group.group_id == "process__1"
        assert names(group) == ["process__1_0"]

    def test_a_display_name_changes_no_id(self) -> None:
        assert ids(declare(count=1, group_display_name="The work")) == ["process.process_0"]

    @pytest.mark.parametrize("name", ["größe", "名前", "a-b", "a.b", "1", "_", "process_0"])
    def test_a_name_that_airflow_takes_is_taken(self, name: str) -> None:
        assert ids(declare(items={name: 1})) == [f"process.{name}"]

    def test_ids_stay_when_the_list_grows_at_its_end(self) -> None:
        with DAG("before", schedule=None):
            before = declare(items=["a", "b"])
        with DAG("after", schedule=None):
            after = declare(items=["a", "b", "c"])

        assert ids(after)[:2] == ids(before)

    def test_the_declaration_is_plain_values(self) -> None:
        with TaskGroup("parent"):
            declared = declare(items={"b": 1, "a": 2}).declared

        assert (declared.group_id, declared.prefix) == ("parent.process", "parent.process.")
        assert [(branch.name, branch.index, branch.task_ids) for branch in declared.branches] == [
            ("b", 0, ("parent.process.b",)),
            ("a", 1, ("parent.process.a",)),
        ]


class TestNamesThatAreRefused:
    @pytest.mark.parametrize(
        "declared",
        [
            pytest.param(lambda name: {"items": {"good": 1, name: 2}}, id="items"),
            pytest.param(lambda name: {"branch": {"good": work, name: work}}, id="branch"),
        ],
    )
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            pytest.param("a b", "'a b' is not made of letters, digits, '_', '-' and '.' alone", id="a blank"),
            pytest.param("a/b", "'a/b' is not made of", id="a slash"),
            pytest.param("", "'' is not made of", id="empty"),
            pytest.param("a\n", r"'a\\n' is not made of", id="a line end"),
            pytest.param(1, "1 is of type int; a name is a str", id="a number"),
            pytest.param(None, "None is of type NoneType", id="None"),
            pytest.param("n" * 243, "makes a task id of 251 characters; Airflow takes 250", id="too long"),
        ],
    )
    def test_a_name_that_airflow_would_refuse(
        self, declared: Callable[[object], dict[str, Any]], name: object, message: str
    ) -> None:
        with pytest.raises(
            ValueError, match=f"FanOutGroup 'process': (items|branch): a name that .*{message}"
        ):
            declare(**declared(name))

    def test_the_longest_name_there_can_be_is_taken(self) -> None:
        assert len(ids(declare(items={"n" * 242: 1}))[0]) == 250

    def test_the_label_of_a_long_group_is_told_apart_from_items(self) -> None:
        with pytest.raises(ValueError, match=r"FanOutGroup 'x+': group_id: .* makes a task id of 253"):
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
    def test_a_name_that_a_task_has_already(self, existing: str, declared: dict[str, Any]) -> None:
        """Airflow itself would silently append ``__1``."""
        EmptyOperator(task_id=existing)

        with pytest.raises(
            ValueError,
            match=f"FanOutGroup 'process': .*already has tasks or groups with the ids '{existing}'; rename",
        ):
            declare(**declared)

    def test_a_name_that_a_group_has_already(self) -> None:
        with TaskGroup("a"):
            EmptyOperator(task_id="inner")

        with pytest.raises(ValueError, match="already has tasks or groups with the ids 'a'"):
            declare(items={"a": 1}, prefix_group_id=False)

    def test_a_name_of_the_group_itself_unprefixed(self) -> None:
        with pytest.raises(ValueError, match="already has tasks or groups with the ids 'process'"):
            declare(items={"process": 1}, prefix_group_id=False)

    def test_names_that_two_unprefixed_groups_share(self) -> None:
        declare("first", items={"a": 1, "b": 2, "c": 3}, prefix_group_id=False)

        with pytest.raises(ValueError, match=r"FanOutGroup 'second': items: .* the ids 'a', 'c'; rename"):
            declare("second", items={"c": 1, "d": 2, "a": 3}, prefix_group_id=False)

    def test_a_task_made_later_gets_no_suffix_silently_from_us(self) -> None:
        group = declare(count=1, prefix_group_id=False)

        assert use.override(task_id="process_0")(1).operator.task_id == "process_0__1"
        assert names(group) == ["process_0"]

    def test_a_group_of_the_same_id(self) -> None:
        declare(count=1)

        with pytest.raises(DuplicateTaskIdFound, match="process"):
            declare(count=1)

    def test_a_group_id_that_airflow_would_refuse(self) -> None:
        with pytest.raises(ValueError, match="'pro cess' has to be made of alphanumeric"):
            declare("pro cess", count=1)


BAD_INPUT = [
    pytest.param(
        {}, ValueError, r"count: expected one of count=, items= .*found none", id="none of the three"
    ),
    pytest.param(
        {"count": 2, "items": ["a"]}, ValueError, "count: .*found count and items", id="count and items"
    ),
    pytest.param(
        {"count": 2, "branch": {"a": work}},
        ValueError,
        "count: .*found count and a mapping as branch",
        id="count and a mapping",
    ),
    pytest.param(
        {"items": ["x"], "branch": {"a": work}},
        ValueError,
        "items: .*found items and a mapping as branch",
        id="items and a mapping",
    ),
    pytest.param(
        {"count": 0, "items": []},
        ValueError,
        "count: .*found count and items",
        id="count and items, both nothing",
    ),
    pytest.param(
        {"count": -1}, ValueError, "count: expected 0 or more branches, found -1", id="a negative count"
    ),
    pytest.param(
        {"count": True}, TypeError, "count: expected a whole number.*True of type bool", id="count True"
    ),
    pytest.param({"count": False}, TypeError, "count: .*found False of type bool", id="count False"),
    pytest.param({"count": 2.5}, TypeError, "count: expected .*2.5 of type float", id="count 2.5"),
    pytest.param({"count": 2.0}, TypeError, "count: expected .*2.0 of type float", id="count 2.0"),
    pytest.param({"count": "8"}, TypeError, "count: expected .*'8' of type str", id="count as text"),
    pytest.param({"count": [8]}, TypeError, "count: .*of type list", id="count as a list"),
    pytest.param(
        {"count": Param(8)},
        TypeError,
        "count: expected .*found a Param; give it to the Dag",
        id="count as a Param",
    ),
    pytest.param({"items": "abc"}, TypeError, r"items: .*'abc' of type str; use \[…\]", id="items as text"),
    pytest.param({"items": b"abc"}, TypeError, r"items: .*of type bytes; use \[…\]", id="items as bytes"),
    pytest.param(
        {"items": {"a", "b"}},
        TypeError,
        r"items: expected a list or a mapping by name.*of type set, which has no order; use sorted",
        id="items as a set",
    ),
    pytest.param(
        {"items": frozenset("a")}, TypeError, "items: .*frozenset, which has no order", id="a frozenset"
    ),
    pytest.param(
        {"items": (item for item in "ab")},
        TypeError,
        r"items: .*of type generator; use .*list\(",
        id="a generator",
    ),
    pytest.param({"items": {"a": 1}.keys()}, TypeError, "items: .*of type dict_keys", id="a view"),
    pytest.param({"items": 8}, TypeError, "items: .*8 of type int", id="a number"),
    pytest.param(
        {"items": load}, TypeError, r"items: .*was not called; call it: load\(\)$", id="a @task, not called"
    ),
    pytest.param({"items": work}, TypeError, r"items: .*call it: work\(\)$", id="a function, not called"),
    pytest.param({"count": load}, TypeError, r"count: .*call it: load\(\)$", id="a count, not called"),
    pytest.param(
        {"items": BaseOperator(task_id="listed")},
        TypeError,
        r"items: .*give its output: <the task>\.output",
        id="a task, not its output",
    ),
    pytest.param(
        {"branch": {}}, ValueError, "branch: is an empty mapping; name at least one", id="no branch"
    ),
    pytest.param(
        {"count": 1, "partial": [("a", 1)]}, TypeError, "partial: expected a dict", id="partial, a list"
    ),
    pytest.param({"count": 1, "partial": "a"}, TypeError, "partial: expected a dict", id="partial, a text"),
    pytest.param(
        {"count": 1, "partial": {1: "a"}},
        TypeError,
        "partial: expected parameter names as keys, found 1",
        id="a key",
    ),
    pytest.param(
        {"count": 1, "partial": {"nobody": "a"}},
        TypeError,
        "partial: binds 'nobody', which",
        id="partial, unknown",
    ),
    pytest.param(
        {"count": 2, "max_concurrency": 1},
        ValueError,
        r'max_concurrency: .*without a pool.*default_args=\{"pool": …\}.* mapped=True.* items_per_task=$',
        id="max_concurrency on a static group",
    ),
    pytest.param(
        {"branch": {"a": work, "b": work}, "max_concurrency": 1},
        ValueError,
        r'max_concurrency: .*\{"pool": …\}, or make them items of a few tasks with items_per_task=$',
        id="max_concurrency on different branches",
    ),
    pytest.param(
        {"branch": EmptyOperator, "items": [{}, {}], "max_concurrency": 1},
        ValueError,
        r'max_concurrency: .*\{"pool": …\}, or make them instances of one task with mapped=True$',
        id="max_concurrency on operators",
    ),
    pytest.param(
        {"branch": task_group(steps), "count": 2, "max_concurrency": 1},
        ValueError,
        r'max_concurrency: .*\{"pool": …\}; with weight_rule=\'upstream\' beside it a branch that has begun '
        "goes before the next one$",
        id="max_concurrency on branches of several tasks",
    ),
    pytest.param(
        {"count": 2, "item_concurrency": 2},
        ValueError,
        "item_concurrency: .*give items_per_task too",
        id="item_concurrency without items_per_task",
    ),
    pytest.param(
        {"count": 2, "stop_after_failures": 2},
        ValueError,
        "stop_after_failures: 2 failures of 2 branches leave none to stop; choose a number below 2",
        id="stop_after_failures that can't take effect",
    ),
    pytest.param(
        {"count": 2, "mapped": "yes"}, TypeError, "mapped: .*'yes' of type str", id="mapped as text"
    ),
    pytest.param({"count": 2, "mapped": 1}, TypeError, "mapped: .*1 of type int", id="mapped as a number"),
    *(
        pytest.param({"count": 2, limit: value}, error, f"{limit}: expected {found}", id=f"{limit} {value!r}")
        for limit in ("max_concurrency", "items_per_task", "item_concurrency", "stop_after_failures")
        for value, error, found in (
            (0, ValueError, "1 or more, found 0"),
            (-1, ValueError, "1 or more, found -1"),
            (True, TypeError, "a whole number, 1 or more, found True of type bool"),
            (2.0, TypeError, "a whole number, 1 or more, found 2.0 of type float"),
            ("2", TypeError, "a whole number, 1 or more, found '2' of type str"),
        )
    ),
]


class TestBadInput:
    @pytest.mark.parametrize(("declared", "error", "message"), BAD_INPUT)
    def test_it_is_refused_with_the_way_out(
        self, declared: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=f"FanOutGroup 'process': {message}") as raised:
            declare(**declared)

        assert isinstance(raised.value, DeclarationError)
        assert raised.value.owner == "FanOutGroup 'process'"
        assert str(raised.value) == f"{raised.value.owner}: {raised.value.argument}: {raised.value.problem}"

    def test_nothing_is_left_of_a_group_whose_arguments_are_refused(self, dag: DAG) -> None:
        with pytest.raises(ValueError, match="count"):
            declare(count=-1)

        declare(count=1)
        assert dag.task_ids == ["process.process_0"]

    @pytest.mark.parametrize(
        ("unknown", "way_out"),
        [
            pytest.param("cuont", r"did you mean 'count'\?", id="misspelt"),
            pytest.param("min_success", "there are 'add_suffix_on_collision', ", id="the fan-in's"),
            pytest.param("python_callable", "there are ", id="an operator's"),
            pytest.param("task_id", "there are ", id="the task's name"),
            pytest.param("document", "there are 'add_suffix_on_collision', ", id="like none"),
            *(
                pytest.param(name, rf"what each branch's task takes .* default_args={{'{name}': …}}", id=name)
                for name in ("retries", "pool", "max_active_tis_per_dag")
            ),
        ],
    )
    def test_an_argument_that_there_is_not_is_refused_with_the_way_out(
        self, unknown: str, way_out: str
    ) -> None:
        said = f"FanOutGroup 'process': {unknown}: got an unexpected keyword argument '{unknown}'; {way_out}"
        with pytest.raises(DeclarationTypeError, match=said):
            declare(**{"count": 1, unknown: 1})  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [load, lambda: ["a"], lambda: "a"], ids=["output", "list", "text"])
    @pytest.mark.parametrize(
        "branch", [documented, task(documented), [documented, work]], ids=["plain", "@task", "list"]
    )
    def test_a_parameter_of_the_branch_is_shown_items_and_partial(self, branch: Any, value: Any) -> None:
        """'doc' is also a setting of Airflow's tasks."""
        with pytest.raises(
            DeclarationTypeError,
            match=r"doc: got .*which is the branch's: give it as items=, one for each branch, or "
            r"partial=\{'doc': …\}, the same for all",
        ):
            declare(branch=branch, doc=value())

    def test_a_parameter_of_different_branches_is_shown_partial(self) -> None:
        with pytest.raises(DeclarationTypeError, match=r"the branch's: give it as partial=\{'doc': …\}, the"):
            declare(branch={"a": documented, "b": functools.partial(documented)}, doc="x")

    @pytest.mark.parametrize("value", [load, lambda: ["a"]], ids=["output", "list"])
    def test_what_looks_like_items_is_shown_items(self, value: Any) -> None:
        with pytest.raises(
            DeclarationTypeError,
            match=r"document: .*; give what is for the branches as items=, one for each, or partial=\{'docu",
        ):
            declare(document=value())

    def test_branch_cannot_be_left_out(self) -> None:
        with pytest.raises(TypeError, match="branch"):
            FanOutGroup("process", count=1)  # type: ignore[call-arg]

    def test_an_argument_is_given_by_name(self) -> None:
        group_class: Any = FanOutGroup
        everything = ["process", "", True, None, None, {}, "", None, "", "", False, work]

        said = (
            r"'process': group_id: is the one argument given by position, found '' .*write branch=…, count=…"
        )
        with pytest.raises(DeclarationTypeError, match=said):
            group_class(*everything)

    @pytest.mark.parametrize(
        "second", [pytest.param("shown", id="a display name"), pytest.param(work, id="a branch")]
    )
    def test_only_the_id_is_given_by_position(self, second: object) -> None:
        group_class: Any = FanOutGroup

        with pytest.raises(
            DeclarationTypeError, match="'process': group_id: is the one argument given by position"
        ):
            group_class("process", second, branch=work, count=2)

    def test_its_signature_says_so(self) -> None:
        positional = [
            name
            for name, each in inspect.signature(FanOutGroup).parameters.items()
            if each.kind is not inspect.Parameter.KEYWORD_ONLY
        ]

        assert positional == ["group_id"]

    def test_a_large_bad_value_does_not_flood_the_log(self) -> None:
        with pytest.raises(TypeError) as raised:
            declare(items="x" * 10_000)

        assert len(str(raised.value)) < 300

    @pytest.mark.usefixtures("no_dag")
    def test_outside_of_a_dag_airflow_says_so(self) -> None:
        with pytest.raises(RuntimeError, match="TaskGroup can only be used inside a dag"):
            declare(count=1)


class TestATaskGroup:
    def test_it_is_one(self) -> None:
        assert isinstance(declare(count=1), TaskGroup)

    def test_it_is_wired_with_arrows(self) -> None:
        before, after = EmptyOperator(task_id="before"), EmptyOperator(task_id="after")
        group = declare(count=2)

        before >> group >> after

        assert before.downstream_task_ids == set(ids(group))
        assert after.upstream_task_ids == set(ids(group))

    def test_it_is_wired_with_a_list(self) -> None:
        tasks = [EmptyOperator(task_id="a"), EmptyOperator(task_id="b")]
        group = declare(count=2)

        tasks >> group

        assert all(operator.upstream_task_ids == {"a", "b"} for operator in group)

    def test_it_is_wired_with_another_group(self) -> None:
        first, second = declare("first", count=2), declare("second", count=2)

        first >> second

        assert all(operator.upstream_task_ids == set(ids(first)) for operator in second)

    def test_it_is_wired_with_chain_and_label(self, dag: DAG) -> None:
        before = EmptyOperator(task_id="before")
        group = declare(count=1)

        chain(before, Label("each"), group)

        assert before.downstream_task_ids == set(ids(group))

    def test_partial_with_the_value_of_a_task_wires_that_task(self) -> None:
        group = declare(count=2, partial={"item": load()})

        assert [operator.upstream_task_ids for operator in group] == [{"load"}, {"load"}]

    def test_items_with_the_value_of_a_task_wire_that_task(self) -> None:
        first, second = declare(items=[load(), "literal"])

        assert first.upstream_task_ids == {"load"}
        assert second.upstream_task_ids == set()

    def test_branches_are_not_wired_to_each_other(self) -> None:
        assert all(not operator.downstream_task_ids for operator in declare(count=3))

    def test_two_groups_can_share_a_parent(self) -> None:
        with TaskGroup("parent") as parent:
            declare("first", count=1)
            declare("second", count=1)

        assert list(parent.children) == ["parent.first", "parent.second"]

    def test_a_task_can_be_added_to_it(self) -> None:
        group = declare(count=1)
        with group:
            EmptyOperator(task_id="own")

        assert ids(group) == ["process.process_0", "process.own"]
        assert names(group) == ["process_0"]

    @pytest.mark.usefixtures("no_dag")
    def test_a_group_can_be_given_its_dag(self) -> None:
        another = DAG("another", schedule=None)

        assert ids(declare(count=1, dag=another)) == ["process.process_0"]
        assert another.task_ids == ["process.process_0"]

    def test_two_groups_are_never_equal(self) -> None:
        assert declare("first", count=1) != declare("second", count=1)


class TestDefaultArgs:
    def test_those_of_the_group_hold_for_every_branch(self) -> None:
        group = declare(
            count=2,
            default_args={"retries": 2, "pool": "gpu", "queue": "big", "execution_timeout": timedelta(1)},
        )

        for operator in group:
            assert isinstance(operator, BaseOperator)
            assert (operator.retries, operator.pool, operator.queue) == (2, "gpu", "big")
            assert operator.execution_timeout == timedelta(1)

    def test_a_nearer_level_replaces_a_farther_one(self) -> None:
        outer: Any = {"pool": "outer", "queue": "outer", "owner": "outer"}
        with (
            DAG(
                "levels",
                schedule=None,
                default_args={"retries": 1, "pool": "dag", "queue": "dag", "owner": "dag"},
            ),
            TaskGroup("outer", default_args=outer),
        ):
            (operator,) = declare(
                count=1, branch=task(owner="own")(work), default_args={"queue": "group", "owner": "group"}
            )

        assert isinstance(operator, BaseOperator)
        assert (operator.retries, operator.pool, operator.queue, operator.owner) == (
            1,
            "outer",
            "group",
            "own",
        )

    def test_they_do_not_hold_outside(self) -> None:
        declare(count=1, default_args={"retries": 2})

        assert EmptyOperator(task_id="after").retries == 0

    def test_the_placeholder_of_no_branches_takes_no_pool_slot_of_theirs(self) -> None:
        (placeholder,) = declare(count=0)

        assert isinstance(placeholder, EmptyOperator)


class TestDocumentation:
    def test_a_tooltip_says_how_many_at_once(self) -> None:
        assert declare(count=8).tooltip == "Fan-out: 8 branches, all at once"

    def test_a_tooltip_names_the_limit_of_the_dag(self) -> None:
        with DAG("narrow", schedule=None, max_active_tasks=4):
            tooltip = declare(count=8).tooltip

        assert tooltip == "Fan-out: 8 branches, at most 4 at once: max_active_tasks of the Dag is 4"

    def test_of_branches_of_several_tasks_it_names_the_limit_of_these(self) -> None:
        @task_group
        def steps(index: int) -> Any:
            @task
            def step(value: int) -> int:
                return value

            return step(step(index))

        with DAG("narrow", schedule=None, max_active_tasks=4):
            tooltip = FanOutGroup("process", branch=steps, count=8).tooltip

        said = "8 branches, at most 4 of their tasks at once: max_active_tasks of the Dag is 4"
        assert tooltip == f"Fan-out: {said}"

    def test_an_own_tooltip_stays(self) -> None:
        assert declare(count=8, tooltip="mine").tooltip == "mine"

    @needs_doc_md
    def test_an_own_doc_md_stays(self) -> None:
        assert declare(count=8, doc_md="# mine").doc_md == "# mine"

    @needs_doc_md
    def test_doc_md_names_function_and_branches(self) -> None:
        doc = declare(items={"b": 1, "a": 2}).doc_md

        assert doc == (
            "**Fan-out** `process`: 2 branches, all at once.\n\nEach runs `work`.\n\nIn order: `b`, `a`."
        )

    @needs_doc_md
    def test_doc_md_names_different_functions(self) -> None:
        doc = declare(branch={"a": work, "b": load, "c": work}).doc_md

        assert doc is not None
        assert "They run `work`, `load`.\n\nIn order: `a`, `b`, `c`." in doc

    @needs_doc_md
    @pytest.mark.parametrize(
        ("count", "end"), [(20, "`process_19`."), (21, "`process_19` and 1 more."), (500, "and 480 more.")]
    )
    def test_doc_md_is_bounded(self, count: int, end: str) -> None:
        doc = declare(count=count).doc_md

        assert doc is not None
        assert doc.endswith(end)
        assert doc.count("`process_") == 20

    @needs_doc_md
    def test_nothing_is_said_of_no_branches_but_that(self) -> None:
        group = declare(count=0)

        assert (group.tooltip, group.doc_md) == (
            "Fan-out: no branches",
            "**Fan-out** `process`: no branches.",
        )


class TestNoBranches:
    """Zero branches keep what is before them before the fan-in."""

    @pytest.mark.parametrize(
        "declared",
        [
            pytest.param({"count": 0}, id="count=0"),
            pytest.param({"items": []}, id="items=[]"),
            pytest.param({"items": ()}, id="items=()"),
            pytest.param({"items": {}}, id="items={}"),
        ],
    )
    def test_the_order_upstream_to_fan_in_is_kept(self, declared: dict[str, Any]) -> None:
        before = EmptyOperator(task_id="before")
        group = declare(**declared)

        before >> group
        fan_in = FanInOperator(task_id="combine", fan_out=group)

        assert before.downstream_task_ids == {"process.no_branches"} == fan_in.upstream_task_ids
        assert group.declared.branches == ()
        assert group.placeholder_task_id == "process.no_branches"

    def test_partial_with_the_value_of_a_task_keeps_the_order_too(self) -> None:
        group = declare(count=0, partial={"item": load()})
        fan_in = FanInOperator(task_id="combine", fan_out=group)

        assert fan_in.get_flat_relative_ids(upstream=True) == {"load", "process.no_branches"}

    def test_unprefixed_the_placeholder_has_the_groups_name(self) -> None:
        group = declare(count=0, prefix_group_id=False)

        assert ids(group) == ["process_no_branches"]

    def test_unprefixed_the_placeholders_name_may_be_taken(self) -> None:
        EmptyOperator(task_id="process_no_branches")

        with pytest.raises(ValueError, match=r"FanOutGroup 'process': .*'process_no_branches'"):
            declare(count=0, prefix_group_id=False)

    def test_it_makes_no_cycle_in_a_parent(self, dag: DAG) -> None:
        with TaskGroup("parent"):
            before = EmptyOperator(task_id="before")
            group = declare(count=0)
            after = EmptyOperator(task_id="after")
            before >> group >> after

        dag.check_cycle()
        assert after.upstream_task_ids == {"parent.process.no_branches"}

    def test_the_function_is_checked_all_the_same(self) -> None:
        with pytest.raises(TypeError, match="binds 'nobody'"):
            declare(count=0, partial={"nobody": 1})

    def test_with_branches_there_is_no_placeholder(self) -> None:
        assert declare(count=1).placeholder_task_id is None


@pytest.mark.parametrize(
    "hand_over",
    [
        pytest.param(use, id="a @task"),
        pytest.param(lambda group: use([group]), id="in a list"),
        pytest.param(lambda group: use({"a": {"b": group}}), id="in a dict"),
        pytest.param(lambda group: use(1, other=group), id="by name"),
        pytest.param(lambda group: use.expand(value=[group]), id="expand over a list of it"),
        pytest.param(lambda group: use.partial(other=group).expand(value=[1]), id="partial"),
        pytest.param(
            lambda group: PythonOperator(task_id="p", python_callable=print, op_args=[group]),
            id="PythonOperator",
        ),
        pytest.param(
            lambda group: BashOperator(task_id="b", bash_command="ls", env={"A": group}),
            id="BashOperator",
        ),
        pytest.param(
            lambda group: declare("other", count=1, partial={"item": group}), id="partial of another group"
        ),
        pytest.param(lambda group: declare("other", items=[group]), id="an item of another group"),
        pytest.param(lambda group: declare("other", items=group), id="items of another group"),
        pytest.param(lambda group: declare("other", count=group), id="count of another group"),
        pytest.param(
            lambda group: FanInOperator(
                task_id="combine",
                task_id_prefix="x",
                python_callable=use.function,
                op_kwargs={"other": group},
            ),
            id="op_kwargs of a fan-in",
        ),
    ],
)
def test_a_group_handed_to_another_task_is_refused_with_the_fan_in_as_way_out(
    hand_over: Callable[[FanOutGroup], object],
) -> None:
    """A group has no single value."""
    group = declare(count=2)

    with pytest.raises(TypeError, match=r"FanOutGroup.*FanInOperator"):
        hand_over(group)


def test_airflow_itself_refuses_to_expand_over_a_group() -> None:
    group: Any = declare(count=2)

    with pytest.raises(ValueError, match="unexpected type 'FanOutGroup' for keyword argument 'value'"):
        use.expand(value=group)


def test_a_group_cannot_be_rendered() -> None:
    with pytest.raises(
        TypeError, match=r"FanOutGroup 'process' was handed to a task.*FanInOperator\(task_id="
    ):
        declare(count=1).resolve({})
