"""What a fan-in tells those who watch: metrics of its group, by Airflow's own client, and its trace span."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.sdk.observability.stats import Stats
from opentelemetry import trace

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_fanout.execution_time.results import FanInResults

log = logging.getLogger(__name__)

PREFIX = "fan_out."
"""What the names of all metrics, and of the attributes of the span, begin with."""


def send_metrics(group_id: str | None, results: FanInResults, context: Context, *, degraded: bool) -> None:
    """
    Say what became of the branches, once the fan-in has judged them; a client that is broken fails nothing.

    :param group_id: None if a prefix brought the branches together.
    """
    try:
        _send(group_id, results, context, degraded=degraded)
    except Exception:  # also of a client that Airflow's configuration names
        log.warning("No metrics of this fan-in could be sent", exc_info=True)


def _send(group_id: str | None, results: FanInResults, context: Context, *, degraded: bool) -> None:
    ti = context["ti"]
    tags = {"dag_id": ti.dag_id, "task_id": ti.task_id}
    group_tag = {} if group_id is None else {"group_id": group_id}
    tags |= group_tag
    states = results.state_counts()
    # Those of all branches' last tries, as Airflow shows them; of items, of their calls.
    seconds = {"work_seconds": results.work_seconds()}
    if (wall := _wall_seconds(context)) is not None:
        seconds["wall_seconds"] = wall
    for state, number in states.items():
        Stats.incr(f"{PREFIX}branches", number, tags={**tags, "state": state})
    if degraded:
        Stats.incr(f"{PREFIX}degraded", tags=tags)
    for name, length in seconds.items():
        Stats.gauge(f"{PREFIX}{name}", length, tags=tags)
    branches = {f"branches.{state}": number for state, number in states.items()}
    attributes: dict[str, str | float] = {**group_tag, "degraded": degraded, **branches, **seconds}
    span = trace.get_current_span()
    span.set_attributes({f"{PREFIX}{name}": value for name, value in attributes.items()})


def _wall_seconds(context: Context) -> float | None:
    """
    Seconds from the start of the run to that of the fan-in.

    When the first branch was queued no request tells that a fan-in may send: states come without times.
    """
    dag_run = context.get("dag_run")
    began = None if dag_run is None else dag_run.start_date
    return None if began is None else (context["ti"].start_date - began).total_seconds()
