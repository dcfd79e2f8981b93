from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.rules import error_kinds
from airflow_fanout.rules.error_kinds import NAMED, Failure, kinds_of, levelled

if TYPE_CHECKING:
    from collections.abc import Iterable


def failures(*errors: str | None, state: str = "failed") -> Iterable[Failure[str]]:
    return [
        Failure(state=state, error=error, number=1, problem=partial(str, f"p_{index}"))
        for index, error in enumerate(errors)
    ]


class TestLevelling:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("ValueError: row 17 of 400", "ValueError: row 3 of 12,000.5"),
            ("KeyError: 'north'", "KeyError: 'south pole'"),
            ('E: no "a" in `b`', 'E: no "c" in `d e`'),
            ("E: doc-17 is gone", "E: doc-18 is gone"),
            ("E: 0x7f2a at 10.0.0.1:5432", "E: 0x81ff at 10.0.0.22:5433"),
            (
                "E: run 0f8fad5b-d9cb-469f-a165-70867728950e",
                "E: run 7c9e6679-7425-40de-944b-e07fc1f90ae7",
            ),
            ("E: key deadbeef1 expired", "E: key cafebabe2 expired"),
        ],
    )
    def test_what_differs_from_branch_to_branch_makes_no_other_kind(self, one: str, other: str) -> None:
        assert levelled(one) == levelled(other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("ValueError: no", "TypeError: no"),
            ("S3Error: no", "S4Error: no"),
            ("E: it doesn't start", "E: it doesn't end"),
            ("E: it doesn't start and can't end", "E: it doesn't stop and can't end"),
            ("E: timeout", "E: refused"),
        ],
    )
    def test_a_type_and_a_message_in_other_words_do(self, one: str, other: str) -> None:
        assert levelled(one) != levelled(other)

    @given(st.text(max_size=500))
    def test_any_text_is_levelled_once_and_for_all(self, text: str) -> None:
        assert levelled(levelled(text)) == levelled(text)

    def test_a_text_of_quotes_alone_takes_no_long_time(self) -> None:
        assert levelled("E: " + " '" * 250)


class TestKinds:
    def test_the_most_frequent_is_first_with_the_error_and_the_names_of_its_first(self) -> None:
        kinds = kinds_of(failures("E: odd", *[f"E: row {n}" for n in range(8)], None))

        assert [(kind.error, kind.number) for kind in kinds] == [("E: row 0", 8), ("E: odd", 1), (None, 1)]
        assert kinds[0].problems == [f"p_{n}" for n in range(1, 1 + NAMED)]

    def test_states_are_told_apart(self) -> None:
        both = [*failures("E: no"), *failures("E: no", state="missing")]

        assert [kind.state for kind in kinds_of(both)] == ["failed", "missing"]

    def test_what_others_kept_from_starting_is_last(self) -> None:
        stopped = failures(*["not started: 1 of 3"] * 3, state="skipped")

        assert [kind.state for kind in kinds_of([*stopped, *failures("E: no")])] == ["failed", "skipped"]

    def test_several_that_failed_as_one_all_count(self) -> None:
        batch = Failure(state="failed", error="E: no", number=250, problem=str)

        assert [kind.number for kind in kinds_of([batch, *failures("E: no")])] == [251]

    def test_only_what_is_named_is_made(self) -> None:
        def refuse() -> str:
            raise AssertionError

        more = [Failure(state="failed", error="E: no", number=1, problem=refuse)] * 100

        assert kinds_of([*failures(*["E: no"] * NAMED), *more])[0].number == NAMED + 100

    def test_of_very_many_kinds_the_first_are_told_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(error_kinds, "MOST_KINDS", 2)

        kinds = kinds_of(failures("A: no", "B: no", "C: no", "A: no"))

        assert [(kind.error, kind.number) for kind in kinds] == [("A: no", 2), ("B: no", 1)]
