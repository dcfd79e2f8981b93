"""A dependency audit that says when it could not look."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = runpy.run_path(str(Path(__file__).parents[3] / ".ci" / "audit.py"))


def sound(name: str) -> dict[str, Any]:
    return {"name": name, "version": "1", "vulns": []}


def unknown(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": "Dependency not found on PyPI"}


HOLE = {"name": "jinja2", "version": "2.0", "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.1"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "lines"),
    [
        ([sound("a"), sound("b")], 0, ["2 of 2 packages audited", "no known vulnerabilities"]),
        (
            [sound("a"), HOLE],
            1,
            ["2 of 2 packages audited", "jinja2 2.0: PYSEC-2019-217 (mended in 2.1)"],
        ),
        (
            [sound("a"), unknown("b")],
            0,
            ["1 of 2 packages audited", "not audited: b", "no known vulnerabilities"],
        ),
        ([unknown("a"), unknown("b")], 0, [f"{AUDIT['NOT_AUDITED']} (it knows none of 2 packages)"]),
    ],
    ids=["no hole", "a hole", "a package that was not looked at", "a database that knows nothing"],
)
def test_a_hole_fails_and_is_named_and_what_was_not_looked_at_is_said(
    packages: list[dict[str, Any]], code: int, lines: list[str]
) -> None:
    assert AUDIT["verdict"]({"dependencies": packages}) == (code, "\n".join(lines))


def test_a_service_that_does_not_answer_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    broken = "import sys; sys.exit('ConnectionError: no route')"

    assert AUDIT["main"]([sys.executable, "-c", broken]) == 0
    assert capsys.readouterr().out == f"{AUDIT['NOT_AUDITED']} (exit code 1: ConnectionError: no route)\n"
