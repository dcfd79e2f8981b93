"""The benchmarks compare like with like, and count right; how long things take is not tested."""

from __future__ import annotations

import json
import operator
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import TriggerRule
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.pairs import Comparison, Pair, Target, alternated
from benchmarks.scheduled import wall_seconds
from benchmarks.table import figures
from benchmarks.twins import FAN_IN, FAN_OUT, MAPPED, Twins, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.sdk import DAG

BRANCHES = 12
NUMBERS = 5

both = pytest.mark.parametrize("twins", [FAN_OUT, MAPPED], ids=lambda twins: twins.name)


@pytest.fixture(scope="module")
def parsed() -> Callable[[Twins], tuple[DAG, DAG]]:
    from airflow.dag_processing.dagbag import DagBag

    def dag_of(file: Path) -> DAG:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(branches=BRANCHES, numbers=NUMBERS).items():
                patch.setenv(name, value)
            bag = DagBag(file)
        assert bag.import_errors == {}
        return bag.dags[file.stem]

    return lambda twins: (dag_of(twins.ours), dag_of(twins.by_hand))


@both
def test_twins_have_the_same_tasks(parsed: Callable[[Twins], tuple[DAG, DAG]], twins: Twins) -> None:
    ours, by_hand = parsed(twins)

    assert list(ours.task_dict) == list(by_hand.task_dict)
    assert set(ours.task_group_dict) == set(by_hand.task_group_dict)


@both
def test_twins_have_the_same_dependencies(parsed: Callable[[Twins], tuple[DAG, DAG]], twins: Twins) -> None:
    ours, by_hand = (
        {task_id: task.downstream_task_ids for task_id, task in dag.task_dict.items()}
        for dag in parsed(twins)
    )

    assert ours == by_hand


@both
def test_twins_collect_under_the_same_rule(parsed: Callable[[Twins], tuple[DAG, DAG]], twins: Twins) -> None:
    assert {TriggerRule(dag.get_task(FAN_IN).trigger_rule) for dag in parsed(twins)} == {TriggerRule.ALL_DONE}


def test_the_fan_out_has_as_many_branches_as_it_is_told(
    parsed: Callable[[Twins], tuple[DAG, DAG]],
) -> None:
    for dag in parsed(FAN_OUT):
        assert dag.get_task(FAN_IN).upstream_task_ids == {
            f"process.process_{number}" for number in range(BRANCHES)
        }


def test_the_twins_branches_get_the_same_arguments(parsed: Callable[[Twins], tuple[DAG, DAG]]) -> None:
    given = [
        [operator.attrgetter("op_args", "op_kwargs")(task) for task in dag.tasks if task.task_id != FAN_IN]
        for dag in parsed(FAN_OUT)
    ]

    assert given[0] == given[1] == [((), {"index": number}) for number in range(BRANCHES)]


@both
def test_both_sides_count_their_requests_alike(
    parsed: Callable[[Twins], tuple[DAG, DAG]], twins: Twins
) -> None:
    ours, by_hand = (dag.get_task(FAN_IN) for dag in parsed(twins))

    for hook in ("_pre_execute_hook", "_post_execute_hook"):
        assert getattr(ours, hook) is getattr(by_hand, hook) is not None


def measured_order(runs: int, *, warm_up: bool = True) -> tuple[str, list[tuple[str, str]]]:
    order: list[str] = []

    def side(name: str) -> Callable[[], str]:
        def measure() -> str:
            order.append(name)
            return name

        return measure

    pairs = alternated(runs, side("o"), side("h"), warm_up=warm_up)
    return "".join(order), pairs


def test_the_order_is_swapped_with_every_pair_after_a_warm_up() -> None:
    assert measured_order(5)[0] == "ho" + "oh" + "ho" + "oh" + "ho" + "oh"


def test_without_a_warm_up_nothing_is_thrown_away() -> None:
    assert measured_order(2, warm_up=False)[0] == "oh" + "ho"


@given(runs=st.integers(min_value=1, max_value=20), warm_up=st.booleans())
def test_every_pair_is_ours_and_by_hand_whatever_came_first(runs: int, warm_up: bool) -> None:
    assert measured_order(runs, warm_up=warm_up)[1] == [("o", "h")] * runs


def comparison(*pairs: tuple[float, float], target: Target | None = None, unit: str = "s") -> Comparison:
    return Comparison(
        name="a run",
        unit=unit,
        pairs=tuple(Pair(ours=ours, by_hand=by_hand) for ours, by_hand in pairs),
        target=target,
    )


def test_the_ratio_is_the_median_of_the_pairs_ratios() -> None:
    measured = comparison((3, 2), (30, 40), (22, 20))

    assert measured.ratio == pytest.approx(1.1)
    assert measured.ratio_range == (0.75, 1.5)


def test_the_sides_have_their_own_medians() -> None:
    measured = comparison((3, 40), (30, 2), (22, 20))

    assert (measured.ours, measured.by_hand) == (22, 20)


def test_a_pair_on_a_busy_machine_does_not_move_the_ratio() -> None:
    assert comparison((11, 10), (110, 100), (11, 10)).ratio == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("pairs", "target", "met"),
    [
        pytest.param([(5, 4), (5, 4), (9, 4)], Target(of="ratio", at_most=1.25), True, id="just met"),
        pytest.param([(5.1, 4), (5.1, 4), (4, 4)], Target(of="ratio", at_most=1.25), False, id="missed"),
        pytest.param([(67, 64), (67, 1)], Target(of="ours", at_most=67), True, id="any ratio"),
        pytest.param([(67, 64), (67, 64), (68, 64)], Target(of="ours", at_most=67), False, id="missed once"),
        pytest.param([(9, 1)], None, True, id="none"),
    ],
)
def test_a_target_is_met_or_missed(
    pairs: list[tuple[float, float]], target: Target | None, met: bool
) -> None:
    assert comparison(*pairs, target=target).met is met


def test_the_table_says_the_ratio_first_and_the_verdict_last() -> None:
    shown = StringIO()
    rows = [
        comparison((0.15, 0.1), target=Target(of="ratio", at_most=1.25)),
        comparison((66, 64), target=Target(of="ours", at_most=67), unit="requests"),
    ]

    Console(file=shown, width=200).print(figures(rows))

    cells = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in shown.getvalue().splitlines()
        if "│" in line
    ]
    assert [cell for cell in cells[0] if cell] == [
        "1.50 ×",
        "1.50–1.50",
        "a run",
        "150 ms",
        "100 ms",
        "1",
        "≤ 1.25 ×",
        "missed",
    ]
    assert cells[1][0] == "1.03 ×"
    assert cells[1][-2:] == ["≤ 67", "met"]


def test_everything_measured_is_in_the_json() -> None:
    told = json.loads(json.dumps(comparison((3, 2), (2, 2), target=Target(of="ratio", at_most=1)).as_json()))

    assert told == {
        "name": "a run",
        "unit": "s",
        "ratio": 1.25,
        "ratio_range": [1.0, 1.5],
        "ours": {"median": 2.5, "all": [3, 2]},
        "by_hand": {"median": 2.0, "all": [2, 2]},
        "target": {"of": "ratio", "at_most": 1},
        "met": False,
    }


def test_wall_is_from_the_first_queued_task_to_the_last_end() -> None:
    moments = [
        ("2026-01-01T00:00:02Z", "2026-01-01T00:00:03Z", "2026-01-01T00:00:09Z"),
        ("2026-01-01T00:00:01Z", "2026-01-01T00:00:05Z", "2026-01-01T00:00:06.5Z"),
        (None, None, None),
    ]
    instances = [
        {"queued_when": queued, "start_date": start, "end_date": end} for queued, start, end in moments
    ]

    assert wall_seconds(instances) == 8


@pytest.mark.parametrize("arguments", [["--only", "walls"], ["--runs", "0"], ["--runs", "many"]])
def test_a_mistyped_option_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

    assert f"argument {arguments[0]}: expected" in capsys.readouterr().err
