from __future__ import annotations

from typing import Any

import pytest

from airflow_fanout.execution_time.stopping import failed_names
from airflow_fanout.rules.instances import instances_of, unexpanded_state
from airflow_fanout.serialization.declaration import DeclaredGroup
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


@pytest.mark.parametrize(
    ("known", "names"),
    [
        pytest.param({"count": 3, "names": ("emea", "apac", "us")}, ["emea", "us"], id="names"),
        pytest.param({"count": 3}, ["score_0", "score_2"], id="numbers"),
        pytest.param({}, ["score.each[0]", "score.each[2]"], id="known to the items' task only"),
    ],
)
def test_a_branch_that_failed_is_called_by_no_other_name_than_its_own(
    known: dict[str, Any], names: list[str]
) -> None:
    run = FakeRun()
    for map_index, state in enumerate(("failed", "success", "failed")):
        run.add("score.each", state, map_index=map_index)
    group = DeclaredGroup(
        group_id="score", prefix="score.", mode="mapped", label="score", each=("score.each",), **known
    )

    assert failed_names(run.states, group, -1) == names
