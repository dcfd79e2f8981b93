"""Values of items in files: from the batch that writes them to the fan-in that reads them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import BatchFailedError, BranchesRunningError, UnwritableResultsError
from airflow_fanout.execution_time import stored_results
from airflow_fanout.execution_time.checkpoints import ValueParts
from airflow_fanout.operators.batch import KILLED
from airflow_fanout.rules.instances import runs_mark
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE, batch_key, read_record
from airflow_fanout.storage.parts import Row, write_part
from tests.unit.fake_batch import batch_operator, run_batch
from tests.unit.fake_run import FakeRun, run_fan_in
from tests.unit.fake_store import FakeStore

if TYPE_CHECKING:
    from airflow_fanout.execution_time.results import FanInResults
    from tests.unit.fake_batch import Ran

pytestmark = pytest.mark.usefixtures("dag")

RAN: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


def act(fate: Any) -> Any:
    RAN.append(fate)
    match fate:
        case "fails" | ["fails", *_]:
            message = "broken"
            raise ValueError(message)
        case "fails for good":
            raise AirflowFailException(fate)
        case "is skipped":
            raise AirflowSkipException(fate)
        case "can't be stored":
            return object()
    return {"fate": fate}


def group_of(*fates: Any, group_id: str = "acts", **arguments: Any) -> FanOutGroup:
    settings = {"items": list(fates), "items_per_task": 3, "results_path": "/to/{{ run_id }}", **arguments}
    return FanOutGroup(group_id, branch=act, **settings)


def run(group: FanOutGroup, folder: Path, number: int = 0, **more: Any) -> Ran:
    """Run a batch of three."""
    count = group.declared.count or 0
    operator = batch_operator(group, 3 * number, min(3 * number + 3, count))
    operator.results_path = str(folder)
    return run_batch(group, operator=operator, map_index=number, **more)


def run_all(group: FanOutGroup, folder: Path) -> FakeRun:
    """Run all batches; what the fan-in is to read then."""
    count = group.declared.count or 0
    bounds = [[first, min(first + 3, count), 1] for first in range(0, count, 3)]
    whole = FakeRun().add(f"{group.group_id}.split", value=bounds)
    for number in range(len(bounds)):
        ran = run(group, folder, number)
        state = "success" if ran.error is None else "failed"
        value = ran.pushed[RETURN_VALUE]
        whole.add(f"{group.group_id}.each", state, value, map_index=number, record=ran.record)
    return whole


def fan_in(group: FanOutGroup, **arguments: Any) -> FanInOperator:
    task_id = f"collect_{len(group.dag.task_dict)}"
    return FanInOperator(task_id=task_id, fan_out=group, **{"min_success": 0, **arguments})


def results_of(group: FanOutGroup, run: FakeRun) -> FanInResults:
    """What the fan-in's function is given; it must be read in there."""
    collect = fan_in(group, python_callable=lambda results: results)
    results: FanInResults = run_fan_in(collect, run, run_id="a").value
    return results


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def spoil_file(path: Path) -> None:
    path.write_text("{}")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestWhatABatchWrites:
    def test_values_are_in_a_part_and_failures_beside_it(self, tmp_path: Path) -> None:
        ran = run(group_of("a", "fails", "b"), tmp_path)

        assert isinstance(ran.error, BatchFailedError)
        assert lines(tmp_path / "part-0-1.jsonl") == [
            {"name": "acts_0", "index": 0, "value": {"fate": "a"}},
            {"name": "acts_2", "index": 2, "value": {"fate": "b"}},
        ]
        assert lines(tmp_path / "failed-0-1.jsonl") == [
            {"name": "acts_1", "index": 1, "error": "ValueError: broken", "item": "fails"}
        ]

    def test_the_value_of_the_task_is_paths_and_numbers(self, tmp_path: Path) -> None:
        ran = run(group_of("a", "is skipped", "fails"), tmp_path)

        assert ran.pushed[RETURN_VALUE] == {
            "part": f"{tmp_path}/part-0-1.jsonl",
            "succeeded": 1,
            "failed": 1,
            "skipped": 1,
            "failed_items": f"{tmp_path}/failed-0-1.jsonl",
        }
        assert list(ran.pushed) == [RETURN_VALUE, RECORD_KEY]

    def test_indexes_are_those_among_all_items(self, tmp_path: Path) -> None:
        run(group_of(*"abcdef"), tmp_path, 1)

        assert [line["index"] for line in lines(tmp_path / "part-1-1.jsonl")] == [3, 4, 5]
        assert files(tmp_path) == ["part-1-1.jsonl"]

    def test_a_batch_without_a_success_writes_an_empty_part(self, tmp_path: Path) -> None:
        run(group_of("fails"), tmp_path)

        assert lines(tmp_path / "part-0-1.jsonl") == []

    def test_a_retry_writes_all_successes_and_drops_the_earlier_failures(self, tmp_path: Path) -> None:
        store = FakeStore()
        group = group_of("a", "fails", "b")
        run(group, tmp_path, store=store, retries=1)
        RAN.clear()

        ran = run(group, tmp_path, store=store, retries=1, try_number=2)

        assert RAN == ["fails"]
        assert [line["name"] for line in lines(tmp_path / "part-0-2.jsonl")] == ["acts_0", "acts_2"]
        assert files(tmp_path) == ["failed-0-2.jsonl", "part-0-1.jsonl", "part-0-2.jsonl"]
        assert ran.record["results"]["parts"][0][0] == f"{tmp_path}/part-0-2.jsonl"

    def test_an_item_is_written_as_it_was_given(self, tmp_path: Path) -> None:
        def spoil(item: list[Any]) -> None:
            item.append("spoilt")
            raise ValueError

        group = FanOutGroup(
            "spoils", branch=spoil, items=[[1]], items_per_task=3, results_path="/to/{{ run_id }}"
        )
        run(group, tmp_path)

        assert lines(tmp_path / "failed-0-1.jsonl")[0]["item"] == [1]

    def test_a_value_that_can_not_be_stored_fails_its_item_alone(self, tmp_path: Path) -> None:
        ran = run(group_of("a", "can't be stored", "b"), tmp_path)

        assert ran.record["statuses"] == [["S", 1], ["F", 1], ["S", 1]]
        assert "can't be stored" in ran.record["errors"]["1"]

    def test_a_value_that_the_format_can_not_hold_fails_its_item_alone(self, tmp_path: Path) -> None:
        with mock.patch("airflow_fanout.execution_time.transport._has_foreign_backend", return_value=True):
            ran = run(group_of("a", "can't be stored", "b"), tmp_path)

        assert ran.record["statuses"] == [["S", 1], ["F", 1], ["S", 1]]
        assert "its value can't be written as jsonl" in ran.record["errors"]["1"]
        assert len(lines(tmp_path / "part-0-1.jsonl")) == 2
        assert lines(tmp_path / "failed-0-1.jsonl")[0]["name"] == "acts_1"

    def test_parquet_is_for_values_and_json_lines_for_failures(self, tmp_path: Path) -> None:
        group = group_of("a", "fails", results_format="parquet")

        run(group, tmp_path)

        assert files(tmp_path) == ["failed-0-1.jsonl", "part-0-1.parquet"]

    def test_storage_that_refuses_fails_the_task_and_its_retry_runs_no_item(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        store = FakeStore()
        group = group_of("a", "b", "c")

        ran = run(group, tmp_path / "file", store=store, retries=1)
        assert isinstance(ran.error, UnwritableResultsError)
        assert f"Results can't be written to {tmp_path}/file/part-0-1.jsonl" in str(ran.error)
        assert RECORD_KEY not in ran.pushed
        RAN.clear()

        ran = run(group, tmp_path / "other", store=store, retries=1, try_number=2)

        assert ran.error is None
        assert RAN == []
        assert len(lines(tmp_path / "other" / "part-0-2.jsonl")) == 3


class TestItsRecord:
    def test_it_does_not_grow_with_items_that_succeed(self, tmp_path: Path) -> None:
        sizes = []
        for count in (100, 10_000):
            group = FanOutGroup(
                f"acts{count}",
                branch=lambda index: index,
                count=count,
                items_per_task=count,
                results_path=f"/to/{count}/{{{{ run_id }}}}",
            )
            operator = batch_operator(group, 0, count)
            operator.results_path = str(tmp_path / str(count))
            sizes.append(len(json.dumps(run_batch(group, operator=operator).record)))

        assert sizes[1] - sizes[0] < 150

    def test_it_comes_back_as_it_was_written(self, tmp_path: Path) -> None:
        ran = run(group_of("a", "fails", "is skipped"), tmp_path)

        record: Any = read_record(json.loads(json.dumps(ran.record)))

        assert record.to_xcom() == ran.record
        assert [record.error(index) for index in range(3)] == [None, "ValueError: broken", "is skipped"]
        assert [record.tries_of(index) for index in range(3)] == [1, 1, 1]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"statuses": "SSS"},
            {"statuses": [["S", -1]]},
            {"statuses": [["S", 10**12]]},
            {"statuses": [["SS", 1]]},
            {"results": "text"},
            {"results": {"parts": [["path"]]}},
            {"results": {}},
        ],
    )
    def test_one_that_is_not_whole_is_none(self, tmp_path: Path, wrong: dict[str, Any]) -> None:
        ran = run(group_of("a", "b", "c"), tmp_path)

        assert read_record({**ran.record, **wrong}) is None

    def test_it_names_what_did_not_succeed(self, tmp_path: Path) -> None:
        ran = run(group_of(items={"x": "a", "y": "fails", "z": "b"}), tmp_path)

        assert ran.record["results"]["names"] == {"1": "y"}
        assert "x" not in json.dumps(ran.record["results"]["names"])

    def test_the_first_twenty_failures_have_their_errors(self, tmp_path: Path) -> None:
        group = group_of(*["fails"] * 30, items_per_task=30)
        operator = batch_operator(group, 0, 30)
        operator.results_path = str(tmp_path)

        record: Any = read_record(run_batch(group, operator=operator).record)

        assert len(record.errors) == 20
        assert record.error(19) == "ValueError: broken"
        assert record.error(20) == f"its error is in {tmp_path}/failed-0-1.jsonl"


class TestWhatTheFanInReads:
    @pytest.mark.parametrize("results_format", ["jsonl", "parquet"])
    @pytest.mark.parametrize("is_named", [False, True])
    def test_it_is_what_it_would_be_from_xcoms(
        self, tmp_path: Path, results_format: Any, is_named: bool
    ) -> None:
        fates = ["a", "fails", "b", "is skipped", "c", "fails for good", "d"]
        items: Any = {"items": {f"item {fate} {n}": fate for n, fate in enumerate(fates)}} if is_named else {}
        stored = group_of(*fates, **items, results_format=results_format)
        told = results_of(stored, run_all(stored, tmp_path))
        in_xcoms = group_of(*fates, **items, group_id="other", results_path=None)
        expected = results_of(in_xcoms, run_all_in_xcoms(in_xcoms))

        def outcomes(results: FanInResults) -> list[Any]:
            return [
                (o.name.replace("other", "acts"), o.index, o.state, o.value, o.error, o.tries, o.map_index)
                for o in results.outcomes.values()
            ]

        assert outcomes(told) == outcomes(expected)
        assert list(told.values()) == list(expected.values())
        assert told.state_counts() == expected.state_counts()
        assert told[next(iter(told))] == expected[next(iter(expected))]

    def test_parts_are_those_that_count_in_order(self, tmp_path: Path) -> None:
        group = group_of(*"abcdefg")
        results = results_of(group, run_all(group, tmp_path))

        assert results.parts == [f"{tmp_path}/part-{number}-1.jsonl" for number in range(3)]

    def test_a_part_that_no_record_names_does_not_count(self, tmp_path: Path) -> None:
        group = group_of("a")
        whole = run_all(group, tmp_path)
        write_part(f"{tmp_path}/part-0-2.jsonl", [Row("acts_0", 0, "other")], "jsonl", mock.Mock())

        results = results_of(group, whole)

        assert dict(results) == {"acts_0": {"fate": "a"}}
        assert results.parts == [f"{tmp_path}/part-0-1.jsonl"]

    @pytest.mark.parametrize("is_named", [False, True])
    @pytest.mark.parametrize(
        ("damage", "error"),
        [
            (Path.unlink, "it returned a value, which is no longer stored: "),
            (
                lambda path: path.write_text("{}"),
                "it returned a value, and what is stored was changed since: ",
            ),
        ],
        ids=["gone", "changed"],
    )
    def test_items_of_a_part_that_is_gone_or_changed_are_missing(
        self, tmp_path: Path, damage: Any, error: str, is_named: bool
    ) -> None:
        items: Any = {"items": {letter: letter for letter in "abcd"}} if is_named else {}
        group = group_of(*"abcd", **items)
        whole = run_all(group, tmp_path)
        damage(tmp_path / "part-0-1.jsonl")

        collect = fan_in(group)
        verdict = run_fan_in(collect, whole, run_id="a")

        assert verdict.report is not None
        assert verdict.report["missing"] == 3
        names = list("abc") if is_named else ["acts_0", "acts_1", "acts_2"]
        problem = {"name": names[0], "state": "missing", "error": f"{error}{tmp_path}/part-0-1.jsonl"}
        assert verdict.report["problems"][0] == problem
        assert [each["name"] for each in verdict.report["problems"]] == names
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert manifest["parts"] == [f"{tmp_path}/part-1-1.jsonl"]
        assert (manifest["missing"], manifest["degraded"]) == (3, True)

    def test_errors_beyond_the_first_twenty_come_from_the_file(self, tmp_path: Path) -> None:
        group = group_of(*["fails"] * 30, items_per_task=30)
        operator = batch_operator(group, 0, 30)
        operator.results_path = str(tmp_path)
        record = run_batch(group, operator=operator).record
        whole = FakeRun().add("acts.split", value=[[0, 30, 1]])
        whole.add("acts.each", "failed", map_index=0, record=record)

        results = results_of(group, whole)
        assert {outcome.error for outcome in results.failed.values()} == {"ValueError: broken"}

        (tmp_path / "failed-0-1.jsonl").rename(tmp_path / "elsewhere")
        stored_results._errors.cache_clear()
        results = results_of(group, whole)
        assert "no longer stored" in str(results.outcomes["acts_29"].error)

    def test_a_part_that_vanishes_after_the_verdict_is_an_error(self, tmp_path: Path) -> None:
        group = group_of("a")
        results = results_of(group, run_all(group, tmp_path))
        (tmp_path / "part-0-1.jsonl").unlink()

        with pytest.raises(BranchesRunningError, match="gone since they were counted"):
            dict(results)

    def test_memory_does_not_grow_with_the_number_of_items(self, tmp_path: Path) -> None:
        peaks = []
        for batch_size in (300, 3_000):
            group = FanOutGroup(
                f"of{batch_size}",
                branch=lambda index: index,
                count=10 * batch_size,
                items_per_task=batch_size,
                results_path=f"/to/{batch_size}/{{{{ run_id }}}}",
            )
            bounds = [[n * batch_size, (n + 1) * batch_size, 1] for n in range(10)]
            whole = FakeRun().add(f"{group.group_id}.split", value=bounds)
            for number, (start, stop, _) in enumerate(bounds):
                path = f"{tmp_path}/{batch_size}/part-{number}-1.jsonl"
                rows = [Row(f"of{batch_size}_{index}", index, index) for index in range(start, stop)]
                part = write_part(path, rows, "jsonl", mock.Mock())
                record = {
                    "state": "batch",
                    "map_index": number,
                    "start": start,
                    "split": 1,
                    "statuses": [["S", batch_size]],
                    "errors": {},
                    "results": {"parts": [list(part)]},
                }
                whole.add(f"{group.group_id}.each", map_index=number, record=record)
            collect = FanInOperator(
                task_id=f"collect_{batch_size}", fan_out=group, python_callable=lambda r: sum(r.values())
            )
            run_fan_in(collect, whole, run_id="a")
            tracemalloc.start()
            verdict = run_fan_in(collect, whole, run_id="a")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert verdict.value == sum(range(10 * batch_size))

        assert peaks[1] < 4 * peaks[0]
        assert peaks[1] < 10_000_000


def run_all_in_xcoms(group: FanOutGroup) -> FakeRun:
    count = group.declared.count or 0
    bounds = [[first, min(first + 3, count), 1] for first in range(0, count, 3)]
    whole = FakeRun().add(f"{group.group_id}.split", value=bounds)
    for number, (start, stop, _) in enumerate(bounds):
        ran = run_batch(group, start, stop, map_index=number)
        state = "success" if ran.error is None else "failed"
        whole.add(
            f"{group.group_id}.each",
            state,
            ran.pushed[RETURN_VALUE],
            map_index=number,
            record=ran.record,
        )
    return whole


class TestTheManifest:
    def test_it_says_what_counts(self, tmp_path: Path) -> None:
        group = group_of("a", "fails", "b", "is skipped")

        verdict = run_fan_in(fan_in(group), run_all(group, tmp_path), run_id="a")

        assert verdict.value == f"{tmp_path}/manifest.json"
        assert json.loads((tmp_path / "manifest.json").read_text()) == {
            "dag_id": "pipeline",
            "run_id": "the run",
            "task_id": "collect_2",
            "state": "degraded",
            "expected": 4,
            "counted": 3,
            "needed": 0,
            "succeeded": 2,
            "failed": 1,
            "skipped": 1,
            "missing": 0,
            "degraded": True,
            "format": "jsonl",
            "parts": [f"{tmp_path}/part-0-1.jsonl", f"{tmp_path}/part-1-1.jsonl"],
            "failed_files": [f"{tmp_path}/failed-0-1.jsonl"],
        }

    def test_it_is_written_beside_a_function_and_after_a_verdict_against_the_run(
        self, tmp_path: Path
    ) -> None:
        group = group_of("a", "fails")
        collect = fan_in(group, min_success=None, python_callable=len)

        verdict = run_fan_in(collect, run_all(group, tmp_path), run_id="a")

        assert "1 of 2 branches succeeded" in verdict.message
        assert json.loads((tmp_path / "manifest.json").read_text())["state"] == "failed"

    def test_one_of_nothing_is_where_its_files_would_be(self, tmp_path: Path) -> None:
        group = group_of(results_path=f"{tmp_path}/{{{{ run_id }}}}")

        verdict = run_fan_in(fan_in(group, min_success=None), FakeRun(), run_id="a")

        assert verdict.value == f"{tmp_path}/a/manifest.json"
        assert json.loads((tmp_path / "a" / "manifest.json").read_text())["expected"] == 0

    def test_a_storage_that_refuses_it_fails_the_fan_in(self, tmp_path: Path) -> None:
        group = group_of("a")
        whole = run_all(group, tmp_path)
        (tmp_path / "manifest.json").mkdir()

        with mock.patch(
            "airflow_fanout.execution_time.manifest.write_json",
            side_effect=UnwritableResultsError("there", cause=OSError("full")),
        ):
            verdict = run_fan_in(fan_in(group), whole, run_id="a")

        assert isinstance(verdict.error, UnwritableResultsError)


class TestABatchThatDies:
    def test_what_was_saved_is_in_parts_that_its_record_names(self, tmp_path: Path) -> None:
        group = group_of("a", "b", "c")
        operator = batch_operator(group, 0, 3)
        operator.results_path = str(tmp_path)
        reports: list[dict[str, Any]] = []
        report = type(operator)._report

        def dies(self: Any, ti: Any, labels: Any, names: Any, batch: Any, *more: Any, **named: Any) -> Any:
            parts = ValueParts()
            so_far = batch.snapshot()
            for number in (1, 2):
                so_far.results = {n: r for n, r in batch.results.items() if n < number}
                report(self, ti, labels, names, so_far, KILLED, parts=parts, **named)
                reports.append(ti.xcom_push.call_args.args[1])
            message = "killed"
            raise RuntimeError(message)

        with mock.patch.object(type(operator), "_report", dies):
            run_batch(group, operator=operator)

        whole = FakeRun().add("acts.split", value=[[0, 3, 1]])
        results = results_of(group, whole.add("acts.each", "failed", map_index=0, record=reports[-1]))
        assert dict(results) == {"acts_0": {"fate": "a"}, "acts_1": {"fate": "b"}}
        assert results.outcomes["acts_2"].error == KILLED
        assert results.parts == [f"{tmp_path}/part-0-1-0.jsonl", f"{tmp_path}/part-0-1-1.jsonl"]
        assert [line["name"] for line in lines(tmp_path / "failed-0-1.jsonl")] == ["acts_2"]


class TestItemsKnownAtRunTime:
    def test_their_names_are_asked_for_where_a_part_is_gone(self, tmp_path: Path) -> None:
        @task
        def load() -> dict[str, str]:
            return {}

        group = FanOutGroup(
            "acts", branch=act, items=load(), items_per_task=3, results_path="/to/{{ run_id }}"
        )
        operator = batch_operator(group, 0, 3)
        operator.results_path = str(tmp_path)
        payload = {"names": ["x", "y", "z"], "items": ["a", "fails", "b"]}
        ran = run_batch(group, operator=operator, payload=payload)
        whole = FakeRun().add("load")
        whole.add("acts.split", value=[[0, 3, 1, runs_mark(whole.instances, ["load"])]])
        whole.xcoms["acts.split", -1, batch_key(0)] = payload
        whole.add("acts.each", "failed", map_index=0, record=ran.record)

        results = results_of(group, whole)
        assert list(results.outcomes) == ["x", "y", "z"]
        assert dict(results) == {"x": {"fate": "a"}, "z": {"fate": "b"}}
        (tmp_path / "part-0-1.jsonl").unlink()

        assert [(o.name, o.state) for o in results_of(group, whole).outcomes.values()] == [
            ("x", "missing"),
            ("y", "failed"),
            ("z", "missing"),
        ]
