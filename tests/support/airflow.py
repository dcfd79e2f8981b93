"""An embedded Airflow whose runs and processes tests control."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_fanout.demo import reaper
from airflow_fanout.demo.embedded import EmbeddedAirflow
from airflow_fanout.demo.rest import ENDED, AirflowRest, task_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

__all__ = ["ControlledAirflow", "RestCalls"]

REPOSITORY = Path(__file__).parents[2]


class RestCalls(AirflowRest):
    """The requests that only tests send."""

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout: float = 120) -> str:
        """Wait until a run has ended and return its state, ``success`` or ``failed``."""

        def probe() -> str | None:
            state = str(self.run(dag_id, run_id)["state"])
            return state if state in ENDED else None

        def condition() -> str:
            states = {
                f"{instance['task_id']}[{instance['map_index']}]": instance["state"]
                for instance in self.task_instances(dag_id, run_id)
            }
            return f"Run {run_id!r} of {dag_id!r} has not ended; tasks: {states}"

        return self.poll(probe, timeout=timeout, condition=condition)

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return an XCom that is plain JSON; a ``KeyError`` if the task pushed nothing under that key."""
        path = f"{task_path(dag_id, run_id, task_id)}/xcomEntries/{key}"
        entry = self.find(path, map_index=map_index)
        if entry is None:
            raise KeyError((task_id, map_index, key))
        return entry["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task, a line for each event."""
        entries = self.log_entries(dag_id, run_id, task_id, try_number=try_number, map_index=map_index)
        return "\n".join(map(_log_line, entries))

    def clear(
        self, dag_id: str, run_id: str, task_ids: Sequence[str | tuple[str, int]], **fields: Any
    ) -> None:
        """Clear tasks so that they run again: task ids, or pairs of one and a map index."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, "task_ids": task_ids, **fields}
        self.request("POST", f"dags/{dag_id}/clearTaskInstances", json=body)

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str, *, map_index: int = -1) -> None:
        """Mark a task instance as ``success``, ``failed`` or ``skipped``."""
        path = task_path(dag_id, run_id, task_id)
        self.request("PATCH", path, params={"map_index": map_index}, json={"new_state": state})


class ControlledAirflow(RestCalls, EmbeddedAirflow):
    """
    An :class:`EmbeddedAirflow` whose processes can be stopped and started.

    :param database_url: SQLAlchemy URL of the metadata database; None for SQLite in the home.
    :param triggerer: Whether to run a triggerer, for deferrable operators.
    :param settings: The other parameters of ``EmbeddedAirflow``.
    """

    start_timeout = 300.0

    def __init__(
        self,
        *,
        env: Mapping[str, str],
        database_url: str | None = None,
        triggerer: bool = False,
        **settings: Any,
    ) -> None:
        usual = {
            "PYTHONPATH": str(REPOSITORY),
            # The files don't change; parsing them all every 30 s would cost as much as the tasks.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "7200",
        }
        if database_url is not None:
            usual["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database_url
        super().__init__(env={**usual, **env}, **settings)
        if triggerer:
            self._commands["triggerer"] = ["triggerer", "--skip-serve-logs"]
            self.components = (*self.components, "triggerer")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def dags_folder(self) -> Path:
        """The folder of its Dag files."""
        return self.home / "dags"

    def start_process(self, name: str) -> None:
        """Start a process, without waiting for it."""
        self.processes[name] = self._spawn(name, self._commands[name])

    def stop_process(self, name: str, sig: signal.Signals = signal.SIGTERM, *, grace: float = 10) -> None:
        """Stop one process, and all that it started; what hasn't ended after the grace is killed."""
        process = self.processes[name]
        process.send_signal(sig)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        reaper.kill(f"{self.marker}/{name}")
        process.wait()
        del self.processes[name]

    def pids(self) -> list[int]:
        """Return the ids of all living processes of this Airflow, workers and tasks included."""
        return sorted(process.pid for process in reaper.find(self.marker))


def _log_line(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    rest = {name: value for name, value in entry.items() if name not in {"event", "timestamp"}}
    return " ".join([str(entry.get("event", "")), *(f"{name}={value}" for name, value in rest.items())])
