from __future__ import annotations

import datetime as dt
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.execution_time.batch import Batch, Done
from airflow_fanout.execution_time.checkpoints import PIECE_SIZE, Checkpoints, fingerprint
from airflow_fanout.rules.records import ITEM_FAILED, ITEM_SKIPPED, ITEM_SUCCEEDED
from tests.unit.fake_store import FakeStore

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG = logging.getLogger("batch")


class Unstorable:
    """What Airflow can't serialize."""


class Rude:
    """What raises something of its own when it is serialized."""

    def serialize(self) -> Any:
        message = "rude"
        raise KeyError(message)


def done(*fates: Any) -> Batch:
    """A batch whose items have ended so: raised, or returned."""

    def call(place: int) -> Any:
        if isinstance(fates[place], Exception):
            raise fates[place]
        return fates[place]

    batch = Batch(len(fates), call, describe=str)
    batch.run()
    return batch


def checkpoints(
    store: FakeStore,
    prints: Sequence[str | None] = ("p0", "p1", "p2", "p3", "p4"),
    *,
    retried: bool = False,
) -> Checkpoints:
    return Checkpoints(store, prints.__getitem__, LOG, retried=retried)


def found(store: FakeStore) -> dict[str, tuple[str, Any]]:
    return {print_: (each.state, each.value) for print_, each in checkpoints(store).load().items()}


class TestWhatIsKept:
    def test_what_succeeded_or_was_skipped_and_not_what_failed(self) -> None:
        store = FakeStore()
        checkpoints(store).save(
            done("a", ValueError(), None, AirflowSkipException("why"), AirflowFailException())
        )

        assert found(store) == {
            "p0": (ITEM_SUCCEEDED, "a"),
            "p2": (ITEM_SUCCEEDED, None),
            "p3": (ITEM_SKIPPED, None),
        }
        assert checkpoints(store).load()["p3"].error == "why"
        assert checkpoints(store).load()["p0"].seconds is not None

    @pytest.mark.parametrize(
        "value",
        [(1, 2), {3}, dt.datetime(2024, 1, 1, tzinfo=dt.UTC), {"a": [1.5, None]}],
        ids=repr,
    )
    def test_a_value_comes_back_as_what_it_was(self, value: Any) -> None:
        store = FakeStore()
        checkpoints(store).save(done(value))

        assert found(store) == {"p0": (ITEM_SUCCEEDED, value)}

    def test_only_what_is_new_is_saved_again(self) -> None:
        store, batch = FakeStore(), done("a", "b")
        both = checkpoints(store)
        both.save(batch)
        both.save(batch)

        assert len(store.kept) == 1

    def test_a_later_try_adds_to_what_is_there(self) -> None:
        store = FakeStore()
        checkpoints(store).save(done("a"))
        later = checkpoints(store, ("p7",))
        later.load()
        later.save(done("b"))

        assert found(store) == {"p0": (ITEM_SUCCEEDED, "a"), "p7": (ITEM_SUCCEEDED, "b")}

    @given(lengths=st.lists(st.sampled_from([0, 10, 20_000, 30_000, PIECE_SIZE - 100]), max_size=6))
    def test_every_piece_is_below_the_limit(self, lengths: list[int]) -> None:
        store = FakeStore()
        prints = [f"p{place}" for place in range(len(lengths))]
        checkpoints(store, prints).save(done(*("x" * length for length in lengths)))

        assert all(len(json.dumps(piece)) <= 65_536 for piece in store.kept.values())
        assert {print_: len(value) for print_, (_, value) in found(store).items()} == dict(
            zip(prints, lengths, strict=True)
        )


@pytest.mark.parametrize(
    ("value", "why"),
    [
        pytest.param("x" * PIECE_SIZE, "more than 60,000 characters", id="too large"),
        pytest.param(Unstorable(), "annot serialize object of type", id="not serializable"),
        pytest.param(Rude(), "KeyError", id="its serializer fails"),
    ],
)
def test_what_cannot_be_kept_is_said_and_runs_again(
    value: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FakeStore()
    saving = checkpoints(store)
    saving.save(done("a", value, value))
    saving.log_unsaved()

    assert found(store) == {"p0": (ITEM_SUCCEEDED, "a")}
    assert "2 results can't be kept for a retry" in caplog.text
    assert why in caplog.text


def test_an_item_without_a_fingerprint_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    store = FakeStore()
    saving = checkpoints(store, (None, "p1"))
    saving.save(done("a", "b"))
    saving.log_unsaved()

    assert found(store) == {"p1": (ITEM_SUCCEEDED, "b")}
    assert "the item, or an argument, can't be serialized" in caplog.text


class TestFinalFailures:
    def test_they_are_kept_for_the_retry_that_comes(self) -> None:
        store = FakeStore()
        saved = done("a", AirflowFailException("no"), ValueError("again"))
        checkpoints(store, retried=True).save(saved)

        loaded = checkpoints(store, retried=True).load()
        assert list(loaded) == ["p0", "p1"]
        assert loaded["p1"] == Done(
            state=ITEM_FAILED,
            value=None,
            error="no",
            seconds=saved.seconds[1],
            cpu_seconds=saved.cpu_seconds[1],
        )

    def test_more_than_one_piece_holds_are_kept_and_forgotten(self) -> None:
        store, error = FakeStore(), "x" * (PIECE_SIZE // 2)
        fates = [AirflowFailException(error) for _ in range(5)]
        checkpoints(store, retried=True).save(done(*fates))
        later = checkpoints(store, retried=True)

        assert len(later.load()) == 5
        later.forget_final_failures()
        assert store.kept == {}

    def test_where_no_retry_comes_they_are_loaded_and_forgotten_before_anything_runs(self) -> None:
        store = FakeStore()
        checkpoints(store, retried=True).save(done("a", AirflowFailException("no")))

        assert list(checkpoints(store).load()) == ["p0", "p1"]
        assert list(checkpoints(store).load()) == ["p0"]

    def test_whoever_clears_the_batch_runs_them_again(self) -> None:
        store = FakeStore()
        saving = checkpoints(store, retried=True)
        saving.save(done("a", AirflowFailException("no")))
        saving.forget_final_failures()

        assert found(store) == {"p0": (ITEM_SUCCEEDED, "a")}


def test_a_batch_that_succeeded_leaves_nothing() -> None:
    store = FakeStore()
    saving = checkpoints(store, retried=True)
    saving.save(done("a", AirflowFailException()))
    assert len(store.kept) == 2
    saving.forget()

    assert store.kept == {}


def test_a_later_try_forgets_what_earlier_ones_saved() -> None:
    store = FakeStore()
    checkpoints(store).save(done("a", "x" * (PIECE_SIZE - 60)))
    later = checkpoints(store)
    later.load()
    later.forget()

    assert store.kept == {}


class TestAStoreThatDoesNotWork:
    def test_saving_costs_a_retry_its_work(self, caplog: pytest.LogCaptureFixture) -> None:
        store = FakeStore(broken={"set"})
        saving = checkpoints(store, retried=True)
        saving.save(done("a", AirflowFailException()))

        assert "the server does not answer" in caplog.text
        assert found(store) == {}

    def test_loading_finds_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        assert checkpoints(FakeStore(broken={"get"})).load() == {}
        assert "all else runs again: the server does not answer" in caplog.text

    def test_forgetting_says_what_may_come_of_it(self, caplog: pytest.LogCaptureFixture) -> None:
        saving = checkpoints(FakeStore(broken={"delete"}), retried=True)
        saving.save(done("a", AirflowFailException()))
        saving.forget()
        saving.forget_final_failures()

        assert caplog.text.count("may be used again: the server does not answer") == 3

    def test_an_entry_that_cannot_be_read_costs_its_item_alone(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = FakeStore()
        checkpoints(store).save(done("a", "b"))
        gone = {"__classname__": "gone.Away", "__version__": 1, "__data__": {}}
        (entries,) = store.kept.values()
        entries[1][2] = gone

        assert found(store) == {"p0": (ITEM_SUCCEEDED, "a")}
        assert "it runs again" in caplog.text


class TestFingerprints:
    @pytest.mark.parametrize(
        ("one", "same"),
        [
            pytest.param({"a": 1, "b": 2}, {"b": 2, "a": 1}, id="a dict in another order"),
            pytest.param({"x": [{"a": 1, "b": 2}]}, {"x": [{"b": 2, "a": 1}]}, id="further in"),
            pytest.param((1, "a"), (1, "a"), id="tuples"),
            pytest.param(dt.date(2024, 1, 2), dt.date(2024, 1, 2), id="dates"),
            pytest.param({"a", "b", "c"}, {"c", "b", "a"}, id="sets"),
        ],
    )
    def test_the_same_value_has_the_same(self, one: Any, same: Any) -> None:
        assert fingerprint(one) == fingerprint(same) is not None

    def test_it_is_the_same_in_every_process(self) -> None:
        """A retry is another process, which hashes texts in another way."""
        print_ = fingerprint({"words": {"a", "b", "c", "d"}, "when": dt.date(2024, 1, 2)}, (1, None))

        assert print_ == "f241573e05c2f17358eb"

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            pytest.param((["base"], "n_0", ["item"]), (["base"], "n_1", ["item"]), id="name"),
            pytest.param((["base"], "n_0", ["item"]), (["base"], "n_0", ["other"]), id="item"),
            pytest.param((["base"], "n_0", ["item"]), (["bass"], "n_0", ["item"]), id="argument"),
            pytest.param((["base"], "n_0", None), (["base"], "n_0", [None]), id="no item and None"),
            pytest.param((1,), ("1",), id="a number and a text"),
            pytest.param(((1, 2),), ([1, 2],), id="a tuple and a list"),
        ],
    )
    def test_another_value_has_another(self, one: Any, other: Any) -> None:
        assert fingerprint(*one) != fingerprint(*other)

    @pytest.mark.parametrize("value", [Unstorable(), [Rude()]], ids=["no serializer", "a broken one"])
    def test_what_cannot_be_serialized_has_none(self, value: Any) -> None:
        assert fingerprint("name", value) is None

    @given(parts=st.lists(st.text() | st.integers() | st.none() | st.dictionaries(st.text(), st.integers())))
    def test_it_is_short(self, parts: list[Any]) -> None:
        assert len(fingerprint(*parts) or "") == 20
