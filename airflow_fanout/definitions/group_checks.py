"""What the author of a group may have got wrong in its arguments: checked when the Dag is parsed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial, wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from airflow.sdk import BaseOperator, Param, XComArg
from airflow.sdk.definitions.param import DagParam

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import is_function, is_run_time, is_task_function
from airflow_fanout.rules.wording import counted, listing, misspelt, typed

if TYPE_CHECKING:
    from airflow_fanout.serialization.declaration import Mode

__all__ = ["GroupChecks", "refuse_unknown_arguments"]

T = TypeVar("T")

LIMITS = ("max_concurrency", "items_per_task", "item_concurrency", "stop_after_failures")


def refuse_unknown_arguments(cls: type[T]) -> type[T]:
    """
    Have a class of groups say, of an argument that it doesn't take so, what to write instead.

    :param cls: The class, whose ``__init__`` has the names of all that it takes. But for ``group_id`` they
        are taken by name alone.
    """
    init: Any = cls.__init__
    taken = signature(init)
    known = taken.parameters

    @wraps(init)
    def checked_init(self: T, *positional: Any, **arguments: Any) -> None:
        owner = f"FanOutGroup {arguments.get('group_id', *positional[:1])!r}"
        if len(positional) > 1:
            problem = (
                f"is the one argument given by position, found {typed(positional[1])} after it; "
                "write branch=…, count=…, and all others by name"
            )
            raise DeclarationTypeError(owner, "group_id", problem)
        for name in arguments:
            if name not in known:
                raise DeclarationTypeError(
                    owner, name, _why_unknown(name, arguments, known.keys() - {"self"})
                )
        init(self, *positional, **arguments)

    by_name = [
        each if name in {"self", "group_id"} else each.replace(kind=Parameter.KEYWORD_ONLY)
        for name, each in known.items()
    ]
    checked_init.__signature__ = taken.replace(parameters=by_name)  # type: ignore[attr-defined]
    cls.__init__ = checked_init  # type: ignore[assignment, method-assign]
    return cls


def _why_unknown(name: str, arguments: Mapping[str, Any], known: Collection[str]) -> str:
    problem = f"got an unexpected keyword argument {name!r}"
    branch, value = arguments.get("branch"), arguments[name]
    bound = f"partial={{{name!r}: …}}, the same for all"
    if name in _taken_by(branch):
        items = "" if isinstance(branch, Mapping) else "items=, one for each branch, or "
        return f"{problem}, which is the branch's: give it as {items}{bound}"
    if name != "task_id" and name in signature(BaseOperator.__init__).parameters:
        return f"{problem}; what each branch's task takes goes into default_args={{{name!r}: …}}"
    if close := misspelt(name, known):
        return f"{problem}; did you mean {listing(close)}?"
    if isinstance(value, XComArg | list | tuple):
        return f"{problem}; give what is for the branches as items=, one for each, or {bound}"
    return f"{problem}; there are {listing(known, limit=5)}"


def _taken_by(branch: Any) -> Collection[str]:
    """Names of the parameters of what the author gave as branch, if it is of functions."""
    if isinstance(branch, Mapping):
        return {name for each in branch.values() for name in _taken_by(each)}
    if isinstance(branch, list | tuple):
        return _taken_by(branch[0]) if branch else ()
    while isinstance(branch, partial):
        branch = branch.func
    function = getattr(branch, "function", branch)
    return signature(function).parameters if is_function(function) else ()


class GroupChecks:
    """
    Checks of a group's arguments, at parse time.

    :param group: The group.
    """

    def __init__(self, group: Any) -> None:
        self._group = group

    @property
    def _mode(self) -> Mode:
        mode: Mode = self._group.mode
        return mode

    def check(self) -> None:
        """Check all that can be said without knowing what a branch is."""
        self._check_how_many()
        self._check_no_group()
        self._check_surroundings()
        self._check_count()
        self._check_items()
        self._check_partial()
        self._check_numbers()
        self._check_mode()

    def check_names(self, names: Collection[object]) -> None:
        """Check names that become no task ids: of instances, or of items of one task."""
        argument = "branch" if isinstance(self._group.branch, Mapping) else "items"
        if odd := [name for name in names if not isinstance(name, str)]:
            self._type(argument, f"expected texts as names, found {typed(odd[0])}")
        if "" in names:
            self._value(argument, "expected names of at least one character, found ''")

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Check that a function's or operator's own settings do not contradict the group's."""
        self._check_limit("branch", settings)

    def _check_limit(self, where: str, settings: Mapping[str, Any]) -> None:
        name, ours = "max_active_tis_per_dagrun", self._group.max_concurrency
        if ours is not None and settings.get(name) not in {None, ours}:
            self._value(
                "max_concurrency",
                f"found {ours}, and {where} sets {name}={settings[name]}; leave one of them out",
            )

    def check_keeps_values(self) -> None:
        """Check that nobody keeps a batch from pushing the values of its items."""
        group = self._group
        # Airflow has merged those of the groups around it into its own.
        around = {**(group.dag.default_args or {}), **group.default_args}
        if not around.get("do_xcom_push", True):
            self._value(
                "default_args",
                "do_xcom_push=False would lose the values of all items of a batch; leave it out, or let "
                "the function return None",
            )

    def check_stop(self, count: int | None) -> None:
        """Check that ``stop_after_failures`` can take effect on so many branches; None if nobody knows."""
        limit = self._group.stop_after_failures
        if limit is not None and count is not None and 0 < count <= limit:
            self._value(
                "stop_after_failures",
                f"{counted(limit, 'failure', 'failures')} of {counted(count, 'branch', 'branches')} leave "
                f"none to stop; choose a number below {count}, or leave it out",
            )

    def _check_how_many(self) -> None:
        group = self._group
        given = [
            name
            for name, is_given in (
                ("count", group.count is not None),
                ("items", group.items is not None),
                ("a mapping as branch", isinstance(group.branch, Mapping)),
            )
            if is_given
        ]
        if len(given) != 1:
            self._value(
                given[0] if given else "count",
                f"expected one of count=, items= and a mapping branch, found {' and '.join(given) or 'none'}",
            )

    def _check_no_group(self) -> None:
        """Check that the branches of another group have been collected before they are counted."""
        for given in (self._group.count, self._group.items):
            if isinstance(given, type(self._group)):
                given.iter_references()

    def _check_surroundings(self) -> None:
        """Check that nothing is to be mapped within a mapped task group, such as its own parameter."""
        group = self._group
        outer = next(group.iter_mapped_task_groups(), None)
        if outer is None or self._mode == "static":
            return
        argument = "items_per_task" if self._mode == "batched" else "mapped"
        for name in ("count", "items"):
            if is_run_time(getattr(group, name)):
                argument = name
        self._value(
            argument,
            f"Airflow can't map a task within the mapped task group {outer.group_id!r}, so only a static "
            "group can be there: give a count or items that are known when the Dag is parsed, and neither "
            "mapped nor items_per_task",
        )

    def _check_count(self) -> None:
        count: object = self._group.count
        if isinstance(count, Param):
            self._type(
                "count",
                'expected a number or dag.param("name"), found a Param; give it to the Dag, params={…}',
            )
        if count is None or isinstance(count, XComArg | DagParam):
            return
        if isinstance(count, bool) or not isinstance(count, int):
            way_out = _call_it(count)
            self._type("count", f"expected a whole number of branches, found {typed(count)}{way_out}")
        if count < 0:
            self._value("count", f"expected 0 or more branches, found {count}")

    def _check_items(self) -> None:
        items: object = self._group.items
        if items is None or isinstance(items, Mapping):
            return
        if isinstance(items, DagParam | Param):
            self._type(
                "items",
                f"expected a list, a mapping or the output of a task, found {typed(items)}; "
                "let a task return the param's value, and give its output",
            )
        if isinstance(items, XComArg):
            self._check_output(items)
            return
        if isinstance(items, str | bytes | bytearray) or not isinstance(items, Sequence):
            way_out = _call_it(items) or "; use […] or list(…)"
            if isinstance(items, set | frozenset):
                way_out = ", which has no order; use sorted(…)"
            self._type("items", f"expected a list or a mapping by name, found {typed(items)}{way_out}")

    def _check_output(self, items: XComArg) -> None:
        keys = sorted({key for _, key in items.iter_references() if key != "return_value"})
        if keys and self._mode == "mapped":
            self._value(
                "items",
                f"Airflow maps over what a task returns, not over its XCom {keys[0]!r}; "
                "let a task return it, or give items_per_task=",
            )

    def _check_partial(self) -> None:
        partial: object = self._group.partial
        if partial is not None and not isinstance(partial, Mapping):
            self._type("partial", f"expected a dict of arguments, found {typed(partial)}")
        names: Collection[object] = partial or ()
        if odd := [name for name in names if not isinstance(name, str)]:
            self._type("partial", f"expected parameter names as keys, found {typed(odd[0])}")

    def _check_numbers(self) -> None:
        group = self._group
        for name in LIMITS:
            value = getattr(group, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                self._type(name, f"expected a whole number, 1 or more, found {typed(value)}")
            if value < 1:
                self._value(name, f"expected 1 or more, found {value}")
        if group.mapped is not None and not isinstance(group.mapped, bool):
            self._type("mapped", f"expected True or False, found {typed(group.mapped)}")

    def _check_mode(self) -> None:
        group = self._group
        if group.item_concurrency is not None and self._mode != "batched":
            self._value("item_concurrency", "is for the items of one task; give items_per_task too")
        if group.item_concurrency and group.items_per_task and group.item_concurrency > group.items_per_task:
            self._value(
                "item_concurrency",
                f"found {group.item_concurrency}, above the "
                f"{counted(group.items_per_task, 'item', 'items')} that a task has; lower it, or raise "
                "items_per_task",
            )
        if self._mode == "static":
            return
        self._check_limit("default_args", group.default_args or {})
        if group.mapped is False:
            because = "items_per_task=" if self._mode == "batched" else "a number known only at run time"
            self._value("mapped", f"found False, but {because} needs a mapped task; leave it out")
        if not group.prefix_group_id:
            self._value(
                "prefix_group_id",
                f"found False, but the task of a {self._mode} group has the name 'each', which would stand "
                "alone; leave it out",
            )
        if isinstance(group.branch, Mapping) and self._mode == "mapped":
            self._value(
                "mapped",
                "one mapped task runs one kind of branch, and branch is a mapping of several; "
                "leave mapped out, or give items_per_task= to run them as items of one task",
            )

    def _value(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationValueError(self._group.owner, argument, problem)

    def _type(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationTypeError(self._group.owner, argument, problem)


def _call_it(value: Any) -> str:
    """The way out for who gives a function where its result is wanted; '' for all else."""
    if is_task_function(value) or is_function(value):
        function: Any = getattr(value, "function", value)
        return f", which was not called; call it: {function.__name__}()"
    if isinstance(value, BaseOperator):
        return "; give its output: <the task>.output"
    return ""
