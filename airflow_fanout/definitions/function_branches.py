"""A function, or a list of functions, as a branch of one task."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, XComArg, get_current_context, literal, task
from airflow.sdk.bases.decorator import determine_kwargs
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from airflow_fanout.definitions.skippers import refuse_skipper
from airflow_fanout.definitions.stored_arguments import storable
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import (
    NO_ITEM,
    FunctionArguments,
    is_function,
    is_task_function,
    undecorated,
    unwrap_partial,
)
from airflow_fanout.operators.hooks import add_hooks
from airflow_fanout.rules.names import EACH
from airflow_fanout.rules.wording import listing, typed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from airflow.sdk import TaskGroup
    from airflow.sdk.bases.decorator import _TaskDecorator
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.definitions.expansion import Expansion


def python_task(function: Any, **settings: Any) -> Any:
    """Put a function under ``@task``, with a dict as one value even where it is annotated ``-> dict``."""
    return task(**{"multiple_outputs": False, **settings})(function)


class CallingBranch:
    """A branch that calls a function: as a task, or to make tasks."""

    def __init__(self, arguments: FunctionArguments) -> None:
        self.arguments = arguments

    @property
    def title(self) -> str:
        """The function's name."""
        return self.arguments.title

    @property
    def bound(self) -> Mapping[str, Any]:
        """Arguments that the author has bound in the function."""
        return self.arguments.bound

    @property
    def takes_index(self) -> bool:
        """Whether the function has a parameter ``index``."""
        return "index" in self.arguments.parameters

    def check_arguments(
        self, partial: Mapping[str, Any], items: Collection[Any] | None, default_args: Collection[str]
    ) -> None:
        """Check that bound arguments and item fit the function, and that no item is meant for several."""
        names = self.arguments.required - {*partial, *self.bound, *default_args}
        if self.arguments.spreads_items:
            for index, item in enumerate(items or ()):
                self._check_spread(f"item {index}", item, {*partial, *self.bound}, names)
        elif len(names) > 1 and items and all(isinstance(i, Mapping) and names <= i.keys() for i in items):
            fault = (
                f"each item goes to one parameter of {self.arguments.signature}, but is a dict for several"
            )
            problem = f"{fault}; let it take the dict, or give branch=lambda item: {self.title}(**item)"
            raise DeclarationTypeError(self.arguments.owner, "items", problem)
        self.arguments.check(partial, takes_item=items is not None, default_args=default_args)

    def _check_spread(self, what: str, item: Any, bound: Collection[str], needed: Collection[str]) -> None:
        """Check that an item gives all parameters that are needed, and none that isn't free."""
        problem = self.arguments.item_problem(item, bound)
        if not problem and (missing := sorted(set(needed) - item.keys())):
            way_out = f"add it, or bind it in every branch with partial={{{missing[0]!r}: …}}"
            problem = f"lacks {listing(missing)}, which {self.arguments.signature} needs; {way_out}"
        if problem:
            raise DeclarationTypeError(self.arguments.owner, "items", f"{what} {problem}")


class FunctionBranch(CallingBranch):
    """A function as a branch: one Python task, or whatever task its decorator makes."""

    is_group: ClassVar[bool] = False

    def __init__(self, arguments: FunctionArguments, decorator: _TaskDecorator[Any, Any, Any]) -> None:
        super().__init__(arguments)
        self.decorator = decorator

    @property
    def kind(self) -> str:
        """The decorator that makes the task, such as ``@task.bash``."""
        name: str = self.decorator.operator_class.custom_operator_name
        return f"@{name.lstrip('@')}"

    @property
    def is_python(self) -> bool:
        """Whether the task runs the function itself, in its own process."""
        return self.decorator.operator_class is PYTHON_OPERATOR

    def check(
        self, partial: Mapping[str, Any], items: Collection[Any] | None, *, default_args: Collection[str]
    ) -> None:
        """Check that bound arguments and item fit the function."""
        task_args = self.decorator.kwargs.get("default_args") or {}
        self.check_arguments(partial, items, {*default_args, *task_args})

    def create(
        self, name: str, partial: Mapping[str, Any], item: Any = NO_ITEM, *, task_group: TaskGroup
    ) -> tuple[BaseOperator]:
        """Make the task of one branch."""
        positional, named = self.arguments.bind(partial, item)
        operator: BaseOperator = self._decorator(name, task_group)(*positional, **named).operator
        add_hooks(operator)
        return (operator,)

    def expand(
        self, partial: Mapping[str, Any], expansion: Expansion, *, task_group: TaskGroup
    ) -> tuple[MappedOperator]:
        """Make the mapped task that all branches are instances of."""
        bound = storable({**self.bound, **partial})
        over = expansion.over(
            self._shape(bound, expansion.gives),
            as_literal=lambda given: {name: literal(value) for name, value in given.items()},
        )
        decorator = self._decorator(EACH, task_group)
        decorator.kwargs.update(expansion.settings(decorator.kwargs))
        operator: MappedOperator = decorator.partial(**bound).expand_kwargs(over).operator
        add_hooks(operator)
        return (operator,)

    def _shape(self, bound: Collection[str], gives: str) -> Callable[[Any], Mapping[str, Any]]:
        """Make what puts an instance's item, or index, into its arguments."""
        if gives == "nothing":
            return lambda _: {}
        if gives == "item" and self.arguments.spreads_items:
            return functools.partial(self.arguments.spread, bound=bound)
        parameter = self.arguments.item_name(bound) if gives == "item" else "index"
        return lambda item: {parameter: item}

    @property
    def batch_settings(self) -> dict[str, Any]:
        """Settings of the decorator, for a task that runs items of this branch."""
        settings, problem = _settings(self.decorator), ""
        if unusable := settings.keys() - _BATCH_SETTINGS:
            problem = f"{self.title} sets {listing(unusable)}, which a batch can't take; leave it out"
        elif self.decorator.multiple_outputs and not task(self.decorator.function).multiple_outputs:  # type: ignore[attr-defined]
            problem = f"{self.title} sets multiple_outputs, but an item has one value; leave it out"
        if problem:
            raise DeclarationValueError(self.arguments.owner, self.arguments.argument, problem)
        return settings

    def _decorator(self, task_id: str, task_group: TaskGroup) -> Any:
        decorator = self.decorator.override(task_id=task_id, task_group=task_group, dag=task_group.dag)
        decorator.kwargs.pop("op_kwargs", None)  # they are bound; Airflow would pass them twice
        return decorator


PYTHON_OPERATOR: Any = python_task(lambda: None).operator_class
"""The class of the tasks that ``@task`` makes."""

_OPERATOR_PARAMETERS = inspect.signature(BaseOperator.__init__).parameters
_BATCH_SETTINGS = _OPERATOR_PARAMETERS.keys() - {"self", "kwargs", "do_xcom_push"}


def _settings(decorator: _TaskDecorator[Any, Any, Any]) -> dict[str, Any]:
    """What a ``@task`` was given, but for the task's id and bound arguments."""
    return {name: value for name, value in decorator.kwargs.items() if name not in {"task_id", "op_kwargs"}}


def function_branch(
    owner: str, argument: str, branch: object, item_for: str | None = None, *, spreads_items: bool = False
) -> FunctionBranch:
    """Make a branch of a ``@task`` function or a plain one, with arguments bound if wanted."""
    target, bound = unwrap_partial(owner, argument, branch)
    decorator = target if is_task_function(target) else python_task(target)
    _refuse_setup(owner, argument, decorator)
    bound = {**(decorator.kwargs.get("op_kwargs") or {}), **bound}
    arguments = FunctionArguments(
        owner=owner,
        argument=argument,
        function=decorator.function,
        bound=bound,
        item_for=item_for,
        spreads_items=spreads_items,
    )
    refuse_skipper(owner, argument, arguments.title, decorator.operator_class)
    return FunctionBranch(arguments, decorator)


def pipe_branch(
    owner: str, argument: str, functions: Sequence[object], *, spreads_items: bool = False
) -> FunctionBranch:
    """Make one task of several functions: each gets what the one before it returned, the first the item."""
    if not functions:
        raise DeclarationValueError(owner, argument, "found an empty list; name at least one function")
    first, *later = [_pipe_step(owner, f"{argument}[{i}]", each) for i, each in enumerate(functions)]
    for step in later:
        _check_later_step(step)
    function = _pipe(first, later)
    arguments = FunctionArguments(
        owner=owner, argument=argument, function=function, bound=first.bound, spreads_items=spreads_items
    )
    return FunctionBranch(arguments, python_task(function))


def _pipe_step(owner: str, argument: str, function: object) -> FunctionArguments:
    target, bound = unwrap_partial(owner, argument, function)
    if is_task_function(target):
        _refuse_setup(owner, argument, target)
        bound = {**(target.kwargs.get("op_kwargs") or {}), **bound}
        settings = _settings(target)
        if target.operator_class is not PYTHON_OPERATOR or settings:
            kind = f"@task with {listing(settings)}" if settings else target.operator_class.__name__
            fault = f"{target.function.__name__} is a {kind}, but functions of a list share one Python task"
            problem = f"{fault}; take the plain function, and give settings in default_args"
            raise DeclarationTypeError(owner, argument, problem)
        target = undecorated(target)
    if is_function(target) and not inspect.iscoroutinefunction(target):
        return FunctionArguments(owner=owner, argument=argument, function=target, bound=bound)
    found = typed(target) + ("; wrap it in a function (def or lambda)" if callable(target) else "")
    if is_function(target):
        found = "an async def; use asyncio.run within a plain one"
    raise DeclarationTypeError(owner, argument, f"expected a plain function, found {found}")


def _check_later_step(step: FunctionArguments) -> None:
    """Check that a function of a list needs one value, and has nothing bound that comes at run time."""
    item, problem = step.item_parameter(step.bound), ""
    # Airflow renders the arguments of the task, which are those of the first function.
    if unresolved := [name for name, value in step.bound.items() if any(XComArg.iter_xcom_references(value))]:
        fault = f"binds {listing(unresolved)} of {step.title} to a value known only at run time"
        way_out = "which only the first function of a list can get, in partial={…}; let that one hand it on"
        problem = f"{fault}, {way_out}"
    elif item is None:
        problem = f"{step.signature} has no free parameter for the value of the function before it"
    elif others := step.required - step.bound.keys() - {item.name}:
        fault = f"{step.signature} also needs {listing(others)}, but gets one value, that of the function"
        problem = f"{fault} before it; bind the rest with functools.partial, or return one tuple or dict"
    if problem:
        raise DeclarationTypeError(step.owner, step.argument, problem)
    step.check({}, takes_item=True, default_args=())


def _pipe(first: FunctionArguments, later: Sequence[FunctionArguments]) -> Callable[..., Any]:
    from airflow_fanout.execution_time.batch_work import per_call_copies  # only these branches need it

    steps = [(step, per_call_copies(step.bound)) for step in later]

    @functools.wraps(first.function)  # its parameters are those of the pipe
    def pipe(*args: Any, **kwargs: Any) -> Any:
        from airflow_fanout.execution_time.recording import timed_step  # needed on a worker alone

        with timed_step(first.title):
            value = first.function(*args, **kwargs)
        for step, bound in steps:
            with timed_step(step.title):
                positional, named = step.bind(bound(), value)
                takes_context = step.takes_any or step.given_by_airflow & step.parameters.keys()
                named = {**(_context() if takes_context else {}), **named}
                value = step.function(*positional, **determine_kwargs(step.function, positional, named))
        return value

    pipe.__name__ = pipe.__qualname__ = " | ".join(step.title for step in (first, *later))
    pipe.__doc__ = None
    return pipe


def _context() -> dict[str, Any]:
    context: Any = get_current_context()
    return {name: context[name] for name in KNOWN_CONTEXT_KEYS if name in context}


def _refuse_setup(owner: str, argument: str, decorated: _TaskDecorator[Any, Any, Any]) -> None:
    if decorated.is_setup or decorated.is_teardown:
        title = getattr(decorated.function, "__name__", "function")
        kind = "setup" if decorated.is_setup else "teardown"
        problem = f"{title} is a @{kind}; make the branch a @task, and wire the {kind} around the group"
        raise DeclarationValueError(owner, argument, problem)
