from __future__ import annotations

import pytest

from airflow_fanout.instance_states import instances_of, unexpanded_state
from tests.unit.fake_run import FakeRun


def test_instances_come_by_map_index_without_the_one_that_never_expanded() -> None:
    run = FakeRun().add("each", "skipped")
    for map_index in (10, 9, 0):
        run.add("each", map_index=map_index)

    assert list(instances_of(run.states, "each")) == [0, 9, 10]


@pytest.mark.parametrize(
    ("run", "state"),
    [
        pytest.param(FakeRun().add("each", "skipped"), "skipped", id="it never expanded"),
        pytest.param(FakeRun().add("each", map_index=0), None, id="it expanded"),
        pytest.param(
            FakeRun().add("each", "removed").add("each", map_index=0), None, id="it expanded afterwards"
        ),
        pytest.param(FakeRun(), None, id="it is not finished"),
    ],
)
def test_a_mapped_task_that_never_expanded_has_one_state(run: FakeRun, state: str | None) -> None:
    assert unexpanded_state(run.states, "each") == state
