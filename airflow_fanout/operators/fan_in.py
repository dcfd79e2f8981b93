"""``FanInOperator``, which accounts for every branch of a fan-out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator

from airflow_fanout.execution_time.arguments import as_declared
from airflow_fanout.operators import fan_in_checks as checks
from airflow_fanout.operators.link import FanOutLink
from airflow_fanout.rules.policy import AT_RUN_TIME, CountSkipped, OnEmpty, Policy
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.serialization.declaration import DeclaredFanIn, declared_group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal
    from fractions import Fraction

    from airflow.sdk import Context, TaskGroup, XComArg
    from airflow.sdk.definitions.param import DagParam


class FanInOperator(BaseOperator):
    """
    Collect what parallel branches returned, with every declared branch accounted for.

    It runs when all branches have ended (its trigger rule is always ``all_done``; in a ``fail_fast`` Dag
    ``all_success``, the only one that Airflow allows there), reads the outcome of each, and decides whether
    that is enough. A verdict against the run fails it at once, without a retry, naming the branches.

    Before the verdict it pushes an XCom ``fan_out_report``: ``expected``, ``counted``, ``needed``,
    ``succeeded``, ``failed``, ``skipped``, ``missing`` (numbers of branches), ``degraded``,
    ``total_branch_seconds``, ``longest_branch``, ``longest_branch_seconds`` (over successful branches), and
    up to 20 ``problems`` (``name``, ``state``, ``error``), and ``errors``, up to 20 kinds of them: ``state``,
    the ``error`` of the first, how many ``branches``, and up to five ``names``.

    :param task_id: Id of the fan-in.
    :param fan_out: The group whose branches to collect; ``group >> fan_in`` is wired here.
    :param task_id_prefix: Or the start of the full ids of direct upstream tasks, mapped ones or not, made by
        this package or not. A task with such an id that is neither upstream nor downstream fails the fan-in;
        one that is upstream only through other tasks is not collected. (templated)
    :param key: XCom key to read of each branch; the items of a batched group have only what they return.
    :param python_callable: Called with the results, a :class:`~airflow_fanout.FanInResults`
        ``{name: value}``, then ``op_kwargs`` and the context values that it names (``ti``, ``ds``, …). Its
        value is the fan-in's. Without it, the fan-in returns ``{name: value}``, or ``results.combined`` of a
        group with ``combine``.
    :param op_kwargs: Further arguments for ``python_callable``. (templated)
    :param min_success: Number of branches that have to succeed; without it and ``min_success_ratio``, all.
        With 0 it succeeds whatever its branches do. It and the ratio may be Dag params or outputs of tasks:
        numbers known at run time, of which an unusable one fails the fan-in before it reads anything.
    :param min_success_ratio: Share of the counted branches that have to succeed, 0 <= ratio <= 1; rounded up,
        exactly. With ``min_success``, both must hold.
    :param count_skipped: With a tolerance, what a skipped branch counts as: ``"exclude"`` (not at all),
        ``"success"`` or ``"failure"``.
    :param on_empty: What the fan-in does over zero items: ``"succeed"`` (default without a tolerance),
        ``"fail"`` (default with one) or ``"skip"``.
    :raises DeclarationValueError: If an argument has an unusable value; a ``ValueError``.
    :raises DeclarationTypeError: If an argument has the wrong type; a ``TypeError``.
    """

    template_fields: Sequence[str] = ("task_id_prefix", "op_kwargs", "min_success", "min_success_ratio")
    template_fields_renderers: ClassVar[dict[str, str]] = {"op_kwargs": "py"}
    shallow_copy_attrs: Sequence[str] = ("python_callable",)
    operator_extra_links = (FanOutLink(),)
    ui_color = "#d5e8d4"

    def __init__(
        self,
        *,
        fan_out: TaskGroup | None = None,
        task_id_prefix: str | None = None,
        key: str = RETURN_VALUE,
        python_callable: Callable[..., Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        min_success: int | DagParam | XComArg | None = None,
        min_success_ratio: float | Fraction | Decimal | DagParam | XComArg | None = None,
        count_skipped: CountSkipped = "exclude",
        on_empty: OnEmpty | None = None,
        **kwargs: Any,
    ) -> None:
        owner = f"FanInOperator {kwargs.get('task_id')!r}"
        told = {"min_success": min_success, "min_success_ratio": min_success_ratio}
        policy = Policy(
            min_success=as_declared(min_success),
            min_success_ratio=as_declared(min_success_ratio),
            count_skipped=count_skipped,
            on_empty=on_empty,
        )
        around = [each for each in (kwargs.get("task_group"), fan_out) if each is not None]
        checks.check_source(owner, fan_out, task_id_prefix, key)
        dags = [kwargs.get("dag"), *(each.dag for each in around)]
        fail_fast = any(dag.fail_fast for dag in dags if dag is not None)
        checks.check_callable(owner, python_callable, op_kwargs)
        if not fail_fast:
            checks.check_setups(owner, op_kwargs=op_kwargs, **told)
        checks.check_tolerance(owner, **told)
        checks.check_policy(owner, policy, fail_fast=fail_fast)
        checks.check_number(owner, "pool_slots", kwargs.get("pool_slots"))
        checks.check_trigger_rule(owner, kwargs)
        group = declared_group(fan_out)
        if fan_out is not None and group is not None:
            checks.check_group(owner, policy, key, group, fan_out)
        super().__init__(**{**kwargs, "trigger_rule": "all_success" if fail_fast else "all_done"})
        self.task_id_prefix = task_id_prefix
        self.python_callable = python_callable
        self.op_kwargs = op_kwargs or {}
        self.min_success, self.min_success_ratio = min_success, min_success_ratio
        self.declared = DeclaredFanIn(group=group, task_id_prefix=task_id_prefix, key=key, policy=policy)
        self.group = group
        self.key = key
        self.policy = policy
        if fan_out is not None:
            checks.check_mapped_groups(owner, fan_out, self.task_group)
            fan_out >> self

    def policy_of_run(self) -> Policy:
        """The policy, with what only the run knows."""
        from airflow_fanout.operators.settings import number_of_run, ratio_of_run, refused_in_run

        owner, policy = f"FanInOperator {self.task_id!r}", self.policy
        if policy.min_success == AT_RUN_TIME:
            policy = policy._replace(
                min_success=number_of_run(owner, "min_success", self.min_success, least=0)
            )
            with refused_in_run():
                checks.check_reachable(owner, policy.min_success, self.group)
        if policy.min_success_ratio == AT_RUN_TIME:
            ratio = ratio_of_run(owner, "min_success_ratio", self.min_success_ratio)
            policy = policy._replace(min_success_ratio=ratio)
        return policy

    @classmethod
    def partial(cls, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: ARG003 - Airflow's signature
        """Refuse to be mapped: a fan-in is where the mapping ends."""
        message = (
            "FanInOperator can't be mapped with .partial().expand(): it collects all branches in one task. "
            "Fan out over its result instead: FanOutGroup(…, items=fan_in.output)"
        )
        raise TypeError(message)

    expand = expand_kwargs = partial

    @classmethod
    def get_serialized_fields(cls) -> frozenset[str]:
        """Have the serialized Dag hold what is declared, for those who have no Dag file."""
        return frozenset({*super().get_serialized_fields(), "declared_fan_in"})  # type: ignore[no-untyped-call]

    @property
    def declared_fan_in(self) -> str:
        """What is declared, as the serialized Dag holds it."""
        return self.declared.to_json()

    def execute(self, context: Context) -> Any:
        """Account for every branch, decide, and combine what came."""
        from airflow_fanout.execution_time.accounting import account

        declared = replace(self.declared, task_id_prefix=self.task_id_prefix, policy=self.policy_of_run())
        return account(
            self, declared, context, python_callable=self.python_callable, op_kwargs=self.op_kwargs
        )
