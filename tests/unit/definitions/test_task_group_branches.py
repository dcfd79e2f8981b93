from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.latest_only import LatestOnlyOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import DAG, TaskGroup, setup, task, task_group, teardown
from airflow.sdk.bases.decorator import DecoratedOperator

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.execution_time import recording
from airflow_fanout.operators import hooks

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("dag")


@task
def extract(item: Any = "text") -> Any:
    return item


@task
def transform(item: Any) -> Any:
    return item


@task
def load(item: Any) -> Any:
    return item


@task
def prepare() -> str:
    return "prepared"


@task
def clear_up() -> None: ...


@task_group
def etl(item: str = "text", table: str = "a table") -> Any:
    return load(transform(extract([item, table])))


def of_index(index: int) -> Any:
    return extract(index)


def of_item(item: Any) -> Any:
    return extract(item)


def of_ti(ti: Any) -> Any:
    return extract(ti)


def of_nothing() -> Any:
    return extract()


def own_retries() -> Any:
    return extract.override(retries=6)()


def declare(branch: Any = etl, group_id: str = "process", **declared: Any) -> FanOutGroup:
    if not isinstance(branch, dict) and "items" not in declared:
        declared = {"count": 2, **declared}
    return FanOutGroup(group_id, branch=branch, **declared)


def ids(group: FanOutGroup) -> dict[str, list[str]]:
    """Task ids of each branch by its name, in the order in which they run."""
    return {branch.name: list(branch.task_ids) for branch in group.declared.branches}


def first_given(group: FanOutGroup) -> list[Any]:
    """What the first task of each branch is called with."""
    found = []
    for branch in group.declared.branches:
        operator = group.dag.get_task(branch.task_ids[0])
        assert isinstance(operator, DecoratedOperator)
        found.append((*operator.op_args, *operator.op_kwargs.values())[0])
    return found


class TestIds:
    def test_each_branch_is_a_group_of_its_own(self) -> None:
        assert ids(declare()) == {
            "process_0": [f"process.process_0.{step}" for step in ("extract", "transform", "load")],
            "process_1": [f"process.process_1.{step}" for step in ("extract", "transform", "load")],
        }

    def test_without_the_groups_prefix(self) -> None:
        group = declare(prefix_group_id=False)

        assert ids(group)["process_0"] == ["process_0.extract", "process_0.transform", "process_0.load"]
        assert group.declared.prefix == ""

    def test_in_another_group(self) -> None:
        with TaskGroup("outer"):
            group = declare()

        assert ids(group)["process_1"][-1] == "outer.process.process_1.load"

    def test_in_a_mapped_group(self) -> None:
        made: list[tuple[FanOutGroup, FanInOperator]] = []

        @task_group
        def each(item: str) -> None:
            group = declare(partial={"item": item})
            made.append((group, FanInOperator(task_id="combine", fan_out=group)))

        each.expand(item=["a", "b"])

        ((group, fan_in),) = made
        assert ids(group)["process_0"] == [
            f"each.process.process_0.{step}" for step in ("extract", "transform", "load")
        ]
        assert fan_in.upstream_task_ids == {f"each.process.process_{index}.load" for index in (0, 1)}

    def test_names_are_the_keys_of_a_mapping(self) -> None:
        other = task_group(lambda: extract("x"))

        assert ids(declare({"whole": etl, "short": other, "one": lambda: 1})) == {
            "whole": ["process.whole.extract", "process.whole.transform", "process.whole.load"],
            "short": ["process.short.extract"],
            "one": ["process.one"],
        }

    @pytest.mark.parametrize(
        "branch",
        [
            pytest.param(etl.override(group_id="mine"), id="group_id"),
            pytest.param(etl.override(parent_group=None), id="parent_group"),
            pytest.param(task_group(group_id="mine")(etl.function), id="group_id of the decorator"),
        ],
    )
    def test_a_name_or_place_that_the_author_gave_does_not_count(self, branch: Any) -> None:
        assert list(ids(declare(branch))["process_0"]) == [
            f"process.process_0.{step}" for step in ("extract", "transform", "load")
        ]

    def test_tasks_made_elsewhere_by_the_function_are_not_the_branchs(self, dag: DAG) -> None:
        @task_group
        def branch(index: int) -> None:
            EmptyOperator(task_id=f"elsewhere_{index}", task_group=dag.task_group)
            extract()

        assert ids(declare(branch)) == {
            "process_0": ["process.process_0.extract"],
            "process_1": ["process.process_1.extract"],
        }


class TestOrder:
    def test_tasks_come_in_the_order_in_which_they_run(self) -> None:
        @task_group
        def branch() -> None:
            last = EmptyOperator(task_id="a_last")
            middle = [EmptyOperator(task_id="c"), EmptyOperator(task_id="b")]
            EmptyOperator(task_id="z_first") >> middle >> last

        first, *middle, last = ids(declare(branch))["process_0"]

        assert (first, last) == ("process.process_0.z_first", "process.process_0.a_last")
        assert sorted(middle) == ["process.process_0.b", "process.process_0.c"]

    def test_the_one_that_stands_alone_at_its_end_is_the_last(self) -> None:
        @task_group
        def branch() -> None:
            extract() >> [extract.override(task_id="left")(), extract.override(task_id="right")()] >> load(1)

        group = declare(branch)

        assert [branch.last_task_id for branch in group.declared.branches] == [
            "process.process_0.load",
            "process.process_1.load",
        ]

    def test_a_fan_in_waits_for_the_last_tasks_alone(self) -> None:
        fan_in = FanInOperator(task_id="combine", fan_out=declare())

        assert fan_in.upstream_task_ids == {"process.process_0.load", "process.process_1.load"}

    def test_what_is_before_the_group_comes_before_the_first_tasks(self) -> None:
        before = EmptyOperator(task_id="before")
        before >> declare()

        assert before.downstream_task_ids == {"process.process_0.extract", "process.process_1.extract"}

    def test_a_group_in_the_branch(self) -> None:
        @task_group
        def branch() -> None:
            with TaskGroup("steps"):
                done = transform(extract())
            load(done)

        assert ids(declare(branch))["process_1"] == [
            f"process.process_1.{step}" for step in ("steps.extract", "steps.transform", "load")
        ]

    def test_a_group_at_the_end_of_the_branch(self) -> None:
        @task_group
        def branch() -> TaskGroup:
            done = extract()
            with TaskGroup("steps") as steps:
                load(done)
            return steps

        assert ids(declare(branch))["process_0"] == [
            f"process.process_0.{step}" for step in ("extract", "steps.load")
        ]

    @pytest.mark.parametrize("returned", ["the result", "the task", "nothing"])
    def test_the_last_task_may_be_returned(self, returned: str) -> None:
        @task_group
        def branch() -> Any:
            done = extract()
            return {"the result": done, "the task": done.operator}.get(returned)

        assert ids(declare(branch))["process_0"] == ["process.process_0.extract"]


class TestWhatABranchIsGiven:
    @pytest.mark.parametrize(
        ("branch", "partial", "given"),
        [
            pytest.param(etl, {}, ["i", "a table"], id="its item"),
            pytest.param(etl, {"table": "t"}, ["i", "t"], id="partial"),
            pytest.param(etl, {"item": "x"}, ["x", "i"], id="its item where partial does not bind"),
            pytest.param(etl.partial(table="t"), {}, ["i", "t"], id=".partial()"),
            pytest.param(functools.partial(etl, "x"), {}, ["x", "i"], id="functools.partial by position"),
            pytest.param(functools.partial(etl, table="t"), {}, ["i", "t"], id="functools.partial by name"),
            pytest.param(functools.partial(etl.partial(table="t")), {}, ["i", "t"], id="both"),
        ],
    )
    def test_the_function_gets(self, branch: Any, partial: dict[str, Any], given: list[str]) -> None:
        assert first_given(declare(branch, items=["i"], partial=partial)) == [given]

    def test_index_is_the_place_of_the_branch(self) -> None:
        branch = task_group(of_index)

        assert first_given(declare(branch, count=3)) == [0, 1, 2]

    def test_a_context_name_is_a_parameter_like_any_other(self) -> None:
        """Airflow calls the function when the Dag is parsed, where there is no context."""
        branch = task_group(of_ti)

        assert first_given(declare(branch, items=["a"])) == ["a"]

    def test_an_item_is_given_as_it_is(self) -> None:
        """Airflow's own call makes an argument of a mapped one, which has no truth value."""
        branch = task_group(lambda item: extract("yes" if item else "no"))

        assert first_given(declare(branch, items=[0, 1])) == ["no", "yes"]

    def test_a_value_known_at_run_time_comes_before_the_task_that_takes_it(self) -> None:
        group = declare(items=["a"], partial={"table": prepare()})

        assert group.dag.get_task("process.process_0.extract").upstream_task_ids == {"prepare"}

    def test_the_same_function_can_be_the_branch_of_two_groups(self) -> None:
        branch = etl.partial(table="t")

        assert first_given(declare(branch, items=["a"])) == [["a", "t"]]
        assert first_given(declare(branch, group_id="other", items=["b"])) == [["b", "t"]]

    def test_airflow_takes_it_for_one_that_was_used(self) -> None:
        """It warns of one with arguments bound that was "never mapped!" when that is thrown away."""
        branch = etl.partial(table="t")
        declare(branch, items=["a"])

        assert branch._task_group_created is True


class TestSettings:
    @pytest.mark.parametrize(
        ("branch", "retries"),
        [
            pytest.param(etl, 4, id="that of the FanOutGroup"),
            pytest.param(etl.override(default_args={"retries": 5}), 5, id="that of the task group"),
            pytest.param(task_group(own_retries), 6, id="that of the task"),
        ],
    )
    def test_retries_are(self, branch: Any, retries: int) -> None:
        group = declare(branch, default_args={"retries": 4})

        assert {group.dag.get_task(i).retries for its in ids(group).values() for i in its} == {retries}

    def test_every_task_has_the_hooks_once(self) -> None:
        group = declare()

        for task_id in group.dag.task_dict:
            operator: Any = group.dag.get_task(task_id)
            assert operator.on_failure_callback == [recording.record_failure]
            assert operator._post_execute_hook is hooks._after

    def test_the_title_is_in_the_documentation(self) -> None:
        assert "Each runs `etl`." in (getattr(declare(), "doc_md", "Each runs `etl`.") or "")


class TestMappedTasks:
    def test_one_in_the_middle(self) -> None:
        @task_group
        def branch() -> None:
            load(transform.expand(item=extract()))

        group = declare(branch)

        assert ids(group)["process_0"] == [f"process.process_0.{i}" for i in ("extract", "transform", "load")]

    def test_it_has_the_hooks_too(self) -> None:
        @task_group
        def branch() -> None:
            load(transform.expand(item=[1, 2]))

        mapped: Any = declare(branch).dag.get_task("process.process_0.transform")

        assert mapped.partial_kwargs["on_failure_callback"] == [recording.record_failure]
        assert mapped.partial_kwargs["on_execute_callback"] == [recording.on_execute]
        assert mapped.partial_kwargs["post_execute"] is hooks._after

    def test_a_mapped_group_in_the_middle(self) -> None:
        @task_group
        def branch() -> None:
            @task_group
            def each(item: Any) -> Any:
                return transform(item)

            load(each.expand(item=[1, 2]))

        assert ids(declare(branch))["process_0"] == [
            f"process.process_0.{i}" for i in ("each.transform", "load")
        ]


class TestSetupAndTeardown:
    def test_the_teardown_is_not_the_branchs_last_task(self) -> None:
        @task_group
        def branch() -> None:
            prepared, done = prepare(), extract()
            prepared >> done >> clear_up().as_teardown(setups=prepared)

        group = declare(branch)
        fan_in = FanInOperator(task_id="combine", fan_out=group)

        assert ids(group)["process_0"] == ["process.process_0.prepare", "process.process_0.extract"]
        assert fan_in.upstream_task_ids == {"process.process_0.extract", "process.process_1.extract"}

    def test_a_teardown_that_is_entered(self) -> None:
        @task_group
        def branch() -> None:
            with clear_up().as_teardown(setups=prepare()):
                load(extract())

        assert ids(declare(branch))["process_1"] == [
            f"process.process_1.{i}" for i in ("prepare", "extract", "load")
        ]

    def test_a_setup_function_can_be_used_in_every_branch(self) -> None:
        start = setup(prepare.function)

        @task_group
        def branch() -> None:
            begun = start()
            begun >> extract() >> clear_up().as_teardown(setups=begun)

        assert len(ids(declare(branch, count=3))) == 3

    def test_a_teardown_has_no_hooks(self) -> None:
        @task_group
        def branch() -> None:
            extract() >> clear_up().as_teardown()

        made: Any = declare(branch).dag.get_task("process.process_0.clear_up")

        assert made.on_failure_callback == []


class TestAFanOutWithinABranch:
    def nested(self, inner: Any = extract) -> FanOutGroup:
        @task_group
        def branch() -> Any:
            parts = FanOutGroup("parts", branch=inner, count=2)
            return FanInOperator(task_id="collect", fan_out=parts).output

        return declare(branch)

    def test_its_fan_in_is_the_last_task(self) -> None:
        assert ids(self.nested())["process_0"] == [
            "process.process_0.parts.parts_0",
            "process.process_0.parts.parts_1",
            "process.process_0.collect",
        ]

    def test_a_fan_in_over_all_waits_for_the_inner_ones(self) -> None:
        fan_in = FanInOperator(task_id="combine", fan_out=self.nested())

        assert fan_in.upstream_task_ids == {"process.process_0.collect", "process.process_1.collect"}

    def test_every_task_has_the_hooks_once(self) -> None:
        @task_group
        def inner() -> None:
            load(transform.expand(item=[1, 2]))

        dag = self.nested(inner).dag

        assert len(dag.task_dict) == 2 * (2 * 2 + 1)
        for operator in dag.task_dict.values():
            made: Any = operator
            hook = made.partial_kwargs["post_execute"] if made.is_mapped else made._post_execute_hook
            assert made.on_failure_callback == [recording.record_failure]
            assert hook is hooks._after

    def test_a_mistake_within_says_which_branch_made_it(self) -> None:
        with pytest.raises(ValueError, match=r"FanOutGroup 'parts': count: expected 0 or more") as raised:
            declare(task_group(lambda: FanOutGroup("parts", branch=extract, count=-1)))

        assert raised.value.__notes__ == [
            "FanOutGroup 'process': branch: raised by <lambda> for branch 'process_0'"
        ]


def two_last() -> None:
    extract()
    transform("x")


def mapped_last() -> None:
    load.expand(item=extract())


def last_in_a_mapped_group() -> None:
    task_group(of_item).override(group_id="each").expand(item=[1, 2])


def setup_without_a_teardown() -> None:
    prepare().as_setup() >> extract()


def setup_with_a_teardown_elsewhere() -> None:
    prepared = prepare()
    with TaskGroup("elsewhere", parent_group=None, prefix_group_id=False) as elsewhere:
        cleared = clear_up.override(task_group=elsewhere.dag.task_group)()
    prepared >> extract() >> cleared.as_teardown(setups=prepared)


def setup_alone() -> None:
    prepare().as_setup()


def teardown_alone() -> None:
    clear_up().as_teardown()


def twice_the_same_id() -> None:
    EmptyOperator(task_id="same") >> EmptyOperator(task_id="same")


def first_returned() -> Any:
    done = extract()
    load(done)
    return done


def circle() -> None:
    first, second = EmptyOperator(task_id="first"), EmptyOperator(task_id="second")
    first >> second >> first


def unprefixed_group() -> None:
    with TaskGroup("steps", prefix_group_id=False):
        extract()


one_teardown = teardown(clear_up.function)


def one_teardown_in_each() -> None:
    prepared = prepare()
    prepared >> extract() >> one_teardown().as_teardown(setups=prepared)


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        pytest.param(
            two_last,
            "two_last has 2 last tasks, 'process.process_0.extract', 'process.process_0.transform', and a "
            "branch has one value: let one task come after the others",
            id="two last tasks",
        ),
        pytest.param(lambda: None, "<lambda> has made no task for branch 'process_0'", id="no task"),
        pytest.param(
            mapped_last,
            "the last task of mapped_last, 'process.process_0.load', is mapped, .*collects them",
            id="a mapped last task",
        ),
        pytest.param(
            last_in_a_mapped_group,
            "the last task of .*, 'process.process_0.each.extract', is mapped",
            id="a last task in a mapped group",
        ),
        pytest.param(
            setup_without_a_teardown,
            r"the setup 'process.process_0.prepare' has no teardown in its branch: .*as_teardown\(setups=…\)",
            id="a setup without a teardown",
        ),
        pytest.param(
            setup_with_a_teardown_elsewhere,
            "the setup 'process.process_0.prepare' has no teardown in its branch",
            id="a setup whose teardown is elsewhere",
        ),
        pytest.param(
            setup_alone, "its last task 'process.process_0.prepare' is a setup", id="nothing but a setup"
        ),
        pytest.param(
            teardown_alone,
            "teardown_alone has no last task, only setups and teardowns",
            id="nothing but a teardown",
        ),
        pytest.param(circle, "circle has no last task, .*or a circle of tasks", id="a circle"),
        pytest.param(
            one_teardown_in_each,
            r"one_teardown_in_each calls one @teardown in several branches.*call it with \.as_teardown\(",
            id="one @teardown in every branch",
        ),
        pytest.param(
            twice_the_same_id,
            "twice_the_same_id makes two of one id for branch 'process_0': .*'process.process_0.same'",
            id="two tasks of one id",
        ),
        pytest.param(
            first_returned,
            r"first_returned returns XComArg\(.*extract.*\), but a branch's value is what its last task "
            "'process.process_0.load' returns",
            id="another task's value returned",
        ),
        pytest.param(
            lambda: extract()["key"], r"<lambda> returns XComArg.*'key'", id="a part of the value returned"
        ),
        pytest.param(
            lambda: extract().map(str), r"<lambda> returns XComArg.*map", id="a changed value returned"
        ),
        pytest.param(lambda: [extract()], r"<lambda> returns \[XComArg", id="a list returned"),
        pytest.param(lambda: [extract()] and "text", "<lambda> returns 'text', but", id="a text returned"),
        pytest.param(
            unprefixed_group,
            "unprefixed_group makes 'extract', without the branch's name in the id; leave out prefix",
            id="an inner group without a prefix",
        ),
    ],
)
def test_a_function_that_makes_no_branch_is_refused(branch: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^FanOutGroup 'process': branch: {message}"):
        declare(task_group(branch))


def test_a_task_group_without_a_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"branch: etl makes .*; leave out prefix_group_id=False"):
        declare(etl.override(prefix_group_id=False))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        pytest.param({"a.b": 1}, r"items: .*'a\.b' has a '\.', which the id of a task group", id="a dot"),
        pytest.param({"n" * 201: 1}, "items: .*has 201 characters; Airflow takes 200", id="201 characters"),
    ],
)
def test_a_name_that_airflow_refuses_for_a_group_is_refused(items: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"FanOutGroup 'process': {message}"):
        declare(items=items)


def test_a_name_with_a_dot_is_refused_for_the_task_group_of_a_mapping_alone() -> None:
    with pytest.raises(ValueError, match=r"branch: .*'a\.b' has a '\.'"):
        declare({"c.d": lambda: 1, "a.b": etl})


@pytest.mark.parametrize(
    ("branch", "declared", "message"),
    [
        pytest.param(
            lambda first, second: extract(),
            {"items": ["a"]},
            r"branch: <lambda>\(first, second\) needs 'second', which no branch is given; bind it",
            id="two parameters",
        ),
        pytest.param(
            of_nothing, {"items": ["a"]}, r"branch: of_nothing\(\) has no free parameter", id="none"
        ),
        pytest.param(
            etl.function,
            {"partial": {"nobody": 1}},
            r"partial: binds 'nobody', which etl\(item, table\) does not take",
            id="an unknown one in partial",
        ),
        pytest.param(
            of_ti,
            {},
            r"branch: of_ti\(ti\) needs 'ti', which no branch is given",
            id="a context name",
        ),
        pytest.param(
            of_item,
            {"default_args": {"item": "x"}},
            r"branch: of_item\(item\) needs 'item', which no branch is given",
            id="one that default_args would fill in a task",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(branch: Any, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"FanOutGroup 'process': {message}"):
        declare(task_group(branch), **declared)


def heeding(decorator: Any) -> Any:
    return decorator(ignore_downstream_trigger_rules=False)


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        pytest.param(task.branch(extract.function), "_BranchPythonDecoratedOperator", id="branch"),
        pytest.param(
            task.short_circuit(extract.function), "_ShortCircuitDecoratedOperator", id="short-circuit"
        ),
        pytest.param(
            heeding(task.short_circuit)(extract.function),
            "_ShortCircuitDecoratedOperator",
            id="short-circuit that heeds trigger rules",
        ),
        pytest.param(
            lambda: LatestOnlyOperator(task_id="extract"), "LatestOnlyOperator", id="latest-only operator"
        ),
    ],
)
def test_a_last_task_that_can_skip_the_fan_in_is_refused(last: Any, kind: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"branch: 'process.process_0.extract' is a {kind}, which skips the tasks after it: the fan-in",
    ):
        declare(task_group(lambda: prepare() >> last() and None))


SHORT_CIRCUITS = {
    "a function": lambda given: task.short_circuit(task_id="check", **given)(lambda: True)(),
    "a mapped function": lambda given: task.short_circuit(task_id="check", **given)(lambda item: True).expand(
        item=[1]
    ),
    "an operator": lambda given: ShortCircuitOperator(task_id="check", python_callable=bool, **given),
    "a mapped operator": lambda given: ShortCircuitOperator.partial(
        task_id="check", python_callable=bool, **given
    ).expand(op_args=[[1]]),
}


@pytest.mark.parametrize("make", SHORT_CIRCUITS.values(), ids=SHORT_CIRCUITS)
class TestAShortCircuitInTheMiddle:
    def branch(self, make: Any, **given: Any) -> Any:
        @task_group
        def branch() -> None:
            make(given) >> extract()

        return branch

    def test_it_is_refused_where_it_skips_the_fan_in(self, make: Any) -> None:
        with pytest.raises(
            ValueError,
            match=r"branch: 'process.process_0.check' is a short-circuit .*ignore_downstream_trigger_rules=F",
        ):
            declare(self.branch(make))

    def test_it_is_refused_where_the_author_says_so(self, make: Any) -> None:
        with pytest.raises(ValueError, match="short-circuit that skips everything after it, the fan-in too"):
            declare(self.branch(make, ignore_downstream_trigger_rules=True))

    def test_it_may_skip_the_rest_of_its_branch(self, make: Any) -> None:
        group = declare(self.branch(make, ignore_downstream_trigger_rules=False))

        assert ids(group)["process_0"] == ["process.process_0.check", "process.process_0.extract"]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(task.branch(extract.function), id="branch"),
        pytest.param(lambda: LatestOnlyOperator(task_id="extract"), id="latest-only operator"),
    ],
)
def test_what_skips_the_tasks_right_after_it_may_stand_in_the_middle(make: Any) -> None:
    group = declare(task_group(lambda: make() >> load("x") and None))

    assert ids(group)["process_0"] == ["process.process_0.extract", "process.process_0.load"]


@pytest.mark.parametrize("error", [ValueError("no such file"), LookupError("no such key")], ids=repr)
def test_an_error_of_the_authors_own_is_theirs_and_says_which_branch_it_was(error: Exception) -> None:
    def branch(item: str) -> None:
        raise error

    with pytest.raises(type(error), match="no such") as raised:
        declare(task_group(branch), items={"first": 1})

    assert raised.value is error
    assert raised.value.__notes__ == ["FanOutGroup 'process': branch: raised by branch for branch 'first'"]


@pytest.mark.parametrize(
    ("branch", "found"),
    [
        pytest.param(etl, "the result of calling one; hand over", id="called already"),
        pytest.param(
            task_group(group_id="made")(two_last),
            "the task group 'made', which is made already",
            id="called already, without a value",
        ),
        pytest.param(
            lambda: task_group(group_id="made")(lambda item: None).expand(item=["a"]),
            "the task group 'made', which is made already",
            id="expanded already",
        ),
    ],
)
def test_what_was_made_already_is_refused(branch: Callable[[], Any], found: str) -> None:
    with pytest.raises(TypeError, match=f"expected a @task or @task_group function.*found {found}"):
        declare(branch())


@pytest.mark.usefixtures("no_dag")
class TestOutsideOfADag:
    """Where the group is given its Dag by name."""

    @pytest.mark.parametrize(
        ("declared", "task_ids"),
        [
            pytest.param(
                {"items": ["a"]},
                [f"process.process_0.{each}" for each in ("extract", "load", "transform")],
                id="static",
            ),
            pytest.param(
                {"items": ["a"], "mapped": True},
                [f"process.each.{each}" for each in ("extract", "load", "transform")],
                id="mapped",
            ),
        ],
    )
    def test_the_tasks_of_its_branches_join_that(self, declared: Any, task_ids: list[str]) -> None:
        dag = DAG("given", schedule=None)

        declare(dag=dag, **declared)

        assert sorted(dag.task_ids) == task_ids

    def test_within_another_dag_too(self) -> None:
        dag = DAG("given", schedule=None)

        with DAG("around", schedule=None) as around:
            declare(dag=dag, parent_group=None, count=1)

        assert (len(dag.task_ids), around.task_ids) == (3, [])
