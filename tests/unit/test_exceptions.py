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


@pytest.mark.parametrize(
    ("error", "message", "facts"),
    [
        pytest.param(
            DeclarationValueError("FanOutGroup 'process'", "count", "expected 0 or more, found -1"),
            "FanOutGroup 'process': count: expected 0 or more, found -1",
            {
                "owner": "FanOutGroup 'process'",
                "argument": "count",
                "problem": "expected 0 or more, found -1",
            },
            id="a declaration",
        ),
        pytest.param(
            TooFewBranchesError("m", needed=1, succeeded=0, problems=[OUTCOME]),
            "m",
            {"needed": 1, "succeeded": 0, "problems": (OUTCOME,)},
            id="too few branches",
        ),
        pytest.param(UpstreamFailedError("m", task_ids=["load"]), "m", {"task_ids": ("load",)}, id="task"),
        pytest.param(
            PrefixError("m", prefix="p", candidates=["a"]),
            "m",
            {"prefix": "p", "candidates": ("a",)},
            id="prefix",
        ),
        pytest.param(BranchesRunningError("m", names=["a"]), "m", {"names": ("a",)}, id="running branches"),
        pytest.param(
            UnreadableValueError("What 'a' pushed", cause=OSError("gone")),
            "What 'a' pushed can't be read: OSError: gone",
            {"is_of_storage": True},
            id="storage",
        ),
        pytest.param(
            UnreadableValueError("It", cause=ImportError("no")),
            "It can't be read: ImportError: no",
            {"is_of_storage": False},
            id="a value",
        ),
        pytest.param(
            MergeConflictError({"x": ["a", "b"]}),
            "Branches wrote the same name: 'x' by 'a', 'b'. Give each branch names of its own.",
            {"conflicts": {"x": ("a", "b")}},
            id="a merge",
        ),
        pytest.param(ResultTooLargeError("m", size=9), "m", {"size": 9}, id="a large result"),
        pytest.param(
            MissingExtraError("examples", module="sklearn"),
            "'sklearn' is not installed: pip install \"airflow-fanout[examples]\"",
            {"extra": "examples", "module": "sklearn"},
            id="an extra",
        ),
    ],
)
def test_facts_of_a_message_are_attributes_that_nobody_can_change(
    error: Any, message: str, facts: dict[str, Any]
) -> None:
    assert str(error) == message
    assert {name: getattr(error, name) for name in facts} == facts
