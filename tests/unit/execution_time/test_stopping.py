from __future__ import annotations

import json
import pickle
from typing import Any
from unittest import mock

import pytest
from airflow.sdk import DAG, BaseOperator, task, task_group
from airflow.sdk.exceptions import AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.execution_time.stopping import failed_names, stop
from airflow_fanout.rules.records import RECORD_KEY
from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup
from tests.unit.fake_run import TASK_INSTANCE, FakeRun


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


@task_group
def torn_down() -> None:
    with extract.override(task_id="clear_up")().as_teardown(setups=extract()):
        load("x")


def group_of(count: int = 4, limit: int | None = 2, tasks: tuple[str, ...] = ("",)) -> DeclaredGroup:
    return DeclaredGroup(
        group_id="p",
        prefix="p.",
        branches=tuple(
            DeclaredBranch(name=f"b_{index}", task_ids=tuple(f"p.b_{index}{i}" for i in tasks))
            for index in range(count)
        ),
        stop_after_failures=limit,
    )


def failures(*indexes: int) -> FakeRun:
    run = FakeRun()
    for index in indexes:
        run.fail(f"p.b_{index}")
    return run


class Asked:
    """What became of a branch that asked whether it may start."""

    def __init__(
        self,
        run: FakeRun,
        group: DeclaredGroup | None = None,
        *,
        hook: Any = None,
        map_index: int | None = -1,
        try_number: int = 1,
        **server: Any,
    ) -> None:
        ti = mock.Mock(spec=TASK_INSTANCE)
        ti.try_number, ti.map_index = try_number, map_index
        resumed = {"next_method": None, "task_reschedule_count": 0, **server}
        ti._ti_context_from_server = mock.Mock(spec=list(resumed), **resumed)
        context: Any = {"ti": ti, "task": mock.Mock(spec=BaseOperator, task_group=None)}
        reader = run.reader()
        self.reason: str | None = None
        with mock.patch("airflow_fanout.execution_time.xcom.RunReader", return_value=reader):
            try:
                hook(context) if hook is not None else stop(context, group or group_of())
            except AirflowSkipException as skipped:
                self.reason = str(skipped)
        self.pushed = [call.args for call in ti.xcom_push.call_args_list]
        self.requests = len(reader.calls) + len(self.pushed)


class TestWhetherABranchMayStart:
    @pytest.mark.parametrize(
        ("failed", "given", "requests"),
        [
            pytest.param([], {}, 1, id="none failed"),
            pytest.param([0], {}, 1, id="one below the number"),
            pytest.param([0, 1, 2], {"group": group_of(limit=None)}, 1, id="no number"),
            pytest.param([0, 1, 2], {"try_number": 2}, 0, id="is retried or cleared"),
            pytest.param([0, 1, 2], {"next_method": "execute_complete"}, 0, id="goes on after a deferral"),
            pytest.param([0, 1, 2], {"task_reschedule_count": 1}, 0, id="goes on after a reschedule"),
        ],
    )
    def test_it_may(self, failed: list[int], given: Any, requests: int) -> None:
        asked = Asked(failures(*failed), **given)

        assert (asked.reason, asked.pushed, asked.requests) == (None, [], requests)

    @pytest.mark.parametrize(
        ("failed", "group", "reason"),
        [
            pytest.param(
                [0, 2],
                group_of(),
                "not started: 2 of 4 branches of 'p' have failed (stop_after_failures=2): 'b_0', 'b_2'",
                id="as many",
            ),
            pytest.param(
                range(100),
                group_of(200, 3),
                "not started: 100 of 200 branches of 'p' have failed (stop_after_failures=3): "
                "'b_0', 'b_1', 'b_2', 'b_3', 'b_4' and 95 more",
                id="more",
            ),
        ],
    )
    def test_it_may_not_once_as_many_have_failed(self, failed: Any, group: Any, reason: str) -> None:
        asked = Asked(failures(*failed), group)

        assert (asked.reason, asked.requests) == (reason, 2)
        assert asked.pushed == [(RECORD_KEY, {"state": "stopped", "error": reason})]

    @pytest.mark.parametrize(
        ("map_index", "stops"), [(0, False), (1, True), (None, False)], ids=["another", "its own", "none"]
    )
    def test_in_a_mapped_task_group_branches_of_its_own_index_count(
        self, map_index: int | None, stops: bool
    ) -> None:
        run = FakeRun().add("p.b_0", map_index=0).add("p.b_0", "failed", map_index=1)

        assert (Asked(run, group_of(limit=1), map_index=map_index).reason is not None) is stops


class TestWhatCountsAsAFailure:
    @pytest.mark.parametrize(
        ("states", "fails"),
        [
            pytest.param(["failed", "skipped"], True, id="hidden by a skip"),
            pytest.param(["failed"], False, id="the last is to come"),
        ],
    )
    def test_is_decided_as_the_fan_in_does(self, states: list[str], fails: bool) -> None:
        run = FakeRun().add("p.b_1.load").add("p.b_9.load", "failed").add("other", "failed")
        for ending, state in zip((".extract", ".load"), states, strict=False):
            run.add(f"p.b_0{ending}", state)

        names = failed_names(run.instances, group_of(tasks=(".extract", ".load")), -1)

        assert names == (["b_0"] if fails else [])

    @pytest.mark.parametrize(
        ("known", "names"),
        [
            pytest.param({"count": 3, "names": ("emea", "apac", "us")}, ["emea", "us"], id="names"),
            pytest.param({"count": 3}, ["score_0", "score_2"], id="numbers"),
            pytest.param({}, ["score.each[0]", "score.each[2]"], id="known to the items' task only"),
        ],
    )
    def test_has_no_other_name_than_its_own(self, known: dict[str, Any], names: list[str]) -> None:
        run = FakeRun()
        for map_index, state in enumerate(("failed", "success", "failed")):
            run.add("score.each", state, map_index=map_index)
        group = DeclaredGroup(
            group_id="score", prefix="score.", mode="mapped", label="score", each=("score.each",), **known
        )

        assert failed_names(run.instances, group, -1) == names


def hooked(group: FanOutGroup) -> list[BaseOperator]:
    """Tasks that ask before they start."""
    operators = [each for each in group.iter_tasks() if isinstance(each, BaseOperator)]
    return [operator for operator in operators if operator._pre_execute_hook is not None]


@pytest.mark.usefixtures("dag")
class TestWhoIsAsked:
    def test_the_task_of_each_branch(self) -> None:
        operators = hooked(FanOutGroup("p", branch=work, count=4, stop_after_failures=2))

        assert len(operators) == 4
        for operator in operators:
            run = FakeRun().fail("p.p_0")
            assert Asked(run, hook=operator._pre_execute_hook).reason is None
            reason = Asked(run.fail("p.p_1"), hook=operator._pre_execute_hook).reason
            assert reason is not None
            assert "2 of 4 branches of 'p' have failed" in reason

    @pytest.mark.parametrize(
        ("branch", "limit", "asked"),
        [
            pytest.param(etl, 1, ["p.p_0.extract", "p.p_1.extract"], id="of several tasks the first"),
            pytest.param(torn_down, 1, ["p.p_0.extract", "p.p_1.extract"], id="a setup that comes first"),
            pytest.param(work, None, [], id="without a number nobody"),
        ],
    )
    def test_of_a_branch(self, branch: Any, limit: int | None, asked: list[str]) -> None:
        operators = hooked(FanOutGroup("p", branch=branch, count=2, stop_after_failures=limit))

        assert [operator.task_id for operator in operators] == asked

    def test_in_a_group_within_a_branch_both_groups(self) -> None:
        @task_group
        def branch() -> None:
            first = extract()
            inner = FanOutGroup("inner", branch=etl, count=2, stop_after_failures=1)
            first >> inner
            FanInOperator(task_id="collect", fan_out=inner)

        operators = hooked(FanOutGroup("q", branch=branch, count=2, stop_after_failures=1))

        assert {operator.task_id for operator in operators} == {
            f"q.q_{index}.{task_id}"
            for index in range(2)
            for task_id in ("extract", "inner.inner_0.extract", "inner.inner_1.extract")
        }

    @pytest.mark.parametrize(
        ("failed", "calls"), [([], ["theirs"]), ([0, 1], [])], ids=["it may", "it may not"]
    )
    def test_the_authors_own_hook_runs_after_ours(self, failed: list[int], calls: list[str]) -> None:
        noted: list[str] = []
        given: Any = {"pre_execute": lambda context: noted.append("theirs")}
        group = FanOutGroup(
            "p",
            branch=work,
            items={f"b_{n}": "" for n in range(4)},
            stop_after_failures=2,
            default_args=given,
        )
        Asked(failures(*failed), hook=hooked(group)[0]._pre_execute_hook)

        assert noted == calls

    def test_the_hook_can_be_pickled(self) -> None:
        (operator, *_) = hooked(FanOutGroup("p", branch=work, count=2, stop_after_failures=1))

        assert pickle.loads(pickle.dumps(operator._pre_execute_hook)) is not None


def two_first() -> None:
    [extract(), extract.override(task_id="other")()] >> load("x")


def mapped_first() -> None:
    load(load.override(task_id="each").expand(text=[1, 2]))


def first_in_a_mapped_group() -> None:
    def one(text: str) -> Any:
        return load(text)

    load(task_group(one).override(group_id="each").expand(text=[1, 2]))


def first_in_a_group() -> None:
    inner = FanOutGroup("inner", branch=etl, count=2)
    FanInOperator(task_id="collect", fan_out=inner)


@pytest.mark.usefixtures("dag")
class TestWhatCanBeStopped:
    @pytest.mark.parametrize(
        ("branch", "found"),
        [
            pytest.param(two_first, "found 'p.p_0.extract', 'p.p_0.other'", id="several first tasks"),
            pytest.param(mapped_first, "found 'p.p_0.each', which is mapped", id="a mapped first task"),
            pytest.param(
                first_in_a_mapped_group, "found 'p.p_0.each.load', which is mapped", id="in a mapped group"
            ),
            pytest.param(first_in_a_group, "found 'p.p_0.inner.inner_0.extract'", id="a group within"),
        ],
    )
    def test_branches_that_may_start_in_part_cannot(self, branch: Any, found: str) -> None:
        with pytest.raises(
            ValueError, match=f"'p': stop_after_failures: expected branches with one first task, .*{found}"
        ):
            FanOutGroup("p", branch=task_group(branch), count=3, stop_after_failures=1)

        FanOutGroup("q", branch=task_group(branch), count=3)  # without a number they are branches

    def test_branches_in_one_mapped_group_can(self) -> None:
        @task_group
        def each(item: str) -> None:
            FanOutGroup("p", branch=etl, count=3, stop_after_failures=1)

        each.expand(item=["a", "b"])

    @pytest.mark.parametrize("how_many", [{"count": 4}, {"items": []}], ids=["one is left", "no items"])
    def test_a_number_that_leaves_one_to_stop_is_taken(self, how_many: Any) -> None:
        group = FanOutGroup("p", branch=work, **how_many, stop_after_failures=3)

        assert group.declared.stop_after_failures == 3


def test_of_the_hook_the_scheduler_gets_a_short_source_that_is_the_same_on_every_parse() -> None:
    def stored() -> dict[str, Any]:
        with DAG("d", schedule=None) as dag:
            own: Any = {"pre_execute": work}
            FanOutGroup("p", branch=work, count=50, stop_after_failures=2)
            FanOutGroup("q", branch=etl, count=50, stop_after_failures=2, default_args=own)
        data: dict[str, Any] = DagSerialization.to_dict(dag)
        return data

    tasks, text = stored()["dag"]["tasks"], json.dumps(stored())

    assert stored() == stored()
    assert "DeclaredGroup(" not in text
    assert " object at 0x" not in text
    hooks = [hook for each in tasks if (hook := each["__var"].get("_pre_execute_hook"))]
    assert len(hooks) >= 100
    assert all(len(hook) < 100 for hook in hooks)
