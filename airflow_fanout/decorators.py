"""``@task.fan_out`` and ``@task.fan_in``: group and fan-in as decorators."""

from __future__ import annotations

import functools
import inspect
from inspect import Parameter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, ParamSpec, Self, TypeVar, overload

from airflow.sdk.bases.decorator import get_unique_task_id

from airflow_fanout.definitions.branches import ItemFor
from airflow_fanout.definitions.function_branches import PYTHON_OPERATOR, python_task
from airflow_fanout.definitions.task_group import FanOutGroup
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import FunctionArguments, is_function, undecorated
from airflow_fanout.execution_time.items import KwargsItems
from airflow_fanout.operators.fan_in import FanInOperator
from airflow_fanout.rules.wording import close_to, listing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import timedelta
    from decimal import Decimal
    from fractions import Fraction

    from airflow.sdk import XComArg
    from airflow.sdk.definitions.param import DagParam

    from airflow_fanout.rules.policy import CountSkipped, OnEmpty
    from airflow_fanout.serialization.declaration import ItemExecutor
    from airflow_fanout.storage.reuse import Reuse
    from airflow_fanout.storage.stored_items import StoredItems

__all__ = ["FanInFunction", "FanOutFunction", "fan_in", "fan_out"]

P = ParamSpec("P")
R = TypeVar("R")

_RESULTS: Any = object()  # stands for the results while the other arguments of a fan-in's function are bound

_PLACES = {
    "branch": "leave it out: the function is what each branch runs",
    "fan_out": "call the function with the group",
    "items": "hand them over in .expand(<parameter>=…)",
    "op_args": "give arguments in the call",
    "op_kwargs": "give arguments in the call",
    "partial": "give arguments in the call, or in .partial(…)",
    "python_callable": "leave it out: it is the function",
    "task_group": "say parent_group=",
    "task_id": "say group_id=",
}
"""What to write for an argument that a decorator does not take."""


def _parameters(cls: type) -> frozenset[str]:
    """Names of the arguments that a class, and the classes that it extends, take."""
    inits = [vars(base)["__init__"] for base in cls.__mro__[:-1] if "__init__" in vars(base)]
    return frozenset(name for init in inits for name in inspect.signature(init).parameters)


_TASK_OPTIONS = _parameters(PYTHON_OPERATOR) - {"self", "args", "kwargs"}
_GROUP_OPTIONS = frozenset(inspect.signature(FanOutGroup).parameters) - {"branch", "items", "partial"}

FAN_OUT_OPTIONS = _GROUP_OPTIONS | (_TASK_OPTIONS - _PLACES.keys())
"""What ``@task.fan_out`` takes: arguments of the group, and settings of the task of each branch."""

FAN_IN_OPTIONS = _parameters(FanInOperator) - {"self", "kwargs", "fan_out", "op_kwargs", "python_callable"}
"""What ``@task.fan_in`` takes: arguments of a ``FanInOperator``."""


def check_options(owner: str, options: Collection[str], known: Collection[str]) -> None:
    """Refuse options that a decorator does not take; ``owner`` begins with its name."""
    for name in options:
        if name not in known:
            way_out = _PLACES.get(name) or close_to(name, known)
            raise DeclarationTypeError(owner, name, f"is no argument of {owner.partition(' ')[0]}; {way_out}")


class _DecoratedFunction(Generic[P, R]):
    """A function under one of the decorators, with the options of that."""

    fan_decorator: ClassVar[str]
    known_options: ClassVar[frozenset[str]]
    __name__: str

    def __init__(
        self, function: Callable[P, R], options: Mapping[str, Any], bound: Mapping[str, Any] | None = None
    ) -> None:
        if not callable(function):
            problem = f"expected a function, found {function!r}; give arguments by name"
            raise DeclarationTypeError(self.fan_decorator, "function", problem)
        plain = undecorated(function)
        self.function, self._options, self._bound = function, dict(options), dict(bound or {})
        self._owner = f"{self.fan_decorator} {plain.__name__!r}"
        check_options(self._owner, options, self.known_options)
        self._arguments = FunctionArguments(owner=self._owner, argument="call", function=plain, bound={})
        functools.update_wrapper(self, plain)  # type: ignore[arg-type]

    def override(self, **options: Any) -> Self:
        """Replace some of what the decorator was given."""
        return type(self)(self.function, {**self._options, **options}, self._bound)

    def _refuse_setup(self, _: bool) -> NoReturn:
        self._refuse("setup", "is neither a @setup nor a @teardown; wire those around the group")

    # Airflow's @setup and @teardown set these.
    is_setup = property(lambda _: False, _refuse_setup)
    is_teardown = property(lambda _: False, _refuse_setup)

    def _named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name."""
        try:
            bound = inspect.signature(self._arguments.function).bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            self._refuse("call", f"does not fit {self._arguments.signature}: {error}")
        named: dict[str, Any] = {}
        for name, value in bound.items():
            kind = self._arguments.parameters[name].kind
            if kind is Parameter.VAR_POSITIONAL and value != (_RESULTS,):
                self._refuse("call", f"gives {value[-1]!r} to *{name}; give arguments by name")
            named |= value if kind is Parameter.VAR_KEYWORD else {name: value}
        return named

    def _refuse(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationTypeError(self._owner, argument, problem)


class FanOutFunction(_DecoratedFunction[P, R]):
    """A function under ``@task.fan_out``: called, or expanded, it makes the group of its branches."""

    fan_decorator = "@task.fan_out"
    known_options = FAN_OUT_OPTIONS

    def __call__(self, /, *args: Any, **kwargs: Any) -> FanOutGroup:
        """Make ``count`` branches, each of which is given these arguments."""
        bound = self._bind(args, kwargs)
        if self._options.get("count") is None:
            expand = f"{self._arguments.title}.expand(<parameter>=[…]), after .partial(…) with others"
            problem = f"expected a number of branches, @task.fan_out(count=8), or an item for each: {expand}"
            raise DeclarationValueError(self._owner, "count", problem)
        return self._group(self._branch(), bound)

    def partial(self, /, **kwargs: Any) -> FanOutFunction[P, R]:
        """Bind arguments in every branch."""
        return FanOutFunction(self.function, self._options, self._bind((), kwargs))

    def expand(self, /, **items: Sequence[Any] | Mapping[str, Any] | XComArg | StoredItems) -> FanOutGroup:
        """
        Make a branch for each item, given to the parameter of that name; a mapping's keys are names.

        Of several parameters it is each combination of their items: :func:`~airflow_fanout.product`.
        """
        if not items:
            self._refuse("expand", "expected the items of a parameter, found none: .expand(<parameter>=[…])")
        self._bind((), items)
        for parameter in items:
            if parameter in self._arguments.given_by_airflow:
                self._refuse("expand", f"{parameter!r} is what Airflow gives to every task itself; rename it")
        if len(items) > 1:
            from airflow_fanout.definitions.product import product  # only these need it

            parts: Any = items  # it refuses stored items itself
            return self._group(self._branch(), self._bound, items=product(**parts))
        ((parameter, values),) = items.items()
        return self._group(ItemFor(branch=self._branch(), parameter=parameter), self._bound, items=values)

    def expand_kwargs(
        self, kwargs: Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]] | XComArg, /
    ) -> FanOutGroup:
        """Make a branch for each dict, or each of a mapping, whose values go to several parameters."""
        return self._group(self._branch(), self._bound, items=KwargsItems(kwargs))

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        named = self._named(args, kwargs)
        if repeated := named.keys() & self._bound.keys():
            self._refuse("call", f"gives {listing(repeated)}, which .partial(…) has bound already")
        return {**self._bound, **named}

    def _branch(self) -> Any:
        """Return what each branch runs, with its settings."""
        settings = {name: value for name, value in self._options.items() if name not in _GROUP_OPTIONS}
        if is_function(self.function):
            return python_task(self.function, **settings)
        for name in settings:
            fault = "is a setting of tasks, which the decorator below makes"
            self._refuse(name, f"{fault}; give it there, or in default_args")
        return self.function

    def _group(self, branch: Any, partial: Mapping[str, Any], items: Any = None) -> FanOutGroup:
        group_options = {name: value for name, value in self._options.items() if name in _GROUP_OPTIONS}
        defaults = {"group_id": self._arguments.title, "add_suffix_on_collision": True}
        return FanOutGroup(branch=branch, items=items, partial=partial, **{**defaults, **group_options})


class FanInFunction(_DecoratedFunction[P, R]):
    """A function under ``@task.fan_in``: called with a group, it makes the fan-in of its branches."""

    fan_decorator = "@task.fan_in"
    known_options = FAN_IN_OPTIONS

    @overload
    def __call__(self, group: FanOutGroup, /, *args: Any, **op_kwargs: Any) -> XComArg: ...
    @overload
    def __call__(self, /, **op_kwargs: Any) -> XComArg: ...
    def __call__(self, /, *args: Any, **op_kwargs: Any) -> XComArg:
        """Collect the branches of a group, which comes first, or, without one, by ``task_id_prefix``."""
        title, by_prefix = self._arguments.title, self._options.get("task_id_prefix") is not None
        if by_prefix and args:
            wiring = f"wire the tasks before it, tasks >> {title}(…), and give other arguments by name"
            self._refuse("call", f"has task_id_prefix=, so it takes no group and no results; {wiring}")
        if not by_prefix and not args:
            problem = f"expected the group to collect; write {title}(<group>, …), or give task_id_prefix="
            self._refuse("call", problem)
        named = self._named((_RESULTS, *args[1:]), op_kwargs)
        del named[next(iter(named))]
        options: dict[str, Any] = {"task_id": title, **self._options}
        task_id = get_unique_task_id(options.pop("task_id"), options.get("dag"), options.get("task_group"))
        options |= {"fan_out": args[0] if args else None, "python_callable": self.function}
        operator = FanInOperator(task_id=task_id, op_kwargs=named or None, **options)
        documents = (operator.doc, operator.doc_json, operator.doc_md, operator.doc_rst, operator.doc_yaml)
        if self.function.__doc__ and not any(documents):
            operator.doc_md = self.function.__doc__
        return operator.output  # type: ignore[no-any-return]

    def _refuse_mapping(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to be mapped: a fan-in is where the mapping ends."""
        FanInOperator.partial()

    partial = expand = expand_kwargs = _refuse_mapping


@overload
def fan_out(function: Callable[P, R], /, **options: Any) -> FanOutFunction[P, R]: ...
@overload
def fan_out(
    *,
    group_id: str = ...,
    count: int | DagParam | XComArg | None = None,
    mapped: bool | None = None,
    max_concurrency: int | None = None,
    items_per_task: int | DagParam | XComArg | None = None,
    item_concurrency: int | DagParam | XComArg | None = None,
    item_executor: ItemExecutor | None = None,
    item_timeout: timedelta | float | None = None,
    item_retries: int = 0,
    item_retry_delay: timedelta | float | None = None,
    items_per_second: float | None = None,
    stop_after_failures: int | DagParam | XComArg | None = None,
    combine: Callable[[Any, Any], Any] | None = None,
    combine_by: Callable[[Any], str] | None = None,
    reuse: Reuse | None = None,
    **settings: Any,
) -> Callable[[Callable[P, R]], FanOutFunction[P, R]]: ...
def fan_out(function: Any = None, /, **options: Any) -> Any:
    """
    Make a function the branch of a :class:`~airflow_fanout.FanOutGroup`; ``@task.fan_out``.

    .. code-block:: python

        @task.fan_out(count=8, retries=2)
        def process(text: str) -> str: ...


        process(load())  # 8 branches, each given the text
        process.expand(text=list_texts())  # without count=: a branch for each text

    A call returns the group; its arguments are bound in every branch, and may be XComArgs. ``.partial()``
    binds them beforehand, ``.expand()`` takes the items for a parameter, or of several those of which every
    combination is a branch, ``.expand_kwargs()`` dicts of arguments, ``.override()`` other options. The
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
def fan_in(function: Callable[P, R], /, **options: Any) -> FanInFunction[P, R]: ...
@overload
def fan_in(
    *,
    task_id_prefix: str | None = None,
    key: str = ...,
    min_success: int | DagParam | XComArg | None = None,
    min_success_ratio: float | Fraction | Decimal | DagParam | XComArg | None = None,
    count_skipped: CountSkipped = ...,
    on_empty: OnEmpty | None = None,
    **settings: Any,
) -> Callable[[Callable[P, R]], FanInFunction[P, R]]: ...
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
