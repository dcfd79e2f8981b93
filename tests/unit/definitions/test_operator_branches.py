from __future__ import annotations

import functools
from datetime import timedelta
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
from airflow.sdk import DAG, BaseOperator, XComArg, task

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import DeclarationTypeError
from airflow_fanout.execution_time import recording
from tests.unit.refused import wrong_type, wrong_value

if TYPE_CHECKING:
    from airflow.sdk import Context

pytestmark = pytest.mark.usefixtures("dag")

BASH: Any = BashOperator
LIST = functools.partial(BashOperator, bash_command="ls")


class CopyOperator(BaseOperator):
    template_fields = ("source",)

    def __init__(self, *, source: str, target: str, index: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.target = target
        self.index = index

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
    """Tasks of the branches."""
    return list(FanOutGroup("process", **declared))


COPY = functools.partial(CopyOperator, target="x")
COPY_ANY: Any = CopyOperator
SOURCES = [{"source": "a"}, {"source": "b"}]
A_TO_X, B_TO_Y = {"source": "a", "target": "x"}, {"source": "b", "target": "y"}
TO_Z = {"target": "z"}


class TestWhatABranchIsGiven:
    @pytest.mark.parametrize(
        ("declared", "copies"),
        [
            pytest.param({"items": [A_TO_X, B_TO_Y]}, {"process_0": "ax", "process_1": "by"}, id="items"),
            pytest.param({"items": {"first": A_TO_X}}, {"first": "ax"}, id="named items"),
            pytest.param(
                {"branch": COPY, "items": SOURCES}, {"process_0": "ax", "process_1": "bx"}, id="partial()"
            ),
            pytest.param(
                {"branch": functools.partial(COPY, target="y"), "items": SOURCES[:1]},
                {"process_0": "ay"},
                id="functools.partial of another, which counts less",
            ),
            pytest.param(
                {"branch": functools.partial(COPY_ANY, retries=1), "items": SOURCES[:1], "partial": TO_Z},
                {"process_0": "az"},
                id="partial beside functools.partial",
            ),
            pytest.param(
                {"branch": functools.partial(COPY, source="c"), "items": [{}]},
                {"process_0": "cx"},
                id="items that add nothing",
            ),
            pytest.param({"count": 1, "default_args": B_TO_Y}, {"process_0": "by"}, id="default_args"),
        ],
    )
    def test_arguments_come_from_item_partial_and_default_args(
        self, declared: dict[str, Any], copies: dict[str, str]
    ) -> None:
        made = declare(**{"branch": CopyOperator, **declared})

        assert {each.task_id.removeprefix("process."): each.source + each.target for each in made} == copies
        assert {each.index for each in made} == {7}  # a count gives no index

    def test_a_mapping_may_mix_operators_and_functions(self) -> None:
        made = declare(branch={"list": LIST, "nothing": EmptyOperator, "plain": lambda: 1})

        assert [(each.task_id, type(each).__name__) for each in made] == [
            ("process.list", "BashOperator"),
            ("process.nothing", "EmptyOperator"),
            ("process.plain", "_PythonDecoratedOperator"),
        ]

    def test_a_value_of_run_time_comes_before_the_branches(self) -> None:
        made = declare(branch=BashOperator, count=2, partial={"bash_command": load()})

        assert [each.upstream_task_ids for each in made] == [{"load"}, {"load"}]
        assert all(isinstance(each.bash_command, XComArg) for each in made)

    def test_template_fields_are_rendered(self, dag: DAG) -> None:
        (made,) = declare(branch=CopyOperator, items=[{"source": "{{ ds }}", "target": "{{ ds }}"}])
        made.render_template_fields({"dag": dag, "ds": "today"})

        assert (made.source, made.target) == ("today", "{{ ds }}")

    @pytest.mark.parametrize(
        ("branch", "item", "retries"),
        [
            pytest.param(LIST, {"retries": 6}, 6, id="the item's"),
            pytest.param(LIST, {"default_args": {"retries": 7}}, 7, id="the item's default_args"),
        ],
    )
    def test_the_nearest_setting_holds(self, branch: Any, item: dict[str, Any], retries: int) -> None:
        (made,) = declare(branch=branch, items=[item], default_args={"retries": 4})

        assert made.retries == retries

    @pytest.mark.parametrize(
        ("branch", "item", "expected"),
        [
            pytest.param(
                functools.partial(BashSensor, mode="reschedule"),
                {"bash_command": "true"},
                {"mode": "reschedule", "bash_command": "true"},
                id="a sensor",
            ),
            pytest.param(
                functools.partial(TimeDeltaSensor, deferrable=True),
                {"delta": timedelta(seconds=1)},
                {"deferrable": True},
                id="a deferrable one",
            ),
            pytest.param(PythonOperator, {"python_callable": len}, {"python_callable": len}, id="Python"),
        ],
    )
    def test_other_operators_are_branches_with_hooks(
        self, branch: Any, item: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        group = FanOutGroup("process", branch=branch, items=[item])
        (made,) = group

        assert {name: getattr(made, name) for name in expected} == expected
        assert getattr(made, "on_failure_callback", None) == [recording.record_failure]
        assert FanInOperator(task_id="f", fan_out=group).upstream_task_ids == {"process.process_0"}


REFUSED = [
    wrong_type("items: item 1 is 'a' of type str; expected a dict of arguments of Bash", items=[{}, "a"]),
    wrong_type("items: item 0 is None of type NoneType", items={"x": None}),
    wrong_type("items: item 0 has 8 as the name of an argument", items=[{8: "a"}]),
    wrong_type(
        "items: item 0 gives 'source', .*give it once", branch=COPY, items=SOURCES, partial={"source": "b"}
    ),
    wrong_type("items: item 0 gives 'bash_command', which is bound in every", items=[{"bash_command": "a"}]),
    wrong_type("partial: binds 'bash_command', .*already", count=2, partial={"bash_command": "a"}),
    wrong_type(
        "branch: .*'process_0' can't .*'nonsense': 1", branch=functools.partial(LIST, nonsense=1), count=2
    ),
    wrong_type("branch: .*'process_0' can't be made: 'retries' type", items=[{"retries": "many"}]),
    wrong_value("branch: .* branch 'process_0' can't be made: pool slots", items=[{"pool_slots": 0}]),
    wrong_type(
        r"branch\['b'\]: CopyOperator .*'b' .*missing", branch={"a": EmptyOperator, "b": CopyOperator}
    ),
    wrong_type(
        r"branch: functools\.partial binds 'ls' by position; operators take names only",
        branch=functools.partial(functools.partial(BASH, "ls"), env={}),
        count=2,
    ),
    wrong_type("branch: BaseOperator does nothing by itself; name", branch=BaseOperator, count=2),
    wrong_type(
        "branch: BaseOperator does nothing", branch=functools.partial(BaseOperator, retries=1), count=2
    ),
    *(
        row
        for name in ("task_id", "dag", "task_group")
        for message in [f"gives BashOperator '{name}', which it gets from the group: a branch's name is"]
        for row in (
            wrong_type(f"items: {message}", items=[{}, {name: "mine"}]),
            wrong_type(f"partial: {message}", count=2, partial={name: "mine"}),
            wrong_type(f"branch: {message}", branch=functools.partial(BASH, **{name: "mine"}), count=2),
        )
    ),
    *(
        wrong_type(
            rf"items: item 1 gives '{name}', .*partial\(BashOperator, {name}=…\), or leave mapped out",
            items=[{}, {name: None}],
            mapped=True,
            stop_after_failures=1,
        )
        for name in ("retries", "pool", "on_failure_callback", "pre_execute", "post_execute")
    ),
    *(
        wrong_value(
            rf"branch: {skipper.__name__} skips the tasks after it, so that .*AirflowSkipException",
            branch=functools.partial(skipper),
            count=2,
        )
        for skipper in (BranchPythonOperator, ShortCircuitOperator, LatestOnlyOperator)
    ),
]


@pytest.mark.parametrize(("declared", "error", "message"), REFUSED)
def test_what_can_not_be_made_is_refused(declared: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"(?s)^FanOutGroup 'process': {message}"):
        declare(**{"branch": LIST, **declared})


def test_an_item_of_run_time_in_a_list_is_refused() -> None:
    message = "items: item 1 is a value known only at run time; expected a dict of arguments of BashOperator"
    with pytest.raises(DeclarationTypeError, match=message):
        declare(branch=LIST, items=[{}, load()])


def test_another_error_of_the_operator_says_which_branch_it_was() -> None:
    with pytest.raises(LookupError, match="no such connection") as raised:
        declare(branch={"fine": EmptyOperator, "broken": BrokenOperator})

    assert raised.value.__notes__ == [
        "FanOutGroup 'process': branch['broken']: BrokenOperator for branch 'broken' can't be made"
    ]
