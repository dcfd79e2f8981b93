"""``airflow fanout demo``: runs an example Dag on an embedded Airflow and shows its outcome."""

from __future__ import annotations

import ast
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from airflow_fanout.demo import view
from airflow_fanout.demo.embedded import EmbeddedAirflow, EmbeddedAirflowError
from airflow_fanout.demo.plan import Plan, batch_name, instance_name, make_plan, timestamp
from airflow_fanout.demo.rest import ENDED, RestError
from airflow_fanout.reports.timing import BranchTiming
from airflow_fanout.rules.records import RECORD_KEY
from airflow_fanout.rules.wording import format_seconds, on_one_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence


PARALLELISM = 32
"""Tasks that may run at once, in all; ``[core] parallelism`` has the same default."""

SEQUENTIAL = "_sequential"
"""End of the id of a Dag that does one after another what another Dag does at the same time."""

REPORT_TIMEOUT = 300
"""Seconds that the report of the run may take: a few, and more where the machine is busy."""

COUNT_VARIABLE = "AIRFLOW_FANOUT_DEMO_COUNT"

WORK_SECONDS_VARIABLE = "AIRFLOW_FANOUT_DEMO_WORK_SECONDS"


class DemoError(Exception):
    """Raised when the demo can't go on; its text is for the terminal."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The command's options."""

    dag_id: str
    count: int
    work_seconds: float
    keep: bool = False
    port: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the embedded Airflow."""
        return {
            COUNT_VARIABLE: str(self.count),
            WORK_SECONDS_VARIABLE: f"{self.work_seconds:g}",
            # A file in the embedded Airflow's home, the working directory of its processes and tasks.
            "AIRFLOW_CONN_FANOUT_WAREHOUSE": '{"conn_type": "sqlite", "host": "warehouse.db"}',
            "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(PARALLELISM),
        }

    @property
    def run_timeout(self) -> float:
        """Seconds after which the run is given up, retries and a slow machine allowed for."""
        return 180 + 2 * self.count + 3 * self.work_seconds * math.ceil(self.count / PARALLELISM)


def command(args: Namespace) -> NoReturn:
    """Run the demo from the command line and exit."""
    options = DemoOptions(
        dag_id=args.dag, count=args.count, work_seconds=args.work_seconds, keep=args.keep, port=args.port
    )
    sys.exit(run_demo(options))


def run_demo(options: DemoOptions) -> int:
    """Run the demo; return 0, or 1 after one line on standard error that says why."""
    try:
        with _sigterm_as_ctrl_c():
            return _Demo(options).run()
    except KeyboardInterrupt:
        problem = "interrupted; all that it had started is stopped"
    except (DemoError, EmbeddedAirflowError, OSError, RestError, RuntimeError) as error:
        problem = str(error)
    _complain(problem)
    return 1


def example_file(dag_id: str, folder: Path | None = None) -> Path:
    """
    Find the file of an example Dag.

    :param folder: Folder of the files; None for this package's.
    :raises DemoError: If there is none; with those there are.
    """
    folder = folder or _examples_folder()
    files = sorted(folder.glob("[!_]*.py"))
    # A file is named after its first Dag; the names of others are in it.
    known = {other: file for file in files for other in _dag_ids(file)} | {file.stem: file for file in files}
    if dag_id not in known:
        names = ", ".join(sorted(known)) or f"none in {folder}"
        msg = f"no example Dag {dag_id!r}; there are: {names}"
        raise DemoError(msg)
    return known[dag_id]


def _dag_ids(file: Path) -> list[str]:
    """Ids of the ``@dag`` functions of a file, without those that do the same one after another."""
    return [
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.endswith(SEQUENTIAL)
        and any(ast.unparse(decorator).startswith("dag(") for decorator in node.decorator_list)
    ]


def _examples_folder() -> Path:
    package = Path(__file__).parents[1]
    installed = package / "example_dags"
    return installed if installed.is_dir() else package.parent / "dags"


class _Demo:
    """One demo: an Airflow, the runs on it, and the console that shows them."""

    def __init__(self, options: DemoOptions) -> None:
        self._options = options
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        dag_file = example_file(options.dag_id)
        self._source = dag_file.read_text(encoding="utf-8")
        self._airflow = EmbeddedAirflow(
            dag_files=[dag_file], env=options.environment, port=options.port, keep=options.keep
        )

    def run(self) -> int:
        """Start Airflow, run the Dag, and its sequential twin if it has one; return the exit code."""
        options, airflow = self._options, self._airflow
        began = time.monotonic()
        code = 0
        try:
            with view.waiting(self._console, "Starting Airflow"):
                airflow.start()
                airflow.wait_for_dag(options.dag_id)
            self._console.print(f"Airflow is up at {airflow.base_url} after {time.monotonic() - began:.0f} s")
            if options.count > PARALLELISM and COUNT_VARIABLE in self._source:
                limit = f"at most {PARALLELISM} at once: [core] parallelism"
                self._console.print(f"{options.count} branches, {limit}")
            run_id = airflow.trigger(options.dag_id)
            try:
                self._show_run(run_id)
                self._show_comparison(run_id)
            except DemoError as error:
                _complain(str(error))
                code = 1
            self._show_way_to_the_browser(run_id)
            if options.keep:
                self._keep_running()
        finally:
            airflow.stop()
        return code

    def _show_run(self, run_id: str) -> None:
        """Show the run until it has ended, then its result, and its report."""
        dag_id = self._options.dag_id
        plan = make_plan(self._airflow.request("GET", f"dags/{dag_id}/tasks")["tasks"])
        instances = self._follow(dag_id, run_id, plan)
        starts = {instance["task_id"]: instance["start_date"] or "" for instance in instances}
        for fan_in_id in sorted(plan.fan_ins, key=lambda fan_in_id: (starts.get(fan_in_id, ""), fan_in_id)):
            self._console.print(f"\n{fan_in_id} returned:")
            self._console.print(view.result_text(self._airflow.xcom(dag_id, run_id, fan_in_id)))
            problems = view.problems_text(self._airflow.xcom(dag_id, run_id, fan_in_id, key="fan_out_report"))
            if problems is not None:
                self._console.print(problems)
        self._console.print(f"\nairflow fanout report {dag_id}:")
        self._console.print(self._report(dag_id, run_id))
        if WORK_SECONDS_VARIABLE in self._source and self._options.work_seconds:
            seconds = format_seconds(self._options.work_seconds)
            self._console.print(
                f"Each branch waited {seconds}, which stands for a call to a service; "
                "branches that compute share the machine's cores."
            )

    def _show_comparison(self, run_id: str) -> None:
        """Run the same work one after another, if there is a Dag for that, and show both side by side."""
        dag_id = f"{self._options.dag_id}{SEQUENTIAL}"
        if self._airflow.find(f"dags/{dag_id}") is None:
            return
        report = json.loads(self._report(self._options.dag_id, run_id, "--output", "json"))
        branches = [
            BranchTiming(
                name=branch["name"],
                state=branch["state"],
                queued=timestamp(branch["queued"]),
                started=timestamp(branch["started"]),
                ended=timestamp(branch["ended"]),
            )
            for group in report["groups"]
            for branch in group["branches"]
        ]
        self._console.print(f"\nThe same, one after another ({dag_id}):")
        # It comes second, so that what the first run left in the disk's cache is to its advantage.
        plan = Plan(shown=frozenset(branch.name for branch in branches))
        instances = self._follow(dag_id, self._airflow.trigger(dag_id), plan)
        self._console.print()
        self._console.print(view.comparison(branches, plan.timings(instances), cores=os.cpu_count()))

    def _follow(self, dag_id: str, run_id: str, plan: Plan) -> list[dict[str, Any]]:
        """
        Show a run until it has ended; return all its task instances.

        :raises DemoError: If it has failed, or not ended in time.
        """
        deadline = time.monotonic() + self._options.run_timeout
        notes: dict[str, str] = {}
        with view.progress(self._console) as show:
            while True:
                self._airflow.ensure_alive()
                # The state first: what ended before it is in the instances that are read after it.
                state = self._airflow.run(dag_id, run_id)["state"]
                instances = self._airflow.task_instances(dag_id, run_id)
                for instance in instances:
                    if instance["task_id"] in plan.batched and instance["state"] in ENDED:
                        name = batch_name(instance)
                        notes[name] = notes.get(name) or self._items_text(dag_id, run_id, instance)
                show(plan.timings(instances), notes)
                if state in ENDED:
                    break
                if time.monotonic() > deadline:
                    msg = f"the run has not ended within {self._options.run_timeout:.0f} s"
                    raise DemoError(msg)
                time.sleep(0.3)
        if state == "failed":
            msg = f"the run failed: {'; '.join(self._failures(dag_id, run_id, instances, plan)[:5])}"
            raise DemoError(msg)
        return instances

    def _items_text(self, dag_id: str, run_id: str, instance: dict[str, Any]) -> str:
        which = {"key": RECORD_KEY, "map_index": instance["map_index"]}
        return view.items_text(self._airflow.xcom(dag_id, run_id, instance["task_id"], **which))

    def _failures(
        self, dag_id: str, run_id: str, instances: Sequence[dict[str, Any]], plan: Plan
    ) -> list[str]:
        """Say which branches failed and why, or else which other tasks did."""
        reports = [
            self._airflow.xcom(dag_id, run_id, task_id, key="fan_out_report") for task_id in plan.fan_ins
        ]
        problems = [problem for report in reports for problem in (report or {}).get("problems", [])]
        # A branch that never started has no error of its own: what kept it from starting has.
        return [
            f"{problem['name']} {problem['state']} ({problem['error']})"
            for problem in problems
            if problem["error"]
        ] or [
            f"{instance_name(instance)} failed ({self._logged_error(dag_id, run_id, instance)})"
            for instance in instances
            if instance["state"] == "failed" and instance["task_id"] not in plan.fan_ins
        ]

    def _logged_error(self, dag_id: str, run_id: str, instance: dict[str, Any]) -> str:
        which = {"try_number": instance["try_number"], "map_index": instance["map_index"]}
        entries = self._airflow.log_entries(dag_id, run_id, instance["task_id"], **which)
        errors = [
            entry["error_detail"][0]
            for entry in entries
            if isinstance(entry, dict) and entry.get("error_detail")
        ]
        if not errors:
            return "its log has no error"
        return on_one_line(f"{errors[-1]['exc_type']}: {errors[-1]['exc_value']}")

    def _report(self, dag_id: str, run_id: str, *options: str) -> str:
        """Return the output of ``airflow fanout report``."""
        try:
            arguments = ("fanout", "report", dag_id, run_id, *options)
            ended = self._airflow.command(*arguments, timeout=REPORT_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            msg = f"the run's report was not there within {REPORT_TIMEOUT} s"
            raise DemoError(msg) from error
        if ended.returncode:
            last = ended.stderr.strip().rpartition("\n")[2]
            msg = f"the run's report failed with exit code {ended.returncode}: {last}"
            raise DemoError(msg)
        return ended.stdout.strip()

    def _show_way_to_the_browser(self, run_id: str) -> None:
        if not self._options.keep:
            self._console.print("\nTo look at it in the browser: airflow fanout demo --keep")
            return
        url = f"{self._airflow.base_url}/dags/{self._options.dag_id}/runs/{run_id}"
        self._console.print(f"\nIn the browser: {url}")
        self._console.print(f"Logs and database: {self._airflow.home}, which stays. Ctrl-C stops Airflow.")

    def _keep_running(self) -> None:
        try:
            while True:
                self._airflow.ensure_alive()
                time.sleep(1)
        except KeyboardInterrupt:
            return


def _complain(problem: str) -> None:
    print(f"airflow fanout demo: {problem}", file=sys.stderr)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
