"""The runs that the tests of the tab look at."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ui.airflow_with_users import AirflowWithUsers

__all__ = ["RunKey", "Runs"]

RunKey = tuple[str, str]
"""Id of the Dag, and of the run."""

AT_FIRST = ("nightly_scoring", "tab", "tab_failed", "tab_plain", "tab_changed")
CONF = {"nightly_scoring": {"pace": float(os.environ.get("FANOUT_UI_PACE", "0.5"))}}
"""Seconds that its branches take are multiplied by that; pictures look better when they take long."""


class Runs:
    """
    Runs by Dag; a Dag has one, unless a test starts another.

    :param airflow: Where.
    :param scratch: Folder whose files tasks wait for.
    """

    def __init__(self, airflow: AirflowWithUsers, scratch: Path) -> None:
        self.airflow, self.scratch = airflow, scratch
        self._known: dict[str, RunKey] = {}

    def finished(self, dag_id: str) -> RunKey:
        """Wait for a Dag's run. The others go on meanwhile."""
        if not self._known:
            self._start(*AT_FIRST)
        if dag_id not in self._known:
            self._start(dag_id)
        self.airflow.wait_for_run(*self._known[dag_id], timeout=900)
        return self._known[dag_id]

    def _start(self, *dag_ids: str) -> None:
        for dag_id in dag_ids:
            self.airflow.wait_for_dag(dag_id, timeout=180)
            self._known[dag_id] = (dag_id, self.airflow.trigger(dag_id, conf=CONF.get(dag_id)))

    def waiting(self) -> RunKey:
        """Start a run of which two branches have ended and two wait to be told."""
        dag_id = "tab_slow"
        self.airflow.wait_for_dag(dag_id, timeout=180)
        run = (dag_id, self.airflow.trigger(dag_id))

        def probe() -> bool | None:
            return self.states(run) == ["running", "running", "success", "success"] or None

        self.airflow.poll(probe, timeout=300, condition=lambda: f"{run} is {self.states(run)}")
        return run

    def let_go(self, run: RunKey) -> None:
        """Tell the branches of a waiting run that they may end."""
        (self.scratch / run[1]).touch()

    def states(self, run: RunKey) -> list[Any]:
        """States of a run's branches, sorted."""
        return sorted(str(ti["state"]) for ti in self.airflow.task_instances(*run) if "." in ti["task_id"])

    def change_dag(self, dag_id: str, old: str, new: str) -> None:
        """Change a Dag's file, and wait until Airflow has its new version."""
        file = self.airflow.dags_folder / f"{dag_id}.py"
        before = self._versions(dag_id)
        text = file.read_text(encoding="utf-8")
        if old not in text:
            message = f"{file.name} has no {old!r}"
            raise ValueError(message)
        file.write_text(text.replace(old, new), encoding="utf-8")
        os.utime(file, (time.time() + 1, time.time() + 1))

        def probe() -> bool | None:
            return self._versions(dag_id) > before or None

        self.airflow.poll(probe, timeout=180, condition=lambda: f"{dag_id} still has {before} versions")

    def _versions(self, dag_id: str) -> int:
        return int(self.airflow.request("GET", f"dags/{dag_id}/dagVersions")["total_entries"])
