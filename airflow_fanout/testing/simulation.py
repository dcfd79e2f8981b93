"""``simulate``, which tells what a fan-in would do, without scheduler or database; for an author's tests."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import XComArg
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.exceptions import AirflowSkipException
from jinja2 import UndefinedError

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError, FanInError, SettingError
from airflow_fanout.execution_time.accounting import combine, find_sources, judge, settle
from airflow_fanout.execution_time.arguments import is_run_time
from airflow_fanout.execution_time.manifest import Manifests
from airflow_fanout.operators.fan_in import FanInOperator
from airflow_fanout.rules.wording import listing, typed
from airflow_fanout.serialization.tasks import nearest_mapped_group
from airflow_fanout.testing.simulated_run import SimulatedRun, SimulatedSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.sdk import Context

    from airflow_fanout.execution_time.accounting import FanInReport
    from airflow_fanout.rules.policy import VerdictState
    from airflow_fanout.testing.branch_counts import Counts, Names
    from airflow_fanout.testing.simulated_run import Outcome


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """
    What a fan-in would do.

    :param state: ``success``, ``degraded`` (a success in spite of failed or missing branches), ``failed`` or
        ``skipped``.
    :param return_value: What it would return; None if it would not.
    :param error: ``"TooFewBranchesError: message"`` if it would fail, or else None.
    :param exception: What it, or its function, would raise: also to skip itself. None if it would return.
    :param report: The XCom ``fan_out_report`` that it would push, without seconds; None if it would fail
        before it had read anything, as it does if ``task_id_prefix`` matches nothing.
    """

    state: VerdictState
    return_value: Any
    error: str | None
    exception: Exception | None
    report: FanInReport | None


def simulate(
    fan_in: FanInOperator | XComArg,
    outcomes: Mapping[str, Outcome] | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    count: Counts | None = None,
    names: Names | None = None,
    op_kwargs: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
) -> Simulation:
    """
    Tell what a fan-in would do with a run in which this became of the branches.

    It decides and combines with the operator's own code. A branch that is not named succeeds with None.

    .. code-block:: python

        simulate(dag.get_task("combine"), {"process_3": ValueError("no such file")}, {"process_0": 1})

    :param fan_in: The fan-in, or its output, of a Dag.
    :param outcomes: What became of branches, by the names that the fan-in has for them: ``success``,
        ``failed`` (as if the process had died), ``upstream_failed``, ``skipped``, ``missing``, ``removed``,
        or ``stopped`` by the group's ``stop_after_failures``; or an exception that the branch raised, of
        which ``AirflowSkipException`` skips it. By their ids, also tasks directly upstream that are no
        branches, and those that a mapped task with the usual trigger rule waits for, such as the one that
        returns the items: ``success``, ``failed``, ``upstream_failed``, ``skipped`` or an exception.
    :param values: What successful branches returned, by name.
    :param count: How many branches there are, where only a run knows: a count or items known at run time, or
        a mapped task that was not made by this package. By the ids of the groups, or else of the tasks, if
        there are several under one prefix: ``{"score": 3, "load_all": 0}``.
    :param names: Instead of ``count``, for items that come as a mapping: its keys.
    :param op_kwargs: What takes the place of ``op_kwargs`` of the fan-in, by name; needed for the outputs of
        tasks, which only a run has.
    :param settings: Numbers of the fan-in and of its groups that only a run knows, by name:
        ``{"min_success": 6, "items_per_task": 100}``.
    :param context: Context values for the function and for templates: ``{"ds": "2026-01-01"}``.
    :raises DeclarationValueError: If there can be no such run; a ``ValueError``.
    :raises DeclarationTypeError: If an argument has the wrong type; a ``TypeError``.
    """
    # A copy, as Airflow makes one before it renders.
    operator = _operator(fan_in).prepare_for_execution()
    given: Any = dict(context or {})
    if operator.task_id_prefix is not None:
        operator.task_id_prefix = _rendered(operator, "task_id_prefix", operator.task_id_prefix, given)
    map_index = -1 if nearest_mapped_group(operator.task_group) is None else 0
    told = SimulatedSettings(operator, settings or {})
    for name in told.names_of_fan_in:
        setattr(operator, name, told.value(name))
    try:
        policy = operator.policy_of_run()
        declared = replace(operator.declared, task_id_prefix=operator.task_id_prefix, policy=policy)
        sources = find_sources(operator, declared, given, map_index)
    except (FanInError, SettingError) as refusal:
        return _simulation(refusal, None, None)
    run = SimulatedRun(operator, sources, map_index, outcomes or {}, values or {}, settings=told)
    results, failure = run.find(count, names)
    judgement = judge(declared.policy, results, failure)
    _, exception = _attempt(lambda: settle(declared.policy, results, judgement))
    if exception is not None:
        return _simulation(exception, None, judgement.report)
    arguments = {} if operator.python_callable is None else _arguments(operator, op_kwargs or {}, given)
    manifests = Manifests(operator, declared, sources, given)
    paths = manifests.paths(results) if manifests.is_complete and operator.python_callable is None else []
    value, exception = _attempt(lambda: combine(operator.python_callable, arguments, results, given, paths))
    return _simulation(exception, value, judgement.report)


def _operator(fan_in: object) -> FanInOperator:
    """Return the fan-in itself."""
    owner = "simulate"
    operator = fan_in.operator if isinstance(fan_in, PlainXComArg) else fan_in
    if not isinstance(operator, FanInOperator):
        problem = f"expected a FanInOperator or its output, found {typed(fan_in)}"
        raise DeclarationTypeError(owner, "fan_in", problem)
    if not operator.has_dag():  # type: ignore[no-untyped-call]
        problem = f"{operator.task_id!r} is in no Dag; make it and what it collects within one: with DAG(…):"
        raise DeclarationValueError(owner, "fan_in", problem)
    return operator


def _arguments(
    fan_in: FanInOperator, op_kwargs: Mapping[str, Any], context: Mapping[str, Any]
) -> dict[str, Any]:
    """What the function is given beside the results; refuses what only a run has."""
    owner = f"simulate({fan_in.task_id!r})"
    if unknown := op_kwargs.keys() - fan_in.op_kwargs.keys():
        problem = f"the fan-in has no {listing(unknown)}; it has {listing(fan_in.op_kwargs)}"
        raise DeclarationValueError(owner, "op_kwargs", problem)
    declared = {name: value for name, value in fan_in.op_kwargs.items() if name not in op_kwargs}
    unresolved = [
        name
        for name, value in declared.items()
        if is_run_time(value) or any(True for _ in XComArg.iter_xcom_references(value))
    ]
    if unresolved:
        problem = f"only a run has {listing(unresolved)}; give op_kwargs={{{unresolved[0]!r}: …}}"
        raise DeclarationValueError(owner, "op_kwargs", problem)
    _, *parameters = inspect.signature(fan_in.python_callable or (lambda _: None)).parameters
    wanted = [name for name in parameters if name in KNOWN_CONTEXT_KEYS]
    if untold := [name for name in wanted if name not in {**context, **fan_in.op_kwargs}]:
        problem = (
            f"the function takes {listing(untold)}, which only a run has; give context={{{untold[0]!r}: …}}"
        )
        raise DeclarationValueError(owner, "context", problem)
    return {**_rendered(fan_in, "op_kwargs", declared, context), **op_kwargs}


def _rendered(fan_in: FanInOperator, field: str, content: Any, context: Mapping[str, Any]) -> Any:
    """Render a template field."""
    owner, known = f"simulate({fan_in.task_id!r})", cast("Context", context)
    try:
        return fan_in.render_template(content, known)
    except UndefinedError as undefined:
        problem = f"to render {field}, found {undefined}; give context={{…}}"
        raise DeclarationValueError(owner, "context", problem) from undefined


def _attempt(act: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What it returned, or raised."""
    try:
        return act(), None
    except Exception as raised:
        return None, raised


def _simulation(exception: Exception | None, value: Any, report: FanInReport | None) -> Simulation:
    state: VerdictState
    error = None
    if isinstance(exception, AirflowSkipException):
        state = "skipped"
    elif exception is not None:
        state = "failed"
        error = f"{type(exception).__name__}: {exception}"
    else:
        state = "degraded" if report is not None and report["degraded"] else "success"
    return Simulation(state=state, return_value=value, error=error, exception=exception, report=report)
