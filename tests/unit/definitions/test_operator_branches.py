from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.latest_only import LatestOnlyOperator
from airflow.providers.standard.operators.python import (
    BranchPythonOperator,
    PythonOperator,
    ShortCircuitOperator,
)
from airflow.providers.standard.sensors.bash import BashSensor
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, BaseOperator, TaskGroup, XComArg, task

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.execution_time import recording
from airflow_fanout.operators import hooks

if TYPE_CHECKING:
    from airflow.sdk import Context

pytestmark = pytest.mark.usefixtures("dag")

BASH: Any = BashOperator
LIST = functools.partial(BashOperator, bash_command="ls")


class CopyOperator(BaseOperator):
    template_fields = ("source",)

    def __init__(self, *, source: str, target: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.target = target

    def execute(self, context: Context) -> str:
        return f"{self.source} -> {self.target}"


class BrokenOperator(BaseOperator):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        message = "no such connection"
        raise LookupError(message)


@task
def load() -> str:
    return "text"


def declare(**declared: Any) -> list[Any]:
    """Declare a group, and return its tasks."""
    return list(FanOutGroup("process", **declared))


def copies(**declared: Any) -> list[tuple[str, str, str]]:
    """Id, source and target of each branch's task."""
    return [(each.task_id, each.source, each.target) for each in declare(**declared)]


class TestWhatABranchIsGiven:
    def test_an_item_is_a_dict_of_arguments(self) -> None:
        items = [{"source": "a", "target": "x"}, {"source": "b", "target": "y"}]

        assert copies(branch=CopyOperator, items=items) == [
            ("process.process_0", "a", "x"),
            ("process.process_1", "b", "y"),
        ]

    def test_of_a_mapping_the_keys_are_the_names(self) -> None:
        items = {"first": {"source": "a", "target": "x"}, "second.half": {"source": "b", "target": "y"}}

        assert copies(branch=CopyOperator, items=items) == [
            ("process.first", "a", "x"),
            ("process.second.half", "b", "y"),
        ]

    @pytest.mark.parametrize(
        ("branch", "partial"),
        [
            pytest.param(functools.partial(CopyOperator, target="x"), {}, id="functools.partial"),
            pytest.param(
                functools.partial(functools.partial(CopyOperator, target="y"), target="x"),
                {},
                id="functools.partial of another, which counts less",
            ),
            pytest.param(CopyOperator, {"target": "x"}, id="partial"),
            pytest.param(
                functools.partial(CopyOperator, retries=1),
                {"target": "x"},
                id="partial beside functools.partial",
            ),
        ],
    )
    def test_the_rest_is_bound_with(self, branch: Any, partial: dict[str, Any]) -> None:
        assert copies(branch=branch, items=[{"source": "a"}, {"source": "b"}], partial=partial) == [
            ("process.process_0", "a", "x"),
            ("process.process_1", "b", "x"),
        ]

    def test_an_item_may_add_nothing(self) -> None:
        assert [each.bash_command for each in declare(branch=LIST, items=[{}, {}])] == ["ls", "ls"]

    def test_a_count_makes_as_many_alike(self) -> None:
        made = declare(branch=LIST, count=2)

        assert [(type(each), each.task_id, each.bash_command) for each in made] == [
            (BashOperator, "process.process_0", "ls"),
            (BashOperator, "process.process_1", "ls"),
        ]

    def test_a_count_gives_an_operator_no_index(self) -> None:
        class IndexOperator(BaseOperator):
            def __init__(self, *, index: int = 7, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                self.index = index

        assert [each.index for each in declare(branch=IndexOperator, count=2)] == [7, 7]

    def test_a_mapping_may_mix_operators_and_functions(self) -> None:
        made = declare(branch={"list": LIST, "nothing": EmptyOperator, "plain": lambda: 1})

        assert [(each.task_id, type(each).__name__) for each in made] == [
            ("process.list", "BashOperator"),
            ("process.nothing", "EmptyOperator"),
            ("process.plain", "_PythonDecoratedOperator"),
        ]

    def test_a_value_known_at_run_time_comes_before_the_branches(self) -> None:
        made = declare(branch=BashOperator, count=2, partial={"bash_command": load()})

        assert [each.upstream_task_ids for each in made] == [{"load"}, {"load"}]
        assert all(isinstance(each.bash_command, XComArg) for each in made)

    def test_template_fields_are_rendered(self, dag: DAG) -> None:
        (made,) = declare(branch=CopyOperator, items=[{"source": "{{ ds }}", "target": "{{ ds }}"}])
        made.render_template_fields({"dag": dag, "ds": "today"})

        assert (made.source, made.target) == ("today", "{{ ds }}")


class TestDefaults:
    @pytest.mark.parametrize(
        ("branch", "item", "retries"),
        [
            pytest.param(LIST, {}, 4, id="that of the group"),
            pytest.param(functools.partial(LIST, retries=5), {}, 5, id="that of functools.partial"),
            pytest.param(LIST, {"retries": 6}, 6, id="that of the item"),
            pytest.param(LIST, {"default_args": {"retries": 7}}, 7, id="that of the item's default_args"),
        ],
    )
    def test_retries_are(self, branch: Any, item: dict[str, Any], retries: int) -> None:
        (made,) = declare(branch=branch, items=[item], default_args={"retries": 4})

        assert made.retries == retries

    def test_default_args_fill_what_nobody_gives(self) -> None:
        given: Any = {"source": "a", "target": "x"}

        assert copies(branch=CopyOperator, count=1, default_args=given) == [("process.process_0", "a", "x")]

    @pytest.mark.parametrize("where", ["dag", "parent"])
    def test_defaults_of_what_is_around_the_group_hold(self, where: str) -> None:
        given: Any = {"queue": "large"}
        with (
            DAG("d", schedule=None, default_args=given if where == "dag" else {}),
            TaskGroup("outer", default_args=given if where == "parent" else {}),
        ):
            (made,) = declare(branch=LIST, count=1)

        assert (made.task_id, made.queue) == ("outer.process.process_0", "large")


class TestOtherOperators:
    def test_a_sensor(self) -> None:
        branch = functools.partial(BashSensor, mode="reschedule", soft_fail=True, poke_interval=5)

        made = declare(branch=branch, items=[{"bash_command": "true"}, {"bash_command": "false"}])

        assert [(each.bash_command, each.mode) for each in made] == [
            ("true", "reschedule"),
            ("false", "reschedule"),
        ]

    def test_a_deferrable_one(self) -> None:
        from datetime import timedelta

        branch = functools.partial(TimeDeltaSensor, deferrable=True)

        (made,) = declare(branch=branch, items=[{"delta": timedelta(seconds=1)}])

        assert made.deferrable is True

    def test_a_python_operator(self) -> None:
        (made,) = declare(branch=PythonOperator, items=[{"python_callable": len, "op_args": ["abc"]}])

        assert made.python_callable is len

    def test_each_has_the_hooks_of_a_branch(self) -> None:
        for made in declare(branch={"list": LIST, "wait": functools.partial(BashSensor, bash_command="")}):
            assert made.on_failure_callback == [recording.record_failure]
            assert made._post_execute_hook is hooks._after

    def test_a_fan_in_collects_them(self) -> None:
        group = FanOutGroup("process", branch=LIST, count=2)
        fan_in = FanInOperator(task_id="combine", fan_out=group)

        assert fan_in.upstream_task_ids == {"process.process_0", "process.process_1"}


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        pytest.param(
            {"branch": LIST, "items": [{}, "a"]},
            r"items: each item of BashOperator is a dict of the arguments to add; item 1 is 'a' of type str",
            id="an item that is no dict",
        ),
        pytest.param(
            {"branch": LIST, "items": {"x": None}}, r"items: .*item 0 is None of type NoneType", id="None"
        ),
        pytest.param(
            {"branch": CopyOperator, "items": [{"source": "a"}], "partial": {"source": "b", "target": "x"}},
            r"items: item 0 gives 'source', which is bound in every branch already; give it once",
            id="an item that repeats what partial binds",
        ),
        pytest.param(
            {"branch": LIST, "items": [{"bash_command": "a"}]},
            r"items: item 0 gives 'bash_command', which is bound in every branch already",
            id="an item that repeats what functools.partial binds",
        ),
        pytest.param(
            {"branch": LIST, "count": 2, "partial": {"bash_command": "a"}},
            r"partial: binds 'bash_command', which branch has bound already; bind it once",
            id="partial that repeats what functools.partial binds",
        ),
        pytest.param(
            {"branch": LIST, "items": [{8: "a"}]},
            r"items: item 0 of BashOperator has 8 for an argument's name",
            id="a name that is no str",
        ),
        pytest.param(
            {"branch": functools.partial(LIST, nonsense=1), "count": 2},
            r"branch: BashOperator for branch 'process_0' can't be made: .*'nonsense': 1",
            id="an argument that the operator does not take",
        ),
        pytest.param(
            {"branch": CopyOperator, "items": {"first": {"source": "a"}}},
            r"branch: CopyOperator for branch 'first' can't be made: missing keyword argument 'target'",
            id="an argument that nobody gives",
        ),
        pytest.param(
            {"branch": {"a": EmptyOperator, "b": CopyOperator}},
            r"branch\['b'\]: CopyOperator for branch 'b' can't be made: missing keyword arguments",
            id="arguments that nobody gives to one of a mapping",
        ),
        pytest.param(
            {"branch": functools.partial(BASH, "ls"), "count": 2},
            r"branch: functools\.partial binds 'ls' by position; operators take names only",
            id="functools.partial by position",
        ),
        pytest.param(
            {"branch": functools.partial(functools.partial(BASH, "ls"), env={}), "count": 2},
            r"branch: functools\.partial binds 'ls' by position",
            id="functools.partial of another by position",
        ),
        pytest.param(
            {"branch": BaseOperator, "count": 2},
            r"branch: BaseOperator does nothing by itself; name the operator to run",
            id="BaseOperator",
        ),
        pytest.param(
            {"branch": functools.partial(BaseOperator, retries=1), "count": 2},
            r"branch: BaseOperator does nothing by itself",
            id="functools.partial of BaseOperator",
        ),
        pytest.param(
            {"branch": LIST, "items": [{"retries": "many"}]},
            r"branch: BashOperator for branch 'process_0' can't be made: 'retries' type must be int",
            id="an argument of the wrong type",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=rf"(?s)^FanOutGroup 'process': {message}"):
        FanOutGroup("process", **declared)


def test_an_argument_of_an_unusable_value_is_refused() -> None:
    message = r"^FanOutGroup 'process': branch: BashOperator for branch 'process_0' can't be made: pool slots"
    with pytest.raises(ValueError, match=message):
        FanOutGroup("process", branch=LIST, items=[{"pool_slots": 0}])


def test_an_item_known_only_at_run_time_is_refused() -> None:
    message = r"items: .*item 1 is a value known only at run time, of type PlainXComArg"
    with pytest.raises(TypeError, match=message):
        FanOutGroup("process", branch=LIST, items=[{}, load()])


@pytest.mark.parametrize("name", ["task_id", "dag", "task_group"])
@pytest.mark.parametrize(
    ("declared", "argument"),
    [
        pytest.param(lambda ours: {"branch": LIST, "items": [{}, ours]}, "items", id="by an item"),
        pytest.param(lambda ours: {"branch": LIST, "count": 2, "partial": ours}, "partial", id="by partial"),
        pytest.param(
            lambda ours: {"branch": functools.partial(LIST, **ours), "count": 2},
            "branch",
            id="by functools.partial",
        ),
    ],
)
def test_what_the_group_gives_is_not_given(declared: Any, argument: str, name: str) -> None:
    with pytest.raises(
        TypeError,
        match=f"'process': {argument}: gives BashOperator '{name}', which the group gives it: a branch",
    ):
        FanOutGroup("process", **declared({name: "mine"}))


@pytest.mark.parametrize("operator_class", [BranchPythonOperator, ShortCircuitOperator, LatestOnlyOperator])
@pytest.mark.parametrize("bound", [False, True], ids=["the class", "functools.partial of it"])
def test_an_operator_that_can_skip_the_fan_in_is_refused(operator_class: Any, bound: bool) -> None:
    branch = functools.partial(operator_class) if bound else operator_class
    with pytest.raises(
        ValueError,
        match=rf"branch: {operator_class.__name__} skips the tasks after it: .*AirflowSkipException",
    ):
        FanOutGroup("process", branch=branch, count=2)


@pytest.mark.parametrize("expanded", [False, True], ids=["partial", "partial and expand"])
def test_airflows_partial_is_refused_because_of_its_frozen_defaults(expanded: bool) -> None:
    partial = BashOperator.partial(task_id="t", bash_command="ls")
    mapped = partial.expand(env=[{"a": "b"}])

    message = (
        r"branch: .*found BashOperator\.partial\(…\), .*default_args.*functools\.partial\(BashOperator, …\)"
        + (r", and items=\[\{…\}, …\]" if expanded else "$")
    )
    with pytest.raises(TypeError, match=message):
        FanOutGroup("process", branch=mapped if expanded else partial, count=2)


def test_an_operator_that_is_made_already_is_refused() -> None:
    message = r"found the task 'made'; .*hand over EmptyOperator, with its arguments in functools\.partial"
    with pytest.raises(TypeError, match=message):
        FanOutGroup("process", branch=EmptyOperator(task_id="made"), count=2)


def test_another_error_of_the_operator_says_which_branch_it_was() -> None:
    with pytest.raises(LookupError, match="no such connection") as raised:
        FanOutGroup("process", branch={"fine": EmptyOperator, "broken": BrokenOperator})

    assert raised.value.__notes__ == [
        "FanOutGroup 'process': branch['broken']: BrokenOperator for branch 'broken' can't be made"
    ]
