"""What a fan-in's function is given, as JSON; runs in the tasks of the test Dags."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import CombineError

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

__all__ = ["dump"]


def dump(results: FanInResults) -> dict[str, Any]:
    """Return all that the results say, in their own order; of combined values what was made of them."""
    return {
        "items": combined(results) if results.is_combined else [[n, value] for n, value in results.items()],
        "outcomes": [asdict(outcome) for outcome in results.outcomes.values()],
        "failed": list(results.failed),
        "skipped": list(results.skipped),
        "missing": list(results.missing),
    }


def combined(results: FanInResults) -> Any:
    """Return what was made of all values, or the error in its place."""
    try:
        return results.combined
    except CombineError as error:
        return str(error)
