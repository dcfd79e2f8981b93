"""What ``make test`` leaves out runs before each merge."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).parents[3]


def test_ci_runs_every_slow_test() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    files = [
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("integration", "e2e", "distributed")
        for path in (REPOSITORY / "tests" / folder).glob("test_*.py")
        if folder == "distributed" or "mark.slow" in path.read_text(encoding="utf-8")
    ]

    assert [file for file in files if file not in script] == []
    assert "pytest tests/unit -m slow" in script
    assert "pytest tests/ui" in script
