from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import ObjectStoragePath

from airflow_fanout.exceptions import ReuseStoreError
from airflow_fanout.storage.reuse_store import DIGITS, KEPT_SECONDS, MOST_PARTS, POINTER, ReuseStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR, DAY = timedelta(hours=1), timedelta(days=1).total_seconds()


def print_of(number: int) -> str:
    """Fingerprint that stands for a number."""
    return f"{number:0{DIGITS}x}"


class Clock:
    """Seconds since 1970, which a test moves on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> ReuseStore:
    return ReuseStore(ObjectStoragePath(str(tmp_path / "store")), now=clock)


def values(store: ReuseStore, numbers: range, expire_after: timedelta | None = None) -> dict[int, Any]:
    """Values that the store has for some numbers."""
    found = {}
    with store.index(expire_after) as index:
        places = index.find(map(print_of, numbers))
        for number in numbers:
            if (place := places.get(print_of(number))) is not None:
                name = index.parts[place.part].name
                (body,) = store.read(name, [(place.start, place.stop)])
                (found[number],) = store.values_in(name, body, 1)
    return found


def files(store: ReuseStore, start: str) -> list[str]:
    return sorted(path.name for path in store.root.iterdir() if path.name.startswith(start))


def test_nothing_is_found_where_nothing_was_ever_stored(store: ReuseStore) -> None:
    assert values(store, range(3)) == {}
    assert store.add([]) == 0
    assert not store.root.exists()


def test_values_are_found_and_the_newer_of_two_holds(store: ReuseStore) -> None:
    assert store.add([(print_of(0), None), (print_of(1), {"a": "ä\n"}), (print_of(1), [2])]) == 3
    store.add([(print_of(0), "newer")])

    assert values(store, range(3)) == {0: "newer", 1: [2]}


def test_what_is_too_old_is_not_found_and_is_left_out_when_parts_are_merged(
    store: ReuseStore, clock: Clock
) -> None:
    store.add([(print_of(0), "old")])
    clock.now += 7200
    store.add([(print_of(1), "new")])

    assert values(store, range(2), HOUR) == {1: "new"}
    assert values(store, range(2)) == {0: "old", 1: "new"}
    for number in range(2, MOST_PARTS + 1):
        store.add([(print_of(number), number)], expire_after=HOUR)
    assert 0 not in values(store, range(2))


def test_many_parts_are_put_into_one_and_deleted_after_a_week(store: ReuseStore, clock: Clock) -> None:
    numbers = range(5 * MOST_PARTS)
    for number in numbers:
        store.add([(print_of(number), number)])
        clock.now += DAY
        for path in store.root.iterdir():
            os.utime(path.path, (clock.now - KEPT_SECONDS - DAY,) * 2)  # files are of the time before
        store.tidy()

    assert values(store, numbers) == {number: number for number in numbers}
    assert len(files(store, "part-")) <= 2 * MOST_PARTS


def test_a_part_that_no_longer_counts_can_still_be_read(store: ReuseStore) -> None:
    store.add([(print_of(0), "first")])
    with store.index() as index:
        place, (part, *_) = index.find([print_of(0)])[print_of(0)], index.parts
    for number in range(MOST_PARTS):
        store.add([(print_of(number), number)])
    store.tidy()

    assert store.read(part.name, [(place.start, place.stop)]) == [
        f'["{print_of(0)}",1800000000,"first"]\n'.encode()
    ]


def test_ranges_are_read_in_the_order_in_which_they_were_asked_for(store: ReuseStore) -> None:
    store.add([(print_of(number), "x" * number * 1000) for number in range(0, 600, 3)])
    with store.index() as index:
        places = index.find(map(print_of, range(600)))
        asked = [places[print_of(number)] for number in (597, 3, 300, 3)]
        ranges = [(place.start, place.stop) for place in asked]
        bodies = store.read(index.parts[0].name, ranges)

    assert [body.count(b"x") for body in bodies] == [597_000, 3000, 300_000, 3000]


def test_of_two_who_add_at_the_same_time_neither_loses_anything(store: ReuseStore) -> None:
    read, others = store._read_pointer, [3, 2, 1]

    def read_late() -> Any:
        found = read()
        if others:
            ReuseStore(store.root).add([(print_of(others.pop()), "other")])
        return found

    with mock.patch.object(store, "_read_pointer", read_late):
        store.add([(print_of(0), "own")])

    assert values(store, range(4)) == {0: "own", **dict.fromkeys((1, 2, 3), "other")}


@pytest.mark.parametrize("method", ["_put_pointer", "_merge"])
def test_who_is_killed_beside_the_swap_leaves_a_whole_store(store: ReuseStore, method: str) -> None:
    for number in range(MOST_PARTS):
        store.add([(print_of(number), number)])

    with mock.patch.object(store, method, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        store.add([(print_of(99), 99)])

    numbers = range(MOST_PARTS)
    assert values(store, numbers) == {number: number for number in numbers}
    assert values(store, range(99, 100)) == ({99: 99} if method == "_merge" else {})
    store.add([(print_of(99), "again")])
    assert values(store, range(99, 100)) == {99: "again"}


def damage_pointer(text: bytes) -> Callable[[ReuseStore], None]:
    def damage(store: ReuseStore) -> None:
        (store.root / POINTER).write_bytes(text)

    return damage


def damage_part(change: Callable[[bytes], bytes | None]) -> Callable[[ReuseStore], None]:
    def damage(store: ReuseStore) -> None:
        part = store.root / files(store, "part-")[0]
        changed = change(part.read_bytes())
        if changed is None:
            part.unlink()
        else:
            part.write_bytes(changed)

    return damage


DAMAGES = [
    pytest.param(damage_pointer(b""), id="an empty pointer"),
    pytest.param(damage_pointer(b'{"parts": [["a"'), id="a pointer that was cut"),
    pytest.param(damage_pointer(b"[]"), id="a pointer that is none"),
    pytest.param(damage_pointer(b'{"parts": [["a", 1]], "retired": {}}'), id="a part without a digest"),
    pytest.param(damage_part(lambda _: None), id="a part that is gone"),
    pytest.param(damage_part(lambda _: b""), id="an empty part"),
    pytest.param(damage_part(lambda body: body[:-9]), id="a part that was cut within a line"),
    pytest.param(damage_part(lambda body: body[: body.index(b"\n") + 1]), id="a part that was cut at a line"),
    pytest.param(damage_part(lambda body: body.replace(b"one", b"two")), id="another value"),
    pytest.param(damage_part(lambda body: b"\0" * len(body)), id="zeros"),
    pytest.param(damage_part(lambda body: body.replace(b",1800", b",18x0")), id="no time"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_an_error_that_names_the_file_and_the_way_out(store: ReuseStore, damage: Any) -> None:
    store.add([(print_of(0), "one"), (print_of(1), "three")])
    damage(store)

    with (
        pytest.raises(ReuseStoreError, match=rf"damaged.* Delete .*{POINTER} .*--no-reuse") as caught,
        store.index() as index,
    ):
        index.find([print_of(0)])
    assert caught.value.path.startswith(str(store.root))


@pytest.mark.parametrize("damage", DAMAGES)
def test_who_adds_without_reuse_leaves_damage_out(store: ReuseStore, damage: Any) -> None:
    store.add([(print_of(0), "one"), (print_of(1), "three")])
    damage(store)
    store.add([(print_of(1), "anew")], mends=True)

    assert values(store, range(2)) == {1: "anew"}


def test_a_value_that_was_damaged_after_it_was_found_is_an_error(store: ReuseStore) -> None:
    with pytest.raises(ReuseStoreError, match="is damaged: a line in it is no value"):
        store.values_in("part-x.jsonl", b'["a",1,', 1)
    with pytest.raises(ReuseStoreError, match="is damaged: 1 lines are where 2 were"):
        store.values_in("part-x.jsonl", b'["a",1,2]', 2)


def test_a_plan_that_is_not_whole_is_an_error(store: ReuseStore) -> None:
    whole = store.write_plan([json.dumps([0, None]), json.dumps({"total": 1})])
    cut = store.write_plan([json.dumps([0, None])])

    assert list(store.plan_lines(whole)) == [[0, None], {"total": 1}]
    for name, what in ((cut, "is not whole"), ("plan-0.jsonl", "is gone")):
        with pytest.raises(ReuseStoreError, match=f"{what}; clear the group's split"):
            list(store.plan_lines(name))
