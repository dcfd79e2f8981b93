"""Marks of this folder's tests, and what they need that may be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers import missing_servers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests, and leave out those on Celery where there is no Redis."""
    missing = missing_servers()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.slow)
            if missing and item.get_closest_marker("celery"):
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))
