"""``simulate``, for the tests of an author's Dags."""

from __future__ import annotations

from airflow_fanout.testing.simulation import Simulation, simulate

__all__ = ["Simulation", "simulate"]
