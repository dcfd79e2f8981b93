"""Prefixes: what they take, what they leave out, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Run

DAG_ID = "prefix"


def test_the_fan_in_itself_and_what_comes_after_it_are_left_out(run: Run) -> None:
    assert run.instance("process_report").state == "success"
    assert run.xcom("process_combine") == {"process_a": "a", "process_b": "b"}


@pytest.mark.parametrize(
    ("fan_in", "logged"),
    [
        pytest.param(
            "collect_stray",
            "neither upstream nor downstream of 'collect_stray': 'stray_other'",
            id="a task that is not wired",
        ),
        pytest.param(
            "collect_nothing",
            "No upstream task id starts with 'nothing_'; upstream: 'stray_a', 'stray_b'",
            id="no match",
        ),
    ],
)
def test_a_wrong_prefix_fails_by_name_before_anything_is_read_and_without_a_retry(
    run: Run, fan_in: str, logged: str
) -> None:
    assert (run.instance(fan_in).state, run.instance(fan_in).try_number) == ("failed", 1)
    assert logged in run.log(fan_in)
    assert run.requests(fan_in) == 0


def test_a_rendered_prefix_takes_every_id_that_starts_with_it_in_natural_order(run: Run) -> None:
    assert run.xcom("collect_parts") == {"part_1": "1", "part_10": "10"}
    assert list(run.xcom("collect_all_parts")) == ["part_1", "part_2", "part_10"]
