"""An operator class as a branch of one task; runs when the Dag is parsed."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeGuard

from airflow.sdk import BaseOperator, XComArg

from airflow_fanout.definitions.skippers import refuse_skipper
from airflow_fanout.definitions.stored_arguments import storable_arguments
from airflow_fanout.exceptions import (
    DeclarationError,
    DeclarationTypeError,
    DeclarationValueError,
    ItemsError,
)
from airflow_fanout.execution_time.arguments import NO_ITEM
from airflow_fanout.operators.expand_input import data
from airflow_fanout.operators.hooks import add_hooks
from airflow_fanout.rules.names import EACH
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from airflow.sdk import TaskGroup
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.definitions.expansion import Expansion


__all__ = ["OperatorBranch", "is_operator_class", "operator_branch"]

OURS = frozenset({"dag", "task_group", "task_id"})
"""Arguments of an operator that the group gives it."""

SCHEDULED_BY = frozenset(
    {"end_date", "executor", "max_active_tis_per_dag", "max_active_tis_per_dagrun", "pool", "start_date"}
)
"""What the scheduler reads of a mapped task before it has instances, so that theirs would have no effect."""


def is_operator_class(value: object) -> TypeGuard[type[BaseOperator]]:
    """Whether a value is a class of operators, sensors included."""
    return isinstance(value, type) and issubclass(value, BaseOperator)


@dataclass(frozen=True, kw_only=True)
class OperatorBranch:
    """
    An operator class as a branch: one task.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param operator_class: The class.
    :param bound: Arguments that the author has bound with ``functools.partial``.
    """

    is_group: ClassVar[bool] = False
    takes_index: ClassVar[bool] = False

    owner: str
    argument: str
    operator_class: type[BaseOperator]
    bound: Mapping[str, Any]

    @property
    def title(self) -> str:
        """How messages and the group's documentation name it."""
        return self.operator_class.__name__

    @property
    def signature(self) -> str:
        """The same as the title: operators take too many arguments to list."""
        return self.title

    def check(
        self,
        partial: Mapping[str, Any],
        items: Collection[Any] | None,
        *,
        default_args: Collection[str],  # Airflow fills these when the task is made
    ) -> None:
        """Check that every item is a dict of arguments that nobody else gives."""
        if twice := sorted(partial.keys() & self.bound.keys()):
            self._refuse(
                "partial", f"binds {listing(twice)}, which {self.argument} has bound already; bind it once"
            )
        self.refuse_ours("partial", partial)
        for place, item in enumerate(items or ()):
            self._check_item(place, item, {*partial, *self.bound})

    def create(
        self, name: str, partial: Mapping[str, Any], item: Any = NO_ITEM, *, task_group: TaskGroup
    ) -> tuple[BaseOperator]:
        """Make the task of one branch."""
        arguments = {**self.bound, **partial, **({} if item is NO_ITEM else item)}
        try:
            operator = self.operator_class(
                task_id=name, task_group=task_group, dag=task_group.dag, **arguments
            )
        except DeclarationError:
            raise
        except TypeError as unfit:
            self._refuse(
                self.argument, f"{self.title} for branch {name!r} can't be made: {unfit}", cause=unfit
            )
        except ValueError as unfit:
            problem = f"{self.title} for branch {name!r} can't be made: {unfit}"
            raise DeclarationValueError(self.owner, self.argument, problem) from unfit
        except Exception as unfit:
            unfit.add_note(f"{self.owner}: {self.argument}: {self.title} for branch {name!r} can't be made")
            raise
        add_hooks(operator)
        return (operator,)

    def expand(
        self, partial: Mapping[str, Any], expansion: Expansion, *, task_group: TaskGroup
    ) -> tuple[MappedOperator]:
        """Make the mapped task that all branches are instances of."""
        bound = self._storable({**self.bound, **partial})
        shape = self._arguments if expansion.gives == "item" else lambda _: {}
        try:
            mapped = self.operator_class.partial(
                task_id=EACH,
                task_group=task_group,
                dag=task_group.dag,
                **bound,
                **expansion.settings(bound),
            ).expand_kwargs(expansion.over(shape, as_stored=self._storable, as_data=self._data))
        except DeclarationError:
            raise
        except TypeError as unfit:
            self._refuse(self.argument, f"{self.title} can't be mapped: {unfit}", cause=unfit)
        except ValueError as unfit:
            problem = f"{self.title} can't be mapped: {unfit}"
            raise DeclarationValueError(self.owner, self.argument, problem) from unfit
        add_hooks(mapped)
        if expansion.gives == "item":
            hooked = set() if expansion.group.stop_after_failures is None else {"pre_execute"}
            of_all = {*mapped.partial_kwargs, *SCHEDULED_BY, *hooked}
            self._check_expandable(expansion.items or (), of_all)
        return (mapped,)

    def _storable(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is known when the Dag is parsed."""
        return storable_arguments(arguments, self.operator_class.template_fields)

    def _data(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an instance adds, if a task has returned it."""
        return data(arguments, self.operator_class.template_fields)

    def _arguments(self, item: Any) -> Mapping[str, Any]:
        """What an instance adds, asked at run time too."""
        problem = ""
        if not isinstance(item, Mapping):
            problem = f"is a dict of the arguments to add; found {item!r} of type {type(item).__name__}"
        elif ours := sorted(OURS & item.keys()):
            problem = f"gives {listing(ours)}, which the group gives it"
        if problem:
            message = f"{self.owner}: items: each item of {self.title} {problem}"
            raise ItemsError(message)
        arguments: Mapping[str, Any] = item
        return arguments

    def _check_item(self, place: int, item: Any, bound: Collection[str]) -> None:
        if not isinstance(item, Mapping):
            kind = "a value known only at run time," if isinstance(item, XComArg) else repr(item)
            problem = f"each item of {self.title} is a dict of the arguments to add; item {place} is {kind}"
            self._refuse("items", f"{problem} of type {type(item).__name__}")
        if odd := [name for name in item if not isinstance(name, str)]:
            self._refuse("items", f"item {place} of {self.title} has {odd[0]!r} for an argument's name")
        if twice := sorted(item.keys() & set(bound)):
            self._refuse(
                "items",
                f"item {place} gives {listing(twice)}, which is bound in every branch already; give it once",
            )
        self.refuse_ours("items", item)

    def _check_expandable(self, items: Iterable[Mapping[str, Any]], of_all: AbstractSet[str]) -> None:
        """Check that items leave alone what Airflow sets for all instances of a mapped task."""
        for place, item in enumerate(items):
            if fixed := sorted(item.keys() & of_all):
                self._refuse(
                    "items",
                    f"item {place} gives {listing(fixed)}, which Airflow sets for all instances of a mapped "
                    f"task alike: bind it in functools.partial({self.title}, {fixed[0]}=…), or leave mapped "
                    "out, which makes each branch a task of its own",
                )

    def refuse_ours(self, argument: str, given: Mapping[str, Any]) -> None:
        """Refuse what the group itself gives each task."""
        if ours := sorted(OURS & given.keys()):
            self._refuse(
                argument,
                f"gives {self.title} {listing(ours)}, which the group gives it: a branch's name is its "
                "task id, and comes from count=, or from the keys of a mapping",
            )

    def _refuse(self, argument: str, problem: str, *, cause: Exception | None = None) -> NoReturn:
        raise DeclarationTypeError(self.owner, argument, problem) from cause


def operator_branch(owner: str, argument: str, branch: object) -> OperatorBranch:
    """
    Make a branch of an operator class.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param branch: The class, or ``functools.partial`` of it.
    :raises DeclarationTypeError: If it can't be a branch.
    """
    bound: Mapping[str, Any] = {}
    if isinstance(branch, functools.partial):
        if branch.args:
            problem = f"functools.partial binds {branch.args[0]!r} by position; operators take names only"
            raise DeclarationTypeError(owner, argument, problem)
        bound, branch = branch.keywords, branch.func
    if not is_operator_class(branch) or branch is BaseOperator:
        problem = "BaseOperator does nothing by itself; name the operator to run"
        raise DeclarationTypeError(owner, argument, problem)
    made = OperatorBranch(owner=owner, argument=argument, operator_class=branch, bound=bound)
    made.refuse_ours(argument, bound)
    refuse_skipper(owner, argument, made.title, branch)
    return made
