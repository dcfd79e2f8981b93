from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import DAG, BaseOperator, task, task_group
from airflow.sdk.exceptions import AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.execution_time.stopping import stop
from airflow_fanout.rules.records import RECORD_KEY
from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup
from tests.unit.fake_run import TASK_INSTANCE, FakeRun

if TYPE_CHECKING:
    from airflow.sdk import Context

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def calls() -> list[str]:
    """What the author's hooks noted, in order."""
    CALLS.clear()
    return CALLS


def work(item: str = "") -> str:
    return item


@task
def extract() -> str:
    return ""


@task
def load(text: Any) -> Any:
    return text


@task_group
def etl() -> None:
    load(extract())


def theirs_before(context: Context) -> None:
    CALLS.append("theirs")


def group_of(count: int = 4, limit: int | None = 2, tasks: tuple[str, ...] = ("",)) -> DeclaredGroup:
    return DeclaredGroup(
        group_id="p",
        prefix="p.",
        branches=tuple(
            DeclaredBranch(name=f"b_{index}", index=index, task_ids=tuple(f"p.b_{index}{i}" for i in tasks))
            for index in range(count)
        ),
        stop_after_failures=limit,
    )


class Asked:
    """What became of a branch that asked whether it may start."""

    def __init__(
        self,
        run: FakeRun,
        group: DeclaredGroup,
        *,
        hook: Any = stop,
        map_index: int | None = -1,
        try_number: int = 1,
        next_method: str | None = None,
        task_reschedule_count: int = 0,
    ) -> None:
        ti = mock.Mock(spec=TASK_INSTANCE)
        ti.try_number, ti.map_index = try_number, map_index
        ti._ti_context_from_server = mock.Mock(
            spec=["next_method", "task_reschedule_count"],
            next_method=next_method,
            task_reschedule_count=task_reschedule_count,
        )
        self.reader = run.reader()
        self.reason: str | None = None
        with mock.patch("airflow_fanout.execution_time.xcom.RunReader", return_value=self.reader):
            try:
                hook(
                    {"ti": ti, "task": mock.Mock(task_group=None)},
                    **({"group": group} if hook is stop else {}),
                )
            except AirflowSkipException as skipped:
                self.reason = str(skipped)
        self.pushed = [call.args for call in ti.xcom_push.call_args_list]

    @property
    def requests(self) -> int:
        return len(self.reader.calls) + len(self.pushed)


def failures(*indexes: int) -> FakeRun:
    run = FakeRun()
    for index in indexes:
        run.fail(f"p.b_{index}")
    return run


class TestWhetherABranchMayStart:
    @pytest.mark.parametrize("failed", [[], [0]], ids=["none failed", "one below the number"])
    def test_it_may_while_fewer_have_failed(self, failed: list[int]) -> None:
        asked = Asked(failures(*failed), group_of())

        assert (asked.reason, asked.pushed) == (None, [])

    @pytest.mark.parametrize("failed", [[0, 2], [0, 1, 2]], ids=["as many", "more"])
    def test_it_may_not_once_as_many_have_failed(self, failed: list[int]) -> None:
        assert Asked(failures(*failed), group_of()).reason is not None

    def test_the_reason_has_the_numbers_and_the_names(self) -> None:
        asked = Asked(failures(0, 2), group_of())

        assert asked.reason == (
            "not started: 2 of 4 branches of 'p' have failed (stop_after_failures=2): 'b_0', 'b_2'"
        )

    def test_the_reason_is_bounded(self) -> None:
        asked = Asked(failures(*range(100)), group_of(200, 3))

        assert asked.reason is not None
        assert asked.reason.endswith("'b_0', 'b_1', 'b_2', 'b_3', 'b_4' and 95 more")

    def test_the_reason_is_recorded(self) -> None:
        asked = Asked(failures(0, 1), group_of())

        assert asked.pushed == [(RECORD_KEY, {"state": "stopped", "error": asked.reason})]

    def test_it_asks_once(self) -> None:
        assert Asked(failures(0), group_of()).requests == 1

    def test_it_asks_once_and_records_once(self) -> None:
        assert Asked(failures(0, 1, 2), group_of()).requests == 2

    @pytest.mark.parametrize(
        "again",
        [
            pytest.param({"try_number": 2}, id="is retried or cleared"),
            pytest.param({"next_method": "execute_complete"}, id="goes on after a deferral"),
            pytest.param({"task_reschedule_count": 1}, id="goes on after a reschedule"),
        ],
    )
    def test_one_is_not_asked_that(self, again: dict[str, Any]) -> None:
        asked = Asked(failures(0, 1, 2), group_of(), **again)

        assert (asked.reason, asked.requests) == (None, 0)

    def test_without_a_number_nothing_stops_it(self) -> None:
        assert Asked(failures(0, 1, 2), group_of(limit=None)).reason is None


class TestWhatCountsAsAFailure:
    @pytest.mark.parametrize("state", ["success", "skipped", "upstream_failed", "removed"])
    def test_of_a_branch_of_one_task_it_is_no(self, state: str) -> None:
        run = FakeRun().add("p.b_0", state).add("p.b_1", state).add("other", "failed").add("p.b_9", "failed")

        assert Asked(run, group_of(limit=1)).reason is None

    @pytest.mark.parametrize(
        ("states", "stops"),
        [
            pytest.param({".extract": "success", ".load": "failed"}, True, id="the last failed"),
            pytest.param(
                {".extract": "failed", ".load": "upstream_failed"},
                True,
                id="the first failed",
            ),
            pytest.param(
                {".extract": "upstream_failed", ".load": "upstream_failed"}, False, id="it failed before them"
            ),
            pytest.param({".extract": "failed"}, False, id="the first failed, the last is to come"),
            pytest.param(
                {".extract": "failed", ".load": "success"},
                False,
                id="the last made up for it",
            ),
            pytest.param({".extract": "skipped", ".load": "skipped"}, False, id="both skipped"),
        ],
    )
    def test_of_a_branch_of_several_tasks(self, states: dict[str, str], stops: bool) -> None:
        run = FakeRun()
        for ending, state in states.items():
            run.add(f"p.b_0{ending}", state)

        asked = Asked(run, group_of(limit=1, tasks=(".extract", ".load")))

        assert (asked.reason is not None) is stops

    def test_of_a_mapped_task_within_a_branch_one_instance_is_enough(self) -> None:
        run = FakeRun().add("p.b_0.each", map_index=0).add("p.b_0.each", "failed", map_index=1)
        run.add("p.b_0.load", "upstream_failed")

        assert Asked(run, group_of(limit=1, tasks=(".each", ".load"))).reason is not None

    @pytest.mark.parametrize(("map_index", "stops"), [(0, False), (1, True)])
    def test_in_a_mapped_task_group_only_branches_of_the_same_index(
        self, map_index: int, stops: bool
    ) -> None:
        run = FakeRun().add("p.b_0", map_index=0).add("p.b_0", "failed", map_index=1)

        assert (Asked(run, group_of(limit=1), map_index=map_index).reason is not None) is stops

    def test_without_a_map_index_those_that_are_not_mapped(self) -> None:
        run = FakeRun().add("p.b_0", "failed", map_index=0).add("p.b_1", "failed")

        assert Asked(run, group_of(limit=1), map_index=None).reason is not None
        assert Asked(run, group_of(limit=2), map_index=None).reason is None


@pytest.mark.usefixtures("dag")
class TestWhoIsAsked:
    def test_the_task_of_each_branch(self) -> None:
        group = FanOutGroup("p", branch=work, count=4, stop_after_failures=2)

        for operator in group:
            assert isinstance(operator, BaseOperator)
            assert (
                Asked(FakeRun().fail("p.p_0"), group.declared, hook=operator._pre_execute_hook).reason is None
            )
            asked = Asked(
                FakeRun().fail("p.p_0").fail("p.p_1"), group.declared, hook=operator._pre_execute_hook
            )
            assert asked.reason is not None
            assert "2 of 4 branches of 'p' have failed" in asked.reason

    def test_of_several_tasks_the_first_alone(self) -> None:
        group = FanOutGroup("p", branch=etl, count=4, stop_after_failures=2)

        hooked = [
            operator.task_id
            for operator in group.dag.task_dict.values()
            if isinstance(operator, BaseOperator) and operator._pre_execute_hook is not None
        ]

        assert hooked == [f"p.p_{index}.extract" for index in range(4)]

    def test_a_setup_that_comes_first(self) -> None:
        @task_group
        def branch() -> None:
            with extract.override(task_id="clear_up")().as_teardown(setups=extract()):
                load("x")

        group = FanOutGroup("p", branch=branch, count=2, stop_after_failures=1)

        first = group.dag.get_task("p.p_0.extract")
        assert isinstance(first, BaseOperator)
        assert first._pre_execute_hook is not None

    def test_without_a_number_nobody(self) -> None:
        for operator in FanOutGroup("p", branch=work, count=4):
            assert isinstance(operator, BaseOperator)
            assert operator._pre_execute_hook is None

    @pytest.mark.parametrize(
        ("failed", "noted"), [([], ["theirs"]), ([0, 1], [])], ids=["it may start", "it may not"]
    )
    def test_the_authors_own_hook_runs_after_ours(
        self, calls: list[str], failed: list[int], noted: list[str]
    ) -> None:
        given: Any = {"pre_execute": theirs_before}
        group = FanOutGroup("p", branch=work, count=4, stop_after_failures=2, default_args=given)
        run = FakeRun()
        for index in failed:
            run.fail(f"p.p_{index}")
        operator = next(iter(group))
        assert isinstance(operator, BaseOperator)

        Asked(run, group.declared, hook=operator._pre_execute_hook)

        assert calls == noted

    def test_in_a_group_within_a_branch_both_are_asked_the_outer_first(self) -> None:
        @task_group
        def branch() -> None:
            inner = FanOutGroup("inner", branch=etl, count=2, stop_after_failures=1)
            FanInOperator(task_id="collect", fan_out=inner)

        with pytest.raises(ValueError, match="one first task"):
            FanOutGroup("p", branch=branch, count=4, stop_after_failures=2)

        @task_group
        def begun() -> None:
            first = extract()
            inner = FanOutGroup("inner", branch=etl, count=2, stop_after_failures=1)
            first >> inner
            FanInOperator(task_id="collect", fan_out=inner)

        group = FanOutGroup("q", branch=begun, count=4, stop_after_failures=2)

        hooked = [
            operator.task_id
            for operator in group.dag.task_group.get_child_by_label("q").iter_tasks()  # type: ignore[attr-defined]
            if operator._pre_execute_hook is not None
        ]
        assert [i for i in hooked if i.startswith("q.q_0")] == [
            "q.q_0.extract",
            "q.q_0.inner.inner_0.extract",
            "q.q_0.inner.inner_1.extract",
        ]

    def test_the_hook_can_be_pickled(self) -> None:
        (operator, *_) = FanOutGroup("p", branch=work, count=2, stop_after_failures=1)
        assert isinstance(operator, BaseOperator)

        assert pickle.loads(pickle.dumps(operator._pre_execute_hook)) is not None


def two_first() -> None:
    [extract(), extract.override(task_id="other")()] >> load("x")


def mapped_first() -> None:
    load(load.override(task_id="each").expand(text=[1, 2]))


def one_load(text: str) -> Any:
    return load(text)


def first_in_a_mapped_group() -> None:
    load(task_group(one_load).override(group_id="each").expand(text=[1, 2]))


@pytest.mark.usefixtures("dag")
class TestWhatCanNotBeStopped:
    @pytest.mark.parametrize(
        ("branch", "found"),
        [
            pytest.param(two_first, "found 'p.p_0.extract', 'p.p_0.other'", id="several first tasks"),
            pytest.param(mapped_first, "found 'p.p_0.each', which is mapped", id="a mapped first task"),
            pytest.param(
                first_in_a_mapped_group,
                "found 'p.p_0.each.load', which is mapped",
                id="a first task in a mapped group",
            ),
        ],
    )
    def test_branches_that_may_have_started_in_part(self, branch: Any, found: str) -> None:
        with pytest.raises(
            ValueError, match=f"'p': stop_after_failures: expected branches with one first task, .*{found}"
        ):
            FanOutGroup("p", branch=task_group(branch), count=3, stop_after_failures=1)

        FanOutGroup("q", branch=task_group(branch), count=3)  # without a number they are branches

    def test_branches_in_one_mapped_group_have_a_first_task_each(self) -> None:
        @task_group
        def each(item: str) -> None:
            FanOutGroup("p", branch=etl, count=3, stop_after_failures=1)

        each.expand(item=["a", "b"])

    @pytest.mark.parametrize("limit", [4, 5, 100])
    def test_a_number_that_leaves_none_to_stop(self, limit: int) -> None:
        message = rf"stop_after_failures: {limit} failures of 4 branches leave none to stop; .*below 4"
        with pytest.raises(ValueError, match=message):
            FanOutGroup("p", branch=work, count=4, stop_after_failures=limit)

    def test_the_largest_number_that_leaves_one(self) -> None:
        assert FanOutGroup("p", branch=work, count=4, stop_after_failures=3).declared.stop_after_failures == 3

    def test_zero_branches_from_a_configuration_are_fine(self) -> None:
        FanOutGroup("p", branch=work, items=[], stop_after_failures=3)

    @pytest.mark.parametrize(
        ("limit", "error"),
        [(0, ValueError), (-1, ValueError), (True, TypeError), (1.0, TypeError), ("1", TypeError)],
        ids=repr,
    )
    def test_what_is_no_number(self, limit: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"'p': stop_after_failures: expected .*1 or more"):
            FanOutGroup("p", branch=work, count=4, stop_after_failures=limit)


class TestWhatIsStored:
    def stored(self) -> dict[str, Any]:
        with DAG("d", schedule=None) as dag:
            group = FanOutGroup("p", branch=work, count=50, stop_after_failures=2)
            own: Any = {"pre_execute": theirs_before}
            several = FanOutGroup("q", branch=etl, count=50, stop_after_failures=2, default_args=own)
            FanInOperator(task_id="combine", fan_out=group)
            FanInOperator(task_id="combine_other", fan_out=several)
        data: dict[str, Any] = DagSerialization.to_dict(dag)
        return data

    def test_the_source_of_the_hook_is_small(self) -> None:
        for stored in self.stored()["dag"]["tasks"]:
            hook = stored["__var"].get("_pre_execute_hook")
            if hook is not None:
                assert 0 < len(hook) < 300

    def test_nothing_of_the_group_is_stored_with_it(self) -> None:
        text = json.dumps(self.stored())

        assert "DeclaredGroup(" not in text
        assert " object at 0x" not in text
        assert "0x7f" not in text

    def test_it_is_the_same_on_every_parse(self) -> None:
        assert self.stored() == self.stored()
