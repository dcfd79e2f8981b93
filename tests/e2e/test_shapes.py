"""Groups after fan-ins, in groups, in mapped groups; and a wide one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_fanout.definitions.skippers import SKIPS_IN_MAPPED_GROUPS

if TYPE_CHECKING:
    from tests.support.run import Run

DAG_ID = "shapes"


def test_the_branches_of_a_second_group_get_what_the_first_fan_in_returned(run: Run) -> None:
    assert run.xcom("first_total") == 10 + 11
    assert run.xcom("second_total") == 21 + 22


def test_a_fan_ins_function_gets_rendered_arguments_and_the_context_values_that_it_names(run: Run) -> None:
    scaled = {"second_0": 21 * 21, "second_1": 22 * 21}
    assert run.xcom("described") == {"scaled": scaled, "run": run.run_id, "task": "described"}


def test_branches_of_a_group_in_a_group_have_names_without_their_parents(run: Run) -> None:
    assert run.xcom("outer.collect") == {"inner_0": 100, "inner_1": 101}


@pytest.mark.parametrize(("map_index", "number"), [(0, 1000), (1, 2000)])
def test_in_a_mapped_group_a_fan_in_reads_the_branches_of_its_own_index(
    run: Run, map_index: int, number: int
) -> None:
    collected = run.xcom("each.collect", map_index=map_index)
    assert collected == {"pair_0": number, "pair_1": number + 1}


def test_a_branch_of_several_tasks_skips_the_rest_of_itself_alone(run: Run) -> None:
    assert run.xcom("mapped_skips_collected") == {"mapped_skips_1": "6+6+6"}
    assert run.xcom("static_skips_collected") == {"static_skips_1": 6}


def test_where_airflow_runs_what_a_short_circuit_skips_it_is_refused(run: Run) -> None:
    states = [run.instance("native_skips.add", index).state for index in range(3)]

    assert states == (["skipped", "success", "skipped"] if SKIPS_IN_MAPPED_GROUPS else ["success"] * 3)


def test_30_branches_are_read_in_at_most_33_requests(run: Run) -> None:
    assert list(run.xcom("collect_wide").values()) == list(range(30))
    assert sum(run.xcom("collect_wide", "requests").values()) <= 33


def test_the_log_tells_as_many_requests_as_were_sent(run: Run) -> None:
    sent = sum(run.xcom("collect_wide", "requests").values())
    assert f"30 branches: 30 succeeded ({sent} requests)" in run.log("collect_wide")
