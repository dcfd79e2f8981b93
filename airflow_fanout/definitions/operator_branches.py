"""An operator class as a branch of one task."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from airflow.sdk import BaseOperator

from airflow_fanout.definitions.skippers import refuse_skipper
from airflow_fanout.definitions.stored_arguments import storable_arguments
from airflow_fanout.exceptions import (
    DeclarationError,
    DeclarationTypeError,
    DeclarationValueError,
    ItemsError,
)
from airflow_fanout.execution_time.arguments import NO_ITEM, kwargs_problem
from airflow_fanout.operators.expand_input import DataExpandInput
from airflow_fanout.operators.hooks import add_hooks
from airflow_fanout.rules.names import EACH
from airflow_fanout.rules.wording import listing, typed

if TYPE_CHECKING:
    from airflow.sdk import TaskGroup
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.definitions.expansion import Expansion


GROUP_ARGUMENTS = frozenset({"dag", "task_group", "task_id"})

SHARED_SETTINGS = frozenset(
    {"end_date", "executor", "max_active_tis_per_dag", "max_active_tis_per_dagrun", "pool", "start_date"}
)
"""What the scheduler reads of a mapped task before it has instances, so that theirs would have no effect."""


def is_operator_class(value: object) -> TypeGuard[type[BaseOperator]]:
    """Whether a value is a class of operators, sensors included."""
    return isinstance(value, type) and issubclass(value, BaseOperator)


@dataclass(frozen=True, kw_only=True)
class OperatorBranch:
    """An operator class as a branch: one task."""

    is_group: ClassVar[bool] = False
    takes_index: ClassVar[bool] = False
    kind: ClassVar[str] = "an operator class"

    owner: str
    argument: str
    operator_class: type[BaseOperator]
    bound: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The name of the class."""
        return self.operator_class.__name__

    def check(
        self, partial: Mapping[str, Any], items: Collection[Any] | None, *, default_args: Collection[str]
    ) -> None:
        """Check that every item, if there are any, is a dict of arguments that are given once."""
        if repeated := partial.keys() & self.bound.keys():
            problem = f"binds {listing(repeated)}, which {self.argument} has bound already; bind it once"
            raise DeclarationTypeError(self.owner, "partial", problem)
        self.refuse_group_arguments("partial", partial)
        for index, item in enumerate(items or ()):
            self._check_item(index, item, {*partial, *self.bound})

    def _check_item(self, index: int, item: Any, bound: Collection[str]) -> None:
        if problem := kwargs_problem(item, self.title, bound):
            raise DeclarationTypeError(self.owner, "items", f"item {index} {problem}")
        self.refuse_group_arguments("items", item)

    def refuse_group_arguments(self, argument: str, given: Mapping[str, Any]) -> None:
        """Refuse arguments that each task gets from the group."""
        if reserved := GROUP_ARGUMENTS & given.keys():
            fault = f"gives {self.title} {listing(reserved)}, which it gets from the group"
            problem = f"{fault}: a branch's name is its task id, from count= or the keys of a mapping"
            raise DeclarationTypeError(self.owner, argument, problem)

    def create(
        self, name: str, partial: Mapping[str, Any], item: Any = NO_ITEM, *, task_group: TaskGroup
    ) -> tuple[BaseOperator]:
        """Make the task of one branch."""
        arguments = {**self.bound, **partial, **({} if item is NO_ITEM else item)}
        arguments |= {"task_id": name, "task_group": task_group, "dag": task_group.dag}
        with self._errors_as(f"{self.title} for branch {name!r} can't be made"):
            operator = self.operator_class(**arguments)
        add_hooks(operator)
        return (operator,)

    def expand(
        self, partial: Mapping[str, Any], expansion: Expansion, *, task_group: TaskGroup
    ) -> tuple[MappedOperator]:
        """Make the mapped task that all branches are instances of."""
        template_fields = self.operator_class.template_fields
        bound = storable_arguments({**self.bound, **partial}, template_fields)
        over = expansion.over(
            self._arguments if expansion.gives == "item" else lambda _: {},
            as_storable=lambda arguments: storable_arguments(arguments, template_fields),
        )
        settings = {**bound, **expansion.settings(bound)}
        settings |= {"task_id": EACH, "task_group": task_group, "dag": task_group.dag}
        with self._errors_as(f"{self.title} can't be mapped"):
            mapped = self.operator_class.partial(**settings).expand_kwargs(over)
        if expansion.output is not None:
            mapped.expand_input = DataExpandInput(over)
        add_hooks(mapped)
        if expansion.gives == "item":
            hooks = {"pre_execute"} if expansion.is_stoppable else set()
            self._check_expandable(expansion.items, {*mapped.partial_kwargs, *SHARED_SETTINGS, *hooks})
        return (mapped,)

    def _arguments(self, item: Any) -> Mapping[str, Any]:
        message = f"{self.owner}: items: "
        if not isinstance(item, Mapping):
            message += f"expected a dict of arguments of {self.title} as each item, found {typed(item)}"
            raise ItemsError(message)
        if reserved := GROUP_ARGUMENTS & item.keys():
            message += f"an item gives {self.title} {listing(reserved)}, which it gets from the group"
            raise ItemsError(message)
        return item

    def _check_expandable(self, items: Collection[Mapping[str, Any]], shared: Collection[str]) -> None:
        """Check that items leave alone what Airflow sets for all instances of a mapped task."""
        for index, item in enumerate(items):
            if fixed := sorted(item.keys() & set(shared)):
                fault = f"item {index} gives {listing(fixed)}, which Airflow sets for all instances alike"
                way_out = f"bind it in functools.partial({self.title}, {fixed[0]}=…), or leave mapped out"
                problem = f"{fault}: {way_out}, which makes each branch a task of its own"
                raise DeclarationTypeError(self.owner, "items", problem)

    @contextmanager
    def _errors_as(self, problem: str) -> Iterator[None]:
        """Say in an error of the operator's which branch of which group it was."""
        try:
            yield
        except DeclarationError:
            raise
        except (TypeError, ValueError) as error:
            kind = DeclarationTypeError if isinstance(error, TypeError) else DeclarationValueError
            raise kind(self.owner, self.argument, f"{problem}: {error}") from error
        except Exception as error:
            error.add_note(f"{self.owner}: {self.argument}: {problem}")
            raise


def operator_branch(owner: str, argument: str, branch: object) -> OperatorBranch:
    """Make a branch of an operator class, or of ``functools.partial`` of one."""
    bound: Mapping[str, Any] = {}
    if isinstance(branch, functools.partial):
        if branch.args:
            problem = f"functools.partial binds {branch.args[0]!r} by position; operators take names only"
            raise DeclarationTypeError(owner, argument, problem)
        bound, branch = branch.keywords, branch.func
    if not is_operator_class(branch) or branch is BaseOperator:
        problem = "BaseOperator does nothing by itself; name the operator to run"
        raise DeclarationTypeError(owner, argument, problem)
    refuse_skipper(owner, argument, branch.__name__, branch)
    result = OperatorBranch(owner=owner, argument=argument, operator_class=branch, bound=bound)
    result.refuse_group_arguments(argument, bound)
    return result
