from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import TaskGroup, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import PrefixError
from airflow_fanout.execution_time.wiring import sources_by_prefix
from tests.unit.fake_run import FakeRun, run_fan_in

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


def tasks(*task_ids: str) -> list[EmptyOperator]:
    return [EmptyOperator(task_id=task_id) for task_id in task_ids]


def fan_in_by(prefix: str, task_id: str = "combine", **more: Any) -> FanInOperator:
    return FanInOperator(task_id=task_id, task_id_prefix=prefix, **more)


def matched(fan_in: FanInOperator) -> list[str]:
    return [source.name for source in sources_by_prefix(fan_in, fan_in.task_id_prefix, {}, -1)]


class TestWhatAPrefixMatches:
    @pytest.mark.parametrize(
        ("prefix", "upstream", "expected"),
        [
            pytest.param(
                "process_",
                ["process_10", "process_9", "process_1", "load"],
                ["process_1", "process_9", "process_10"],
                id="in natural order",
            ),
            pytest.param(
                "part_1", ["part_1", "part_10", "apart_1", "part_2"], ["part_1", "part_10"], id="the start"
            ),
            pytest.param("part.1", ["part.1", "partx1"], ["part.1"], id="no pattern"),
        ],
    )
    def test_is_the_start_of_the_ids_of_direct_upstream_tasks(
        self, prefix: str, upstream: list[str], expected: list[str]
    ) -> None:
        fan_in = fan_in_by(prefix)
        tasks(*upstream) >> fan_in

        assert matched(fan_in) == expected

    def test_it_is_the_start_of_the_full_id(self) -> None:
        fan_in = fan_in_by("group.work_")
        with TaskGroup("group"):
            inner = tasks("work_1", "work_2")
        [*inner, *tasks("work_3")] >> fan_in

        assert matched(fan_in) == ["group.work_1", "group.work_2"]

    def test_what_comes_before_its_branches_or_after_it_is_left_out(self) -> None:
        fan_in = fan_in_by("process_", task_id="process_combine")
        tasks("process_prepare")[0] >> tasks("process_1") >> fan_in
        fan_in >> tasks("process_report")[0] >> tasks("process_archive")

        assert matched(fan_in) == ["process_1"]

    @pytest.mark.parametrize(("prefixed", "prefix"), [(True, "process.process_"), (False, "process_")])
    def test_branches_of_this_package_have_their_full_ids(self, prefixed: bool, prefix: str) -> None:
        fan_in = fan_in_by(prefix)
        FanOutGroup("process", branch=work, count=2, prefix_group_id=prefixed) >> fan_in

        assert matched(fan_in) == [f"{prefix}0", f"{prefix}1"]

    @pytest.mark.parametrize(
        ("prefixed", "prefix"),
        [(True, "process."), (True, "process.process_"), (True, "process.process_0"), (False, "process_")],
    )
    def test_zero_branches_match_as_one_branch_would(self, prefixed: bool, prefix: str) -> None:
        """A literal zero from a configuration reaches ``on_empty``; helper tasks are never branches."""
        fan_in = fan_in_by(prefix)
        FanOutGroup("process", branch=work, count=0, prefix_group_id=prefixed) >> fan_in

        assert matched(fan_in) == []

    def test_helper_tasks_elsewhere_in_the_dag_need_no_wire(self) -> None:
        fan_in = fan_in_by("process")
        FanOutGroup("process_other", branch=work, count=0)
        tasks("process_1") >> fan_in

        assert matched(fan_in) == ["process_1"]

    def test_a_mapped_task_one_in_a_mapped_task_group_and_a_plain_one(self) -> None:
        @task_group
        def each(item: str) -> None:
            task(task_id="last")(work)(item)

        fan_in = fan_in_by("work")
        mapped = task(task_id="work_mapped")(work).expand(item=["a", "b"])
        [mapped, each.override(group_id="work_each").expand(item=["a"]), *tasks("work_1")] >> fan_in

        sources = sources_by_prefix(fan_in, "work", {}, -1)

        assert [(source.task_id, source.is_mapped) for source in sources] == [
            ("work_1", False),
            ("work_each.last", True),
            ("work_mapped", True),
        ]

    def test_a_task_in_the_fan_ins_own_mapped_task_group(self) -> None:
        made: list[FanInOperator] = []

        @task_group
        def each(item: str) -> None:
            fan_in = fan_in_by("each.work")
            task(task_id="work")(work)(item) >> fan_in
            made.append(fan_in)

        each.expand(item=["a", "b"])

        (source,) = sources_by_prefix(made[0], "each.work", {}, 1)

        assert (source.is_mapped, source.map_index) == (False, 1)

    @pytest.mark.parametrize("ours", [True, False], ids=["a branch of this package", "another task"])
    def test_who_made_a_task_is_known(self, ours: bool) -> None:
        fan_in = fan_in_by("work")
        made: Any = FanOutGroup("work", branch=work, count=1) if ours else tasks("work")
        made >> fan_in

        (source,) = sources_by_prefix(fan_in, "work", {}, -1)

        assert source.tasks.is_ours is ours


class TestBranchesOfSeveralTasks:
    @pytest.fixture
    def group(self) -> FanOutGroup:
        @task
        def step(item: str = "") -> str:
            return item

        @task_group
        def branch() -> None:
            prepared = step.override(task_id="prepare")()
            first = step.override(task_id="first")("a")
            last = step.override(task_id="last")(first)
            clear_up = step.override(task_id="clear_up")().as_teardown(setups=prepared)
            prepared >> first
            last >> clear_up

        return FanOutGroup("process", branch=branch, count=12, stop_after_failures=2)

    def test_a_prefix_matches_their_last_tasks_in_natural_order(self, group: FanOutGroup) -> None:
        """Their teardowns come after them, and wait for nobody's wire."""
        fan_in = fan_in_by("process.process_")
        group >> fan_in

        assert matched(fan_in) == [f"process.process_{index}.last" for index in range(12)]

    def test_all_that_is_known_of_a_branch_is_read(self, group: FanOutGroup) -> None:
        fan_in = fan_in_by("process.")
        group >> fan_in

        source, *_ = sources_by_prefix(fan_in, "process.", {}, -1)

        assert source.task_id == "process.process_0.last"
        assert source.tasks.task_ids == tuple(f"process.process_0.{i}" for i in ("prepare", "first", "last"))
        assert (source.tasks.is_ours, source.is_mapped) == (True, False)

    def test_a_step_that_is_wired_by_hand_is_a_branch_of_its_own(self, group: FanOutGroup) -> None:
        fan_in = fan_in_by("process.process_0.")
        fan_in << [fan_in.dag.get_task("process.process_0.first")]

        (source,) = sources_by_prefix(fan_in, "process.process_0.first", {}, -1)

        assert source.tasks.task_ids == ("process.process_0.first",)


class TestWhatAPrefixMustNot:
    @pytest.mark.parametrize("tolerance", [{}, {"min_success": 1}, {"on_empty": "succeed"}], ids=repr)
    def test_a_prefix_that_matches_nothing_fails_with_what_is_upstream(
        self, tolerance: dict[str, Any]
    ) -> None:
        fan_in = fan_in_by("scores.", **tolerance)
        tasks("score.b", "score.a", "load") >> fan_in

        verdict = run_fan_in(fan_in, FakeRun())

        assert isinstance(verdict.error, PrefixError)
        assert verdict.message == (
            "No upstream task id starts with 'scores.'; upstream: 'load', 'score.a', 'score.b'"
        )
        assert (verdict.error.prefix, verdict.error.candidates) == ("scores.", ("load", "score.a", "score.b"))
        assert (verdict.reader.calls, verdict.report) == ([], None)

    def test_without_any_wire_it_says_that_there_is_none(self) -> None:
        verdict = run_fan_in(fan_in_by("process_"), FakeRun())

        assert verdict.message == "No upstream task id starts with 'process_'; upstream: none"

    def test_a_task_that_is_not_wired_fails_with_its_id(self) -> None:
        fan_in = fan_in_by("process_")
        tasks("process_1", "process_2") >> fan_in
        tasks("process_10", "process_9")

        verdict = run_fan_in(fan_in, FakeRun())

        assert isinstance(verdict.error, PrefixError)
        assert verdict.message == (
            "2 tasks start with 'process_' and are neither upstream nor downstream of 'combine': "
            "'process_9', 'process_10'. Wire what is missing (task >> fan_in), or choose a longer prefix; "
            "upstream: 'process_1', 'process_2'"
        )
        assert verdict.error.candidates == ("process_9", "process_10")
        assert (verdict.reader.calls, verdict.report) == ([], None)

    def test_a_task_beside_the_branches_is_not_wired(self) -> None:
        fan_in = fan_in_by("process_")
        load = EmptyOperator(task_id="load")
        load >> tasks("process_1") >> fan_in
        load >> tasks("process_10")

        assert run_fan_in(fan_in, FakeRun()).message.startswith(
            "1 task starts with 'process_' and is neither upstream nor downstream of 'combine': 'process_10'."
        )

    @pytest.mark.parametrize("rendered", ["", None, 8, ["process_"]], ids=repr)
    def test_a_prefix_that_renders_to_something_else_fails(self, rendered: Any) -> None:
        fan_in = fan_in_by("{{ params.prefix }}")
        tasks("process_1") >> fan_in
        fan_in.task_id_prefix = rendered

        verdict = run_fan_in(fan_in, FakeRun())

        assert isinstance(verdict.error, PrefixError)
        assert f"expected a prefix of task ids, found {rendered!r} (as rendered)" in verdict.message

    def test_a_prefix_is_matched_as_rendered(self) -> None:
        fan_in = fan_in_by("{{ params.prefix }}")
        tasks("process_1", "other_1") >> fan_in
        fan_in.render_template_fields({"params": {"prefix": "process_"}})

        assert matched(fan_in) == ["process_1"]
