"""A dependency audit that says when it could not look."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "audit.py"


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sound(name: str) -> dict[str, Any]:
    return {"name": name, "version": "1", "vulns": []}


def unknown(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": "Dependency not found on PyPI"}


HOLE = {"name": "jinja2", "version": "2.10", "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"]}]}


def test_packages_without_a_hole_pass(audit: Any) -> None:
    code, said = audit.verdict({"dependencies": [sound("a"), sound("b")]})

    assert (code, said) == (0, "2 of 2 packages audited\nno known vulnerabilities")


def test_a_hole_fails_and_is_named(audit: Any) -> None:
    code, said = audit.verdict({"dependencies": [sound("a"), HOLE]})

    assert code == 1
    assert said.endswith("jinja2 2.10: PYSEC-2019-217 (mended in 2.10.1)")


def test_what_was_not_looked_at_is_said(audit: Any) -> None:
    code, said = audit.verdict({"dependencies": [sound("a"), unknown("b")]})

    assert code == 0
    assert "1 of 2 packages audited\nnot audited: b" in said


def test_a_database_that_knows_nothing_is_no_clean_bill(audit: Any) -> None:
    code, said = audit.verdict({"dependencies": [unknown("a"), unknown("b")]})

    assert (code, said) == (0, f"{audit.NOT_AUDITED} (it knows none of 2 packages)")


def test_a_service_that_does_not_answer_is_said(audit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    broken = "import sys; sys.exit('ConnectionError: no route')"

    assert audit.main([sys.executable, "-c", broken]) == 0
    assert capsys.readouterr().out == f"{audit.NOT_AUDITED} (exit code 1: ConnectionError: no route)\n"
