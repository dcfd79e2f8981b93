"""What a fan-in's function is given, as JSON; runs in the tasks of the test Dags."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

__all__ = ["dump"]


def dump(results: FanInResults) -> dict[str, Any]:
    """Return all that the results say, in their own order."""
    return {
        "items": [[name, value] for name, value in results.items()],
        "outcomes": [asdict(outcome) for outcome in results.outcomes.values()],
        "failed": list(results.failed),
        "skipped": list(results.skipped),
        "missing": list(results.missing),
    }
