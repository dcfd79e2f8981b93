"""What the decorators take: typed, so that an editor completes it; checked when the Dag is parsed."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk import BaseOperator

from airflow_fanout.exceptions import DeclarationTypeError
from airflow_fanout.rules.wording import misspelt

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
    from datetime import datetime, timedelta
    from decimal import Decimal
    from fractions import Fraction

    from airflow.sdk import DAG, Context, TaskGroup, XComArg
    from airflow.sdk.definitions.param import DagParam

    from airflow_fanout.rules.policy import CountSkipped, OnEmpty

    Callback = Callable[[Context], Any]

__all__ = ["GROUP_OPTIONS", "FanInOptions", "FanOutOptions", "check_fan_in_options", "check_fan_out_options"]


class TaskSettings(TypedDict, total=False):
    """Settings of a task that Airflow's ``@task`` takes too."""

    allow_nested_operators: bool
    depends_on_past: bool
    do_xcom_push: bool
    doc: str | None
    doc_json: str | None
    doc_rst: str | None
    doc_yaml: str | None
    email: str | Sequence[str] | None
    email_on_failure: bool
    email_on_retry: bool
    end_date: datetime | None
    execution_timeout: timedelta | None
    executor: str | None
    executor_config: dict[str, Any] | None
    ignore_first_depends_on_past: bool
    inlets: Any
    logger_name: str | None
    max_active_tis_per_dag: int | None
    max_active_tis_per_dagrun: int | None
    max_retry_delay: timedelta | float | None
    multiple_outputs: bool
    on_execute_callback: Callback | Collection[Callback] | None
    on_failure_callback: Callback | list[Callback] | None
    on_retry_callback: Callback | list[Callback] | None
    on_skipped_callback: Callback | Collection[Callback] | None
    on_success_callback: Callback | Collection[Callback] | None
    outlets: Any
    owner: str
    params: MutableMapping[str, Any] | None
    pool: str | None
    pool_slots: int
    post_execute: Callable[[Context, Any], None] | None
    pre_execute: Callable[[Context], None] | None
    priority_weight: int
    queue: str
    render_template_as_native_obj: bool | None
    resources: dict[str, Any] | None
    retries: int | None
    retry_delay: timedelta | float
    retry_exponential_backoff: float
    retry_policy: Any
    run_as_user: str | None
    start_date: datetime | None
    task_display_name: str | None
    wait_for_downstream: bool
    wait_for_past_depends_before_skipping: bool
    weight_rule: Any


class GroupOptions(TypedDict, total=False):
    """Arguments of a ``FanOutGroup`` but those that function and call give."""

    group_id: str
    count: int | DagParam | XComArg | None
    mapped: bool | None
    max_concurrency: int | None
    items_per_task: int | None
    item_concurrency: int | None
    stop_after_failures: int | None
    dag: DAG
    default_args: dict[str, Any]
    doc_md: str | None
    group_display_name: str
    parent_group: TaskGroup | None
    prefix_group_id: bool
    tooltip: str
    ui_color: str
    ui_fgcolor: str


class FanOutOptions(GroupOptions, TaskSettings, total=False):
    """What ``@task.fan_out`` takes: arguments of the group, and settings of the task of each branch."""

    map_index_template: str | None
    show_return_value_in_logs: bool
    templates_dict: dict[str, Any] | None
    templates_exts: Sequence[str] | None
    trigger_rule: str


class FanInOptions(TaskSettings, total=False):
    """What ``@task.fan_in`` takes: arguments of a ``FanInOperator`` but those that function and call give."""

    task_id: str
    task_id_prefix: str | None
    key: str
    min_success: int | None
    min_success_ratio: float | Fraction | Decimal | None
    count_skipped: CountSkipped
    on_empty: OnEmpty | None
    dag: DAG | None
    default_args: dict[str, Any] | None
    doc_md: str | None
    map_index_template: str | None
    task_group: TaskGroup | None


GROUP_OPTIONS = GroupOptions.__optional_keys__
"""Which options of a fan-out are the group's; the others are settings of each branch's task."""

_BY_AIRFLOW = frozenset(inspect.signature(BaseOperator.__init__).parameters) - {"self", "kwargs"}
"""What any task takes in the Airflow that is installed, which may have more settings than are typed here."""

_INSTEAD_OF = {
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
"""What to write for an argument that is given elsewhere."""


def check_fan_out_options(owner: str, options: Mapping[str, Any]) -> None:
    """
    Refuse what a fan-out doesn't take.

    :param owner: What declares it, for error messages.
    :param options: The options that were given.
    :raises DeclarationTypeError: If there is one that it doesn't take.
    """
    _check(owner, options, FanOutOptions.__optional_keys__ | (_BY_AIRFLOW - {"task_id", "task_group"}))


def check_fan_in_options(owner: str, options: Mapping[str, Any]) -> None:
    """
    Refuse what a fan-in doesn't take.

    :param owner: What declares it, for error messages.
    :param options: The options that were given.
    :raises DeclarationTypeError: If there is one that it doesn't take.
    """
    _check(owner, options, FanInOptions.__optional_keys__ | _BY_AIRFLOW)


def _check(owner: str, options: Mapping[str, Any], known: Collection[str]) -> None:
    for name in options:
        if name not in known:
            near = misspelt(name, known)
            way_out = (
                f"did you mean {near[0]}=?" if near else "leave it out; the function's own go into the call"
            )
            way_out = _INSTEAD_OF.get(name, way_out)
            raise DeclarationTypeError(owner, name, f"is no argument of {owner.partition(' ')[0]}; {way_out}")
