from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_fanout import exceptions
from airflow_fanout.exceptions import (
    BatchFailedError,
    BranchesRunningError,
    DeclarationError,
    DeclarationTypeError,
    DeclarationValueError,
    EmptyFanInError,
    FanInError,
    FinalBatchFailedError,
    ItemsError,
    MergeConflictError,
    MissingExtraError,
    PrefixError,
    ResultTooLargeError,
    TooFewBranchesError,
    UnreadableValueError,
    UpstreamFailedError,
)
from airflow_fanout.rules.outcomes import BranchOutcome

OUTCOME = BranchOutcome(name="process_0", index=0, state="failed", error="ValueError: broken")

EVERY_ERROR: list[Any] = [
    pytest.param(
        DeclarationValueError("FanOutGroup 'p'", "count", "expected 0 or more"), id="DeclarationValueError"
    ),
    pytest.param(
        DeclarationTypeError("FanOutGroup 'p'", "count", "expected an int"), id="DeclarationTypeError"
    ),
    pytest.param(
        TooFewBranchesError("too few", needed=2, succeeded=1, problems=[OUTCOME]), id="TooFewBranchesError"
    ),
    pytest.param(EmptyFanInError("nothing"), id="EmptyFanInError"),
    pytest.param(ItemsError("no list"), id="ItemsError"),
    pytest.param(ResultTooLargeError("too large", size=10**9), id="ResultTooLargeError"),
    pytest.param(BatchFailedError("2 of 9"), id="BatchFailedError"),
    pytest.param(FinalBatchFailedError("2 of 9"), id="FinalBatchFailedError"),
    pytest.param(UpstreamFailedError("failed", task_ids=["load"]), id="UpstreamFailedError"),
    pytest.param(PrefixError("no match", prefix="p", candidates=["q"]), id="PrefixError"),
    pytest.param(BranchesRunningError("running", names=["process_0"]), id="BranchesRunningError"),
    pytest.param(UnreadableValueError("What 'a' pushed", cause=OSError()), id="UnreadableValueError"),
    pytest.param(MergeConflictError({"a": ["process_0", "process_1"]}), id="MergeConflictError"),
    pytest.param(MissingExtraError("examples", module="sklearn"), id="MissingExtraError"),
]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(DeclarationValueError, ValueError, id="DeclarationValueError"),
        pytest.param(DeclarationTypeError, TypeError, id="DeclarationTypeError"),
        pytest.param(MergeConflictError, ValueError, id="MergeConflictError"),
    ],
)
def test_an_authors_mistake_is_a_builtin_error_too(error: type[Exception], kind: type[Exception]) -> None:
    assert issubclass(error, kind)


@pytest.mark.parametrize("error", [TooFewBranchesError, EmptyFanInError, UpstreamFailedError, PrefixError])
def test_a_verdict_is_not_retried_by_airflow(error: type[Exception]) -> None:
    assert issubclass(error, FanInError)
    assert issubclass(error, AirflowFailException)


@pytest.mark.parametrize("error", [BranchesRunningError, UnreadableValueError])
def test_what_may_pass_is_worth_a_retry(error: type[Exception]) -> None:
    assert not issubclass(error, AirflowException)


def test_declaration_errors_have_owner_argument_and_problem() -> None:
    error = DeclarationValueError("FanOutGroup 'process'", "count", "expected 0 or more, found -1")

    assert str(error) == "FanOutGroup 'process': count: expected 0 or more, found -1"
    assert (error.owner, error.argument, error.problem) == (
        "FanOutGroup 'process'",
        "count",
        "expected 0 or more, found -1",
    )


def test_declaration_errors_can_be_caught_together() -> None:
    assert issubclass(DeclarationValueError, DeclarationError)
    assert issubclass(DeclarationTypeError, DeclarationError)


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_the_name_ends_in_error(error: Exception) -> None:
    assert type(error).__name__.endswith("Error")
    assert type(error).__name__ in exceptions.__all__


def test_every_public_error_is_tried_here() -> None:
    tried = {type(param.values[0]).__name__ for param in EVERY_ERROR}

    assert tried | {"DeclarationError", "FanInError"} == set(exceptions.__all__)
    assert list(exceptions.__all__) == sorted(exceptions.__all__)


def test_facts_that_were_given_as_lists_cannot_be_changed() -> None:
    assert TooFewBranchesError("m", needed=1, succeeded=0, problems=[OUTCOME]).problems == (OUTCOME,)
    assert UpstreamFailedError("m", task_ids=["load"]).task_ids == ("load",)
    assert PrefixError("m", prefix="p", candidates=["a"]).candidates == ("a",)
    assert BranchesRunningError("m", names=["a"]).names == ("a",)
    assert MergeConflictError({"x": ["a", "b"]}).conflicts == {"x": ("a", "b")}
