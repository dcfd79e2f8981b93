from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_fanout import exceptions
from airflow_fanout.exceptions import (
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


def test_every_error_is_public_and_named_as_one() -> None:
    errors = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and value.__module__ == exceptions.__name__
    }

    assert list(exceptions.__all__) == sorted(errors)
    assert all(name.endswith("Error") for name in errors)


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (DeclarationValueError, (DeclarationError, ValueError)),
        (DeclarationTypeError, (DeclarationError, TypeError)),
        (MergeConflictError, (ValueError,)),
        *((error, (FanInError, AirflowFailException)) for error in (TooFewBranchesError, EmptyFanInError)),
        *((error, (FanInError, AirflowFailException)) for error in (UpstreamFailedError, PrefixError)),
        *(
            (error, (AirflowFailException,))
            for error in (FinalBatchFailedError, ItemsError, ResultTooLargeError, MissingExtraError)
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_error_can_be_caught_as_what_it_is(error: type[Exception], bases: tuple[type, ...]) -> None:
    """A declaration's as Python's own; a verdict, which no retry would change, as one that isn't retried."""
    assert all(issubclass(error, base) for base in bases)


@pytest.mark.parametrize("error", [BranchesRunningError, UnreadableValueError])
def test_what_may_pass_is_worth_a_retry(error: type[Exception]) -> None:
    assert not issubclass(error, AirflowException)


def error(made: Exception, message: str, **facts: Any) -> Any:
    return pytest.param(made, message, facts, id=f"{type(made).__name__}: {message}")


@pytest.mark.parametrize(
    ("error", "message", "facts"),
    [
        error(
            DeclarationValueError("FanOutGroup 'g'", "count", "found -1"),
            "FanOutGroup 'g': count: found -1",
            owner="FanOutGroup 'g'",
            argument="count",
            problem="found -1",
        ),
        error(
            TooFewBranchesError("m", needed=1, succeeded=0, problems=[OUTCOME]),
            "m",
            needed=1,
            succeeded=0,
            problems=(OUTCOME,),
        ),
        error(UpstreamFailedError("m", task_ids=["load"]), "m", task_ids=("load",)),
        error(PrefixError("m", prefix="p", candidates=["a"]), "m", prefix="p", candidates=("a",)),
        error(BranchesRunningError("m", names=["a"]), "m", names=("a",)),
        error(
            UnreadableValueError("What 'a' pushed", cause=OSError("gone")),
            "What 'a' pushed can't be read: OSError: gone",
            is_of_storage=True,
        ),
        error(
            UnreadableValueError("It", cause=ImportError("no")),
            "It can't be read: ImportError: no",
            is_of_storage=False,
        ),
        error(
            MergeConflictError({"x": ["a", "b"]}),
            "Branches wrote the same name: 'x' by 'a', 'b'. Give each branch names of its own.",
            conflicts={"x": ("a", "b")},
        ),
        error(ResultTooLargeError("m", size=9), "m", size=9),
        error(
            MissingExtraError("examples", module="sklearn"),
            "'sklearn' is not installed: pip install \"airflow-fanout[examples]\"",
            extra="examples",
            module="sklearn",
        ),
    ],
)
def test_facts_of_a_message_are_attributes_that_nobody_can_change(
    error: Any, message: str, facts: dict[str, Any]
) -> None:
    assert str(error) == message
    assert {name: getattr(error, name) for name in facts} == facts
