from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.branches import UnknownGroupError, group_runs, items_of_batch
from airflow_fanout.reports.group_report import Cause, ErrorCount, to_json
from airflow_fanout.reports.problems import PROBLEM_ITEMS
from airflow_fanout.reports.run_report import SLOWEST_ITEMS, host_loads, item_page, run_report
from airflow_fanout.reports.timing import TaskTry
from airflow_fanout.rules.capacity import Capacity, Limit
from airflow_fanout.rules.policy import AT_RUN_TIME
from airflow_fanout.serialization.outline import TaskOutline
from tests.unit.outlines import fan_in_of
from tests.unit.run_facts import NOON, batch, batched, facts_of, mapped, of_group, ran, static

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_fanout.reports.group_report import GroupReport, Outcomes, RunReport
    from airflow_fanout.reports.runs import RunFacts, TaskRun
    from airflow_fanout.serialization.declaration import DeclaredGroup

pytestmark = pytest.mark.unit

PYTHON = "_PythonDecoratedOperator"
STEPS = static("us", steps=("extract", "load"))


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


FIRST_TRY = TaskTry(number=1, state="failed", queued=at(-9), started=None, ended=at(-8))
SMALL_POOL = Capacity(declared=2, effective=1, limit=Limit(name="pool", slots=1, where="small"))


def report_of(facts: RunFacts, capacity: Capacity | None = None) -> RunReport:
    return run_report(facts, group_runs(facts), now=at(60), capacity_of=lambda run, count: capacity)


def only(group: DeclaredGroup, *task_runs: TaskRun, capacity: Capacity | None = None) -> GroupReport:
    tasks = {i: TaskOutline(task_id=i, operator=PYTHON) for i in group.all_task_ids}
    (found,) = report_of(facts_of(task_runs, group, tasks=tasks), capacity).groups
    return found


def items_of(*batches: TaskRun, **settings: Any) -> Outcomes:
    items = only(batched(**settings), *batches).items
    assert items is not None
    return items


def steps(*states: str | None, **settings: Any) -> list[TaskRun]:
    """The tasks of one branch of two tasks."""
    return [ran(i, state=state, **settings) for i, state in zip(STEPS.all_task_ids, states, strict=True)]


BRANCH = """
{
  "name": "us", "state": "failed", "task_id": "etl.us", "map_index": -1, "step": null, "error": "E: no",
  "is_stopped": false, "queued": "2026-01-01T12:00:00+00:00", "started": "2026-01-01T12:00:02+00:00",
  "ended": "2026-01-01T12:00:03+00:00", "elapsed_seconds": 1.0, "tries": 2, "earlier_tries": [
    {"number": 1, "state": "failed", "queued": "2026-01-01T11:59:51+00:00", "started": null,
     "ended": "2026-01-01T11:59:52+00:00"}
  ],
  "work_seconds": 0.75, "cpu_seconds": 0.5, "peak_memory_bytes": 7, "host": "worker-1", "items": null,
  "read_bytes": 12, "written_bytes": 0,
  "steps": [{"name": "load", "seconds": 0.5, "branches": 1}, {"name": "fit", "seconds": 0.25, "branches": 1}]
}
"""
ITEM_PROBLEM = """
{
  "name": "docs_2", "items": 1, "state": "failed", "error": "E: no", "task_id": "docs.each", "map_index": 1,
  "tries": 1, "item_tries": 1, "kind": 0
}
"""


class TestBranches:
    def test_a_branch_has_all_that_is_known_of_it(self) -> None:
        record: dict[str, Any] = {"seconds": 0.75, "cpu_seconds": 0.5, "peak_memory_bytes": 7}
        record |= {"read_bytes": 12, "written_bytes": 0, "steps": [["load", 0.5], ["fit", 0.25]]}
        failed = ran("etl.us", second=2, state="failed", error="E: no", hostname="worker-1", **record)
        facts = facts_of([replace(failed, tries=2, earlier=(FIRST_TRY,))], static("us"))

        report = json.loads(json.dumps(report_of(facts), default=to_json))

        assert report["groups"][0]["branches"] == [json.loads(BRANCH)]

    def test_what_has_no_task_instance_yet_names_none(self) -> None:
        (branch,) = only(static("eu")).branches

        assert (branch.task_id, branch.map_index, branch.earlier_tries) == (None, -1, ())

    @pytest.mark.parametrize(
        ("states", "task_id", "step"),
        [
            pytest.param(("success", "success"), "etl.us.load", None, id="the-last"),
            pytest.param(("failed", "upstream_failed"), "etl.us.extract", "extract", id="what-failed-first"),
            pytest.param(("success", "failed"), "etl.us.load", "load", id="what-failed-last"),
            pytest.param(("upstream_failed",) * 2, "etl.us.extract", None, id="what-was-kept-from-starting"),
            pytest.param(("running", None), "etl.us.extract", None, id="what-runs"),
            pytest.param(("success", "queued"), "etl.us.load", None, id="what-waits"),
            pytest.param(("skipped", "skipped"), "etl.us.extract", None, id="what-was-skipped-first"),
        ],
    )
    def test_of_several_tasks_the_one_that_tells_why_is_named(
        self, states: tuple[str | None, ...], task_id: str, step: str | None
    ) -> None:
        group = only(STEPS, *steps(*states))

        (branch,) = group.branches
        assert (branch.task_id, branch.step) == (task_id, step)
        assert [problem.name for problem in group.problems if step] == ([f"us ({step})"] if step else [])

    def test_tries_are_the_most_of_one_of_its_tasks(self) -> None:
        extract, load = steps("failed", "upstream_failed")

        (branch,) = only(STEPS, replace(extract, tries=2, earlier=(FIRST_TRY,)), load).branches

        assert (branch.tries, branch.earlier_tries) == (2, (FIRST_TRY,))

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param(
                {"state": "upstream_failed", "queued": None, "started": NOON, "ended": NOON}, id="stamped"
            ),
            pytest.param({"state": "upstream_failed"}, id="with-times-of-a-try-before-that"),
            pytest.param({"number": 0}, id="cleared-before-it-was-queued"),
            pytest.param({"state": "skipped", "queued": None, "started": NOON, "ended": NOON}, id="skipped"),
        ],
    )
    def test_a_try_that_never_ran_is_none(self, changes: dict[str, Any]) -> None:
        tries = (replace(FIRST_TRY, **changes), FIRST_TRY)

        (branch,) = only(static("us"), ran("etl.us", tries=2, earlier=tries)).branches

        assert branch.earlier_tries == (FIRST_TRY,)

    def test_those_that_never_started_have_no_times_and_no_figures(self) -> None:
        """Airflow stamps them, of a branch of several tasks each at another moment."""
        stamps = [
            ran(task_id, state="upstream_failed", queued=None, started=at(second), ended=at(second), tries=0)
            for task_id, second in zip(STEPS.all_task_ids, (0, 1.5), strict=True)
        ]

        group = only(STEPS, *stamps, capacity=SMALL_POOL)

        assert [(each.queued, each.started, each.ended) for each in group.branches] == [(None, None, None)]
        assert (group.wall_seconds, group.elapsed_sum_seconds, group.peak_concurrency) == (None, None, 0)
        assert (group.figures, group.segments, group.slowest, group.advice) == ((), (), (), ())


class TestGroup:
    def test_a_group_has_the_figures_of_its_branches(self) -> None:
        group = only(
            mapped(),
            ran("load.each", 0, second=1, seconds=0.5, cpu_seconds=0.25, peak_memory_bytes=9),
            ran("load.each", 1, second=3, seconds=1.0, cpu_seconds=0.5, peak_memory_bytes=7),
        )

        assert (group.mode, group.is_finished) == ("mapped", True)
        assert (group.states, group.total, group.recorded) == ({"success": 2}, 2, 2)
        assert (group.work_seconds, group.wall_seconds, group.speed_up) == (1.5, 4.0, 0.375)
        assert (group.cpu_seconds, group.peak_memory_bytes) == (0.75, 9)
        assert (group.declared_concurrency, group.peak_concurrency) == (2, 1)
        assert (group.wall_without_slowest_seconds, group.saved_without_slowest_seconds) == (2.0, 2.0)
        assert group.segments == ((at(0), at(4)),)

    def test_earlier_tries_are_on_the_time_line(self) -> None:
        group = only(static("us"), ran("etl.us", tries=2, earlier=(FIRST_TRY,)))

        assert group.segments == ((at(-9), at(-8)), (at(0), at(1)))

    @pytest.mark.parametrize(
        ("group", "task_run"),
        [
            pytest.param(static("us"), ran("etl.us", seconds=0.5), id="static"),
            pytest.param(mapped(), ran("load.each", 0, seconds=0.5), id="mapped"),
            pytest.param(batched(), batch(0, "SF", seconds=[0.25, 0.25], state="failed"), id="batched"),
        ],
    )
    @pytest.mark.parametrize("state", ["failed", None, "success"], ids=["retried", "killed", "cleared"])
    def test_wall_is_over_all_tries_and_idle_time_between_them_is_told(
        self, group: DeclaredGroup, task_run: TaskRun, state: str | None
    ) -> None:
        first = TaskTry(number=1, state=state, queued=at(0), started=at(0), ended=at(4))
        again = replace(task_run, queued=at(9), started=at(10), ended=at(11), tries=2, earlier=(first,))

        found = only(group, again)

        assert (found.work_seconds, found.wall_seconds, found.speed_up) == (0.5, 11.0, 0.5 / 11)
        assert (found.idle_seconds, found.elapsed_sum_seconds) == (5.0, 1.0)
        assert [(branch.queued, branch.earlier_tries) for branch in found.branches] == [(at(9), (first,))]

    @pytest.mark.parametrize(
        ("group", "task_runs", "limit"),
        [
            pytest.param(
                static("a", "b"),
                [ran("etl.a"), ran("etl.b", second=1)],
                "2 branches, at most 1 at once: pool of small is 1",
                id="of-one-task",
            ),
            # Those that wait between two tasks are not at once with others.
            pytest.param(
                static("a", "b", steps=("x", "y")),
                [ran(f"etl.{i}", second=s) for i, s in [("a.x", 0), ("a.y", 2), ("b.x", 1), ("b.y", 3)]],
                "2 branches, at most 1 of their tasks at once: pool of small is 1",
                id="of-several-tasks",
            ),
        ],
    )
    def test_what_runs_at_once_and_what_limits_it_is_said(
        self, group: DeclaredGroup, task_runs: list[TaskRun], limit: str
    ) -> None:
        found = only(group, *task_runs, capacity=SMALL_POOL)

        assert (found.peak_concurrency, found.effective_concurrency, found.limit) == (1, 1, limit)
        assert [(advice.kind, advice.text.partition(".")[0]) for advice in found.advice] == [("limit", limit)]

    def test_a_branch_that_is_no_longer_declared_is_no_ones_effect(self) -> None:
        facts = facts_of([ran("etl.us"), ran("etl.eu", state="upstream_failed")], static("us"))
        tasks = {"etl.us": facts.outline.tasks["etl.us"]}

        (group,) = report_of(replace(facts, outline=replace(facts.outline, tasks=tasks))).groups

        assert (group.states, group.total, group.causes) == ({"success": 1, "removed": 1}, 1, ())

    def test_what_kept_branches_from_starting_is_named(self) -> None:
        first = STEPS.all_task_ids[0]
        tasks = {first: TaskOutline(task_id=first, upstream=frozenset({"create_table"}))}
        runs = [ran("create_table", state="failed"), *steps("upstream_failed", "upstream_failed")]

        (group,) = report_of(facts_of(runs, STEPS, tasks=tasks)).groups

        assert group.causes == (Cause(task_id="create_table", map_index=-1, state="failed"),)

    @pytest.mark.parametrize(
        ("branch", "fan_in", "degraded"),
        [
            pytest.param("failed", "success", True, id="tolerated"),
            pytest.param("success", "success", False, id="nothing-failed"),
            pytest.param("failed", "failed", False, id="not-tolerated"),
            pytest.param("failed", None, False, id="not-decided-yet"),
        ],
    )
    def test_a_success_in_spite_of_failures_is_degraded(
        self, branch: str, fan_in: str | None, *, degraded: bool
    ) -> None:
        runs = [ran("etl.eu"), ran("etl.us", state=branch), ran("best", state=fan_in)]

        (group,) = report_of(facts_of(runs, static("eu", "us"), fan_ins=[of_group("etl", "best")])).groups

        assert group.degraded is degraded

    def test_problems_begin_with_what_may_have_kept_others_from_starting(self) -> None:
        group = only(
            static("a", "b"),
            ran("etl.a", state="upstream_failed"),
            ran("etl.b", state="failed", error="E: no"),
        )

        assert [(problem.name, problem.error) for problem in group.problems] == [("b", "E: no"), ("a", None)]
        assert (group.problem_count, group.failures) == (2, "2 of 2 branches failed")

    def test_steps_are_added_up_over_branches_the_longest_first(self) -> None:
        steps = [[["load", 0.5], ["fit", 2.0]], [["load", 1.0], ["fit", 3.0]], None]
        runs = [ran(f"etl.b_{n}", steps=each, read_bytes=n * 4_000) for n, each in enumerate(steps)]

        group = only(static("b_0", "b_1", "b_2"), *runs)

        assert [(step.name, step.seconds, step.branches) for step in group.steps] == [
            ("fit", 5.0, 2),
            ("load", 1.5, 2),
        ]
        shown = {figure.name: (figure.value, figure.note) for figure in group.figures}
        assert shown["Steps"] == ("5.0 s", "in fit, all branches added up; load 1.5 s")
        assert shown["Read"] == ("12 kB", "by the branches' processes; – written")

    def test_branches_that_failed_alike_are_one_kind_of_error(self) -> None:
        names = [f"b_{n}" for n in range(8)]
        alike = [ran(f"etl.{name}", state="failed", error=f"E: row {n}") for n, name in enumerate(names)]
        odd = ran("etl.odd", state="failed", error="F: no")

        group = only(static("odd", *names), odd, *alike)

        assert group.errors == (
            ErrorCount(state="failed", error="E: row 0", number=8, names=tuple(names[:5]), unnamed=3),
            ErrorCount(state="failed", error="F: no", number=1, names=("odd",), unnamed=0),
        )
        assert [(p.name, p.kind) for p in group.problems] == [("odd", 1), *((name, 0) for name in names)]


class TestBatches:
    def test_one_that_waits_for_its_next_try_is_not_at_once_with_others(self) -> None:
        first = TaskTry(number=1, state="failed", queued=at(0), started=at(0), ended=at(4))
        again = replace(batch(0, "SS", second=10), queued=at(9), tries=2, earlier=(first,))

        assert only(batched(), again, batch(1, "SS", second=5)).peak_concurrency == 1

    def test_branches_are_the_batches_and_items_are_counted(self) -> None:
        group = only(batched(), batch(0, "SK"), batch(1, "F", state="failed", errors={"0": "E: no"}))

        assert [(each.name, each.items) for each in group.branches] == [
            ("docs batch 0", {"skipped": 1, "success": 1}),
            ("docs batch 1", {"failed": 1}),
        ]
        items = group.items
        assert items is not None
        assert items.states == {"failed": 1, "skipped": 1, "success": 1}
        assert (items.total, items.recorded, items.median_work_seconds) == (3, 3, 1.0)
        assert json.loads(json.dumps(items.problems, default=to_json)) == [json.loads(ITEM_PROBLEM)]

    def test_of_many_items_only_a_few_are_named(self) -> None:
        number = 1000
        seconds = [float(index % 100) for index in range(number)]

        group = only(batched(items_per_task=number), batch(0, "F" * number, state="failed", seconds=seconds))

        items = group.items
        assert items is not None
        assert (items.problem_count, len(items.problems)) == (number, PROBLEM_ITEMS)
        assert len(items.slowest) == SLOWEST_ITEMS
        assert (items.slowest[0].name, items.slowest[0].seconds) == ("docs_99", 99.0)
        assert len(json.dumps(group, default=to_json)) < 12_000

    def test_of_many_items_some_of_each_kind_are_named(self) -> None:
        errors = {str(index): "E: no" if index < 90 else "F: no" for index in range(100)}

        items = items_of(batch(0, "F" * 100, state="failed", errors=errors), items_per_task=100)

        assert [(kind.error, kind.number, kind.unnamed) for kind in items.errors] == [
            ("E: no", 90, 85),
            ("F: no", 10, 5),
        ]
        assert Counter(problem.kind for problem in items.problems) == {0: 10, 1: 10}

    def test_batches_that_left_no_record_are_one_kind_by_the_names_of_the_batches(self) -> None:
        killed = [ran("docs.each", number, state="failed", record={}) for number in range(8)]

        (kind,) = items_of(*killed, count=16).errors

        assert (kind.number, kind.names[-1], kind.unnamed) == (16, "docs batch 4", 6)

    @pytest.mark.parametrize(
        ("record", "share"),
        [
            pytest.param({"elapsed": 0.25}, 0.75, id="recorded"),
            pytest.param({}, None, id="not-recorded"),
            pytest.param({"elapsed": 0.25, "seconds": [9.0]}, 0.75, id="of-work-that-an-earlier-try-did"),
        ],
    )
    def test_overhead_is_beside_the_time_that_its_items_took_in_the_last_try(
        self, record: dict[str, Any], share: float | None
    ) -> None:
        group = only(batched(items_per_task=1), batch(0, "S", **{"seconds": [0.25], **record}))

        assert group.overhead_share == share

    def test_overhead_of_items_at_once_is_beside_the_time_that_they_took_together(self) -> None:
        """Two items of 0.5 s in 0.5 s, in a task that took 2 s from when it was queued, of both tries 12."""
        first = TaskTry(number=1, state="failed", queued=at(-10), started=at(-10), ended=at(0))
        last = batch(0, "SS", second=1, seconds=[0.5, 0.5], concurrency=2, elapsed=0.5)

        group = only(batched(), replace(last, tries=2, earlier=(first,)))

        assert (group.overhead_share, group.item_concurrency) == (0.75, 2)
        assert (group.work_seconds, group.wall_seconds) == (1.0, 12.0)

    @pytest.mark.parametrize(
        ("task_cpu_seconds", "share"),
        [
            pytest.param(4.0, 1.0, id="threads-that-compute"),
            pytest.param(0.4, 0.1, id="threads-that-wait"),
            pytest.param(None, None, id="not-recorded"),
        ],
    )
    def test_what_waited_is_told_by_the_tasks_cpu_time_and_not_by_its_items(
        self, task_cpu_seconds: float | None, share: float | None
    ) -> None:
        """Of 16 threads that compute for 4 s, each waits for 15 parts of that."""
        threads: dict[str, Any] = {
            "seconds": [4.0] * 16,
            "cpu_seconds": [0.25] * 16,
            "elapsed": 4.0,
            "concurrency": 16,
        }
        record = {**threads, "task_cpu_seconds": task_cpu_seconds}

        group = only(batched(items_per_task=16), batch(0, "S" * 16, **record))

        assert (group.cpu_seconds, group.computed_share) == (task_cpu_seconds, share)
        assert group.items is not None
        assert group.items.computed_share is None

    @pytest.mark.parametrize(
        ("bounds", "number"),
        [
            pytest.param({"docs.split": [(0, 2, 1), (2, 3, 1)]}, 2, id="as-they-were-cut"),
            pytest.param({}, None, id="not-known-any-more"),
        ],
    )
    def test_items_of_a_task_that_only_the_run_knew_are_as_many_as_it_cut(
        self, bounds: Any, number: int | None
    ) -> None:
        group = batched(items_per_task=AT_RUN_TIME, count=3)
        facts = facts_of([batch(0, "SS"), batch(1, "S")], group, bounds=bounds)

        (found,) = report_of(facts).groups

        assert (found.items_per_task, found.total) == (number, 2)
        assert found.items is not None
        assert found.items.states == {"success": 3}

    @pytest.mark.parametrize(
        ("executor", "share", "ran_in"),
        [("process", 0.5, "process"), (None, 2.0, "thread"), ("thread", 2.0, "thread")],
    )
    def test_processes_can_use_as_many_cores_as_there_are_of_both(
        self, executor: Any, share: float, ran_in: str
    ) -> None:
        record = {"seconds": [1.0] * 4, "elapsed": 2.0, "concurrency": 8, "cores": 4, "task_cpu_seconds": 4.0}
        group = only(batched(items_per_task=4, item_executor=executor), batch(0, "SSSS", also=record))

        assert (group.computed_share, group.item_executor) == (share, ran_in)

    def test_where_items_of_an_event_loop_ran_is_no_executor_of_theirs(self) -> None:
        group = only(batched(), batch(0, "SS", also={"cpu_seconds": [None, None]}))

        assert group.item_executor is None

    def test_items_that_were_called_again_are_counted(self) -> None:
        first = batch(0, "SF", state="failed", errors={"1": "E: no"}, tries={"0": 3, "1": 4}, also={})
        group = only(batched(count=4), first, batch(1, "SS"))

        assert (group.retried_items, group.extra_calls) == (2, 5)
        assert [problem.item_tries for problem in items_of(first).problems] == [4]
        assert [f.value + " " + f.note for f in group.figures if f.name == "Retried"] == [
            "2 items that were called again, with 5 calls beyond the first"
        ]
        assert not [f for f in only(batched(count=2), batch(0, "SS")).figures if f.name == "Retried"]

    def test_waiting_for_the_rate_is_neither_work_nor_waiting(self) -> None:
        waited: dict[str, Any] = {
            "elapsed": 10.0,
            "task_cpu_seconds": 1.0,
            "rate_wait_seconds": 9.0,
            "idle_seconds": 8.0,
        }
        group = only(batched(count=4), *(batch(number, "SS", **waited) for number in range(2)))

        assert (group.rate_wait_seconds, group.work_seconds, group.computed_share) == (18.0, 4.0, 0.5)
        assert [(f.value, f.note) for f in group.figures if f.name == "Rate wait"] == [
            ("18.0 s", "in which batches could have started an item but for items_per_second, added up")
        ]
        assert not [f for f in only(batched(count=2), batch(0, "SS")).figures if f.name == "Rate wait"]

    def test_where_items_lie_is_told(self) -> None:
        group = only(batched(count=2, stored_items="CsvItems s3://raw/*.csv"), batch(0, "SS"))

        told = ("from storage", "CsvItems s3://raw/*.csv")
        assert [(f.value, f.note) for f in group.figures if f.name == "Items"] == [told]
        assert not [f for f in only(batched(count=2), batch(0, "SS")).figures if f.name == "Items"]

    def test_one_that_left_no_record_is_one_problem(self) -> None:
        killed = ran("docs.each", 1, state="failed", record={})

        items = items_of(batch(0, "SF", state="failed"), killed, count=4)

        found = [(problem.name, problem.items, problem.map_index) for problem in items.problems]
        assert found == [("docs batch 1", 2, 1), ("docs_1", 1, 0)]
        assert items.problem_count == 3

    def test_while_one_waits_for_its_retry_what_it_has_done_is_done(self) -> None:
        (waiting,) = only(batched(items_per_task=4), batch(0, "SKFX", state="up_for_retry")).branches

        assert (waiting.state, waiting.items) == (
            "up_for_retry",
            {"up_for_retry": 2, "skipped": 1, "success": 1},
        )

    @pytest.mark.parametrize(
        ("map_index", "start", "size", "total", "names"),
        [
            pytest.param(0, 0, 1, 2, ["docs_0"], id="first"),
            pytest.param(0, 1, 9, 2, ["docs_1"], id="the-rest"),
            pytest.param(0, 2, 9, 2, [], id="past-the-end"),
            pytest.param(1, 0, 9, 1, ["docs_2"], id="another-batch"),
        ],
    )
    def test_a_page_has_items_of_one_batch_in_declared_order(
        self, map_index: int, start: int, size: int, total: int, names: list[str]
    ) -> None:
        batches = [batch(0, "SF", state="failed", errors={"1": "E: no"}), batch(1, "K", seconds=[None])]
        facts = facts_of(batches, batched())

        page = item_page(items_of_batch(facts, "docs", map_index), start=start, size=size)

        assert (page["start"], page["total"]) == (start, total)
        assert [item["name"] for item in page["items"]] == names
        failed = {
            "name": "docs_1",
            "state": "failed",
            "error": "E: no",
            "is_stopped": False,
            "work_seconds": 1.0,
            "tries": 1,
        }
        assert [item for item in page["items"] if item["error"]] == ([failed] if "docs_1" in names else [])

    def test_a_group_without_batches_has_no_items(self) -> None:
        with pytest.raises(UnknownGroupError, match="no batched group 'load'"):
            items_of_batch(facts_of([ran("load.each", 0)], mapped()), "load", 0)

    def test_a_batch_that_is_not_there_has_no_items(self) -> None:
        assert items_of_batch(facts_of([batch(0, "SF")], batched()), "docs", 7)[:] == []


SMALL = [ran("load.each", n, second=n, seconds=0.01) for n in range(9)]


class TestAdvice:
    def test_small_functions_are_advised_to_run_in_batches(self) -> None:
        (advice,) = only(mapped(), *SMALL).advice

        assert (advice.kind, advice.setting, advice.value) == ("overhead", "items_per_task", 9)

    @pytest.mark.parametrize(
        ("group", "task_runs", "task"),
        [
            pytest.param(
                mapped("load.each.read", "load.each.write"),
                [
                    ran(f"load.each.{step}", n, second=2 * n + index, seconds=0.01)
                    for n in range(9)
                    for index, step in enumerate(["read", "write"])
                ],
                {"operator": PYTHON},
                id="of-several-tasks",
            ),
            pytest.param(
                static(*"abcdefghi"),
                [ran(f"etl.{name}", 0, second=n, seconds=0.01) for n, name in enumerate("abcdefghi")],
                {"operator": PYTHON, "mapped_group": "outer"},
                id="in-a-mapped-task-group",
            ),
            pytest.param(
                mapped("load.each.work"),
                [ran("load.each.work", n, second=n, seconds=0.01) for n in range(9)],
                {"operator": PYTHON},
                id="of-a-task-group-of-one-task",
            ),
            pytest.param(mapped(), SMALL, {"operator": "PythonOperator"}, id="operators"),
        ],
    )
    def test_branches_that_batches_cant_run_are_not(
        self, group: DeclaredGroup, task_runs: list[TaskRun], task: dict[str, str]
    ) -> None:
        tasks = {i: TaskOutline(task_id=i, **task) for i in group.all_task_ids}  # type: ignore[arg-type]

        (found,) = report_of(facts_of(task_runs, group, tasks=tasks)).groups

        assert found.overhead_share is not None
        assert found.advice == ()

    def test_neither_are_those_of_which_a_fan_in_reads_another_key(self) -> None:
        tasks = {"load.each": TaskOutline(task_id="load.each", operator=PYTHON)}
        runs = [replace(run, values={"score": "present"}) for run in SMALL]
        fan_ins = [fan_in_of("combine", group_id="load", key="score")]

        (found,) = report_of(facts_of(runs, mapped(), tasks=tasks, fan_ins=fan_ins)).groups

        assert (found.states, found.advice) == ({"success": 9}, ())

    def test_branches_that_crowd_a_machine_are_named_with_it(self) -> None:
        busy = [
            ran("load.each", n, seconds=1.0, cpu_seconds=0.5, cores=2, hostname="worker-1") for n in range(4)
        ]

        assert [(each.kind, each.value) for each in only(mapped(), *busy).advice] == [("cores", 2)]

    def test_there_is_none_while_branches_run(self) -> None:
        group = only(mapped(), *SMALL, ran("load.each", 9, "running", ended=None))

        assert (group.is_finished, group.advice) == (False, ())


class TestWhileItRuns:
    def test_figures_are_those_so_far(self) -> None:
        group = only(
            mapped(), ran("load.each", 0, second=1, seconds=0.5), ran("load.each", 1, "running", ended=None)
        )

        assert (group.wall_seconds, group.peak_concurrency, group.segments) == (60.0, 2, ((at(0), at(60)),))
        assert [(each.ended, each.elapsed_seconds) for each in group.branches] == [(at(2), 1.0), (None, 60.0)]

    @pytest.mark.parametrize("state", ["up_for_retry", None], ids=["retry", "cleared"])
    def test_what_waits_for_its_next_try_is_idle_up_to_now(self, state: str | None) -> None:
        group = only(static("us", "eu"), ran("etl.us"), ran("etl.eu", state=state))

        assert (group.wall_seconds, group.idle_seconds, group.is_finished) == (60.0, 59.0, False)
        assert [branch.elapsed_seconds for branch in group.branches] == [1.0, 1.0]

    @pytest.mark.parametrize(
        ("state", "started", "expected"),
        [pytest.param("queued", 1, None, id="queued"), pytest.param("running", 11, at(11), id="running")],
    )
    def test_a_retrys_branch_has_nothing_of_the_try_before(
        self, state: str, started: float, expected: datetime | None
    ) -> None:
        again = ran("load.each", 0, state, second=started, queued=at(10), ended=at(5))

        (branch,) = only(mapped(), again).branches

        assert (branch.queued, branch.started, branch.ended) == (at(10), expected, None)

    def test_a_task_of_several_that_runs_again_counts_from_its_new_start(self) -> None:
        runs = [
            run
            for name in ("eu", "us")
            for run in (
                ran(f"etl.{name}.extract"),
                ran(f"etl.{name}.load", state="running", second=11, queued=at(10), ended=at(5)),
            )
        ]

        assert only(static("eu", "us", steps=("extract", "load")), *runs).peak_concurrency == 2

    def test_a_task_that_may_yet_be_expanded_is_not_finished(self) -> None:
        waiting = only(mapped(), ran("load.each", state=None))
        for_good = only(mapped(), ran("load.each", state="upstream_failed"))

        assert (waiting.is_finished, waiting.unexpanded) == (False, "waiting")
        assert (for_good.is_finished, for_good.unexpanded) == (True, "upstream_failed")


class TestRun:
    @pytest.mark.parametrize(
        ("branch", "run_state", "is_offered"),
        [
            pytest.param({"state": "failed"}, "failed", True, id="failed"),
            pytest.param({"state": "failed"}, "success", True, id="failed-and-tolerated"),
            pytest.param({"state": "upstream_failed"}, "failed", True, id="upstream-failed"),
            pytest.param(
                {"state": "skipped", "record": {"state": "stopped", "error": "not started"}},
                "success",
                True,
                id="stopped",
            ),
            pytest.param({"state": "skipped"}, "success", False, id="skipped"),
            pytest.param({"state": "success"}, "success", False, id="success"),
            pytest.param({"state": "failed"}, "running", False, id="still-running"),
        ],
    )
    def test_it_offers_to_run_again_what_failed(
        self, branch: dict[str, Any], run_state: str, *, is_offered: bool
    ) -> None:
        report = report_of(facts_of([ran("etl.eu", **branch)], static("eu"), state=run_state))

        assert report.rerun == ("airflow fanout rerun pipeline 'the run'" if is_offered else None)
        assert report.groups[0].stopped == ("record" in branch)

    def test_a_run_without_a_fan_out_has_no_groups(self) -> None:
        report = report_of(facts_of([ran("lone")]))

        assert (report.groups, report.rerun) == ((), None)


def worked(started: float, ended: float, **settings: Any) -> TaskRun:
    """A task that worked from start to end on a host of two cores, and computed for a second; unless told."""
    record = {"seconds": float(ended - started), "cpu_seconds": 1.0, "cores": 2, "hostname": "a"}
    return ran("work", started=at(started), ended=at(ended), **{**record, **settings})


def batch_of_threads(elapsed: float) -> TaskRun:
    """A task of ten seconds, of whose eight threads four seconds were computing."""
    record: dict[str, Any] = {
        "seconds": [elapsed] * 8,
        "elapsed": elapsed,
        "task_cpu_seconds": 4.0,
        "cores": 2,
    }
    return replace(batch(0, "S" * 8, **record), started=at(0), ended=at(10), hostname="a")


@pytest.mark.parametrize(
    ("task_runs", "peak", "busy_share"),
    [
        # Four that want a core each get half of one, so that CPU seconds are half of the work.
        pytest.param([worked(0, 10, cpu_seconds=5.0)] * 4, 4, 1.0, id="more-that-compute-than-cores"),
        pytest.param([worked(0, 10, cpu_seconds=8.0)], 1, 0.8, id="one-could-use-one-core"),
        pytest.param([worked(0, 10, cpu_seconds=0.1)] * 4, 4, 0.02, id="those-that-wait-leave-cores-idle"),
        pytest.param(
            [worked(0, 9, cpu_seconds=9.0), worked(9, 18, cpu_seconds=9.0)], 1, 1.0, id="one-by-one"
        ),
        # A task's process starts, and imports, before ``execute`` is called.
        pytest.param(
            [worked(0, 10, seconds=4.0, cpu_seconds=4.0), worked(0, 5, seconds=5.0, cpu_seconds=5.0)],
            1,
            1.0,
            id="what-comes-before-the-work-is-none",
        ),
        pytest.param([batch_of_threads(elapsed=8.0)], 1, 0.5, id="items-at-once-in-their-tasks-time"),
        pytest.param([batch_of_threads(elapsed=11.0)], 1, 0.4, id="no-longer-than-the-task-was-there"),
    ],
)
def test_a_machine_is_as_busy_as_branches_compute_on_it(
    task_runs: list[TaskRun], peak: int, busy_share: float
) -> None:
    (load,) = host_loads(task_runs)

    assert (load.hostname, load.cores, load.peak) == ("a", 2, peak)
    assert load.busy_share == pytest.approx(busy_share)


def test_each_machine_is_by_itself() -> None:
    loads = host_loads([worked(0, 1, hostname="b"), worked(0, 1), worked(0, 1, cores=1)])

    assert [(load.hostname, load.peak, load.cores) for load in loads] == [("a", 2, 1), ("b", 1, 2)]


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param(worked(0, 1, hostname=""), id="host"),
        pytest.param(worked(0, 1, cores=None), id="cores"),
        pytest.param(worked(0, 1, cpu_seconds=None), id="cpu"),
        pytest.param(worked(0, 1, seconds=None), id="work"),
        pytest.param(worked(1, 0, seconds=1.0), id="end-before-start"),
        pytest.param(worked(0, 1, seconds=0.0, cpu_seconds=0.0), id="no-work-at-all"),
    ],
)
def test_a_machine_of_which_something_is_not_known_has_no_load(unknown: TaskRun) -> None:
    assert host_loads([unknown]) == ()
