"""The Dag files that are measured: each with this package, and its twin by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DAGS", "FAN_IN", "FAN_OUT", "MAPPED", "REPOSITORY", "Twins", "environment"]

REPOSITORY = Path(__file__).parents[1]
DAGS = Path(__file__).parent / "dags"

FAN_IN = "combine"
"""Task id of the fan-in, in all of them."""


@dataclass(frozen=True, kw_only=True)
class Twins:
    """
    Two Dags that do the same.

    :param name: What they have in common; their ids are ``<name>_ours`` and ``<name>_by_hand``, and their
        files are named after these.
    :param size: Environment variable with the number of their branches, or mapped tasks.
    """

    name: str
    size: str

    @property
    def ours(self) -> Path:
        """Dag file with this package."""
        return DAGS / f"{self.name}_ours.py"

    @property
    def by_hand(self) -> Path:
        """Dag file without it."""
        return DAGS / f"{self.name}_by_hand.py"


FAN_OUT = Twins(name="fan_out", size="FANOUT_BENCHMARK_BRANCHES")
MAPPED = Twins(name="mapped", size="FANOUT_BENCHMARK_NUMBERS")


def environment(*, branches: int, numbers: int) -> dict[str, str]:
    """
    Make the environment variables that the Dag files, and the processes that run them, need.

    :param branches: Number of branches of ``FAN_OUT``.
    :param numbers: Number of mapped tasks of ``MAPPED``.
    """
    return {
        FAN_OUT.size: str(branches),
        MAPPED.size: str(numbers),
        "PYTHONPATH": str(REPOSITORY),
        # Airflow's processes have their bytecode cached; without it, compiling would be half of what we time.
        "PYTHONDONTWRITEBYTECODE": "",
    }
