from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import math
import time
from contextlib import suppress
from itertools import accumulate
from typing import Any
from unittest import mock

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder, GetVariable
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.execution_time.batch import Batch, ItemResult
from airflow_fanout.execution_time.checkpoints import (
    CHECKPOINT_EVERY,
    ITEMS_AT_ONCE,
    PIECE_SIZE,
    Checkpoints,
    CheckpointThread,
    ValueParts,
    fingerprint,
)
from airflow_fanout.rules.records import ITEM_SKIPPED, ITEM_SUCCEEDED, MOST_PARTS
from tests.unit.fake_store import FakeStore


class Unstorable:
    """What Airflow can't serialize."""


class Rude:
    """What raises something of its own when it is serialized."""

    def serialize(self) -> Any:
        message = "rude"
        raise KeyError(message)


def ran(*fates: Any) -> Batch:
    """A batch whose items have ended so: raised, or returned."""

    def call(index: int) -> Any:
        if isinstance(fates[index], Exception):
            raise fates[index]
        return fates[index]

    batch = Batch(len(fates), call)
    batch.run()
    return batch


def checkpoints(store: FakeStore, *, prefix: str = "p", max_tries: int = 0) -> Checkpoints:
    return Checkpoints(store, lambda index: f"{prefix}{index}", logging.getLogger(), max_tries=max_tries)


def restored(store: FakeStore, size: int = 9, **arguments: Any) -> dict[int, ItemResult]:
    """Results that the next try is given."""
    batch = Batch(size, str)
    checkpoints(store, **arguments).restore(batch)
    assert batch.reused == len(batch.results)
    return batch.results


def values(store: FakeStore, size: int = 9, **arguments: Any) -> dict[int, Any]:
    return {index: result.value for index, result in restored(store, size, **arguments).items()}


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def test_the_next_try_is_given_what_succeeded_or_was_skipped(store: FakeStore) -> None:
    batch = ran("a", ValueError(), None, AirflowSkipException("why"))
    checkpoints(store).keep(batch)

    results = restored(store)
    assert results == {index: batch.results[index] for index in (0, 2, 3)}
    assert [result.status for result in results.values()] == [ITEM_SUCCEEDED, ITEM_SUCCEEDED, ITEM_SKIPPED]
    assert results[3].error == "why"


def test_what_ends_while_a_checkpoint_is_made_waits_for_the_next(store: FakeStore) -> None:
    batch = ran(*"abc")
    late = batch.ended[1:]
    del batch.ended[1:]

    def one_more_ends(key: str, value: Any) -> None:
        FakeStore.set(store, key, value)
        batch.ended += [late.pop(0)] if late else []

    saving = checkpoints(store)
    with mock.patch.object(store, "set", side_effect=one_more_ends) as asked:
        saving.save(batch)

    assert (asked.call_count, values(store)) == (1, {0: "a"})


@pytest.mark.parametrize(
    "value", [(1, 2), {3}, dt.datetime(2024, 1, 1, tzinfo=dt.UTC), {"a": [1.5, None]}], ids=repr
)
def test_a_value_comes_back_as_what_it_was(store: FakeStore, value: Any) -> None:
    checkpoints(store).keep(ran(value))

    assert values(store) == {0: value}


def test_only_what_is_new_is_saved_again(store: FakeStore) -> None:
    batch, saving = ran("a", "b"), checkpoints(store)
    saving.save(batch)
    saving.save(batch)

    assert len(store.kept) == 1


def test_it_gives_up_between_pieces_and_takes_up_where_it_was(store: FakeStore) -> None:
    batch, saving = ran(*range(2 * ITEMS_AT_ONCE + 1)), checkpoints(store)
    saving.save(batch, give_up=mock.Mock(side_effect=[False, True]))
    assert list(values(store, batch.size)) == list(range(ITEMS_AT_ONCE))

    saving.save(batch)
    assert list(values(store, batch.size)) == list(range(batch.size))


def test_a_later_try_adds_to_what_is_there_and_forgets_all_of_it(store: FakeStore) -> None:
    checkpoints(store).keep(ran("a"))
    later = checkpoints(store, prefix="q")
    later.restore(Batch(1, str))
    later.keep(ran("b"))

    assert (values(store), values(store, prefix="q")) == ({0: "a"}, {0: "b"})
    later.forget()
    assert store.kept == {}


@given(lengths=st.lists(st.sampled_from([0, 10, 20_000, 30_000, PIECE_SIZE - 100]), max_size=6))
def test_every_piece_is_below_airflows_limit(lengths: list[int]) -> None:
    store = FakeStore()
    checkpoints(store).keep(ran(*("x" * length for length in lengths)))

    assert all(len(json.dumps(piece)) <= 65_536 for piece in store.kept.values())
    assert {index: len(value) for index, value in values(store).items()} == dict(enumerate(lengths))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param("x" * PIECE_SIZE, "more than 60,000 characters", id="too-large"),
        pytest.param(Unstorable(), "annot serialize object of type", id="not-serializable"),
        pytest.param(Rude(), "KeyError", id="its-serializer-fails"),
    ],
)
def test_what_cannot_be_kept_runs_again_and_the_log_says_so(
    store: FakeStore, value: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch = ran("a", "b", "c", "d")
    for index in (1, 2):  # as an XCom backend of somebody else may take it
        batch.results[index] = batch.results[index]._replace(value=value)
    Checkpoints(store, ["p0", "p1", "p2", None].__getitem__, logging.getLogger(), max_tries=0).keep(batch)

    assert values(store) == {0: "a"}
    assert "2 results can't be kept, a retry runs those items again: " in caplog.text
    assert reason in caplog.text
    assert "1 result can't be kept, a retry runs those items again: the item, or an argument" in caplog.text


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        pytest.param("get", "can't be read, those items run again: the server does not answer", id="get"),
        pytest.param("set", "can't be saved, a retry runs those items again: the server", id="set"),
        pytest.param("delete", "may be used again: the server does not answer", id="delete"),
    ],
)
def test_a_store_that_does_not_work_costs_work_and_fails_nothing(
    broken: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FakeStore(broken=broken)
    saving = checkpoints(store)
    saving.keep(ran("a"))
    saving.forget()

    assert values(store) == ({0: "a"} if broken == "delete" else {})
    assert message in caplog.text


def test_an_entry_that_cannot_be_read_costs_its_item_alone(
    store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints(store).keep(ran("a", "b"))
    (entries,) = store.kept.values()
    entries[1] = ["p1", 0, ITEM_SUCCEEDED, {"__classname__": "gone.Away", "__version__": 1, "__data__": {}}]

    assert values(store) == {0: "a"}
    assert "its item runs again" in caplog.text


@pytest.mark.parametrize("is_killed", [True, False])
def test_the_thread_saves_when_the_task_is_killed_and_leaves_the_end_to_the_task(
    store: FakeStore, is_killed: bool
) -> None:
    batch = Batch(1, lambda index: "a")
    thread = CheckpointThread(mock.Mock(spec=logging.Logger), batch, checkpoints(store))
    with thread:
        batch.run()
        if is_killed:
            thread.kill()

    begin = time.monotonic()
    thread.kill()  # as Airflow does after a timeout
    assert time.monotonic() - begin < CHECKPOINT_EVERY / 2  # it did not come by itself
    assert len(store.kept) == is_killed


def test_saving_fails_no_item_that_makes_requests(
    comms: CommsDecoder[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow refuses, or keeps for ever, requests that an event loop makes while others are under way."""

    class Store(FakeStore):
        def set(self, key: str, value: Any) -> None:
            comms.send(GetVariable(key="saving"))
            super().set(key, value)

    async def ask() -> None:
        await comms.asend(GetVariable(key="awaited"))
        await asyncio.sleep(0)
        comms.send(GetVariable(key="not awaited"))
        await asyncio.to_thread(comms.send, GetVariable(key="in a thread"))

    monkeypatch.setattr("airflow_fanout.execution_time.checkpoints.CHECKPOINT_EVERY", 0.01)
    store = Store()
    batch = Batch(
        300,
        lambda index: ask() if index % 4 else comms.send(GetVariable(key="plain")),
        is_async=lambda index: index % 4 > 0,
        concurrency=16,
    )
    with CheckpointThread(mock.Mock(spec=logging.Logger), batch, checkpoints(store)):
        batch.run()

    assert [result.error for result in batch.results.values()] == [None] * 300
    assert values(store, 300)  # while they ran, and not at the end


def test_dag_test_is_asked_by_one_thread_alone(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it answers, others find nobody to ask, and their items fail."""
    in_process = type("InProcessSupervisorComms", (), {})()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", in_process, raising=False)
    batch = ran("a")
    thread = CheckpointThread(mock.Mock(spec=logging.Logger), batch, checkpoints(store))
    with thread:
        thread.kill()

    assert store.kept == {}


WHEN = dt.date(2024, 1, 2)


class TestFingerprints:
    @pytest.mark.parametrize(
        ("one", "other", "is_same"),
        [
            pytest.param({"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}, True, id="order-of-a-dict"),
            pytest.param({"a", "b", "c"}, {"c", "b", "a"}, True, id="order-of-a-set"),
            pytest.param((1, WHEN), (1, dt.date(2024, 1, 2)), True, id="equal-values"),
            pytest.param([["base"], "n_0", ["item"]], [["base"], "n_1", ["item"]], False, id="name"),
            pytest.param([["base"], "n_0", ["item"]], [["bass"], "n_0", ["item"]], False, id="argument"),
            pytest.param([["base"], "n_0", None], [["base"], "n_0", [None]], False, id="no-item-and-None"),
            pytest.param(1, "1", False, id="a-number-and-a-text"),
            pytest.param((1, 2), [1, 2], False, id="a-tuple-and-a-list"),
        ],
    )
    def test_they_tell_values_from_others(self, one: Any, other: Any, is_same: bool) -> None:
        assert (fingerprint(one) == fingerprint(other)) == is_same
        assert len(fingerprint(one) or "") == 20

    def test_they_are_the_same_in_every_process(self) -> None:
        """A retry is another process, which hashes texts in another way."""
        assert fingerprint({"words": {"a", "b", "c", "d"}, "when": WHEN}, (1, None)) == "f241573e05c2f17358eb"

    @pytest.mark.parametrize("value", [Unstorable(), [Rude()]], ids=["no-serializer", "a-broken-one"])
    def test_what_cannot_be_serialized_has_none(self, value: Any) -> None:
        assert fingerprint("name", value) is None


class TestValueParts:
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=700))
    def test_what_is_stored_is_all_that_was_told_however_few_are_pushed_again(self, news: list[int]) -> None:
        parts, stored, pushes = ValueParts(), {}, dict.fromkeys(range(sum(news)), 0)

        def push(indexes: list[int], part: int) -> None:
            stored[part] = indexes
            for index in indexes:
                pushes[index] += 1

        for end in accumulate(news):
            parts.push(range(end), push)
            assert set().union(*stored.values()) == set(range(end))
            assert sorted(stored) == list(range(parts.number))
        reports = max(1, sum(map(bool, news)))
        most = 1 + math.floor(math.log(reports, 8) + 1e-9)
        assert max(pushes.values(), default=0) <= most
        assert parts.number <= 7 * most < MOST_PARTS

    def test_what_could_not_be_pushed_is_pushed_with_the_next(self) -> None:
        parts, stored = ValueParts(), {}
        refuse = mock.Mock(spec=[], side_effect=ConnectionError)

        def keep(indexes: list[int], part: int) -> None:
            stored[part] = indexes

        for end in range(1, 20):
            with suppress(ConnectionError):
                parts.push(
                    range(end), refuse if end % 2 else lambda indexes, part: stored.update({part: indexes})
                )

        assert set().union(*stored.values()) == set(range(18))
