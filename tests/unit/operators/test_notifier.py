from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import BaseNotifier

from airflow_fanout import FanOutNotifier
from airflow_fanout.exceptions import DeclarationTypeError, TooFewBranchesError
from airflow_fanout.rules.records import REPORT_KEY
from tests.support.mail import MailServer
from tests.unit.fake_run import TASK_INSTANCE

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "<script>alert(1)</script>"


class Kept(BaseNotifier):
    """Keeps what it would send."""

    template_fields = ("text",)

    def __init__(self, text: str = "{{ fan_out.text }}") -> None:
        super().__init__()
        self.text = text
        self.sent: list[str] = []

    def notify(self, context: Any) -> None:
        self.sent.append(self.text)


def report_of(*errors: str, succeeded: int = 5, degraded: bool = False) -> dict[str, Any]:
    kinds = {error: [f"p_{n}" for n, each in enumerate(errors) if each == error] for error in errors}
    return {
        "expected": succeeded + len(errors),
        "succeeded": succeeded,
        "failed": len(errors),
        "skipped": 0,
        "missing": 0,
        "degraded": degraded,
        "problems": [{"name": f"p_{n}", "state": "failed", "error": e} for n, e in enumerate(errors[:20])],
        "errors": [
            {"state": "failed", "error": error, "branches": len(names), "names": names[:5]}
            for error, names in kinds.items()
        ],
    }


def context_of(
    state: str | None, report: dict[str, Any] | None, *, map_index: int | None = -1, **more: Any
) -> Any:
    ti = mock.Mock(spec=TASK_INSTANCE)
    ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.state = "nightly", "verdict", "run 1", map_index, state
    at = {"task_ids": "verdict", "key": REPORT_KEY, "map_indexes": -1 if map_index is None else map_index}
    ti.xcom_pull.side_effect = lambda **asked: report if asked == at else None
    return {"ti": ti, **more}


def verdict() -> Exception:
    return TooFewBranchesError("5 of 7 branches succeeded, 7 needed", needed=7, succeeded=5, problems=[])


class TestWhenItTells:
    @pytest.mark.parametrize("degraded", [False, True])
    @pytest.mark.parametrize("state", ["failed", None], ids=["failed", "in the Dag processor"])
    def test_of_a_failure_always(self, state: str | None, degraded: bool) -> None:
        inner = Kept()
        FanOutNotifier(inner, degraded=degraded)(
            context_of(state, report_of("ValueError: no", "KeyError: 1"))
        )

        (text,) = inner.sent
        assert text == (
            "nightly.verdict failed: 5 of 7 branches succeeded\n"
            "Run: run 1\n"
            "  p_0: failed: ValueError: no\n"
            "  p_1: failed: KeyError: 1\n"
            "More: airflow fanout report nightly 'run 1'"
        )

    @pytest.mark.parametrize(("asked", "number"), [(True, 1), (False, 0)])
    def test_of_a_degraded_success_if_asked(self, asked: bool, number: int) -> None:
        inner = Kept("{{ fan_out.headline }}")
        FanOutNotifier(inner, degraded=asked)(context_of("success", report_of("E: no", degraded=True)))

        assert inner.sent == ["nightly.verdict is degraded: 5 of 6 branches succeeded"] * number

    @pytest.mark.parametrize(
        ("state", "report"), [("success", report_of()), ("success", None), ("skipped", report_of())]
    )
    def test_of_nothing_else(self, state: str, report: dict[str, Any] | None) -> None:
        inner = Kept()
        FanOutNotifier(inner, degraded=True)(context_of(state, report))

        assert inner.sent == []


class TestWhatItTells:
    def test_a_fan_in_that_failed_before_its_report_says_with_what(self) -> None:
        inner = Kept()
        FanOutNotifier(inner)(context_of("failed", None, exception=ValueError("no such\ntask")))

        assert inner.sent[0].splitlines()[::2] == ["nightly.verdict failed", "  ValueError: no such task"]

    def test_a_fan_in_with_all_branches_whose_function_failed_says_so(self) -> None:
        inner = Kept()
        FanOutNotifier(inner)(context_of("failed", report_of(), exception=KeyError("x")))

        assert "  KeyError: 'x'" in inner.sent[0].splitlines()

    def test_branches_with_the_same_error_are_one_line(self) -> None:
        inner = Kept()
        FanOutNotifier(inner)(context_of("failed", report_of(*["E: no"] * 23)))

        assert inner.sent[0].splitlines()[2:-1] == [
            "  23 × failed: E: no (p_0, p_1, p_2, p_3, p_4 and 18 more)"
        ]

    def test_a_fan_in_in_a_mapped_group_is_named_and_read_by_its_index(self) -> None:
        inner = Kept("{{ fan_out.headline }}")
        FanOutNotifier(inner)(context_of("failed", report_of("E: no"), map_index=2))

        assert inner.sent == ["nightly.verdict[2] failed: 5 of 6 branches succeeded"]

    def test_a_map_index_that_airflow_leaves_out_is_that_of_a_plain_task(self) -> None:
        inner = Kept("{{ fan_out.report.failed }}")
        FanOutNotifier(inner)(context_of("failed", report_of("E: no"), map_index=None))

        assert inner.sent == ["1"]

    def test_the_headline_has_nothing_that_a_branch_wrote(self) -> None:
        inner = Kept("{{ fan_out.headline }}")
        FanOutNotifier(inner)(context_of("failed", report_of(HOSTILE), exception=ValueError(HOSTILE)))

        assert HOSTILE not in inner.sent[0]

    def test_one_notifier_tells_of_several_fan_ins(self) -> None:
        inner = Kept("{{ fan_out.headline }}")
        notifier = FanOutNotifier(inner)
        notifier(context_of("failed", report_of("E: no")))
        notifier(context_of("failed", report_of("E: no", succeeded=1)))

        assert [text.rpartition(": ")[2] for text in inner.sent] == [
            "5 of 6 branches succeeded",
            "1 of 2 branches succeeded",
        ]


@pytest.fixture
def mail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with MailServer() as server:
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com"}
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        yield server


def test_airflows_smtp_notifier_sends_it_as_one_mail(mail_server: MailServer) -> None:
    mail = SmtpNotifier(
        to="data@example.com",
        subject="{{ fan_out.headline }}",
        html_content="<pre>{{ fan_out.text | e }}</pre>",
    )
    errors = [f"ValueError: {HOSTILE}", "ValueError: no", "ValueError: no"]
    FanOutNotifier(mail)(context_of("failed", report_of(*errors), exception=verdict()))

    (sent,) = mail_server.mails
    assert (sent["To"], sent["Subject"]) == (
        "data@example.com",
        "nightly.verdict failed: 5 of 8 branches succeeded",
    )
    body = sent.get_body(("html",))
    assert body is not None
    text = body.get_content()
    assert "2 × failed: ValueError: no (p_1, p_2)" in text
    assert "&lt;script&gt;" in text
    assert HOSTILE not in text


class TestWhatItTakes:
    @pytest.mark.parametrize("given", [None, "mail", print, Kept])
    def test_what_is_no_notifier_is_refused(self, given: Any) -> None:
        with pytest.raises(
            DeclarationTypeError, match=r"notifier: expected a notifier, such as SmtpNotifier\(…\); found"
        ):
            FanOutNotifier(given)

    def test_degraded_is_true_or_false(self) -> None:
        with pytest.raises(DeclarationTypeError, match="degraded: expected True or False, found 'yes'"):
            FanOutNotifier(Kept(), degraded="yes")  # type: ignore[arg-type]
