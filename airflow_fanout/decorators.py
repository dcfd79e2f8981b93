"""``@task.fan_out`` and ``@task.fan_in``: group and fan-in as decorators; runs when the Dag is parsed."""

from __future__ import annotations

import functools
import inspect
from inspect import Parameter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, ParamSpec, TypeVar, overload

from airflow.sdk import XComArg, task
from airflow.sdk.bases.decorator import get_unique_task_id

from airflow_fanout.definitions.decorator_options import (
    GROUP_OPTIONS,
    check_fan_in_options,
    check_fan_out_options,
)
from airflow_fanout.definitions.task_group import FanOutGroup
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import FunctionArguments, ItemFor, is_function
from airflow_fanout.operators.fan_in import FanInOperator
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Unpack

    from airflow_fanout.definitions.decorator_options import FanInOptions, FanOutOptions

__all__ = ["FanInFunction", "FanOutFunction", "fan_in", "fan_out"]

P = ParamSpec("P")
R = TypeVar("R")

_RESULTS: Any = object()
"""Stands for the results while the other arguments of a fan-in's function are bound."""


class _DecoratedFunction(Generic[P, R]):
    """
    What both decorators make of a function.

    :param function: The function; plain, so that tests can call it.
    :param options: What the decorator was given.
    """

    fan_decorator: ClassVar[str]
    __name__: str

    def __init__(self, function: Callable[P, R], options: Mapping[str, Any]) -> None:
        if not callable(function):
            problem = f"expected a function, found {function!r}; give arguments by name"
            raise DeclarationTypeError(self.fan_decorator, "function", problem)
        self.function = function
        self._options = dict(options)
        innermost = getattr(function, "function", function)  # of a @task or @task_group
        self._arguments = FunctionArguments(
            owner=f"{self.fan_decorator} {innermost.__name__!r}",
            argument="call",
            function=innermost,
            bound={},
        )
        functools.update_wrapper(self, innermost)  # type: ignore[arg-type]

    def _refuse_setup(self, _: bool) -> NoReturn:
        self._refuse("setup", "is neither a @setup nor a @teardown; wire those around the group")

    # Airflow's @setup and @teardown set these.
    is_setup = property(lambda _: False, _refuse_setup)
    is_teardown = property(lambda _: False, _refuse_setup)

    def _named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name."""
        try:
            signature = inspect.signature(self._arguments.function)
            found = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as unfit:
            self._refuse("call", f"does not fit {self._arguments.signature}: {unfit}")
        named: dict[str, Any] = {}
        for name, value in found.items():
            kind = self._arguments.parameters[name].kind
            if kind is Parameter.VAR_KEYWORD:
                named |= value
            elif kind is Parameter.VAR_POSITIONAL and value != (_RESULTS,):
                self._refuse("call", f"gives {value[-1]!r} to *{name}; give arguments by name")
            else:
                named[name] = value
        return named

    def _refuse(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationTypeError(self._arguments.owner, argument, problem)


class FanOutFunction(_DecoratedFunction[P, R]):
    """
    A function under ``@task.fan_out``: called, or expanded, it makes the group of its branches.

    :param function: The function.
    :param options: What the decorator was given.
    :param bound: Arguments that ``.partial()`` has bound.
    """

    fan_decorator = "@task.fan_out"

    def __init__(
        self, function: Callable[P, R], options: Mapping[str, Any], bound: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(function, options)
        check_fan_out_options(self._arguments.owner, options)
        self._bound = dict(bound or {})

    def __call__(self, /, *args: Any, **kwargs: Any) -> FanOutGroup:
        """Make ``count`` branches, each of which is given these arguments."""
        bound = self._bind(args, kwargs)
        if self._options.get("count") is None:
            free = self._arguments.item_parameter(bound)
            item = free.name if free else "item"
            problem = (
                f"nothing says how many branches there are; write {self.fan_decorator}(count=8), or give an "
                f"item for each: {self._arguments.title}.expand({item}=[…]), after .partial(…) with the rest"
            )
            raise DeclarationValueError(self._arguments.owner, "count", problem)
        return self._group(self._branch(), bound)

    def partial(self, /, **kwargs: Any) -> FanOutFunction[P, R]:
        """Bind arguments in every branch."""
        return FanOutFunction(self.function, self._options, self._bind((), kwargs))

    def expand(self, /, **items: Sequence[Any] | Mapping[str, Any] | XComArg) -> FanOutGroup:
        """Make a branch for each item, given to the parameter of that name; a mapping's keys are names."""
        if len(items) != 1:
            self._refuse(
                "expand",
                f"expected the items of one parameter, found {listing(items)}; bind the others with "
                ".partial(…), or let an item have several values: .expand(pair=[(1, 'a'), (2, 'b')])",
            )
        self._bind((), items)
        ((parameter, values),) = items.items()
        if (count := self._options.get("count")) is not None:
            self._refuse(
                "expand",
                f"count={count} says how many branches there are, and so do items; leave one of them out",
            )
        if parameter in self._arguments.given_by_airflow:
            self._refuse("expand", f"{parameter!r} is what Airflow gives to every task itself; rename it")
        return self._group(ItemFor(branch=self._branch(), parameter=parameter), self._bound, items=values)

    def expand_kwargs(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: an item goes to one parameter."""
        self._refuse(
            "expand_kwargs",
            "an item goes to one parameter; let that take a dict: .expand(item=[{…}, {…}])",
        )

    def override(self, **options: Unpack[FanOutOptions]) -> FanOutFunction[P, R]:
        """Replace some of what the decorator was given."""
        return FanOutFunction(self.function, {**self._options, **options}, self._bound)

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        named = self._named(args, kwargs)
        if twice := named.keys() & self._bound.keys():
            self._refuse("call", f"gives {listing(twice)}, which .partial(…) has bound already")
        return {**self._bound, **named}

    def _branch(self) -> Any:
        """Return what each branch runs, with its settings."""
        settings = {name: value for name, value in self._options.items() if name not in GROUP_OPTIONS}
        if is_function(self.function):
            # multiple_outputs: Airflow would push each key of a dict apart because of `-> dict`.
            return task(**{"multiple_outputs": False, **settings})(self.function)
        for name in settings:
            self._refuse(
                name,
                "is a setting of tasks, which the decorator below makes; give it there, or in default_args",
            )
        return self.function

    def _group(self, branch: Any, partial: Mapping[str, Any], items: Any = None) -> FanOutGroup:
        given = {name: value for name, value in self._options.items() if name in GROUP_OPTIONS}
        given.setdefault("group_id", self._arguments.title)
        return FanOutGroup(branch=branch, items=items, partial=partial, add_suffix_on_collision=True, **given)


class FanInFunction(_DecoratedFunction[P, R]):
    """
    A function under ``@task.fan_in``: called with a group, it makes the fan-in of its branches.

    :param function: The function.
    :param options: What the decorator was given.
    """

    fan_decorator = "@task.fan_in"

    def __init__(self, function: Callable[P, R], options: Mapping[str, Any]) -> None:
        super().__init__(function, options)
        check_fan_in_options(self._arguments.owner, options)

    @overload
    def __call__(self, group: FanOutGroup, /, *args: Any, **op_kwargs: Any) -> XComArg: ...
    @overload
    def __call__(self, /, **op_kwargs: Any) -> XComArg: ...
    def __call__(self, /, *args: Any, **op_kwargs: Any) -> XComArg:
        """Collect the branches of a group, which comes first, or, without one, by ``task_id_prefix``."""
        by_prefix = self._options.get("task_id_prefix") is not None
        if by_prefix and any(isinstance(value, FanOutGroup) for value in args[:1]):
            self._refuse("call", "has task_id_prefix=, so it takes no group; leave out one of them")
        if not by_prefix and not args:
            self._refuse(
                "call",
                f"expected the group to collect; write {self._arguments.title}(<group>, …), or give the "
                "decorator task_id_prefix=",
            )
        if by_prefix and any(map(self._collects, args)):
            self._refuse(
                "call",
                "has task_id_prefix=, so the results are those of the tasks wired before it: call it without "
                f"them, and wire them: tasks >> {self._arguments.title}(); other arguments are given by name",
            )
        group, others = (None, args) if by_prefix else (args[0], args[1:])
        named = self._named((_RESULTS, *others), op_kwargs)
        results = next(iter(named))
        if missing := self._arguments.required - named.keys():
            self._refuse(
                "call", f"{self._arguments.signature} needs {listing(missing)}; give it in the call, by name"
            )
        del named[results]
        options = {"task_id": self._arguments.title, **self._options}
        options["task_id"] = get_unique_task_id(
            options["task_id"], options.get("dag"), options.get("task_group")
        )
        operator = FanInOperator(
            fan_out=group, python_callable=self.function, op_kwargs=named or None, **options
        )
        documents = (operator.doc, operator.doc_json, operator.doc_md, operator.doc_rst, operator.doc_yaml)
        if self.function.__doc__ and not any(documents):
            operator.doc_md = self.function.__doc__
        output: XComArg = operator.output
        return output

    def _collects(self, value: object) -> bool:
        """Whether a value is the output of a task that the prefix takes."""
        prefix = self._options.get("task_id_prefix")
        if not isinstance(prefix, str) or not prefix or not isinstance(value, XComArg):
            return False
        return any(operator.task_id.startswith(prefix) for operator, _ in value.iter_references())

    def partial(self, **kwargs: Any) -> NoReturn:
        """Refuse to be mapped: a fan-in is where the mapping ends."""
        FanInOperator.partial(**kwargs)

    def expand(self, **kwargs: Any) -> NoReturn:
        """Refuse to be mapped."""
        FanInOperator.partial(**kwargs)

    def expand_kwargs(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to be mapped."""
        FanInOperator.partial(**kwargs)

    def override(self, **options: Unpack[FanInOptions]) -> FanInFunction[P, R]:
        """Replace some of what the decorator was given."""
        return FanInFunction(self.function, {**self._options, **options})


@overload
def fan_out(function: Callable[P, R], /, **options: Unpack[FanOutOptions]) -> FanOutFunction[P, R]: ...
@overload
def fan_out(**options: Unpack[FanOutOptions]) -> Callable[[Callable[P, R]], FanOutFunction[P, R]]: ...
def fan_out(function: Any = None, /, **options: Any) -> Any:
    """
    Make a function the branch of a :class:`~airflow_fanout.FanOutGroup`; ``@task.fan_out``.

    .. code-block:: python

        @task.fan_out(count=8, retries=2)
        def process(text: str) -> str: ...


        process(load())  # 8 branches, each given the text
        process.expand(text=list_texts())  # without count=: a branch for each text

    A call returns the group; its arguments are bound in every branch, and may be XComArgs. ``.partial()``
    binds them beforehand, ``.expand()`` takes the items for one parameter, ``.override()`` other options. The
    group's id is the function's name, ``<name>__1`` for a second call.

    :param function: What one branch runs: a function, ``async def`` too, or one under ``@task`` or
        ``@task_group``.
    :param options: Arguments of ``FanOutGroup`` but ``branch``, ``items`` and ``partial``; settings that
        Airflow's ``@task`` takes (``retries``, ``pool``, …) hold for the task of each branch.
    :raises DeclarationTypeError: If there is an unknown option, or arguments don't fit; a ``TypeError``.
    :raises DeclarationValueError: If nothing says how many branches there are; a ``ValueError``.
    """
    if function is None:
        return lambda function: FanOutFunction(function, options)
    return FanOutFunction(function, options)


@overload
def fan_in(function: Callable[P, R], /, **options: Unpack[FanInOptions]) -> FanInFunction[P, R]: ...
@overload
def fan_in(**options: Unpack[FanInOptions]) -> Callable[[Callable[P, R]], FanInFunction[P, R]]: ...
def fan_in(function: Any = None, /, **options: Any) -> Any:
    """
    Make a function that of a :class:`~airflow_fanout.FanInOperator`; ``@task.fan_in``.

    .. code-block:: python

        @task.fan_in(min_success=6)
        def combine(results, threshold): ...


        combine(process(load()), threshold=3)

    A call takes the group first (none with ``task_id_prefix=``), then the function's arguments after
    ``results``, which may be XComArgs; it returns what the fan-in returns, as an XComArg.

    :param function: Called with the results, a :class:`~airflow_fanout.FanInResults`.
    :param options: Arguments of ``FanInOperator`` but ``fan_out``, ``python_callable`` and ``op_kwargs``.
    :raises DeclarationTypeError: If there is an unknown option, or arguments don't fit; a ``TypeError``.
    """
    if function is None:
        return lambda function: FanInFunction(function, options)
    return FanInFunction(function, options)
