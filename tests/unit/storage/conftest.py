from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def storage_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``[fanout] storage_path``."""
    folder = tmp_path / "storage"
    monkeypatch.setenv("AIRFLOW__FANOUT__STORAGE_PATH", str(folder))
    return folder
