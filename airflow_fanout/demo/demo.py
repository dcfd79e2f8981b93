"""``airflow fanout demo``: runs an example Dag on an embedded Airflow and shows its outcome."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from airflow_fanout.demo import view
from airflow_fanout.demo.embedded import LOOPBACK, EmbeddedAirflow, EmbeddedAirflowError
from airflow_fanout.demo.rest import ADMIN, ENDED, RestError
from airflow_fanout.reports.timing import BranchTiming
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.outcomes import WAITING
from airflow_fanout.rules.wording import format_seconds, on_one_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    Progress = tuple[str, list[BranchTiming], dict[str, str]]
    """State of a run, its branches, and notes on these by name."""


PARALLELISM = 32
"""Tasks that may run at once, in all; ``[core] parallelism`` has the same default."""

SEQUENTIAL = "_sequential"
"""End of the id of a Dag that does one after another what another Dag does at the same time."""

DAG_FUNCTION = re.compile(r"^@dag\(.*?^def (\w+)", re.MULTILINE | re.DOTALL)

COUNT_VARIABLE = "AIRFLOW_FANOUT_DEMO_COUNT"

WORK_SECONDS_VARIABLE = "AIRFLOW_FANOUT_DEMO_WORK_SECONDS"

ERRORS_NAMED = 5


class DemoError(Exception):
    """Raised when the demo can't go on; its text is for the terminal."""


def command(args: Namespace) -> NoReturn:
    """Run the demo from the command line and exit."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    sys.exit(run_demo(args))


def run_demo(args: Namespace) -> int:
    """Run the demo; return 0, or 1 after one line on standard error that says why."""
    try:
        return _Demo(args).run()
    except KeyboardInterrupt:
        _complain("interrupted; all that it had started is stopped")
    except (DemoError, EmbeddedAirflowError, OSError, RestError, RuntimeError) as error:
        _complain(str(error))
    return 1


def _complain(problem: str) -> None:
    print(f"airflow fanout demo: {problem}", file=sys.stderr)


def run_timeout(count: int, work_seconds: float) -> float:
    """Seconds after which a run is given up, retries and a slow machine allowed for."""
    return 180 + 2 * count + 3 * work_seconds * math.ceil(count / PARALLELISM)


def example_file(dag_id: str, folder: Path | None = None) -> Path:
    """
    Find the file of an example Dag.

    :param folder: Folder of the files; None for this package's.
    :raises DemoError: If there is none; with those there are.
    """
    folder = folder or _examples_folder()
    # A file is named after its first Dag; the names of others are in it.
    files = {
        known: file
        for file in sorted(folder.glob("[!_]*.py"))
        for known in (*DAG_FUNCTION.findall(file.read_text(encoding="utf-8")), file.stem)
        if not known.endswith(SEQUENTIAL)
    }
    if dag_id not in files:
        msg = f"no example Dag {dag_id!r}; there are: {', '.join(sorted(files)) or f'none in {folder}'}"
        raise DemoError(msg)
    return files[dag_id]


def _examples_folder() -> Path:
    package = Path(__file__).parents[1]
    installed = package / "example_dags"
    return installed if installed.is_dir() else package.parent / "dags"


class _Demo:
    """One demo: an Airflow, the runs on it, and the console that shows them."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        dag_file = example_file(args.dag)
        self._waits = args.work_seconds and WORK_SECONDS_VARIABLE in dag_file.read_text(encoding="utf-8")
        environment = {
            COUNT_VARIABLE: str(args.count),
            WORK_SECONDS_VARIABLE: f"{args.work_seconds:g}",
            # A file in the embedded Airflow's home, the working directory of its processes and tasks.
            "AIRFLOW_CONN_FANOUT_WAREHOUSE": '{"conn_type": "sqlite", "host": "warehouse.db"}',
            "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(PARALLELISM),
        }
        self._airflow = EmbeddedAirflow(dag_files=[dag_file], env=environment, port=args.port, keep=args.keep)

    def run(self) -> int:
        """Start Airflow, run the Dag, and its sequential twin if it has one; return the exit code."""
        dag_id, airflow = self._args.dag, self._airflow
        began = time.monotonic()
        code = 0
        self._console.print("Starting Airflow …")
        try:
            with self._console.status("It migrates a database; API server, scheduler, Dag processor start"):
                airflow.start()
                airflow.wait_for_dag(dag_id)
            self._console.print(f"Airflow is up at {airflow.base_url} after {time.monotonic() - began:.0f} s")
            run_id = airflow.trigger(dag_id)
            try:
                branches = self._follow(dag_id, run_id, self._branches)
                self._show_results(dag_id, run_id)
                self._show_comparison(f"{dag_id}{SEQUENTIAL}", branches)
            except DemoError as error:
                _complain(str(error))
                code = 1
            self._show_way_to_the_browser(run_id)
        finally:
            airflow.stop()
        return code

    def _follow(self, dag_id: str, run_id: str, read: Callable[[str, str], Progress]) -> list[BranchTiming]:
        """
        Show a run until it has ended; return its branches.

        :raises DemoError: If it has failed, or not ended in time.
        """
        timeout = run_timeout(self._args.count, self._args.work_seconds)
        deadline = time.monotonic() + timeout
        with view.progress(self._console) as show:
            while True:
                state, branches, notes = read(dag_id, run_id)
                show(branches, notes)
                if state in ENDED:
                    break
                if time.monotonic() > deadline:
                    msg = f"the run has not ended within {timeout:.0f} s"
                    raise DemoError(msg)
                time.sleep(0.5)
        if state == "failed":
            msg = f"the run failed: {self._errors(dag_id, run_id)}"
            raise DemoError(msg)
        return branches

    def _branches(self, dag_id: str, run_id: str) -> Progress:
        """Read the branches of the Dag's groups."""
        report = self._airflow.report(dag_id, run_id)
        branches, notes = [], {}
        for group in report["groups"]:
            title = f"{group['title']}: " if len(report["groups"]) > 1 else ""
            for branch in group["branches"]:
                name = f"{title}{branch['name']}"
                times = (branch["queued"], branch["started"], branch["ended"])
                branches.append(_timing(name, branch["state"], *times))
                if branch["items"] and branch["ended"]:
                    notes[name] = view.items_text(branch["items"])
        return report["state"], branches, notes

    def _steps(self, dag_id: str, run_id: str) -> Progress:
        """Read the tasks of a run without groups."""
        # The state first: what ended before it is in the instances that are read after it.
        state = self._airflow.run(dag_id, run_id)["state"]
        steps = [
            _timing(step["task_id"], step["state"], step["queued_when"], step["start_date"], step["end_date"])
            for step in self._airflow.task_instances(dag_id, run_id)
        ]
        return state, steps, {}

    def _errors(self, dag_id: str, run_id: str) -> str:
        """Say which tasks failed, and why."""
        instances = self._airflow.task_instances(dag_id, run_id)
        failed = [instance for instance in instances if instance["state"] == "failed"]
        return "; ".join(
            f"{instance_name(instance['task_id'], instance['map_index'])} failed "
            f"({self._logged_error(dag_id, run_id, instance)})"
            for instance in failed[:ERRORS_NAMED]
        )

    def _logged_error(self, dag_id: str, run_id: str, instance: dict[str, Any]) -> str:
        which = {"try_number": instance["try_number"], "map_index": instance["map_index"]}
        entries = self._airflow.log_entries(dag_id, run_id, instance["task_id"], **which)
        events = [entry for entry in entries if isinstance(entry, dict)]
        errors = [event["error_detail"][0] for event in events if event.get("error_detail")]
        if not errors:
            return "its log has no error"
        return on_one_line(f"{errors[-1]['exc_type']}: {errors[-1]['exc_value']}")

    def _show_results(self, dag_id: str, run_id: str) -> None:
        """Show what the fan-ins returned, and the report."""
        for group in self._airflow.report(dag_id, run_id)["groups"]:
            for fan_in_id in group["fan_in_ids"]:
                value = self._airflow.xcom(dag_id, run_id, fan_in_id, map_index=group["map_index"])
                self._console.print(f"\n{fan_in_id} returned:\n{view.result_text(value)}")
        report = self._airflow.command("fanout", "report", dag_id, run_id)
        if report.returncode:
            last = report.stderr.strip().rpartition("\n")[2]
            msg = f"the run's report failed with exit code {report.returncode}: {last}"
            raise DemoError(msg)
        self._console.print(f"\nairflow fanout report {dag_id}:\n{report.stdout.strip()}")
        if self._waits:
            self._console.print(
                f"Each branch waited {format_seconds(self._args.work_seconds)}, which stands for a call to a "
                "service; branches that compute share the machine's cores."
            )

    def _show_comparison(self, dag_id: str, branches: list[BranchTiming]) -> None:
        """Run the same work one after another, if there is a Dag for that, and show both side by side."""
        if self._airflow.find(f"dags/{dag_id}") is None:
            return
        self._console.print(f"\nThe same, one after another ({dag_id}):")
        # It comes second, so that what the first run left in the disk's cache is to its advantage.
        steps = self._follow(dag_id, self._airflow.trigger(dag_id), self._steps)
        names = {branch.name for branch in branches}
        steps = [step for step in steps if step.name in names]
        self._console.print(f"\n{view.comparison(branches, steps, cores=os.cpu_count())}")

    def _show_way_to_the_browser(self, run_id: str) -> None:
        if not self._args.keep:
            self._console.print("\nTo look at it in the browser: airflow fanout demo --keep")
            return
        url = f"{self._airflow.base_url}/dags/{self._args.dag}/runs/{run_id}"
        self._console.print(f"\nIn the browser: {url}")
        self._console.print(f"Log in as {ADMIN} with the password {self._airflow.password}")
        self._console.print(f"It listens on this machine alone ({LOOPBACK}, port {self._airflow.port}).")
        self._console.print(f"Logs and database: {self._airflow.home}, which stays. Ctrl-C stops Airflow.")
        try:
            while True:
                self._airflow.ensure_alive()
                time.sleep(1)
        except KeyboardInterrupt:
            return


def _timing(name: str, state: str | None, *times: str | None) -> BranchTiming:
    """Make the timing of a branch from its state, and when it was queued, started and ended, as JSON."""
    queued, started, ended = (None if text is None else datetime.fromisoformat(text) for text in times)
    return BranchTiming(name=name, state=state or WAITING, queued=queued, started=started, ended=ended)
