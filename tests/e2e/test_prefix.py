from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.run import Run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("prefix")


def test_the_fan_in_itself_and_what_comes_after_it_are_left_out(run: Run) -> None:
    assert run.instance("process_report").state == "success"
    assert run.xcom("process_combine") == {"process_a": "a", "process_b": "b"}


def test_a_task_that_matches_and_is_not_wired_fails_the_fan_in_by_name(run: Run) -> None:
    assert run.instance("collect_stray").state == "failed"
    assert "neither upstream nor downstream of 'collect_stray': 'stray_other'" in run.log("collect_stray")


def test_a_prefix_without_a_match_fails_and_lists_the_candidates(run: Run) -> None:
    assert run.instance("collect_nothing").state == "failed"
    expected = "No upstream task id starts with 'nothing_'; upstream: 'stray_a', 'stray_b'"
    assert expected in run.log("collect_nothing")


@pytest.mark.parametrize("fan_in", ["collect_stray", "collect_nothing"])
def test_a_wrong_prefix_is_not_retried(run: Run, fan_in: str) -> None:
    assert run.instance(fan_in).try_number == 1


@pytest.mark.parametrize("fan_in", ["collect_stray", "collect_nothing"])
def test_a_wrong_prefix_fails_before_anything_is_read(run: Run, fan_in: str) -> None:
    assert run.xcom(fan_in, "requests") == {}


def test_a_rendered_prefix_takes_every_id_that_starts_with_it(run: Run) -> None:
    assert run.xcom("collect_parts") == {"part_1": "1", "part_10": "10"}


def test_matches_are_in_natural_order(run: Run) -> None:
    assert list(run.xcom("collect_all_parts")) == ["part_1", "part_2", "part_10"]
