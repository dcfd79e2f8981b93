"""What the author of a fan-in may have got wrong: checked when the Dag is parsed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from inspect import Parameter
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from airflow.sdk import TaskGroup, XComArg
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import is_task_function
from airflow_fanout.rules.policy import CountSkipped, OnEmpty, Policy
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.rules.wording import counted, listing, typed, waiting_on_past, without_key
from airflow_fanout.serialization.declaration import declared_group
from airflow_fanout.serialization.tasks import nearest_mapped_group, waits_on_past

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["FanInChecks"]

PERCENT = 100
"""A ratio up to this was meant as a percentage."""


class FanInChecks:
    """
    Checks of a fan-in's arguments, at parse time.

    :param owner: The fan-in, for error messages.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def check_source(self, fan_out: object, task_id_prefix: object, key: object) -> None:
        """Check that exactly one of group and prefix is given."""
        if (fan_out is None) == (task_id_prefix is None):
            self._value(
                "fan_out",
                f"expected fan_out= or task_id_prefix=, found {'neither' if fan_out is None else 'both'}",
            )
        if fan_out is not None and declared_group(fan_out) is None:
            self._type("fan_out", f"expected a FanOutGroup, found {typed(fan_out)}{_instead_of(fan_out)}")
        if task_id_prefix is not None and not isinstance(task_id_prefix, str):
            self._type(
                "task_id_prefix", f"expected a str, found {task_id_prefix!r} of type {_kind(task_id_prefix)}"
            )
        if task_id_prefix == "":
            self._value(
                "task_id_prefix",
                "is empty, which every task id starts with; name the prefix, or use fan_out=",
            )
        if not isinstance(key, str):
            self._type("key", f"expected the key of an XCom, found {key!r} of type {_kind(key)}")
        if not key:
            self._value("key", "is empty; leave it out to read what each branch returned")

    def check_callable(self, python_callable: object, op_kwargs: object) -> None:
        """Check that the function can be called with the results and ``op_kwargs``."""
        if op_kwargs is not None and not isinstance(op_kwargs, Mapping):
            self._type(
                "op_kwargs", f"expected a dict of arguments, found {op_kwargs!r} of type {_kind(op_kwargs)}"
            )
        if python_callable is None:
            if op_kwargs:
                self._value(
                    "op_kwargs", f"binds {listing(op_kwargs)} and there is no python_callable to take it"
                )
            return
        own = getattr(python_callable, "fan_decorator", None)
        decorator = "@task" if is_task_function(python_callable) else own
        if isinstance(decorator, str):
            self._type(
                "python_callable", f"expected a plain function, found a {decorator}; leave the decorator out"
            )
        if not callable(python_callable):
            self._type(
                "python_callable",
                f"expected a function, found {python_callable!r} of type {_kind(python_callable)}",
            )
        if inspect.iscoroutinefunction(python_callable):
            self._type(
                "python_callable", "expected a plain function, found an async def; use asyncio.run within one"
            )
        given = op_kwargs or {}
        try:
            signature = inspect.signature(python_callable)
            first = next(iter(signature.parameters), None)
            if first in KNOWN_CONTEXT_KEYS:
                problem = (
                    f"its first parameter, which gets the results, has the name {first!r} that Airflow fills"
                )
                raise TypeError(problem)
            signature.bind_partial(object(), **given)
        except (TypeError, ValueError) as unfit:
            self._type(
                "python_callable",
                f"can't be called with the results first and op_kwargs {listing(given)}: {unfit}",
            )
        if missing := _never_given(python_callable, given):
            self._type(
                "python_callable",
                f"needs {listing(missing)} after the results, which nobody gives; "
                f"give op_kwargs={{{missing[0]!r}: …}}, or give it a default",
            )

    def check_policy(self, policy: Policy) -> None:
        """Check the tolerance."""
        least, ratio = policy.min_success, policy.min_success_ratio
        if least is not None:
            if isinstance(least, bool) or not isinstance(least, int):
                self._type(
                    "min_success",
                    f"expected a whole number of branches, found {least!r} of type {_kind(least)}",
                )
            if least < 1:
                self._value("min_success", f"expected 1 or more, found {least}")
        if ratio is not None:
            if isinstance(ratio, bool) or not isinstance(ratio, int | float | Fraction | Decimal):
                self._type("min_success_ratio", f"expected a number, found {ratio!r} of type {_kind(ratio)}")
            if ratio != ratio or not 0 < ratio <= 1:  # noqa: PLR0124 - nan
                meant = f"; did you mean {float(ratio) / 100:g}?" if 1 < float(ratio) <= PERCENT else ""
                self._value("min_success_ratio", f"expected 0 < ratio <= 1, found {ratio}{meant}")
        for name, value, known in (
            ("count_skipped", policy.count_skipped, get_args(CountSkipped)),
            ("on_empty", policy.on_empty, (*get_args(OnEmpty), None)),
        ):
            if value not in known:
                self._value(name, f"expected one of {', '.join(map(repr, known))}, found {value!r}")
        if policy.count_skipped != "exclude" and not policy.tolerant:
            self._value(
                "count_skipped",
                f"{policy.count_skipped!r} means something only with min_success= or min_success_ratio=",
            )

    def check_against(self, group: Any, policy: Policy, key: str) -> None:
        """Check that the group has such values, and can meet the tolerance."""
        if group.mode == "batched" and key != RETURN_VALUE:
            self._value("key", without_key(key, str(group.group_id)))
        count = group.declared.known_count
        if policy.min_success is not None and count and policy.min_success > count:
            self._value(
                "min_success",
                f"{policy.min_success} is above the {counted(count, 'branch', 'branches')} that group "
                f"{group.group_id!r} declares",
            )
        if policy.tolerant:
            waiting = [
                task_id
                for task_id in group.declared.all_task_ids
                if waits_on_past(group.dag.get_task(task_id))
            ]
            if waiting:
                self._value(
                    "min_success" if policy.min_success else "min_success_ratio", waiting_on_past(waiting)
                )

    def check_trigger_rule(self, given: Mapping[str, Any], policy: Policy, *, fail_fast: bool) -> None:
        """Check that nobody else sets when the fan-in runs."""
        inherited = [
            (level.default_args or {}).get("trigger_rule")
            for level in (given.get("dag"), given.get("task_group"))
            if level is not None
        ]
        rule = given.get("trigger_rule") or (given.get("default_args") or {}).get("trigger_rule")
        is_own = "trigger_rule" in given or rule not in inherited
        if rule is not None and is_own:
            self._value(
                "trigger_rule",
                f"found {str(rule)!r}; a fan-in runs when all branches have ended, and decides by "
                "min_success= and min_success_ratio=; leave it out",
            )
        if not fail_fast:
            return
        if policy.tolerant:
            name = "min_success" if policy.min_success is not None else "min_success_ratio"
            self._value(name, "in a fail_fast Dag the first failure ends the run; leave out one of the two")
        if policy.on_empty not in {None, "skip"}:
            self._value(
                "on_empty",
                f"{policy.on_empty!r}: in a fail_fast Dag Airflow skips a fan-in over nothing; use 'skip'",
            )

    def check_mapped_groups(self, group: Any, own: TaskGroup | None) -> None:
        """Check that group and fan-in are expanded together, if at all."""
        its, ours = nearest_mapped_group(group), nearest_mapped_group(own)
        if its != ours:
            self._value(
                "fan_out",
                f"group {group.group_id!r} is in {_mapped_group_title(its)}, and the fan-in in "
                f"{_mapped_group_title(ours)}; put them into the same one",
            )

    def _value(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationValueError(self._owner, argument, problem)

    def _type(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationTypeError(self._owner, argument, problem)


def _instead_of(fan_out: object) -> str:
    """The way out for who hands over tasks, or a function, and no group."""
    if is_task_function(fan_out):
        name = fan_out.function.__name__
        return f"; make one: FanOutGroup({name!r}, branch={name}, …)"
    if decorator := getattr(fan_out, "fan_decorator", None):
        return f", which is a {decorator} function; call it"
    task_ids = [_task_id(each) for each in (fan_out if isinstance(fan_out, list | tuple) else [fan_out])]
    if None in task_ids:
        return ""
    prefix = commonprefix(list(filter(None, task_ids)))  # noqa: RUF071 - of texts, not of paths
    said = f"task_id_prefix={prefix!r}" if prefix else "task_id_prefix="
    return f"; for tasks of your own use {said} instead, and wire them: tasks >> fan_in"


def _task_id(value: object) -> str | None:
    """Id of a task, or of the one that an output is of; what the ids in a task group begin with."""
    if isinstance(value, XComArg):
        return next((operator.task_id for operator, _ in value.iter_references()), None)
    if isinstance(value, TaskGroup):
        return f"{value.group_id}." if value.prefix_group_id else ""
    task_id = getattr(value, "task_id", None)
    return task_id if isinstance(task_id, str) else None


def _never_given(function: Callable[..., Any], op_kwargs: Mapping[str, Any]) -> list[str]:
    """Parameters after the results that neither op_kwargs nor Airflow nor a default fills."""
    # Of a wrapper its own ones, for it may fill those of the function that it wraps.
    _, *others = inspect.signature(function, follow_wrapped=False).parameters.values()
    return [
        parameter.name
        for parameter in others
        if parameter.default is Parameter.empty
        and parameter.kind not in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
        and parameter.name not in {*op_kwargs, *KNOWN_CONTEXT_KEYS}
    ]


def _kind(value: object) -> str:
    return type(value).__name__


def _mapped_group_title(group_id: str | None) -> str:
    return "no mapped task group" if group_id is None else f"the mapped task group {group_id!r}"
