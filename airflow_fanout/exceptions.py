"""Errors of this package: of declarations at parse time, of fan-ins, batches and branches on the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_fanout.rules.outcomes import BranchOutcome

__all__ = [
    "BatchFailedError",
    "BranchesRunningError",
    "CombineError",
    "DeclarationError",
    "DeclarationTypeError",
    "DeclarationValueError",
    "EmptyFanInError",
    "FanInError",
    "FinalBatchFailedError",
    "ItemTimeoutError",
    "ItemsError",
    "MergeConflictError",
    "MissingExtraError",
    "PrefixError",
    "ResultTooLargeError",
    "ReuseStoreError",
    "SettingError",
    "StorageError",
    "StoredItemsError",
    "TooFewBranchesError",
    "UnreadableValueError",
    "UnwritableResultsError",
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
    """Base of a fan-in's verdicts against a run; not retried, because a retry would change nothing."""


class TooFewBranchesError(FanInError):
    """
    Raised when fewer branches succeeded than the fan-in needs.

    :param needed: Number of successes that the policy asks for.
    :param succeeded: Number of successes.
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
    Raised when a task directly upstream of the fan-in, but not one of its branches, has failed.

    :param task_ids: Ids of the failed tasks.
    """

    def __init__(self, message: str, *, task_ids: Sequence[str]) -> None:
        super().__init__(message)
        self.task_ids = tuple(task_ids)


class PrefixError(FanInError):
    """
    Raised when a prefix matches no upstream task, or a task that is not wired; nothing has been read then.

    :param prefix: The prefix as rendered.
    :param candidates: Task ids that may have been meant, or that have to be wired.
    """

    def __init__(self, message: str, *, prefix: str, candidates: Sequence[str]) -> None:
        super().__init__(message)
        self.prefix = prefix
        self.candidates = tuple(candidates)


class BranchesRunningError(Exception):
    """
    Raised when a branch was cleared while the fan-in was starting; the fan-in's own retries wait for it.

    :param names: Names of those branches.
    """

    def __init__(self, message: str, *, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


class UnreadableValueError(Exception):
    """
    Raised when a stored value can't be read, so that nobody gets less than what was stored.

    The storage may not answer, and then a retry may help; or Airflow may not import the value's class
    (``[core] allowed_deserialization_classes``).

    :param what: What can't be read, as the subject of a sentence.
    :param cause: The exception of the storage or of the value.
    """

    def __init__(self, what: str, *, cause: Exception) -> None:
        super().__init__(f"{what} can't be read: {type(cause).__name__}: {cause}")
        self.is_of_storage = not isinstance(cause, _DESERIALIZING_ERRORS)
        """Whether the storage is at fault, and not the stored value."""


class UnwritableResultsError(Exception):
    """
    Raised when the storage of ``results_path`` refuses to be written; a retry runs no item again.

    :param path: What was to be written.
    :param cause: The exception of the storage.
    """

    def __init__(self, path: str, *, cause: Exception) -> None:
        super().__init__(f"Results can't be written to {path}: {type(cause).__name__}: {cause}")
        self.path = path


_LOOKUP_ERRORS = (AttributeError, ImportError, LookupError)
_DESERIALIZING_ERRORS = (*_LOOKUP_ERRORS, ArithmeticError, RecursionError, TypeError, ValueError)
"""Errors of deserializing something that Airflow never serialized."""


class MergeConflictError(ValueError):
    """
    Raised when two branches returned the same name in dicts that are to be merged.

    :param conflicts: ``{name: (branch, branch, …)}``, the branches that returned each contested name.
    """

    def __init__(self, conflicts: Mapping[str, Sequence[str]]) -> None:
        self.conflicts = {name: tuple(writers) for name, writers in conflicts.items()}
        text = "; ".join(f"{name!r} by {', '.join(map(repr, self.conflicts[name]))}" for name in conflicts)
        super().__init__(f"Branches wrote the same name: {text}. Give each branch names of its own.")


class CombineError(AirflowFailException):
    """
    Raised when values can't be folded with ``combine``, or what was folded can't be told apart any more.

    In a batch it is the error of the items whose values are lost with it; a fan-in isn't retried.
    """


class BatchFailedError(Exception):
    """Raised by a batch with failed items, after its report; Airflow's retries run those items again."""

    fan_out_recorded = True  # by the batch, for each item


class FinalBatchFailedError(AirflowFailException):
    """Raised by a batch whose failed items all raised ``AirflowFailException``: no retry would help."""

    fan_out_recorded = True


class ItemTimeoutError(Exception):
    """What an item has failed with that had not ended after ``item_timeout``."""


class ResultTooLargeError(AirflowFailException):
    """
    Raised by a fan-in without a function when its branches returned more than an XCom can hold.

    :param size: Bytes as JSON, as far as they were counted.
    """

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class ItemsError(AirflowFailException):
    """Raised on the worker when the items, or the count, that a task returned can't be used."""


class StorageError(Exception):
    """
    Raised when a storage refuses to be read or written; a retry may help, and resumes.

    :param path: What was to be read or written.
    :param problem: The storage's own words.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class StoredItemsError(StorageError):
    """
    What an item has failed with whose object has changed, or vanished, since ``split`` planned where it lies.

    :param path: The object.
    :param problem: What differs.
    """


class SettingError(AirflowFailException):
    """Raised on the worker when a number that only the run knows can't be used; not retried."""


class ReuseStoreError(Exception):
    """
    Raised when what a store of ``Reuse`` has can't be used, so that nothing is taken for new without a word.

    :param path: The file.
    """

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class MissingExtraError(AirflowFailException):
    """
    Raised when a run needs an extra that isn't installed; not retried.

    :param extra: Name of the extra.
    :param module: The module that can't be imported.
    """

    def __init__(self, extra: str, *, module: str) -> None:
        super().__init__(f'{module!r} is not installed: pip install "airflow-fanout[{extra}]"')
        self.extra = extra
        self.module = module
