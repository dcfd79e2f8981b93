from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import airflow_fanout
from airflow_fanout.cli import commands as cli
from airflow_fanout.decorators import fan_out
from airflow_fanout.testing import Simulation, simulate
from docs.generate_reference import REFERENCE, UndocumentedError, documentation, reference

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_file_is_what_the_docstrings_say() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "make docs writes it"


def leave_out(name: str, thing: object) -> Callable[[pytest.MonkeyPatch], None]:
    """Take ``:param name:`` out of a docstring."""

    def change(monkeypatch: pytest.MonkeyPatch) -> None:
        said = thing.__doc__ or ""
        assert f":param {name}:" in said
        monkeypatch.setattr(thing, "__doc__", said.replace(f":param {name}:", f"About {name}:"))

    return change


def add_a_flag_without_help(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = cli.CHECK._replace(args=(*cli.CHECK.args, cli._arg("--silent")))
    monkeypatch.setattr(cli, "CHECK", silent)


def add_a_public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_fanout, "__all__", [*airflow_fanout.__all__, "FanAcross"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (leave_out("items", airflow_fanout.FanOutGroup), "items is not documented"),
        (leave_out("key", airflow_fanout.FanInOperator), "key is not documented"),
        (leave_out("error", airflow_fanout.BranchOutcome), "error is not documented"),
        (leave_out("states", airflow_fanout.FanInResults.problems), "states is not documented"),
        (leave_out("names", simulate), "names is not documented"),
        (leave_out("report", Simulation), "report is not documented"),
        (leave_out("options", fan_out), "options is not documented"),
        (add_a_flag_without_help, "check`: --silent is not documented"),
        (add_a_public_name, "FanAcross has no section"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_public_goes_without_documentation(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], said: str
) -> None:
    change(monkeypatch)

    with pytest.raises(UndocumentedError, match=said):
        reference()


def test_a_parameter_that_is_gone_is_not_documented_either(monkeypatch: pytest.MonkeyPatch) -> None:
    doc = (airflow_fanout.FanOutGroup.__doc__ or "").replace(
        ":param items:", ":param thing: It.\n    :param items:"
    )
    monkeypatch.setattr(airflow_fanout.FanOutGroup, "__doc__", doc)

    with pytest.raises(UndocumentedError, match="there is no thing"):
        reference()


def test_a_docstring_becomes_markdown() -> None:
    def shown() -> None:
        """
        Give ``x`` to a :class:`~airflow.sdk.TaskGroup`,
        on two lines.

        .. code-block:: python

            first()


            second()

        After it.

        :param x: What
            it is.
        :raises ValueError: If not.
        """

    said = documentation(shown)

    assert said.text == [
        "Give `x` to a `TaskGroup`, on two lines.",
        "```python\nfirst()\n\n\nsecond()\n```",
        "After it.",
    ]
    assert said.parameters == {"x": "What it is."}
    assert said.raises == {"ValueError": "If not."}
