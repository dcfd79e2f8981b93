"""Batches end in time, whatever their items do; and a value that no XCom takes fails its own branch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.run import Run

pytestmark = pytest.mark.slow

DAG_ID = "stubborn"


def test_items_that_ask_airflow_at_once_in_every_way_fail_alone(run: Run) -> None:
    asked = run.collected("collect_asking")
    assert {name: asked.outcomes[name]["error"] for name in asked.failed} == {
        "asking_100": "SpeechlessError",
        "asking_200": "SystemExit: 3",
    }
    assert dict(asked.items) == {f"asking_{n}": 1 + n for n in range(300) if n not in {100, 200}}


@pytest.mark.parametrize(
    ("fan_in", "values"),
    [
        pytest.param("collect_mixed", {f"n{n}": 1 for n in range(60)}, id="async-and-plain-items-ask"),
        pytest.param("collect_leaving", {f"leaving_{n}": n for n in range(20)}, id="threads-are-left"),
        pytest.param("collect_terminated", {f"terminated_{n}": n for n in range(3)}, id="two-SIGTERMs"),
    ],
)
def test_what_ended_is_kept(run: Run, fan_in: str, values: object) -> None:
    assert dict(run.collected(fan_in).items) == values
    assert run.instances[fan_in, -1].state == "success"


@pytest.mark.parametrize("group", ["wait_in_a_thread", "swallow_cancellation", "swallow_the_timeout"])
def test_a_timeout_ends_a_batch_within_five_seconds(run: Run, scratch: Path, group: str) -> None:
    begin, *_ = (scratch / f"stubborn-{group}").read_text().split()
    end = run.instance(f"{group}.each", 0).end
    assert end is not None
    # Its timeout is 3 seconds, and Airflow's supervisor may take 5 more to see that the process has ended.
    assert 2 < end.timestamp() - float(begin) < 3 + 5 + 5
    assert len(run.collected(f"collect_{group}").failed) == 20


@pytest.mark.parametrize("group", ["refused", "refused_mapped", "refused_items_per_task"])
def test_a_value_that_no_xcom_takes_fails_its_branch_with_what_and_where(run: Run, group: str) -> None:
    collected = run.collected(f"collect_{group}")
    errors = {name: outcome["error"] for name, outcome in collected.outcomes.items() if outcome["error"]}
    assert errors.pop("object").startswith("a value of type object at ['m'] can't be stored in an XCom: ")
    assert errors == {
        "nan": "NaN at ['loss'][0] can't be stored in an XCom",
        "infinity": "the key inf of type float comes back from an XCom as 'inf'",
        "large": "an int beyond 64 bits at [0] can't be stored in an XCom",
        "zero": "a zero character at [0] can't be stored in an XCom: ValueError: PostgreSQL stores none",
        "surrogate": "a lone surrogate at ['a']['\\ud800'] can't be stored in an XCom",
    }
    assert dict(collected.items) == {"a": "a", "b": "b"}


@pytest.mark.parametrize(
    ("cleared", "runs_again"),
    [
        pytest.param("saved.each", ["fails"], id="the-batch"),
        pytest.param("list_items", ["a", "b", "fails"], id="the-items-task"),
    ],
)
def test_what_was_saved_is_used_again_until_the_items_are_made_again(
    run: Run, scratch: Path, cleared: str, runs_again: list[str]
) -> None:
    ran = scratch / "stubborn-saved"
    before = ran.read_text().split()
    run.clear(cleared)

    assert ran.read_text().split() == before + runs_again
    assert dict(run.collected("collect_saved").items) == {"saved_0": "a", "saved_1": "b"}
