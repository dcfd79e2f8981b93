"""``FanOutNotifier``, which tells of a whole group in one message."""

from __future__ import annotations

import copy
import shlex
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.bases.notifier import BaseNotifier

from airflow_fanout.exceptions import DeclarationTypeError
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.records import REPORT_KEY
from airflow_fanout.rules.wording import counted, on_one_line, typed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from airflow_fanout.execution_time.accounting import FanInReport


class Message(TypedDict):
    """What the templates of the other notifier have as ``fan_out``."""

    headline: str
    text: str
    report: FanInReport | None


class FanOutNotifier(BaseNotifier):
    """
    Send one message for a whole group, through any other notifier.

    It is a callback of the fan-in, where one of each branch would send a message for each:
    ``on_failure_callback``, and ``on_success_callback`` for a degraded success. The templates of the other
    notifier have ``fan_out.headline``, one line of ids and numbers; ``fan_out.text``, the headline, how
    many failed with which error, and the command that tells more; and ``fan_out.report``, the XCom
    ``fan_out_report``. Branches wrote the errors in it: in HTML it is ``{{ fan_out.text | e }}``.

    .. code-block:: python

        mail = SmtpNotifier(
            to="data@example.com",
            subject="{{ fan_out.headline }}",
            html_content="<pre>{{ fan_out.text | e }}</pre>",
        )
        tell = FanOutNotifier(mail, degraded=True)
        FanInOperator(
            task_id="verdict",
            fan_out=validate,
            min_success_ratio=0.7,
            on_failure_callback=tell,
            on_success_callback=tell,
        )

    :param notifier: What sends the message, such as Airflow's ``SmtpNotifier``.
    :param degraded: Whether to tell of a degraded success, too; of other successes it never does.
    :raises DeclarationTypeError: If ``notifier`` is none.
    """

    def __init__(self, notifier: BaseNotifier, *, degraded: bool = False) -> None:
        super().__init__()
        owner = type(self).__name__
        if not isinstance(notifier, BaseNotifier):
            problem = f"expected a notifier, such as SmtpNotifier(…); found {typed(notifier)}"
            raise DeclarationTypeError(owner, "notifier", problem)
        if not isinstance(degraded, bool):
            problem = f"expected True or False, found {typed(degraded)}"
            raise DeclarationTypeError(owner, "degraded", problem)
        self.notifier = notifier
        self.degraded = degraded

    def notify(self, context: Context) -> None:
        """Have the other notifier tell of the fan-in whose callback this is, if it failed or is degraded."""
        ti: Any = context["ti"]
        index = -1 if ti.map_index is None else ti.map_index
        report: FanInReport | None = ti.xcom_pull(task_ids=ti.task_id, key=REPORT_KEY, map_indexes=index)
        # Of a fan-in whose process was killed the Dag processor tells, which knows no state.
        has_failed = ti.state not in {"success", "skipped"}
        is_degraded = ti.state == "success" and report is not None and report["degraded"]
        if has_failed or (is_degraded and self.degraded):
            name = f"{ti.dag_id}.{instance_name(ti.task_id, index)}"
            headline = headline_of(name, report, verdict="failed" if has_failed else "is degraded")
            error = context.get("exception") if has_failed else None
            text = "\n".join([headline, *details_of(report, error, dag_id=ti.dag_id, run_id=ti.run_id)])
            message = Message(headline=headline, text=text, report=report)
            # Rendering replaces a notifier's templates for good, and this one may tell of several fan-ins.
            copy.copy(self.notifier)({**context, "fan_out": message})


def headline_of(name: str, report: FanInReport | None, *, verdict: str) -> str:
    """Say in one line what became of a group; its fan-in has no report if it failed before."""
    if report is None:
        return f"{name} {verdict}"
    expected = counted(report["expected"], "branch", "branches")
    return f"{name} {verdict}: {report['succeeded']} of {expected} succeeded"


def details_of(
    report: FanInReport | None, error: BaseException | str | None, *, dag_id: str, run_id: str
) -> Iterator[str]:
    """Lines that name the run, what failed and why, and the command that tells more."""
    from airflow_fanout.execution_time.accounting import errors_listing

    yield f"Run: {on_one_line(run_id)}"
    if report is not None and report["errors"]:
        yield errors_listing(report["errors"], report["failed"] + report["missing"])
    elif error is not None:
        cause = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
        yield f"  {on_one_line(cause)}"
    yield f"More: {shlex.join(['airflow', 'fanout', 'report', dag_id, run_id])}"
