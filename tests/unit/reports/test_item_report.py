from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_fanout.reports.branches import group_runs
from airflow_fanout.reports.run_report import item_page
from tests.unit.run_facts import batch, batched, facts_of, mapped, ran

if TYPE_CHECKING:
    from airflow_fanout.reports.runs import GroupRun

pytestmark = pytest.mark.unit


def run_of_two_batches() -> GroupRun:
    facts = facts_of(
        [batch(0, "SF", state="failed", errors={"1": "ValueError: no"}), batch(1, "K", seconds=[None])],
        batched(),
    )
    (run,) = group_runs(facts)
    return run


def test_it_has_the_items_of_one_batch_in_declared_order() -> None:
    assert item_page(run_of_two_batches(), 0, start=0, size=10) == {
        "start": 0,
        "total": 2,
        "items": [
            {"name": "docs_0", "state": "success", "error": None, "is_stopped": False, "work_seconds": 1.0},
            {
                "name": "docs_1",
                "state": "failed",
                "error": "ValueError: no",
                "is_stopped": False,
                "work_seconds": 1.0,
            },
        ],
    }


def test_what_was_not_recorded_is_none() -> None:
    (item,) = item_page(run_of_two_batches(), 1, start=0, size=10)["items"]

    assert (item["name"], item["state"], item["work_seconds"]) == ("docs_2", "skipped", None)


@pytest.mark.parametrize(
    ("start", "size", "names"),
    [
        pytest.param(0, 1, ["docs_0"], id="first"),
        pytest.param(1, 1, ["docs_1"], id="next"),
        pytest.param(1, 9, ["docs_1"], id="the rest"),
        pytest.param(2, 9, [], id="past the end"),
    ],
)
def test_it_is_a_page_of_them(start: int, size: int, names: list[str]) -> None:
    page = item_page(run_of_two_batches(), 0, start=start, size=size)

    assert (page["start"], page["total"]) == (start, 2)
    assert [item["name"] for item in page["items"]] == names


def test_a_group_without_batches_has_none() -> None:
    (run,) = group_runs(facts_of([ran("load.each", 0)], mapped()))

    assert item_page(run, 0, start=0, size=10)["total"] == 0
