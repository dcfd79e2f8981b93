from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import task

from airflow_fanout.exceptions import ItemsError, ReuseStoreError
from airflow_fanout.rules.records import NO_REUSE, REUSE_KEY
from airflow_fanout.storage import CsvItems, JsonLinesItems, ObjectItems, Reuse
from airflow_fanout.storage.reuse_store import MOST_PARTS, POINTER, ReuseStore
from tests.unit.reusing_runs import ReusingRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Work:
    """A branch that notes what it was called with, and fails for what it was told to."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.fails: list[Any] = []

    @property
    def branch(self) -> Callable[..., Any]:
        def work(item: Any, lang: str = "en") -> Any:
            self.calls.append(item)
            if item in self.fails:
                message = "broken"
                raise ValueError(message)
            return [item, lang]

        return work

    def called(self) -> list[Any]:
        """What it was called with since the last time."""
        calls, self.calls = self.calls, []
        return sorted(calls, key=str)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def reuse(tmp_path: Path) -> Reuse:
    return Reuse(str(tmp_path / "store"), version=1)


def run(reuse: Reuse, work: Work, items: Any, **more: Any) -> ReusingRun:
    partial = more.pop("partial", {})
    return ReusingRun(reuse, work.branch, more={"items": items, "partial": partial}, **more)


def test_only_what_changed_runs_and_the_results_are_whole(reuse: Reuse, work: Work) -> None:
    run(reuse, work, list(range(10))).whole()
    work.called()
    items = [*range(4), 40, *range(5, 10), 41]

    seen = run(reuse, work, items).whole()

    assert work.called() == [40, 41]
    assert seen["values"] == [(f"g_{index}", [item, "en"]) for index, item in enumerate(items)]
    assert seen["reused"] == [f"g_{index}" for index in range(10) if index != 4]
    assert seen["indexes"] == list(range(11))


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"partial": {"lang": "de"}}, id="a bound argument"),
        pytest.param({"version": 2}, id="the version"),
        pytest.param({"version": "1"}, id="the version's type"),
        pytest.param({"conf": {NO_REUSE: ["g"]}}, id="the run's conf"),
    ],
)
def test_all_runs_after_a_change_of_what_holds_for_all(reuse: Reuse, work: Work, changed: Any) -> None:
    run(reuse, work, [1, 2]).whole()
    work.called()
    version = changed.pop("version", 1)

    seen = run(Reuse(reuse.path, version=version), work, [1, 2], **changed).whole()

    assert work.called() == [1, 2]
    assert seen["reused"] == []


def test_names_and_order_do_not_matter(reuse: Reuse, work: Work) -> None:
    run(reuse, work, {"a": 1, "b": {"x": 1, "y": {3, 4}}}).whole()
    work.called()

    seen = run(reuse, work, {"c": {"y": {4, 3}, "x": 1}, "a": 2, "d": 1}).whole()

    assert work.called() == [2]
    assert seen["reused"] == ["c", "d"]
    assert [name for name, _ in seen["values"]] == ["c", "a", "d"]


def test_if_all_is_reused_there_is_no_batch_and_all_succeed(reuse: Reuse, work: Work) -> None:
    run(reuse, work, [1, 2, 3]).whole()
    work.called()
    second = run(reuse, work, [3, 1]).split().batches()
    verdict = second.collect()

    assert second.bounds == []
    assert verdict.value["values"] == [("g_0", [3, "en"]), ("g_1", [1, "en"])]
    assert (verdict.report or {}).items() >= {"expected": 2, "succeeded": 2, "reused": 2}.items()


def test_no_items_at_all_are_on_empty(reuse: Reuse, work: Work) -> None:
    @task
    def load() -> list[int]:
        return []

    with mock.patch("airflow.sdk.definitions.xcom_arg.PlainXComArg.resolve", return_value=[]):
        verdict = ReusingRun(reuse, work.branch, min_success=1, source=load).split().batches().collect()

    assert "Nothing to fan in" in verdict.message


def test_failed_items_are_never_stored_and_a_failed_fan_in_stores_nothing(reuse: Reuse, work: Work) -> None:
    work.fails = [2]
    failed = run(reuse, work, [1, 2, 3]).split().batches().collect()
    assert failed.error is not None
    run(reuse, work, [1, 2, 3], min_success=2).whole()
    assert work.called() == [1, 1, 2, 2, 3, 3]

    work.fails = []
    seen = run(reuse, work, [1, 2, 3]).whole()

    assert work.called() == [2]
    assert seen["reused"] == ["g_0", "g_2"]


def test_numbers_of_a_count_are_told_apart_also_without_a_parameter_for_them(reuse: Reuse) -> None:
    calls: list[int] = []

    def draw(index: int) -> int:
        calls.append(index)
        return index * 10

    ReusingRun(reuse, draw, more={"count": 3}).whole()
    seen = ReusingRun(reuse, draw, more={"count": 5}).whole()

    assert calls == [0, 1, 2, 3, 4]
    assert seen["values"] == [(f"g_{index}", index * 10) for index in range(5)]


def test_functions_of_a_mapping_are_told_apart(reuse: Reuse) -> None:
    calls: list[str] = []

    def first(text: str) -> str:
        calls.append("first")
        return text

    def second(text: str) -> str:
        calls.append("second")
        return text + text

    branch: Any = {"a": first, "b": second}
    more_branches: Any = {**branch, "c": first}
    ReusingRun(reuse, branch, more={"partial": {"text": "x"}}).whole()
    seen = ReusingRun(reuse, more_branches, more={"partial": {"text": "x"}}).whole()

    assert calls == ["first", "second", "first"]
    assert seen["values"] == [("a", "x"), ("b", "xx"), ("c", "x")]


def test_items_of_run_time_are_looked_up_too(reuse: Reuse, work: Work) -> None:
    @task
    def load() -> dict[str, int]:
        return {}

    def run_over(items: dict[str, int]) -> Any:
        with mock.patch("airflow.sdk.definitions.xcom_arg.PlainXComArg.resolve", return_value=items):
            return ReusingRun(reuse, work.branch, source=load).whole()

    run_over({"a": 1, "b": 2})
    work.called()
    seen = run_over({"z": 9, "b": 2, "y": 8})

    assert work.called() == [8, 9]
    assert seen["values"] == [("z", [9, "en"]), ("b", [2, "en"]), ("y", [8, "en"])]
    assert seen["reused"] == ["b"]


@pytest.mark.parametrize("name", [None, "id"], ids=["numbered", "named"])
def test_rows_are_looked_up_one_by_one(name: str | None, reuse: Reuse, work: Work, tmp_path: Path) -> None:
    def run_over(*rows: str) -> Any:
        (tmp_path / "rows.csv").write_text("\n".join(["id", *rows]))
        return run(reuse, work, CsvItems(f"{tmp_path}/rows.csv", name=name), size=4).whole()

    run_over("a", "b", "c", "d", "e", "f")
    work.called()
    seen = run_over("a", "x", "c", "d", "y", "z", "b")

    assert work.called() == [{"id": "x"}, {"id": "y"}, {"id": "z"}]
    names = ["a", "x", "c", "d", "y", "z", "b"]
    labels = names if name is not None else [f"g_{index}" for index in range(7)]
    assert seen["values"] == [(label, [{"id": row}, "en"]) for label, row in zip(labels, names, strict=True)]
    assert seen["reused"] == [labels[index] for index in (0, 2, 3, 6)]
    assert seen["indexes"] == list(range(7))


def test_objects_are_looked_up_by_their_versions_and_not_read(reuse: Reuse, tmp_path: Path) -> None:
    read: list[str] = []

    def work(item: Any) -> str:
        read.append(item.name)
        return str(item.read_text())

    def run_over(**texts: str) -> Any:
        for name, text in texts.items():
            (tmp_path / f"{name}.txt").write_text(text)
        return ReusingRun(reuse, work, more={"items": ObjectItems(f"{tmp_path}/*.txt")}).whole()

    run_over(a="1", b="2", c="3", d="4")
    read.clear()
    seen = run_over(b="changed", e="5")

    assert sorted(read) == ["b.txt", "e.txt"]
    assert [value for _, value in seen["values"]] == ["1", "changed", "3", "4", "5"]
    assert seen["reused"] == ["a.txt", "c.txt", "d.txt"]


def test_a_row_that_is_broken_fails_by_name_and_costs_no_other(
    reuse: Reuse, work: Work, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text('1\n{"broken\n3\n')
    items = JsonLinesItems(f"{tmp_path}/rows.jsonl")

    seen = [run(reuse, work, items, min_success=2).whole() for _ in range(2)]

    assert [outcome[0] for outcome in seen[1]["outcomes"].values()] == ["success", "failed", "success"]
    assert seen[1]["reused"] == ["g_0", "g_2"]
    assert work.called() == [1, 3]


def test_an_object_that_changed_after_it_was_planned_fails_what_runs_of_it(
    reuse: Reuse, work: Work, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("id\na\nb\nc\n")
    items = CsvItems(f"{tmp_path}/rows.csv")
    run(reuse, work, items, size=9).whole()
    (tmp_path / "rows.csv").write_text("id\na\nx\nc\ny\n")
    again = run(reuse, work, items, size=9, min_success=1).split()
    (tmp_path / "rows.csv").write_text("id\nchanged\n")

    outcomes = again.batches().collect().value["outcomes"]

    assert [state for state, *_ in outcomes.values()] == ["success", "failed", "success", "failed"]
    assert "StoredItemsError" in outcomes["g_1"][2]


def test_what_has_no_fingerprint_always_runs_and_is_counted(reuse: Reuse) -> None:
    calls: list[Any] = []

    def work(item: Any) -> int:
        calls.append(item)
        return 1

    runs = [ReusingRun(reuse, work, more={"items": [1, object()]}) for _ in range(2)]
    for each in runs:
        each.whole()

    assert len(calls) == 3
    pushed = runs[1].run.xcoms["g.split", -1, REUSE_KEY]
    assert (pushed["total"], pushed["reused"], pushed["unknown"]) == (2, 1, 1)


def test_a_store_of_many_runs_is_merged(reuse: Reuse, work: Work) -> None:
    for number in range(MOST_PARTS + 3):
        run(reuse, work, [number]).whole()
    work.called()

    seen = run(reuse, work, list(range(MOST_PARTS + 3))).whole()

    assert work.called() == []
    assert len(seen["values"]) == MOST_PARTS + 3


def test_a_value_that_is_gone_is_missing_and_says_what_to_do(
    reuse: Reuse, work: Work, tmp_path: Path
) -> None:
    run(reuse, work, [1, 2]).whole()
    second = run(reuse, work, [1, 2, 3], min_success=1).split().batches()
    for part in (tmp_path / "store").glob("part-*"):
        part.unlink()

    verdict = second.collect()

    states = {name: state for name, (state, *_) in verdict.value["outcomes"].items()}
    assert states == {"g_0": "missing", "g_1": "missing", "g_2": "success"}
    assert "no longer stored" in verdict.value["outcomes"]["g_0"][2]
    assert "clear g.split" in verdict.value["outcomes"]["g_0"][2]


def test_a_damaged_store_fails_the_split_by_name(reuse: Reuse, work: Work, tmp_path: Path) -> None:
    run(reuse, work, [1]).whole()
    (tmp_path / "store" / POINTER).write_text("{")

    with pytest.raises(ReuseStoreError, match="--no-reuse"):
        run(reuse, work, [1]).split()
    run(reuse, work, [1], conf={NO_REUSE: ["g"]}).whole()
    work.called()
    run(reuse, work, [1]).whole()
    assert work.called() == []


def test_a_dag_that_changed_after_it_was_split_has_its_names(reuse: Reuse, work: Work) -> None:
    run(reuse, work, [1, 2]).whole()
    before = run(reuse, work, {"a": 1, "b": 5}).split().batches()
    after = run(reuse, work, {"b": 5, "c": 6}, min_success=1)
    after.run = before.run

    outcomes = after.collect().value["outcomes"]

    assert {name: state for name, (state, *_) in outcomes.items()} == {
        "b": "success",
        "c": "missing",
        "a": "removed",
    }


def test_what_split_pushed_is_refused_if_it_is_something_else(reuse: Reuse, work: Work) -> None:
    first = run(reuse, work, [1]).split().batches()
    first.run.xcoms["g.split", -1, REUSE_KEY] = ["no", "plan"]

    assert isinstance(first.collect().error, ItemsError)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def edits(tmp_path: Path, seed: int, number: int) -> None:
    """Runs after random edits: each has the values that a run without reuse would have."""
    chance, clock = random.Random(seed), Clock()
    expire_after = timedelta(hours=5)
    items: dict[str, Any] = {f"n{index}": index for index in range(8)}
    lang, version, next_item = "en", 1, 100
    waiting: list[tuple[ReusingRun, dict[str, Any], str, int]] = []
    work = Work()

    def branch_of(version: int) -> Callable[..., Any]:
        def work_on(item: Any, lang: str) -> Any:
            work.calls.append(item)
            return [item, lang, version]

        return work_on

    def finish(run: ReusingRun, of_run: dict[str, Any], lang: str, version: int) -> None:
        run.batches()
        death = chance.choice(["", "", "", "_put_pointer", "tidy"])
        if death:
            with mock.patch.object(ReuseStore, death, side_effect=ConnectionError("killed")):
                run.collect()
        if death != "tidy" or chance.random() < 0.5:  # Airflow tries it again
            verdict = run.collect()
            assert verdict.error is None
            assert verdict.value["values"] == [(n, [item, lang, version]) for n, item in of_run.items()]

    seen: dict[str, float] = {}
    with (
        mock.patch.dict(ReuseStore.__init__.__kwdefaults__, now=clock),
        mock.patch.object(ReuseStore, "_modified", lambda _, path: seen.setdefault(path.name, clock.now)),
    ):
        for _ in range(number):
            clock.now += chance.choice([60, 60, 3600, 4 * 3600])
            match chance.randrange(8):
                case 0 | 1 | 2:
                    items[chance.choice([*items])] = next_item
                    next_item += 1
                case 3:
                    items = dict(chance.sample([*items.items()], len(items)))
                case 4:
                    items[f"n{next_item}"] = chance.randrange(8)
                    next_item += 1
                case 5 if len(items) > 3:
                    del items[chance.choice([*items])]
                case 6:
                    lang = chance.choice(["en", "de"])
                case 7:
                    version = chance.choice([1, 2])
            reuse = Reuse(str(tmp_path / "store"), version=version, expire_after=expire_after)
            run = ReusingRun(reuse, branch_of(version), more={"items": {**items}, "partial": {"lang": lang}})
            waiting.append((run.split(), {**items}, lang, version))
            if len(waiting) > 2 or chance.random() < 0.7:
                finish(*waiting.pop(chance.randrange(len(waiting))))
        for left in waiting:
            finish(*left)
    assert len(work.calls) < number * 8 * 0.6  # something was reused


def test_values_are_those_of_runs_without_reuse(tmp_path: Path) -> None:
    edits(tmp_path, seed=1, number=40)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_values_are_those_of_runs_without_reuse_after_300_edits(tmp_path: Path, seed: int) -> None:
    edits(tmp_path, seed=seed, number=300)
