"""``FanInOperator``, which accounts for every branch: made when the Dag is parsed, executed on the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.bases.decorator import determine_kwargs
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.checks import FanInChecks
from airflow_fanout.collected import collected
from airflow_fanout.declaration import DeclaredGroup, describe_fan_in
from airflow_fanout.exceptions import EmptyFanInError, FanInError, TooFewBranchesError
from airflow_fanout.fan_in_report import FanInReport, fan_in_report, problems_listing
from airflow_fanout.ledger import RETURN_VALUE, Source, collect, removed_branches
from airflow_fanout.policy import CountSkipped, OnEmpty, Policy, Tally, Verdict, decide
from airflow_fanout.results import FanInResults, ReadyPage
from airflow_fanout.wiring import (
    group_sources,
    pass_on_what_came_before,
    sources_by_prefix,
    waiting_on_past,
    waits_on_past,
)
from airflow_fanout.xcom import RunReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal
    from fractions import Fraction

    from airflow.sdk import Context

    from airflow_fanout.task_group import FanOutGroup

__all__ = ["REPORT_KEY", "FanInOperator"]

REPORT_KEY = "fan_out_report"
"""XCom key of the fan-in's report."""


class FanInOperator(BaseOperator):
    """
    Collect what parallel branches returned, with every declared branch accounted for.

    Its trigger rule is always ``all_done`` (in a ``fail_fast`` Dag ``all_success``, the only one that Airflow
    allows there): it runs when all branches have ended, reads what became of each, and decides itself whether
    that is enough. A verdict against the run fails it at once, without a retry, naming the branches.

    It pushes an XCom ``fan_out_report`` before the verdict: ``expected``, ``counted``, ``succeeded``,
    ``failed``, ``skipped``, ``missing`` (numbers of branches), ``degraded``, ``total_branch_seconds``,
    ``longest_branch``, ``longest_branch_seconds`` (over successful branches), and up to 20 ``problems``
    (``name``, ``state``, ``error``).

    :param task_id: Id of the fan-in.
    :param fan_out: The group whose branches to collect; ``group >> fan_in`` is wired here.
    :param task_id_prefix: Or: what the full ids of its direct upstream tasks start with, mapped ones or not,
        made by this package or not. A task that starts with it and is neither upstream nor downstream fails
        the fan-in. (templated)
    :param key: XCom key to read of each branch.
    :param python_callable: Called with the results, a :class:`~airflow_fanout.results.FanInResults`
        ``{name: value}``, then ``op_kwargs`` and the context values that it names (``ti``, ``ds``, …). Its
        value is the fan-in's. Without it, the fan-in returns ``{name: value}``.
    :param op_kwargs: Further arguments for ``python_callable``. (templated)
    :param min_success: Least number of branches that have to succeed; without it and ``min_success_ratio``,
        all.
    :param min_success_ratio: Least share of the counted branches that have to succeed, 0 < ratio <= 1;
        rounded up, exactly. With ``min_success``, both must hold.
    :param count_skipped: Where there is a tolerance, what a skipped branch counts as: ``"exclude"`` (not at
        all), ``"success"`` or ``"failure"``.
    :param on_empty: What zero items mean: ``"succeed"`` (default without a tolerance), ``"fail"`` (default
        with one) or ``"skip"``.
    :raises DeclarationValueError: If an argument has an unusable value; a ``ValueError``.
    :raises DeclarationTypeError: If an argument has the wrong type; a ``TypeError``.
    """

    template_fields: Sequence[str] = ("task_id_prefix", "op_kwargs", "declaration")
    template_fields_renderers: ClassVar[dict[str, str]] = {"op_kwargs": "py", "declaration": "json"}
    shallow_copy_attrs: Sequence[str] = ("python_callable",)
    ui_color = "#d5e8d4"

    def __init__(
        self,
        *,
        fan_out: FanOutGroup | None = None,
        task_id_prefix: str | None = None,
        key: str = RETURN_VALUE,
        python_callable: Callable[..., Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        min_success: int | None = None,
        min_success_ratio: float | Fraction | Decimal | None = None,
        count_skipped: CountSkipped = "exclude",
        on_empty: OnEmpty | None = None,
        **kwargs: Any,
    ) -> None:
        policy = Policy(
            min_success=min_success,
            min_success_ratio=min_success_ratio,
            count_skipped=count_skipped,
            on_empty=on_empty,
        )
        declared = FanInChecks(f"FanInOperator {kwargs.get('task_id')!r}")
        declared.check_source(fan_out, task_id_prefix, key)
        declared.check_callable(python_callable, op_kwargs)
        declared.check_policy(policy)
        if fan_out is not None:
            declared.check_against(fan_out, policy)
        fail_fast = getattr(kwargs.get("dag"), "fail_fast", False)
        declared.check_trigger_rule(kwargs, policy, fail_fast=fail_fast)
        super().__init__(**{**kwargs, "trigger_rule": "all_success" if fail_fast else "all_done"})
        self.task_id_prefix = task_id_prefix
        self.key = key
        self.python_callable = python_callable
        self.op_kwargs = op_kwargs or {}
        self.policy = policy
        self.group: DeclaredGroup | None = None if fan_out is None else fan_out.declared
        self.declaration = describe_fan_in(
            key=key, policy=policy, group=self.group, task_id_prefix=task_id_prefix
        )
        if fan_out is not None:
            declared.check_mapped_groups(fan_out, self.task_group)
            fan_out >> self

    @classmethod
    def partial(cls, **kwargs: Any) -> NoReturn:  # noqa: ARG003 - Airflow's signature
        """Refuse to be mapped: a fan-in is where the mapping ends."""
        message = (
            "FanInOperator can't be mapped with .partial().expand(): it collects all branches in one task. "
            "Fan out over its result instead: FanOutGroup(…, items=fan_in.output)"
        )
        raise TypeError(message)

    def execute(self, context: Context) -> Any:
        """Account for every branch, decide, and combine what came."""
        ti: Any = context["ti"]
        map_index = ti.map_index if ti.map_index is not None else -1
        sources = self._sources(context, map_index)
        reader = RunReader(ti)
        states = reader.states()
        pages = collect(reader, states, sources, self.key)
        if self.group is not None and self.group.mode == "static" and self.group.prefix:
            gone = removed_branches(
                states,
                self.group,
                self.dag.task_dict,
                map_index=map_index,
                index=sum(map(len, pages)),
            )
            pages += [ReadyPage(gone)] if gone else []
        results = FanInResults(pages)
        tally = Tally.of(results.states(), stopped=results.stopped_count)
        verdict = decide(tally, self.policy)
        report = fan_in_report(results, tally, verdict, self.policy)
        ti.xcom_push(REPORT_KEY, report)
        try:
            pass_on_what_came_before(self, states, sources, map_index)
            self._pass_on(verdict, report, results)
            return self._combine(results, context)
        finally:
            self._log_report(report, reader.requests + 1)

    def _sources(self, context: Context, map_index: int) -> list[Source]:
        """Find what is to be collected, in order; raises before anything is read."""
        if self.group is not None:
            return group_sources(self, self.group, context, map_index)
        sources = sources_by_prefix(self, self.task_id_prefix, map_index)
        waiting = [s.task_id for s in sources if waits_on_past(self.dag.get_task(s.task_id))]
        if self.policy.tolerant and waiting:
            message = f"{self.task_id!r}: {waiting_on_past(waiting)}"
            raise FanInError(message)
        return sources

    def _pass_on(self, verdict: Verdict, report: FanInReport, results: FanInResults) -> None:
        skipped_too = self.policy.count_skipped == "failure"
        problem_count = report["failed"] + report["missing"]
        problem_count += report["skipped"] if skipped_too else results.stopped_count
        named = problems_listing(report["problems"], problem_count)
        match verdict.state:
            case "skipped":
                message = f"Skipped: {verdict.reason}"
                raise AirflowSkipException(message)
            case "failed" if verdict.empty:
                message = f"Nothing to fan in: {verdict.reason}"
                raise EmptyFanInError(message)
            case "failed":
                message = f"{verdict.reason}{self._tolerance()}.\n{named}"
                raise TooFewBranchesError(
                    message,
                    needed=verdict.needed,
                    succeeded=verdict.succeeded,
                    problems=list(results.problems(self.policy.problem_states)),
                )
            case "degraded":
                self.log.warning("Degraded: %s%s.\n%s", verdict.reason, self._tolerance(), named)

    def _tolerance(self) -> str:
        asked = {"min_success": self.policy.min_success, "min_success_ratio": self.policy.min_success_ratio}
        said = ", ".join(f"{name}={value}" for name, value in asked.items() if value is not None)
        return f" ({said})" if said else ""

    def _log_report(self, report: FanInReport, requests: int) -> None:
        parts = {
            "succeeded": report["succeeded"],
            "failed": report["failed"],
            "skipped": report["skipped"],
            "missing": report["missing"],
        }
        counts = ", ".join(f"{number} {part}" for part, number in parts.items() if number) or "none"
        self.log.info("%s branches: %s (%s requests)", report["expected"], counts, requests)
        if report["longest_branch"] is not None:
            self.log.info(
                "%.1f s in successful branches; the longest is %s with %.1f s",
                report["total_branch_seconds"],
                report["longest_branch"],
                report["longest_branch_seconds"],
            )

    def _combine(self, results: FanInResults, context: Context) -> Any:
        if self.python_callable is None:
            return collected(results)
        arguments = determine_kwargs(self.python_callable, [results], {**context, **self.op_kwargs})
        return self.python_callable(results, **arguments)
