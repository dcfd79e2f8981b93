from __future__ import annotations

import json

import pytest

from airflow_fanout.exceptions import ResultTooLargeError
from airflow_fanout.execution_time import accounting as module
from airflow_fanout.execution_time.accounting import collected
from airflow_fanout.execution_time.results import FanInResults, Page
from airflow_fanout.rules.outcomes import BranchOutcome


def results_of(*values: object) -> FanInResults:
    outcomes = [
        BranchOutcome(name=f"p_{index}", index=index, state="success", value=value)
        for index, value in enumerate(values)
    ]
    return FanInResults([Page.of(outcomes)])


def test_it_holds_every_value_by_name_in_order() -> None:
    found = collected(results_of("a", None, 0))
    assert list(found.items()) == [("p_0", "a"), ("p_1", None), ("p_2", 0)]


def test_what_an_xcom_can_just_hold_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", len(json.dumps({"p_0": "x" * 100})))
    assert collected(results_of("x" * 100)) == {"p_0": "x" * 100}


def test_more_is_refused_with_its_size_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(
        ResultTooLargeError, match=r"1 of 1 branches take 1,011 bytes.*python_callable"
    ) as raised:
        collected(results_of("x" * 1000))
    assert raised.value.size == 1011


def test_it_is_refused_before_all_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    monkeypatch.setattr(module, "BRANCHES_MEASURED", 2)
    with pytest.raises(ResultTooLargeError, match="The values of 2 of 9 branches"):
        collected(results_of(*["x" * 100] * 9))


def test_object_storage_holds_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    monkeypatch.setattr(module, "values_lie_elsewhere", lambda: True)
    assert collected(results_of("x" * 1000)) == {"p_0": "x" * 1000}
