from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.branches import group_runs
from airflow_fanout.reports.run_report import PROBLEM_ITEMS, SLOWEST_ITEMS, run_report
from airflow_fanout.reports.runs import TaskTry
from airflow_fanout.rules.capacity import Capacity, Limit
from airflow_fanout.serialization.outline import TaskOutline
from tests.unit.run_facts import NOON, batch, batched, facts_of, mapped, of_group, ran, static

if TYPE_CHECKING:
    from airflow_fanout.reports.run_report import GroupReport, RunReport
    from airflow_fanout.reports.runs import RunFacts, TaskRun
    from airflow_fanout.serialization.declaration import DeclaredGroup

pytestmark = pytest.mark.unit

NOW = NOON + timedelta(seconds=60)
PYTHON = "_PythonDecoratedOperator"


FIRST_TRY = TaskTry(
    number=1,
    state="failed",
    queued=NOON - timedelta(seconds=9),
    started=None,
    ended=NOON - timedelta(seconds=8),
)


def report_of(facts: RunFacts, capacity: Capacity | None = None) -> RunReport:
    return run_report(facts, group_runs(facts), now=NOW, capacity_of=lambda run, count: capacity)


def only(group: DeclaredGroup, *task_runs: TaskRun, capacity: Capacity | None = None) -> GroupReport:
    tasks = {i: TaskOutline(task_id=i, operator=PYTHON) for i in group.all_task_ids}
    (found,) = report_of(facts_of(task_runs, group, tasks=tasks), capacity)["groups"]
    return found


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat()


def test_a_branch_has_all_that_is_known_of_it() -> None:
    group = only(
        static("eu", "us"),
        ran("etl.eu", second=1, seconds=0.75, cpu_seconds=0.5, peak_memory_bytes=7, hostname="worker-1"),
        ran("etl.us", second=2, state="failed", error="ValueError: no", tries=2, earlier=(FIRST_TRY,)),
    )

    assert group["branches"] == [
        {
            "name": "eu",
            "state": "success",
            "task_id": "etl.eu",
            "map_index": -1,
            "step": None,
            "error": None,
            "is_stopped": False,
            "queued": at(0),
            "started": at(1),
            "ended": at(2),
            "tries": 1,
            "earlier_tries": [],
            "work_seconds": 0.75,
            "cpu_seconds": 0.5,
            "peak_memory_bytes": 7,
            "host": "worker-1",
            "items": None,
        },
        {
            "name": "us",
            "state": "failed",
            "task_id": "etl.us",
            "map_index": -1,
            "step": None,
            "error": "ValueError: no",
            "is_stopped": False,
            "queued": at(0),
            "started": at(2),
            "ended": at(3),
            "tries": 2,
            "earlier_tries": [
                {"number": 1, "state": "failed", "queued": at(-9), "started": None, "ended": at(-8)}
            ],
            "work_seconds": None,
            "cpu_seconds": None,
            "peak_memory_bytes": None,
            "host": None,
            "items": None,
        },
    ]


@pytest.mark.parametrize(
    ("states", "told_by"),
    [
        pytest.param(("success", "success"), "etl.us.load", id="the last"),
        pytest.param(("failed", "upstream_failed"), "etl.us.extract", id="what failed"),
        pytest.param(("running", None), "etl.us.extract", id="what runs"),
        pytest.param(("success", "queued"), "etl.us.load", id="what waits"),
        pytest.param(("skipped", "skipped"), "etl.us.extract", id="what was skipped first"),
    ],
)
def test_of_several_tasks_the_one_that_tells_why_is_named(
    states: tuple[str | None, ...], told_by: str
) -> None:
    group = static("us", steps=("extract", "load"))

    (branch,) = only(
        group,
        *(
            ran(task_id, state=state)
            for task_id, state in zip(group.branches[0].task_ids, states, strict=True)
        ),
    )["branches"]

    assert branch["task_id"] == told_by


@pytest.mark.parametrize(
    ("states", "work"),
    [
        pytest.param(("failed", "upstream_failed"), 0.5, id="of-those-that-ran"),
        pytest.param(("success", "running"), None, id="not-while-one-runs"),
        pytest.param(("upstream_failed", "upstream_failed"), None, id="of-none"),
    ],
)
def test_work_of_several_tasks_is_that_of_those_that_ran(states: tuple[str, str], work: float | None) -> None:
    group = static("us", steps=("extract", "load"))
    first: dict[str, Any] = {"seconds": 0.5} if states[0] in {"success", "failed"} else {}

    (branch,) = only(
        group,
        ran("etl.us.extract", state=states[0], **first),
        ran("etl.us.load", state=states[1]),
    )["branches"]

    assert branch["work_seconds"] == work


@pytest.mark.parametrize(
    ("steps", "states", "step"),
    [
        pytest.param(("extract", "load"), ("failed", "upstream_failed"), "extract", id="the-first"),
        pytest.param(("extract", "load"), ("success", "failed"), "load", id="the-last"),
        pytest.param(("extract", "load"), ("success", "success"), None, id="none"),
        pytest.param(("extract", "load"), ("upstream_failed", "upstream_failed"), None, id="before-it"),
        pytest.param(("",), ("failed",), None, id="a-single-task"),
    ],
)
def test_of_several_tasks_the_one_that_failed_is_named(
    steps: tuple[str, ...], states: tuple[str, ...], step: str | None
) -> None:
    group = static("us", steps=steps)

    (branch,) = only(
        group, *(ran(i, state=state) for i, state in zip(group.all_task_ids, states, strict=True))
    )["branches"]

    assert branch["step"] == step


def test_tries_are_the_most_of_one_of_its_tasks() -> None:
    (branch,) = only(
        static("us", steps=("extract", "load")),
        ran("etl.us.extract", state="failed", tries=2, earlier=(FIRST_TRY,)),
        ran("etl.us.load", state="upstream_failed", tries=0),
    )["branches"]

    assert (branch["tries"], len(branch["earlier_tries"])) == (2, 1)


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
def test_a_try_that_never_ran_is_none(changes: dict[str, Any]) -> None:
    (branch,) = only(
        static("us"), ran("etl.us", tries=2, earlier=(replace(FIRST_TRY, **changes), FIRST_TRY))
    )["branches"]

    assert [each["number"] for each in branch["earlier_tries"]] == [1]


def test_branches_that_never_started_have_no_times_and_no_figures() -> None:
    """Airflow stamps them, of a branch of several tasks each at another moment."""
    group = static("eu", "us", steps=("extract", "load"))
    capacity = Capacity(declared=2, effective=1, limit=Limit(name="pool", slots=1, where="small"))

    found = only(
        group,
        *(
            ran(task_id, state="upstream_failed", queued=None, started=moment, ended=moment, tries=0)
            for task_id, moment in zip(
                group.all_task_ids, [NOON, NOON + timedelta(seconds=1.5)] * 2, strict=True
            )
        ),
        capacity=capacity,
    )

    times = [(each["queued"], each["started"], each["ended"]) for each in found["branches"]]
    assert times == [(None, None, None)] * 2
    assert (found["wall_seconds"], found["elapsed_sum_seconds"]) == (None, None)
    assert (found["peak_concurrency"], found["slowest"], found["advice"]) == (0, [], [])


@pytest.mark.parametrize(
    ("branches", "causes"),
    [
        pytest.param(("upstream_failed", "upstream_failed"), ["create_table"], id="before-them"),
        pytest.param(("failed", "upstream_failed"), [], id="within"),
    ],
)
def test_what_kept_branches_from_starting_is_named(branches: tuple[str, str], causes: list[str]) -> None:
    group = static("us", steps=("extract", "load"))
    failed = causes or ["etl.us.extract"]
    tasks = {
        "etl.us.extract": TaskOutline(task_id="etl.us.extract", upstream=frozenset({"create_table"})),
        "etl.us.load": TaskOutline(task_id="etl.us.load", upstream=frozenset({"etl.us.extract"})),
    }
    runs = [ran(i, state=state) for i, state in zip(group.all_task_ids, branches, strict=True)]
    before = ran("create_table", state="failed" if "create_table" in failed else "success")

    (found,) = report_of(facts_of([before, *runs], group, tasks=tasks))["groups"]

    assert found["causes"] == [{"task_id": i, "map_index": -1, "state": "failed"} for i in causes]


def test_what_kept_a_mapped_task_from_being_expanded_is_named() -> None:
    tasks = {"load.each": TaskOutline(task_id="load.each", upstream=frozenset({"items"}))}
    runs = [ran("items", state="failed"), ran("load.each", state="upstream_failed")]

    (found,) = report_of(facts_of(runs, mapped(), tasks=tasks))["groups"]

    assert [cause["task_id"] for cause in found["causes"]] == ["items"]


def test_a_branch_that_has_no_task_instance_yet_names_none() -> None:
    (branch,) = only(static("eu"))["branches"]

    assert (branch["task_id"], branch["map_index"], branch["earlier_tries"]) == (None, -1, [])


@pytest.mark.parametrize(
    ("branch", "fan_in", "degraded"),
    [
        pytest.param("failed", "success", True, id="tolerated"),
        pytest.param("success", "success", False, id="nothing failed"),
        pytest.param("failed", "failed", False, id="not tolerated"),
        pytest.param("failed", None, False, id="not decided yet"),
    ],
)
def test_a_success_in_spite_of_failures_is_degraded(branch: str, fan_in: str | None, degraded: bool) -> None:
    facts = facts_of(
        [ran("etl.eu"), ran("etl.us", state=branch), ran("best", state=fan_in)],
        static("eu", "us"),
        fan_ins=[of_group("etl", "best")],
    )

    (group,) = report_of(facts)["groups"]

    assert group["degraded"] is degraded


def test_a_group_has_the_figures_of_its_branches() -> None:
    group = only(
        mapped(),
        ran("load.each", 0, second=1, seconds=0.5, cpu_seconds=0.25, peak_memory_bytes=9),
        ran("load.each", 1, second=3, seconds=1.0, cpu_seconds=0.5, peak_memory_bytes=7),
    )

    assert (group["mode"], group["is_finished"]) == ("mapped", True)
    assert (group["states"], group["total"], group["recorded"]) == ({"success": 2}, 2, 2)
    assert (group["work_seconds"], group["wall_seconds"], group["speed_up"]) == (1.5, 4.0, 0.375)
    assert group["overhead_share"] == pytest.approx(1 - 1.5 / 6)
    assert (group["cpu_seconds"], group["peak_memory_bytes"]) == (0.75, 9)
    assert (group["declared_concurrency"], group["peak_concurrency"]) == (2, 1)
    assert group["slowest"][0] == {"name": "load_1", "seconds": 1.0, "measure": "work"}
    assert (group["wall_without_slowest_seconds"], group["saved_without_slowest_seconds"]) == (2.0, 2.0)


def test_what_was_not_recorded_is_none() -> None:
    group = only(static("eu"), ran("etl.eu", record=None, queued=None))

    for name in ("work_seconds", "wall_seconds", "speed_up", "overhead_share", "cpu_seconds"):
        assert group[name] is None
    assert (group["effective_concurrency"], group["limit"], group["advice"]) == (None, None, [])


def test_what_runs_at_once_and_what_limits_it_is_said() -> None:
    capacity = Capacity(declared=2, effective=1, limit=Limit(name="pool", slots=1, where="small"))

    group = only(static("a", "b"), ran("etl.a"), ran("etl.b", second=1), capacity=capacity)

    assert (group["effective_concurrency"], group["limit"]) == (
        1,
        "2 branches, at most 1 at once: pool of small is 1",
    )
    assert [advice["kind"] for advice in group["advice"]] == ["limit"]


def test_branches_that_wait_between_two_tasks_are_not_at_once() -> None:
    group = static("eu", "us", steps=("extract", "load"))
    capacity = Capacity(declared=2, effective=1, limit=Limit(name="pool", slots=1, where="small"))

    found = only(
        group,
        *(ran(i, second=second) for i, second in zip(group.all_task_ids, (0, 2, 1, 3), strict=True)),
        capacity=capacity,
    )

    assert found["peak_concurrency"] == 1
    assert found["limit"] == "2 branches, at most 1 of their tasks at once: pool of small is 1"
    assert [each["text"].partition(".")[0] for each in found["advice"]] == [found["limit"]]


def test_a_task_that_runs_again_counts_from_its_new_start() -> None:
    stale: dict[str, Any] = {"queued": NOON + timedelta(seconds=10), "ended": NOON + timedelta(seconds=5)}

    found = only(
        static("eu", "us", steps=("extract", "load")),
        *(
            each
            for name in ("eu", "us")
            for each in (
                ran(f"etl.{name}.extract"),
                ran(f"etl.{name}.load", state="running", second=11, **stale),
            )
        ),
    )

    assert found["peak_concurrency"] == 2


class TestBatches:
    @pytest.mark.parametrize(
        ("state", "wall"),
        [
            pytest.param("failed", 11.0, id="it went on where that had ended"),
            pytest.param(None, 11.0, id="so it did after a kill"),
            pytest.param("success", 2.0, id="cleared after a success, it began anew"),
        ],
    )
    def test_the_time_of_one_that_was_tried_again(self, state: str | None, wall: float) -> None:
        first = TaskTry(number=1, state=state, queued=NOON, started=NOON, ended=NOON + timedelta(seconds=4))
        last = replace(
            batch(0, "SS", seconds=[3.0, 0.5]),
            tries=2,
            earlier=(first,),
            queued=NOON + timedelta(seconds=9),
            started=NOON + timedelta(seconds=10),
            ended=NOON + timedelta(seconds=11),
        )

        group = only(batched(), last)

        assert (group["work_seconds"], group["wall_seconds"]) == (3.5, wall)
        assert group["branches"][0]["queued"] == at(9)

    def test_one_that_waits_for_its_next_try_is_not_at_once_with_others(self) -> None:
        first = TaskTry(
            number=1, state="failed", queued=NOON, started=NOON, ended=NOON + timedelta(seconds=4)
        )
        again = replace(
            batch(0, "SS", second=10), queued=NOON + timedelta(seconds=9), tries=2, earlier=(first,)
        )

        group = only(batched(), again, batch(1, "SS", second=5))

        assert group["peak_concurrency"] == 1

    def test_cpu_seconds_of_some_items_are_not_those_of_all(self) -> None:
        group = only(batched(), batch(0, "SS", cpu_seconds=[None, 0.25]))

        assert (group["work_seconds"], group["cpu_seconds"]) == (2.0, None)

    def test_branches_are_the_batches_and_items_are_counted(self) -> None:
        group = only(batched(), batch(0, "SK"), batch(1, "F", state="failed", errors={"0": "E: no"}))

        assert [(each["name"], each["items"]) for each in group["branches"]] == [
            ("docs batch 0", {"skipped": 1, "success": 1}),
            ("docs batch 1", {"failed": 1}),
        ]
        items = group["items"]
        assert items is not None
        assert items["states"] == {"failed": 1, "skipped": 1, "success": 1}
        assert (items["total"], items["recorded"], items["median_work_seconds"]) == (3, 3, 1.0)
        assert (items["problem_count"], items["problems"]) == (
            1,
            [
                {
                    "name": "docs_2",
                    "items": 1,
                    "state": "failed",
                    "error": "E: no",
                    "task_id": "docs.each",
                    "map_index": 1,
                }
            ],
        )

    def test_of_many_items_only_a_few_are_named(self) -> None:
        number = 1000
        seconds = [float(place % 100) for place in range(number)]

        group = only(batched(items_per_task=number), batch(0, "F" * number, state="failed", seconds=seconds))

        items = group["items"]
        assert items is not None
        assert items["problem_count"] == number
        assert (len(items["problems"]), len(items["slowest"])) == (PROBLEM_ITEMS, SLOWEST_ITEMS)
        assert items["slowest"][0] == {"name": "docs_99", "seconds": 99.0, "measure": "work"}
        assert len(json.dumps(group)) < 10_000

    @pytest.mark.parametrize(
        ("record", "is_known"),
        [
            pytest.param({"concurrency": 1}, True, id="one-after-another"),
            pytest.param({"concurrency": 8}, False, id="at-once"),
            pytest.param({}, False, id="not-recorded"),
            pytest.param({"concurrency": 1, "seconds": [9.0]}, False, id="done-by-an-earlier-try"),
        ],
    )
    def test_overhead_is_known_where_items_ran_one_after_another(
        self, record: dict[str, Any], is_known: bool
    ) -> None:
        group = only(batched(items_per_task=1), batch(0, "S", **{"seconds": [0.25], **record}))

        assert (group["overhead_share"] is not None) is is_known

    def test_overhead_of_items_at_once_is_beside_the_time_that_they_took_together(self) -> None:
        """Two items of 0.5 s in 0.5 s, in a task that took 2 s from when it was queued, of both tries 12."""
        first = TaskTry(
            number=1,
            state="failed",
            queued=NOON - timedelta(seconds=10),
            started=NOON - timedelta(seconds=10),
            ended=NOON,
        )
        last = batch(0, "SS", second=1, seconds=[0.5, 0.5], concurrency=2, elapsed=0.5)

        group = only(batched(), replace(last, tries=2, earlier=(first,)))

        assert (group["overhead_share"], group["item_concurrency"]) == (0.75, 2)
        assert (group["work_seconds"], group["wall_seconds"]) == (1.0, 12.0)

    def test_one_that_left_no_record_is_one_problem(self) -> None:
        killed = ran("docs.each", 1, state="failed", record={})

        items = only(batched(count=4), batch(0, "SF", state="failed"), killed)["items"]

        assert items is not None
        found = [(each["name"], each["items"], each["map_index"]) for each in items["problems"]]
        assert found == [("docs batch 1", 2, 1), ("docs_1", 1, 0)]
        assert items["problem_count"] == 3

    def test_while_one_waits_for_its_retry_what_it_has_done_is_done(self) -> None:
        group = only(batched(items_per_task=4), batch(0, "SKFX", state="up_for_retry"))

        assert group["branches"][0]["items"] == {"skipped": 1, "success": 1, "up_for_retry": 2}
        assert group["branches"][0]["state"] == "up_for_retry"


class TestAdvice:
    def test_small_functions_are_advised_to_run_in_batches(self) -> None:
        small = [ran("load.each", n, second=n, seconds=0.01) for n in range(9)]

        (advice,) = only(mapped(), *small)["advice"]

        assert (advice["kind"], advice["setting"], advice["value"]) == ("overhead", "items_per_task", 9)

    @pytest.mark.parametrize(
        ("group", "task_runs"),
        [
            pytest.param(
                mapped("load.each.read", "load.each.write"),
                [
                    ran(f"load.each.{step}", n, second=2 * n + place, seconds=0.01)
                    for n in range(9)
                    for place, step in enumerate(["read", "write"])
                ],
                id="of-several-tasks",
            ),
            pytest.param(
                static(*"abcdefghi"),
                [ran(f"etl.{name}", 0, second=n, seconds=0.01) for n, name in enumerate("abcdefghi")],
                id="in-a-mapped-task-group",
            ),
        ],
    )
    def test_branches_that_batches_cant_run_are_not(
        self, group: DeclaredGroup, task_runs: list[TaskRun]
    ) -> None:
        tasks = {
            i: TaskOutline(
                task_id=i, operator=PYTHON, mapped_group="outer" if group.mode == "static" else None
            )
            for i in group.all_task_ids
        }
        (found,) = report_of(facts_of(task_runs, group, tasks=tasks))["groups"]

        assert found["overhead_share"] is not None
        assert found["advice"] == []

    def test_operators_are_not(self) -> None:
        facts = facts_of([ran("load.each", n, second=n, seconds=0.01) for n in range(9)], mapped())

        assert report_of(facts)["groups"][0]["advice"] == []

    def test_branches_that_crowd_a_machine_are_named_with_it(self) -> None:
        busy = [
            ran("load.each", n, seconds=1.0, cpu_seconds=0.5, cores=2, hostname="worker-1") for n in range(4)
        ]

        advice = only(mapped(), *busy)["advice"]

        assert [(each["kind"], each["value"]) for each in advice] == [("cores", 2)]

    def test_there_is_none_while_branches_run(self) -> None:
        small = [ran("load.each", n, second=n, seconds=0.01) for n in range(9)]
        last = ran("load.each", 9, "running", ended=None)

        group = only(mapped(), *small, last)

        assert (group["is_finished"], group["advice"]) == (False, [])


class TestWhileItRuns:
    def test_figures_are_those_so_far(self) -> None:
        group = only(
            mapped(), ran("load.each", 0, second=1, seconds=0.5), ran("load.each", 1, "running", ended=None)
        )

        assert group["wall_seconds"] == 60.0
        assert group["peak_concurrency"] == 2
        assert [branch["ended"] for branch in group["branches"]] == [at(2), None]

    @pytest.mark.parametrize(
        ("state", "started", "expected"),
        [
            pytest.param("queued", 1, None, id="queued"),
            pytest.param("running", 11, at(11), id="running"),
        ],
    )
    def test_a_retrys_branch_has_nothing_of_the_try_before(
        self, state: str, started: float, expected: str | None
    ) -> None:
        moments = {"queued": NOON + timedelta(seconds=10), "ended": NOON + timedelta(seconds=5)}

        group = only(mapped(), ran("load.each", 0, state, second=started, **moments))

        (branch,) = group["branches"]
        assert (branch["queued"], branch["started"], branch["ended"]) == (at(10), expected, None)

    def test_a_task_that_may_yet_be_expanded_is_not_finished(self) -> None:
        waiting = only(mapped(), ran("load.each", state=None))
        for_good = only(mapped(), ran("load.each", state="upstream_failed"))

        assert (waiting["is_finished"], waiting["unexpanded"]) == (False, "waiting")
        assert (for_good["is_finished"], for_good["unexpanded"]) == (True, "upstream_failed")


class TestRun:
    @pytest.mark.parametrize(
        ("state", "run_state", "is_offered"),
        [
            pytest.param("failed", "failed", True, id="failed"),
            pytest.param("failed", "success", True, id="failed-and-tolerated"),
            pytest.param("upstream_failed", "failed", True, id="upstream-failed"),
            pytest.param("skipped", "success", False, id="skipped"),
            pytest.param("success", "success", False, id="success"),
            pytest.param("failed", "running", False, id="still-running"),
        ],
    )
    def test_it_offers_to_run_again_what_failed(self, state: str, run_state: str, is_offered: bool) -> None:
        facts = facts_of([ran("etl.eu", state=state)], static("eu"), state=run_state)

        expected = "airflow fanout rerun pipeline 'the run'" if is_offered else None
        assert report_of(facts)["rerun"] == expected

    def test_it_offers_to_run_again_what_was_stopped(self) -> None:
        stopped = ran("etl.eu", state="skipped", record={"state": "stopped", "error": "not started"})

        assert report_of(facts_of([stopped], static("eu")))["rerun"] is not None

    def test_a_run_without_a_fan_out_has_no_groups(self) -> None:
        report = report_of(facts_of([ran("lone")]))

        assert (report["groups"], report["rerun"]) == ([], None)

    def test_it_is_json(self) -> None:
        facts = facts_of([ran("etl.eu"), batch(0, "SF", state="failed")], static("eu"), batched())

        report = report_of(facts)

        assert json.loads(json.dumps(report)) == report
