"""A function, or a list of functions, as a branch of one task; runs when the Dag is parsed."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import XComArg, get_current_context, literal, task
from airflow.sdk.bases.decorator import determine_kwargs
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from airflow_fanout.definitions.skippers import refuse_skipper
from airflow_fanout.definitions.stored_arguments import storable
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import (
    NO_ITEM,
    CallingBranch,
    FunctionArguments,
    is_function,
    is_task_function,
    unwrap_partial,
)
from airflow_fanout.execution_time.batch_work import OwnCopies
from airflow_fanout.operators.hooks import add_hooks
from airflow_fanout.rules.names import EACH
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from airflow.sdk import BaseOperator, TaskGroup
    from airflow.sdk.bases.decorator import _TaskDecorator
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.definitions.expansion import Expansion


__all__ = ["FunctionBranch", "function_branch", "pipe_branch"]


@dataclass(frozen=True, kw_only=True)
class FunctionBranch(CallingBranch):
    """
    A function as a branch: one Python task (or whatever task its decorator makes).

    :param arguments: The arguments of the function.
    :param decorator: The ``@task`` that wraps it.
    :param for_items: The function for a process that calls it for many items, if that is another.
    """

    is_group: ClassVar[bool] = False

    decorator: _TaskDecorator[Any, Any, Any]
    for_items: Callable[..., Any] | None = None

    @property
    def arguments_of_items(self) -> FunctionArguments:
        """The arguments of the function that items of a batch call."""
        return self.arguments if self.for_items is None else replace(self.arguments, function=self.for_items)

    def check(
        self, partial: Mapping[str, Any], items: Collection[Any] | None, *, default_args: Collection[str]
    ) -> None:
        """Check that what every branch is given fits the function."""
        own = self.decorator.kwargs.get("default_args") or {}
        self.arguments.check(partial, takes_item=items is not None, default_args={*default_args, *own})

    def create(
        self, name: str, partial: Mapping[str, Any], item: Any = NO_ITEM, *, task_group: TaskGroup
    ) -> tuple[BaseOperator]:
        """Make the task of one branch."""
        positional, named = self.arguments.bind(partial, item)
        decorator = self.decorator.override(task_id=name, task_group=task_group, dag=task_group.dag)
        decorator.kwargs.pop("op_kwargs", None)  # they are bound; Airflow would pass them twice
        operator: BaseOperator = decorator(*positional, **named).operator  # type: ignore[attr-defined]
        add_hooks(operator)
        return (operator,)

    def expand(
        self, partial: Mapping[str, Any], expansion: Expansion, *, task_group: TaskGroup
    ) -> tuple[MappedOperator]:
        """Make the mapped task that all branches are instances of."""
        bound = storable({**self.bound, **partial})
        parameter = None if expansion.gives == "nothing" else "index"
        if expansion.gives == "item":
            parameter = self.arguments.item_name(bound, because="a mapped task")
        shape = (lambda _: {}) if parameter is None else (lambda item: {parameter: item})
        decorator = self.decorator.override(task_id=EACH, task_group=task_group, dag=task_group.dag)
        decorator.kwargs.pop("op_kwargs", None)
        decorator.kwargs.update(expansion.settings(decorator.kwargs))
        over = expansion.over(
            shape, as_data=lambda given: {name: literal(each) for name, each in given.items()}
        )
        mapped: Any = decorator.partial(**bound).expand_kwargs(over)
        add_hooks(mapped.operator)
        return (mapped.operator,)


def function_branch(owner: str, argument: str, target: object, bound: Mapping[str, Any]) -> FunctionBranch:
    """
    Make a branch of a function.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param target: A ``@task`` function or a plain one.
    :param bound: Arguments that ``functools.partial`` binds.
    :raises DeclarationValueError: If it is a setup, a teardown, or can skip the fan-in.
    """
    if is_task_function(target):
        _refuse_setup(owner, argument, target)
        title = getattr(target.function, "__name__", "function")
        refuse_skipper(owner, argument, title, target.operator_class)
        decorator, bound = target, {**(target.kwargs.get("op_kwargs") or {}), **bound}
    else:
        decorator = _python_task(target)
    arguments = FunctionArguments(owner=owner, argument=argument, function=decorator.function, bound=bound)
    return FunctionBranch(arguments=arguments, decorator=decorator)


def pipe_branch(owner: str, argument: str, functions: Sequence[object]) -> FunctionBranch:
    """
    Make one task of several functions, each of which gets what the one before it returned.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param functions: Plain functions, or ``@task`` functions without settings of their own; with arguments
        bound if wanted. Item and ``partial`` go to the first; each later one takes one value.
    :raises DeclarationTypeError: If one of them is something else, or a later one can't be called with one
        value.
    """
    if not functions:
        problem = "is an empty list; name at least one function"
        raise DeclarationValueError(owner, argument, problem)
    steps = [_step(owner, f"{argument}[{place}]", function) for place, function in enumerate(functions)]
    for step in steps[1:]:
        _check_bound(step)
        _check_takes_one_value(step)
    first, *later = steps
    decorator = _python_task(_pipe(first, later))
    arguments = FunctionArguments(
        owner=owner, argument=argument, function=decorator.function, bound=first.bound
    )
    return FunctionBranch(
        arguments=arguments, decorator=decorator, for_items=_pipe(first, later, bound_to=OwnCopies)
    )


def _step(owner: str, argument: str, function: object) -> FunctionArguments:
    target, bound = unwrap_partial(owner, argument, function, _function_of)
    if is_task_function(target):
        _refuse_setup(owner, argument, target)
        bound = {**(target.kwargs.get("op_kwargs") or {}), **bound}
        settings = target.kwargs.keys() - {"task_id", "op_kwargs"}
        if target.operator_class is not _python_task(_nothing).operator_class or settings:
            said = f"@task with {listing(settings)}" if settings else target.operator_class.__name__
            problem = (
                f"the functions of a list share one Python task, so that {_function_of(target).__name__} "
                f"can't be a {said}; take the plain function, and give settings in default_args"
            )
            raise DeclarationTypeError(owner, argument, problem)
        target = target.function
    if not is_function(target) or inspect.iscoroutinefunction(target):
        found = f"{target!r} of type {type(target).__name__}"
        if callable(target):
            found += "; wrap it in a function (def or lambda)"
        if is_function(target):
            found = "an async def; use asyncio.run within a plain one"
        problem = f"expected a plain function, found {found}"
        raise DeclarationTypeError(owner, argument, problem)
    return FunctionArguments(owner=owner, argument=argument, function=target, bound=bound)


def _check_bound(step: FunctionArguments) -> None:
    """Refuse what Airflow would not fill in: it renders the arguments of the task, which are the first's."""
    late = [name for name, value in step.bound.items() if any(XComArg.iter_xcom_references(value))]
    if late:
        problem = (
            f"binds {listing(late)} of {step.title} to a value known only at run time, which only the first "
            "function of a list can get, in partial={…}; hand it on in what that returns"
        )
        raise DeclarationTypeError(step.owner, step.argument, problem)


def _check_takes_one_value(step: FunctionArguments) -> None:
    item = step.item_parameter(step.bound)
    if item is None:
        problem = f"{step.signature} has no free parameter for what the function before it returns"
        raise DeclarationTypeError(step.owner, step.argument, problem)
    if others := sorted(step.required - step.bound.keys() - {item.name}):
        problem = (
            f"{step.signature} also needs {listing(others)}, but gets one value, what the function before it "
            "returns; bind the rest with functools.partial, or return one tuple or dict"
        )
        raise DeclarationTypeError(step.owner, step.argument, problem)
    step.check({}, takes_item=True, default_args=())


def _pipe(
    first: FunctionArguments,
    later: Sequence[FunctionArguments],
    *,
    bound_to: Callable[[Mapping[str, Any]], Callable[[], Mapping[str, Any]]] = lambda bound: lambda: bound,
) -> Callable[..., Any]:
    """
    Make one function of several.

    :param bound_to: Makes what gives a call of a later function its bound arguments.
    """
    steps = tuple((step, bound_to(step.bound)) for step in later)

    @functools.wraps(first.function)  # its parameters are those of the pipe
    def pipe(*args: Any, **kwargs: Any) -> Any:
        value = first.function(*args, **kwargs)
        for step, bound in steps:
            positional, named = step.bind(bound(), value)
            context = _context() if step.takes_context else {}
            value = step.function(
                *positional, **determine_kwargs(step.function, positional, {**context, **named})
            )
        return value

    pipe.__name__ = pipe.__qualname__ = " | ".join(step.title for step in (first, *later))
    pipe.__doc__ = None
    return pipe


def _context() -> dict[str, Any]:
    given: Any = get_current_context()
    return {name: given[name] for name in KNOWN_CONTEXT_KEYS if name in given}


def _python_task(function: Any) -> Any:
    # multiple_outputs: Airflow would push each key of a dict apart because of `-> dict`, one request for
    # each.
    return task(multiple_outputs=False)(function)


def _nothing() -> None: ...


def _function_of(target: Any) -> Any:
    return target.function if is_task_function(target) else target


def _refuse_setup(owner: str, argument: str, decorated: _TaskDecorator[Any, Any, Any]) -> None:
    if decorated.is_setup or decorated.is_teardown:
        title = getattr(decorated.function, "__name__", "function")
        kind = "setup" if decorated.is_setup else "teardown"
        problem = (
            f"{title} is a @{kind}, which prepares or clears up for others and is no work of its own; "
            f"make the branch a @task, and wire the {kind} around the group"
        )
        raise DeclarationValueError(owner, argument, problem)
