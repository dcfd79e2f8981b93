"""Tasks of a branch that skip others: refused where they would skip the fan-in, or nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow import __version__ as airflow_version

from airflow_fanout.exceptions import DeclarationValueError
from airflow_fanout.serialization.tasks import nearest_mapped_group

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    AnyOperator = BaseOperator | MappedOperator

SETTING = "ignore_downstream_trigger_rules"
SKIPS_IN_MAPPED_GROUPS = tuple(int(part) for part in airflow_version.split(".")[:2]) >= (3, 4)


def refuse_skipper(owner: str, argument: str, title: str, operator_class: type[Any]) -> None:
    """Refuse a last task whose class can skip the tasks after it: branching, short-circuit, latest-only."""
    if _can_skip(operator_class):
        kind = operator_class.__name__
        subject = f"{title} skips" if title == kind else f"{title} is a {kind}, which skips"
        way_out = "to skip one branch, raise AirflowSkipException in a plain @task"
        problem = f"{subject} the tasks after it, so that the fan-in would never run; {way_out}"
        raise DeclarationValueError(owner, argument, problem)


def refuse_inner_skipper(owner: str, argument: str, task: AnyOperator) -> None:
    """
    Refuse a task that skips too much wherever it stands in a branch, or that Airflow lets skip nothing.

    Of what a mapped instance skips, the scheduler looks for the record without its map index
    (``NotPreviouslySkippedDep``; airflow#48845, #30883): all tasks after it run, without a word. From 3.4 on
    that is right in a mapped task group, and still wrong after a mapped task. (Run on 3.3.2 and 3.4.0b2.)
    """
    if not _can_skip(task.operator_class if task.is_mapped else type(task)):
        return
    problem, mapped_group = "", nearest_mapped_group(task.task_group)
    if task.is_mapped or (mapped_group is not None and not SKIPS_IN_MAPPED_GROUPS):
        place = "is mapped" if task.is_mapped else f"is in the mapped task group {mapped_group!r}"
        fault = f"{task.task_id!r} skips tasks and {place}, where Airflow runs them all the same"
        way_out = "raise AirflowSkipException in a plain @task, or leave that task, and the groups around it"
        problem = f"{fault}; {way_out}, unmapped: with a count or items known at parse time"
    elif getattr(task, SETTING, False) is True:
        fault = f"{task.task_id!r} is a short-circuit that skips all tasks after it, the fan-in too"
        problem = f"{fault}; give it {SETTING}=False, so that it skips the rest of its branch"
    if problem:
        raise DeclarationValueError(owner, argument, problem)


def _can_skip(operator_class: type[Any]) -> bool:
    return getattr(operator_class, "inherits_from_skipmixin", False) is True  # a property where it is not
