"""What this package raises: at parse time for an author's mistake, on the worker for a fan-in's verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_fanout.rules.outcomes import BranchOutcome

__all__ = [
    "BatchFailedError",
    "BranchesRunningError",
    "DeclarationError",
    "DeclarationTypeError",
    "DeclarationValueError",
    "EmptyFanInError",
    "FanInError",
    "FinalBatchFailedError",
    "ItemsError",
    "MergeConflictError",
    "MissingExtraError",
    "PrefixError",
    "ResultTooLargeError",
    "TooFewBranchesError",
    "UnreadableValueError",
    "UpstreamFailedError",
]


class DeclarationError(Exception):
    """
    Base of the errors about how a fan-out or fan-in was declared; raised while the Dag is parsed.

    :param owner: What was being declared, such as ``FanOutGroup 'process'``.
    :param argument: Name of the argument that is wrong.
    :param problem: What was expected, what was found, and the way out.
    """

    def __init__(self, owner: str, argument: str, problem: str) -> None:
        super().__init__(f"{owner}: {argument}: {problem}")
        self.owner = owner
        self.argument = argument
        self.problem = problem


class DeclarationValueError(DeclarationError, ValueError):
    """Raised when an argument has the right type and an unusable value."""


class DeclarationTypeError(DeclarationError, TypeError):
    """Raised when an argument has the wrong type."""


class FanInError(AirflowFailException):
    """Base of a fan-in's verdicts against a run, which Airflow does not retry: that would change nothing."""


class TooFewBranchesError(FanInError):
    """
    Raised when fewer branches succeeded than the fan-in needs.

    :param message: The verdict, with the first branches that are at fault.
    :param needed: Number of successes that the policy asks for.
    :param succeeded: Number of successes there are.
    :param problems: Outcomes of the branches that did not succeed, in declared order.
    """

    def __init__(
        self, message: str, *, needed: int, succeeded: int, problems: Sequence[BranchOutcome]
    ) -> None:
        super().__init__(message)
        self.needed = needed
        self.succeeded = succeeded
        self.problems = tuple(problems)


class EmptyFanInError(FanInError):
    """Raised when there is nothing to fan in and ``on_empty`` is ``"fail"``."""


class UpstreamFailedError(FanInError):
    """
    Raised when a task upstream of the fan-in that is no branch has failed.

    :param message: The verdict.
    :param task_ids: Ids of the failed tasks.
    """

    def __init__(self, message: str, *, task_ids: Sequence[str]) -> None:
        super().__init__(message)
        self.task_ids = tuple(task_ids)


class PrefixError(FanInError):
    """
    Raised before anything is read when a prefix matches no upstream task, or a task that is not wired.

    :param message: The verdict, with the candidates.
    :param prefix: The prefix as rendered.
    :param candidates: Task ids that the author may have meant, or forgot to wire.
    """

    def __init__(self, message: str, *, prefix: str, candidates: Sequence[str]) -> None:
        super().__init__(message)
        self.prefix = prefix
        self.candidates = tuple(candidates)


class BranchesRunningError(Exception):
    """
    Raised when a branch was cleared while the fan-in was being started; the fan-in's own retries wait for it.

    :param message: Which branches are not finished.
    :param names: Names of those branches.
    """

    def __init__(self, message: str, *, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


class UnreadableValueError(Exception):
    """
    Raised when a value is there and can't be read, so that nobody is given less than what was stored.

    Its storage may not answer, for which a retry may help, or it may be of a class that Airflow is not
    allowed to import (``[core] allowed_deserialization_classes``).

    :param what: What can't be read, to begin a sentence with.
    :param cause: What was raised.
    """

    def __init__(self, what: str, *, cause: Exception) -> None:
        super().__init__(f"{what} can't be read: {type(cause).__name__}: {cause}")
        self.is_of_storage = not isinstance(cause, _OF_THE_VALUE)
        """Whether the storage is at fault, and not what was stored."""


_OF_THE_VALUE = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What deserializing raises, if a value is no value of Airflow's."""


class MergeConflictError(ValueError):
    """
    Raised when two branches wrote the same name into the dict that they share.

    :param conflicts: ``{name: (branch, branch, …)}``, who wrote each contested name.
    """

    def __init__(self, conflicts: Mapping[str, Sequence[str]]) -> None:
        said = "; ".join(
            f"{name!r} by {', '.join(map(repr, writers))}" for name, writers in conflicts.items()
        )
        super().__init__(f"Branches wrote the same name: {said}. Give each branch names of its own.")
        self.conflicts = {name: tuple(writers) for name, writers in conflicts.items()}


class BatchFailedError(Exception):
    """Raised by a batch of which items failed, after it has reported; Airflow's retries run those again."""

    fan_out_recorded = True
    """What became of each item is recorded already."""


class FinalBatchFailedError(AirflowFailException):
    """Raised by a batch all of whose failed items raised ``AirflowFailException``: no retry would help."""

    fan_out_recorded = True
    """What became of each item is recorded already."""


class ResultTooLargeError(AirflowFailException):
    """
    Raised by a fan-in without a function whose branches returned more than an XCom can hold.

    :param message: What it is, and what to do.
    :param size: Bytes as JSON, as far as they were counted.
    """

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class ItemsError(AirflowFailException):
    """Raised in a branch's or batch's own task when what came as items is no list and no mapping."""


class MissingExtraError(AirflowFailException):
    """
    Raised when an example Dag runs without what it needs; not retried, for that would change nothing.

    :param extra: Name of the extra that has it.
    :param module: The module that can't be imported.
    """

    def __init__(self, extra: str, *, module: str) -> None:
        super().__init__(f'{module!r} is not installed: pip install "airflow-fanout[{extra}]"')
        self.extra = extra
        self.module = module
