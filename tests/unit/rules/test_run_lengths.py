from __future__ import annotations

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.rules.run_lengths import RunLengths, counts, spans

values = st.lists(st.sampled_from("SFK"))


@given(values)
def test_it_is_the_sequence_that_it_was_made_of(letters: list[str]) -> None:
    sequence = RunLengths((letter, 1) for letter in letters)

    assert list(sequence) == letters
    assert [sequence[index] for index in range(len(sequence))] == letters
    assert sequence[-2:] == letters[-2:]
    assert [sequence.count(letter) for letter in "SFK"] == [letters.count(letter) for letter in "SFK"]
    assert ("S" in sequence) == ("S" in letters)


@given(values)
def test_lists_and_it_have_the_same_spans_and_counts(letters: list[str]) -> None:
    sequence = RunLengths((letter, 1) for letter in letters)

    assert list(spans(sequence)) == list(spans(letters))
    assert counts(sequence) == counts(letters) == Counter(letters)


@given(values)
def test_equal_neighbours_are_one_run(letters: list[str]) -> None:
    sequence = RunLengths((letter, 1) for letter in letters)

    assert sequence.runs == [(letter, len(list(run))) for letter, run in groupby(letters)]


def test_runs_of_none_are_left_out() -> None:
    assert RunLengths([("S", 0), ("F", 2), ("S", 0), ("F", 1)]).runs == [("F", 3)]


def test_what_a_function_makes_equal_becomes_one_run() -> None:
    assert RunLengths([("S", 2), ("s", 3)]).map(str.upper).runs == [("S", 5)]


def test_an_index_beyond_its_end_is_refused() -> None:
    with pytest.raises(IndexError):
        RunLengths([("S", 2)])[2]
