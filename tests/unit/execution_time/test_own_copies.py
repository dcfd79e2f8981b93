from __future__ import annotations

import threading

import pytest

from airflow_fanout.execution_time.batch_work import per_call_copies, is_mutable


def test_each_call_has_its_own_of_what_it_could_change() -> None:
    bound = {"name": "n", "found": [1], "pair": ([2], "x")}
    copies = per_call_copies(bound)
    one, other = copies(), copies()

    assert one == other == bound
    for name in ("found", "pair"):
        assert one[name] is not other[name] is not bound[name]
    assert one["name"] is bound["name"]


def test_what_cannot_be_copied_is_for_all() -> None:
    lock = threading.Lock()

    assert per_call_copies({"lock": lock})()["lock"] is lock


@pytest.mark.parametrize(
    ("value", "is_mutable"),
    [
        *((each, False) for each in ("text", 1, 1.5, b"", True, None, (), (1, ("a",)))),
        *((each, True) for each in ([], {}, set(), (1, []), object())),
    ],
)
def test_what_items_could_change_under_each_others_hands(value: object, is_mutable: bool) -> None:
    assert is_mutable(value) == is_mutable
