"""Checks of a fan-in's arguments, and of a group's numbers; ``owner`` is its title in the errors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, get_args

from airflow.sdk import Param, XComArg
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS
from airflow.sdk.definitions.param import DagParam

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import STARS, is_run_time, is_task_function
from airflow_fanout.rules.policy import CountSkipped, OnEmpty, Policy
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.rules.wording import batched_key_problem, counted, listing, past_dependence_problem, typed
from airflow_fanout.serialization.declaration import declared_group
from airflow_fanout.serialization.tasks import nearest_mapped_group, waits_on_past

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import TaskGroup

    from airflow_fanout.serialization.declaration import DeclaredGroup


def check_source(owner: str, fan_out: object, task_id_prefix: object, key: object) -> None:
    """Check which group or tasks are collected, and which XCom of each branch is read."""
    if (fan_out is None) == (task_id_prefix is None):
        problem = f"expected fan_out= or task_id_prefix=, found {'neither' if fan_out is None else 'both'}"
        raise DeclarationValueError(owner, "fan_out", problem)
    if fan_out is not None and declared_group(fan_out) is None:
        problem = f"expected a FanOutGroup, found {typed(fan_out)}{_group_way_out(fan_out)}"
        raise DeclarationTypeError(owner, "fan_out", problem)
    if task_id_prefix is not None and not isinstance(task_id_prefix, str):
        raise DeclarationTypeError(owner, "task_id_prefix", f"expected a str, found {typed(task_id_prefix)}")
    if task_id_prefix == "":
        problem = "found '', with which every task id starts; name the prefix, or use fan_out="
        raise DeclarationValueError(owner, "task_id_prefix", problem)
    if not isinstance(key, str):
        raise DeclarationTypeError(owner, "key", f"expected the key of an XCom, found {typed(key)}")
    if not key:
        raise DeclarationValueError(owner, "key", "found ''; leave it out to read what each branch returned")


def _group_way_out(fan_out: object) -> str:
    """What to write for a function, or for tasks, in place of a group."""
    if is_task_function(fan_out):
        name = fan_out.function.__name__
        return f"; make one: FanOutGroup({name!r}, branch={name}, …)"
    if decorator := getattr(fan_out, "fan_decorator", None):
        return f", which is a {decorator} function; call it"
    tasks = fan_out if isinstance(fan_out, list | tuple) else [fan_out]
    if all(hasattr(task, "set_downstream") for task in tasks):
        return "; for tasks of your own use task_id_prefix= instead, and wire them: tasks >> fan_in"
    return ""


def check_callable(owner: str, python_callable: object, op_kwargs: object) -> None:
    """Check that the function can be called with the results and ``op_kwargs``."""
    if op_kwargs is not None and not isinstance(op_kwargs, Mapping):
        raise DeclarationTypeError(owner, "op_kwargs", f"expected a dict, found {typed(op_kwargs)}")
    if python_callable is not None:
        _check_call(owner, _plain_function(owner, python_callable), op_kwargs or {})
    elif op_kwargs:
        problem = f"binds {listing(op_kwargs)}, but there is no python_callable to take it"
        raise DeclarationValueError(owner, "op_kwargs", problem)


def check_setups(owner: str, **arguments: object) -> None:
    """Check that no argument is the output of a setup, where a fan-in has a trigger rule of its own."""
    for argument, value in arguments.items():
        setups = {task.task_id for task, _ in XComArg.iter_xcom_references(value) if task.is_setup}
        if setups:
            fault = (
                f"takes what the setup {listing(setups)} returns, but after a setup Airflow takes no trigger"
            )
            way_out = "let a plain @task between them return it, or pull it in the function: ti.xcom_pull(…)"
            problem = f"{fault} rule but all_success, and a fan-in has all_done; {way_out}"
            raise DeclarationValueError(owner, argument, problem)


def _plain_function(owner: str, value: object) -> Callable[..., Any]:
    decorator = "@task" if is_task_function(value) else getattr(value, "fan_decorator", None)
    if isinstance(decorator, str):
        found = f"a {decorator}; leave the decorator out"
    elif callable(value) and not inspect.iscoroutinefunction(value):
        return value
    else:
        found = "an async def; use asyncio.run within a plain one" if callable(value) else typed(value)
    raise DeclarationTypeError(owner, "python_callable", f"expected a plain function, found {found}")


def _check_call(owner: str, function: Callable[..., Any], op_kwargs: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
        signature.bind_partial(object(), **op_kwargs)
    except (TypeError, ValueError) as error:
        problem = f"can't be called with the results first and op_kwargs {listing(op_kwargs)}: {error}"
        raise DeclarationTypeError(owner, "python_callable", problem) from error
    first = next(iter(signature.parameters))
    if first in KNOWN_CONTEXT_KEYS:
        problem = f"its first parameter is for the results, but Airflow fills {first!r}; rename it"
        raise DeclarationTypeError(owner, "python_callable", problem)
    # Of a wrapper its own parameters, for it may fill those of the function that it wraps.
    _, *others = inspect.signature(function, follow_wrapped=False).parameters.values()
    for parameter in others:
        name = parameter.name
        is_open = parameter.default is parameter.empty and parameter.kind not in STARS
        if is_open and name not in op_kwargs and name not in KNOWN_CONTEXT_KEYS:
            problem = f"needs {name!r} beside the results; give it in op_kwargs={{{name!r}: …}}, or a default"
            raise DeclarationTypeError(owner, "python_callable", problem)


def check_tolerance(owner: str, *, min_success: object, min_success_ratio: object) -> None:
    """Check the numbers of a tolerance, as far as they are known when the Dag is parsed."""
    check_number(owner, "min_success", min_success, least=0, at_run_time=True)
    if min_success_ratio is not None and not is_run_time(min_success_ratio):
        _refuse_unknown(owner, "min_success_ratio", min_success_ratio, at_run_time=True)
        check_known_ratio(owner, "min_success_ratio", min_success_ratio)


def check_policy(owner: str, policy: Policy, *, fail_fast: bool) -> None:
    """Check what counts without a tolerance, and that a ``fail_fast`` Dag can decide as told."""
    for argument, value, choices in (
        ("count_skipped", policy.count_skipped, get_args(CountSkipped)),
        ("on_empty", policy.on_empty, (*get_args(OnEmpty), None)),
    ):
        if value not in choices:
            problem = f"expected one of {', '.join(map(repr, choices))}, found {value!r}"
            raise DeclarationValueError(owner, argument, problem)
    if policy.count_skipped != "exclude" and not policy.tolerant:
        problem = f"found {policy.count_skipped!r}, which needs min_success= or min_success_ratio="
        raise DeclarationValueError(owner, "count_skipped", problem)
    if fail_fast and policy.tolerant:
        problem = "in a fail_fast Dag the first failure ends the run; leave out one of the two"
        raise DeclarationValueError(owner, _tolerance(policy), problem)
    if fail_fast and policy.on_empty not in {None, "skip"}:
        problem = f"found {policy.on_empty!r}, but a fail_fast Dag skips a fan-in over nothing; use 'skip'"
        raise DeclarationValueError(owner, "on_empty", problem)


def _refuse_unknown(owner: str, argument: str, value: object, *, at_run_time: bool) -> None:
    """Refuse what is a number only in a run, or what is meant to be one."""
    if not (is_run_time(value) or isinstance(value, Param) or (isinstance(value, str) and "{{" in value)):
        return
    found = f"the Dag param {value._name!r}" if isinstance(value, DagParam) else typed(value)  # noqa: SLF001
    expected, way_out = (
        "that is known when the Dag is parsed",
        "write a number, which then holds for all runs",
    )
    if at_run_time:
        expected, way_out = 'or dag.param("name")', "give the Dag params={…}, and say dag.param(…) here"
    problem = f"expected a number {expected}, found {found}; {way_out}"
    raise DeclarationTypeError(owner, argument, problem)


def check_number(
    owner: str, argument: str, number: object, *, least: int = 1, at_run_time: bool = False
) -> None:
    """Check that a limit is a whole number, if it is given; or one of a run, where that may be."""
    if number is not None and not (at_run_time and is_run_time(number)):
        _refuse_unknown(owner, argument, number, at_run_time=at_run_time)
        check_known_number(owner, argument, number, least=least)


def check_known_number(owner: str, argument: str, number: object, *, least: int = 1) -> None:
    """Check that a number is whole and large enough."""
    if isinstance(number, bool) or not isinstance(number, int):
        problem = f"expected a whole number, {least} or more, found {typed(number)}"
        raise DeclarationTypeError(owner, argument, problem)
    if number < least:
        raise DeclarationValueError(owner, argument, f"expected {least} or more, found {number}")


def check_items_at_once(owner: str, item_concurrency: Any, items_per_task: Any) -> None:
    """Check that a task has as many items as are to run at once, if both numbers are known."""
    if not (isinstance(item_concurrency, int) and isinstance(items_per_task, int)):
        return
    if item_concurrency > items_per_task:
        items = counted(items_per_task, "item", "items")
        problem = f"found {item_concurrency}, but a task has {items}; lower it, or raise items_per_task"
        raise DeclarationValueError(owner, "item_concurrency", problem)


def check_stop(owner: str, stop_after_failures: object, count: int | None) -> None:
    """Check that ``stop_after_failures`` leaves branches to stop."""
    if isinstance(stop_after_failures, int) and count and count <= stop_after_failures:
        failures = counted(stop_after_failures, "failure", "failures")
        excess = f"{failures} of {counted(count, 'branch', 'branches')} leave none to stop"
        problem = f"{excess}; choose a number below {count}, or leave it out"
        raise DeclarationValueError(owner, "stop_after_failures", problem)


def check_known_ratio(owner: str, argument: str, ratio: object) -> None:
    """Check that a ratio is a number from 0 to 1."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float | Fraction | Decimal):
        raise DeclarationTypeError(owner, argument, f"expected a number, found {typed(ratio)}")
    if ratio != ratio or not 0 <= ratio <= 1:  # noqa: PLR0124 - nan
        raise DeclarationValueError(owner, argument, f"expected 0 <= ratio <= 1, found {ratio}")


def check_group(owner: str, policy: Policy, key: str, group: DeclaredGroup, fan_out: TaskGroup) -> None:
    """Check that a group can meet the tolerance, and the next run too, and has values under the key."""
    # A group that is to be batched, and has no items today, is declared as a static one.
    if getattr(fan_out, "mode", group.mode) == "batched" and key != RETURN_VALUE:
        raise DeclarationValueError(owner, "key", batched_key_problem(key, group.group_id))
    check_reachable(owner, policy.min_success, group)
    waiting = [task_id for task_id in group.all_task_ids if waits_on_past(fan_out.dag.get_task(task_id))]
    if policy.tolerant and waiting:
        raise DeclarationValueError(owner, _tolerance(policy), past_dependence_problem(waiting))


def check_reachable(owner: str, min_success: object, group: DeclaredGroup | None) -> None:
    """Check that a group has as many branches as have to succeed, if both numbers are known."""
    count = None if group is None else group.known_count
    if isinstance(min_success, int) and group is not None and count and min_success > count:
        branches = counted(count, "branch", "branches")
        problem = f"{min_success} is above the {branches} that group {group.group_id!r} declares"
        raise DeclarationValueError(owner, "min_success", problem)


def check_trigger_rule(owner: str, arguments: Mapping[str, Any]) -> None:
    """Check that the author has given the fan-in no rule; those in ``default_args`` around it don't count."""
    levels = [level for level in (arguments.get("dag"), arguments.get("task_group")) if level is not None]
    inherited = [(level.default_args or {}).get("trigger_rule") for level in levels]
    rule = arguments.get("trigger_rule") or (arguments.get("default_args") or {}).get("trigger_rule")
    if rule is not None and ("trigger_rule" in arguments or rule not in inherited):
        found = f"found {getattr(rule, 'value', rule)!r}; leave it out: a fan-in runs when all branches"
        problem = f"{found} have ended, and decides by min_success= and min_success_ratio="
        raise DeclarationValueError(owner, "trigger_rule", problem)


def _tolerance(policy: Policy) -> str:
    return "min_success" if policy.min_success is not None else "min_success_ratio"


def check_mapped_groups(owner: str, fan_out: TaskGroup, task_group: TaskGroup | None) -> None:
    """Check that group and fan-in are expanded together, if at all."""
    groups = [nearest_mapped_group(fan_out), nearest_mapped_group(task_group)]
    if groups[0] != groups[1]:
        outer = ["no mapped task group" if i is None else f"the mapped task group {i!r}" for i in groups]
        found = f"group {fan_out.group_id!r} is in {outer[0]}, and the fan-in in {outer[1]}"
        problem = f"{found}; put them into the same one"
        raise DeclarationValueError(owner, "fan_out", problem)
