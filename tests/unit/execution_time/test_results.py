from __future__ import annotations

import threading
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.exceptions import BranchesRunningError, MergeConflictError
from airflow_fanout.execution_time.results import FanInResults, Page
from airflow_fanout.rules.outcomes import LOST_VALUE, BranchOutcome, LostValue, Ruling
from airflow_fanout.rules.policy import State

if TYPE_CHECKING:
    from collections.abc import Callable


class LoggedPage(Page):
    """A page that logs that it is read."""

    log: list[str]

    def read(self) -> Mapping[int, Any]:
        self.log.append(self.names[0])
        return super().read()


def logged_page(outcomes: Sequence[BranchOutcome], log: list[str]) -> LoggedPage:
    page = LoggedPage.of(outcomes)
    page.log = log
    return page


def outcome(name: str, state: State = "success", value: Any = None, **more: Any) -> BranchOutcome:
    return BranchOutcome(name=name, index=more.pop("index", 0), state=state, value=value, **more)


def results_of(*outcomes: BranchOutcome) -> FanInResults:
    return FanInResults([Page.of(outcomes)])


@pytest.fixture
def mixed() -> FanInResults:
    """One branch in every state there is, and one without a value, over two pages."""
    outcomes = [
        outcome("process_0", value="a", index=0),
        outcome("process_1", "failed", error="ValueError: broken", index=1),
        outcome("process_2", "upstream_failed", index=2),
        outcome("process_3", "skipped", index=3),
        outcome("process_4", "missing", error="it was marked success by hand", index=4),
        outcome("process_5", "removed", index=5),
        outcome("process_6", value=None, index=6),
    ]
    return FanInResults([Page.of(outcomes[:3]), Page.of(outcomes[3:], start=3)])


@pytest.fixture
def log() -> list[str]:
    """The first name of each page that was read, in the order of reading."""
    return []


@pytest.fixture
def paged(log: list[str]) -> FanInResults:
    """Three pages of three branches, one of each page failed."""
    return FanInResults(
        [
            logged_page(
                [
                    outcome(f"{page}_0", value=f"value of {page}_0"),
                    outcome(f"{page}_1", "failed"),
                    outcome(f"{page}_2", value=f"value of {page}_2"),
                ],
                log,
            )
            for page in ("first", "second", "third")
        ]
    )


def test_results_are_the_values_of_the_successful_branches_in_order(mixed: FanInResults) -> None:
    assert list(mixed) == list(mixed.keys()) == ["process_0", "process_6"]
    assert list(mixed.values()) == ["a", None]
    assert list(mixed.items()) == [("process_0", "a"), ("process_6", None)]
    assert len(mixed) == len(mixed.items()) == len(mixed.values()) == 2
    assert mixed == {"process_6": None, "process_0": "a"}
    assert mixed != {"process_0": "a"}


def test_results_are_a_mapping_that_nobody_can_change(mixed: FanInResults) -> None:
    assert isinstance(mixed, Mapping)
    assert not isinstance(mixed, MutableMapping)
    assert not hasattr(mixed, "__setitem__")
    assert not hasattr(mixed, "__delitem__")


@pytest.mark.parametrize("value", [None, 0, "", False, [], {}, 0.0], ids=repr)
def test_a_value_that_is_nothing_much_is_still_a_value(value: Any) -> None:
    results = results_of(outcome("process_0", value=value))

    assert "process_0" in results
    assert results["process_0"] == value
    assert list(results.items()) == [("process_0", value)]


@pytest.mark.parametrize("name", ["process_1", "process_5", "process_9", 0, None, ("process_0",)], ids=repr)
def test_in_asks_for_successes(mixed: FanInResults, name: object) -> None:
    assert "process_0" in mixed
    assert "process_6" in mixed
    assert name not in mixed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("process_1", "branch 'process_1' has no value: it is failed (ValueError: broken)"),
        ("process_2", "branch 'process_2' has no value: it is upstream_failed"),
        ("process_4", "it is missing (it was marked success by hand)"),
        ("process", "no branch is named 'process'; branches: 'process_0', 'process_1'"),
    ],
)
def test_a_key_error_tells_why_there_is_nothing(mixed: FanInResults, name: str, message: str) -> None:
    assert mixed.get(name, "nothing") == "nothing"
    with pytest.raises(KeyError) as raised:
        mixed[name]

    assert message in raised.value.args[0]


def test_an_unknown_name_has_no_outcome(mixed: FanInResults) -> None:
    assert "process_9" not in mixed.outcomes
    with pytest.raises(KeyError, match="process_9"):
        mixed.outcomes["process_9"]


def test_successes_and_the_three_parts_are_all_there_is(mixed: FanInResults) -> None:
    parts = (mixed.failed, mixed.skipped, mixed.missing)

    assert [list(part) for part in parts] == [
        ["process_1", "process_2"],
        ["process_3"],
        ["process_4", "process_5"],
    ]
    assert all(part[name] == mixed.outcomes[name] for part in parts for name in part)
    assert sorted([*mixed, *mixed.failed, *mixed.skipped, *mixed.missing]) == sorted(mixed.outcomes)


@pytest.mark.parametrize(
    "loop",
    [
        lambda results: list(results.items()),
        lambda results: list(results.values()),
        lambda results: [results[name] for name in results],
        lambda results: list(results.outcomes.items()),
        lambda results: list(results.outcomes.values()),
        lambda results: [results.outcomes[name] for name in results],
        lambda results: [*results.items(), *results.values()],  # small pages stay
    ],
    ids=["items", "values", "by name", "outcomes", "values of outcomes", "outcomes by name", "twice"],
)
def test_a_loop_reads_each_page_once(
    paged: FanInResults, log: list[str], loop: Callable[[FanInResults], object]
) -> None:
    loop(paged)

    assert log == ["first_0", "second_0", "third_0"]


@pytest.mark.parametrize(
    "asked",
    [
        lambda results: (len(results), bool(results), len(results.outcomes)),
        lambda results: (list(results.states()), list(results.durations())),
        lambda results: (repr(results), repr(results.outcomes)),
        lambda results: (results.skipped, results.failed),
        lambda results: (list(results), list(results.outcomes)),
        lambda results: ("nobody" in results, "first_0" in results),
    ],
    ids=["sizes", "states", "reprs", "parts without values", "names", "in"],
)
def test_what_needs_no_value_reads_no_page(
    paged: FanInResults, log: list[str], asked: Callable[[FanInResults], object]
) -> None:
    asked(paged)

    assert log == []


def test_a_loop_holds_one_page(paged: FanInResults, log: list[str]) -> None:
    items = iter(paged.items())

    for read, name in enumerate(["first_0", "second_0", "third_0"], start=1):
        assert next(items)[0] == name
        assert len(log) == read
        next(items)
    assert next(items, None) is None


def test_pages_are_let_go_before_they_hold_more_than_500(
    paged: FanInResults, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_fanout.execution_time.results.VALUES_HELD", 3)
    list(paged.items())
    list(paged.items())

    assert log == ["first_0", "second_0", "third_0"] * 2


def test_values_are_handed_over_without_making_outcomes(
    paged: FanInResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would take four times as long."""
    monkeypatch.delattr(Page, "outcome")

    assert dict(paged.items()) == {name: f"value of {name}" for name in paged}
    assert list(paged.values()) == [f"value of {name}" for name in paged]


def test_neighbours_are_read_together_and_no_other_page(paged: FanInResults, log: list[str]) -> None:
    assert (paged["second_0"], paged["second_2"]) == ("value of second_0", "value of second_2")
    assert log == ["second_0"]


def test_several_threads_read_each_page_once(paged: FanInResults, log: list[str]) -> None:
    together = threading.Barrier(8)

    def read(_: int) -> dict[str, Any]:
        together.wait(timeout=30)
        return {name: paged[name] for name in paged}

    with ThreadPoolExecutor(8) as threads:
        copies = list(threads.map(read, range(8)))

    assert copies == [dict(paged)] * 8
    assert sorted(log) == ["first_0", "second_0", "third_0"]


def test_a_reader_that_takes_long_is_told_in_the_log(
    paged: FanInResults, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("airflow_fanout.execution_time.results.PROGRESS_EVERY", 0.0)
    with caplog.at_level("INFO", logger="airflow_fanout.execution_time.results"):
        list(paged.values())

    assert [record.getMessage() for record in caplog.records] == [
        "6 of 9 branches read",
        "9 of 9 branches read",
    ]


def page_of(*states: str) -> Page:
    """A page each of whose branches has pushed a value that is no longer stored."""
    return Page(
        start=0,
        names=[f"b_{index}" for index in range(len(states))],
        rulings=[Ruling(state=state) for state in states],
        instances=[("each", index) for index in range(len(states))],
        durations=[None] * len(states),
        load=lambda: {index: LostValue("s3://gone") for index in range(len(states))},
    )


def test_a_value_that_is_gone_before_the_verdict_makes_a_success_missing() -> None:
    page = page_of("success", "failed", "skipped").settle()

    assert page.states == ["missing", "failed", "skipped"]
    assert [page.outcome(index).error for index in range(3)] == [f"{LOST_VALUE}: s3://gone", None, None]


def test_a_value_that_is_gone_after_it_makes_the_fan_in_run_again() -> None:
    with pytest.raises(BranchesRunningError, match="gone since they were counted: 'b_1'") as raised:
        page_of("failed", "success").read()

    assert raised.value.names == ("b_1",)


def test_the_stopped_are_among_the_skipped_and_counted() -> None:
    results = results_of(
        outcome("a", "skipped", is_stopped=True), outcome("b", "skipped"), outcome("c", "failed")
    )

    assert (results.stopped_count, list(results.skipped)) == (1, ["a", "b"])
    assert [o.name for o in results.problems({"failed"})] == ["a", "c"]


def test_merge_unites_what_the_branches_returned() -> None:
    results = results_of(
        outcome("process_0", value={"a": 1, "b": None}),
        outcome("process_1", "failed"),
        outcome("process_2", value={}),
        outcome("process_3", value={"c": 3}),
    )

    assert results.merge() == {"a": 1, "b": None, "c": 3}


def test_merge_names_what_two_branches_wrote_and_who_did() -> None:
    results = results_of(
        outcome("process_0", value={"a": 1, "b": 1}),
        outcome("process_1", value={"b": 1, "c": 1}),
        outcome("process_2", value={"b": 2, "c": 1}),
    )

    with pytest.raises(
        MergeConflictError,
        match="'b' by 'process_0', 'process_1', 'process_2'; 'c' by 'process_1', 'process_2'",
    ) as raised:
        results.merge()

    assert raised.value.conflicts == {
        "b": ("process_0", "process_1", "process_2"),
        "c": ("process_1", "process_2"),
    }


@pytest.mark.parametrize("value", [None, 1, "text", ["x"]], ids=["None", "int", "str", "list"])
def test_merge_names_the_branch_that_returned_no_dict(value: Any) -> None:
    results = results_of(outcome("a", value={"x": 1}), outcome("b", value=value))

    with pytest.raises(TypeError, match=rf"branch 'b' returned {type(value).__name__}.*results\['b'\]"):
        results.merge()


def test_flatten_goes_through_the_elements_of_all_lists_in_declared_order() -> None:
    results = results_of(
        outcome("a", value=[1, [2]]), outcome("b", "failed"), outcome("c", value=[]), outcome("d", value=(3,))
    )

    assert list(results.flatten()) == [1, [2], 3]


def test_flatten_reads_no_page_before_it_gets_there(log: list[str]) -> None:
    pages = [logged_page([outcome(name, value=[name, "more"])], log) for name in ("first", "second")]
    elements = FanInResults(pages).flatten()

    assert ([next(elements), next(elements)], log) == (["first", "more"], ["first"])
    assert (next(elements), log) == ("second", ["first", "second"])


@pytest.mark.parametrize("value", [None, 1, "text", {"x": 1}], ids=["None", "int", "str", "dict"])
def test_flatten_names_the_branch_that_returned_no_list(value: Any) -> None:
    elements = results_of(outcome("a", value=[1]), outcome("b", value=value)).flatten()

    assert next(elements) == 1
    with pytest.raises(
        TypeError, match=rf"branch 'b' returned {type(value).__name__}\. Let it return a list"
    ):
        next(elements)


def test_a_repr_shows_numbers_and_no_values(mixed: FanInResults) -> None:
    assert repr(mixed) == "<results of 2 of 7 branches>"
    assert repr(FanInResults([])) == "<results of 0 of 0 branches>"
    assert repr(mixed.outcomes) == "<outcomes of 7 branches>"


@given(
    pages=st.lists(
        st.lists(st.tuples(st.sampled_from(get_args(State)), st.integers()), min_size=1, max_size=4),
        max_size=5,
    )
)
def test_however_they_are_paged_all_branches_are_there_in_order(
    pages: list[list[tuple[State, int]]],
) -> None:
    numbered = iter(range(100))
    made = [
        [
            outcome(
                f"b_{(index := next(numbered))}", state, value if state == "success" else None, index=index
            )
            for state, value in page
        ]
        for page in pages
    ]
    flat = [o for page in made for o in page]
    results = FanInResults([Page.of(page, page[0].index) for page in made])

    assert list(results.outcomes.values()) == flat
    assert list(results.outcomes.items()) == [(o.name, o) for o in flat]
    assert list(results.items()) == [(o.name, o.value) for o in flat if o.state == "success"]
    assert [results.outcomes[o.name] for o in (*flat, *flat[::-1])] == [*flat, *flat[::-1]]
    assert len(results.outcomes) == len(flat)
    assert list(results.states()) == [o.state for o in flat]
    assert list(results.durations()) == [(o.name, o.state, o.duration) for o in flat]
