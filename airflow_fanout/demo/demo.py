"""Runs an example Dag on an embedded Airflow and shows what came of it; ``airflow fanout demo``."""

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

from airflow_fanout.demo import view as demo_view
from airflow_fanout.demo.embedded import EmbeddedAirflow, EmbeddedAirflowError
from airflow_fanout.demo.plan import Plan, make_plan, shown
from airflow_fanout.demo.rest import FINISHED_RUN_STATES, RestError
from airflow_fanout.reports.timing import BranchTiming
from airflow_fanout.rules.records import RECORD_KEY
from airflow_fanout.rules.wording import format_seconds, on_one_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence


__all__ = ["DemoError", "DemoOptions", "command", "run_demo"]

AT_ONCE = 32
"""Tasks that may run at once, in all; ``[core] parallelism`` has the same default."""

SEQUENTIAL = "_sequential"
"""What the id of a Dag ends in that does one after another what another Dag does at the same time."""

REPORT_TIMEOUT = 300
"""Seconds that the report of the run may take: a few, and more where the machine is busy."""

COUNT_VARIABLE = "AIRFLOW_FANOUT_DEMO_COUNT"

WORK_SECONDS_VARIABLE = "AIRFLOW_FANOUT_DEMO_WORK_SECONDS"


class DemoError(Exception):
    """Raised when the demo can't go on; its text is for the terminal."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """
    What to run and how.

    :param dag_id: Id of an example Dag.
    :param count: Number of branches.
    :param work_seconds: Seconds that each branch waits.
    :param keep: Whether to leave Airflow running until Ctrl-C.
    :param port: Port of the web interface; None for a free one.
    """

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
            "AIRFLOW__CORE__PARALLELISM": str(AT_ONCE),
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(AT_ONCE),
        }

    @property
    def run_timeout(self) -> float:
        """Seconds after which the run is given up, retries and a slow machine allowed for."""
        return 180 + 2 * self.count + 3 * self.work_seconds * math.ceil(self.count / AT_ONCE)


def command(args: Namespace) -> NoReturn:
    """Run the demo from the command line and exit."""
    options = DemoOptions(
        dag_id=args.dag,
        count=args.count,
        work_seconds=args.work_seconds,
        keep=args.keep,
        port=args.port,
    )
    sys.exit(run_demo(options))


def run_demo(options: DemoOptions, console: Console | None = None) -> int:
    """
    Run the demo.

    :param options: What to run and how.
    :param console: Where to show it; None for standard output.
    :return: The exit code: 0, or 1 with one line on standard error that says why.
    """
    console = console or Console(highlight=False, markup=False, soft_wrap=True)
    try:
        with _interrupted_by_sigterm():
            return _demo(options, console)
    except KeyboardInterrupt:
        problem = "interrupted; all that it had started is stopped"
    except (DemoError, EmbeddedAirflowError, OSError, RestError, RuntimeError) as error:
        problem = str(error)
    _complain(problem)
    return 1


def example_file(dag_id: str, folder: Path | None = None) -> Path:
    """
    Find the file of an example Dag.

    :param dag_id: Its id.
    :param folder: Where to look; None for the examples of this package.
    :raises DemoError: If there is none; with those there are.
    """
    folder = folder or _examples_folder()
    files = sorted(folder.glob("[!_]*.py"))
    known = {file.stem: file for file in files}
    # A file is named after its first Dag; what its others are called is in it.
    known |= {other: file for file in files for other in _dag_ids(file) if other not in known}
    if dag_id not in known:
        msg = f"no example Dag {dag_id!r}; there are: {', '.join(known) or 'none in ' + str(folder)}"
        raise DemoError(msg)
    return known[dag_id]


def _dag_ids(file: Path) -> list[str]:
    """Ids of the ``@dag`` functions of a file, without those that do the same one after another."""
    return [
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.endswith(SEQUENTIAL)
        and any(
            isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "dag"
            for each in node.decorator_list
        )
    ]


def _examples_folder() -> Path:
    package = Path(__file__).parents[1]
    installed = package / "example_dags"
    return installed if installed.is_dir() else package.parent / "dags"


def _demo(options: DemoOptions, console: Console) -> int:
    dag_file = example_file(options.dag_id)
    source = dag_file.read_text(encoding="utf-8")
    airflow = EmbeddedAirflow(
        dag_files=[dag_file],
        env=options.environment,
        port=options.port,
        keep=options.keep,
    )
    began = time.monotonic()
    code = 0
    try:
        with demo_view.waiting(console, "Starting Airflow"):
            airflow.start()
            airflow.wait_for_dag(options.dag_id)
        console.print(f"Airflow is up at {airflow.base_url} after {time.monotonic() - began:.0f} s")
        if options.count > AT_ONCE and COUNT_VARIABLE in source:
            console.print(f"{options.count} branches, at most {AT_ONCE} at once: [core] parallelism")
        run_id = airflow.trigger(options.dag_id)
        try:
            _show_run(airflow, options, run_id, console)
            if WORK_SECONDS_VARIABLE in source and options.work_seconds:
                _say_what_waiting_stands_for(options, console)
            _show_comparison(airflow, options, run_id, console)
        except DemoError as error:
            _complain(str(error))
            code = 1
        _say_how_to_look(airflow, options, run_id, console)
        if options.keep:
            _keep_running(airflow)
    finally:
        airflow.stop()
    return code


def _show_run(airflow: EmbeddedAirflow, options: DemoOptions, run_id: str, console: Console) -> None:
    """Show the run until it has ended, then its result, and its report."""
    dag_id = options.dag_id
    plan = make_plan(airflow.request("GET", f"dags/{dag_id}/tasks")["tasks"])
    with demo_view.progress(console) as show:
        state, instances = _follow(airflow, dag_id, run_id, show, timeout=options.run_timeout, plan=plan)
    if state == "failed":
        raise DemoError(_why_failed(airflow, dag_id, run_id, instances, plan.fan_ins))
    began = {ti["task_id"]: ti["start_date"] or "" for ti in instances}
    for fan_in_id in sorted(plan.fan_ins, key=lambda fan_in_id: began.get(fan_in_id, "")):
        console.print(f"\n{fan_in_id} returned:")
        console.print(demo_view.result_text(_xcom(airflow, dag_id, run_id, fan_in_id)))
        problems = demo_view.problems_text(_xcom(airflow, dag_id, run_id, fan_in_id, key="fan_out_report"))
        if problems is not None:
            console.print(problems)
    console.print(f"\nairflow fanout report {dag_id}:")
    console.print(_report(airflow, dag_id, run_id))


def _report(airflow: EmbeddedAirflow, dag_id: str, run_id: str, *options: str) -> str:
    """Return what ``airflow fanout report`` prints of a run."""
    try:
        done = airflow.command("fanout", "report", dag_id, run_id, *options, timeout=REPORT_TIMEOUT)
    except subprocess.TimeoutExpired as late:
        msg = f"the run's report was not there within {REPORT_TIMEOUT} s"
        raise DemoError(msg) from late
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        msg = f"the run's report failed with exit code {done.returncode}: {last}"
        raise DemoError(msg)
    return done.stdout.strip()


def _say_what_waiting_stands_for(options: DemoOptions, console: Console) -> None:
    console.print(
        f"Each branch waited {format_seconds(options.work_seconds)}, which stands for a call to a service; "
        "branches that compute share the machine's cores."
    )


def _show_comparison(airflow: EmbeddedAirflow, options: DemoOptions, run_id: str, console: Console) -> None:
    """Run the same work one after another, if there is a Dag for that, and show both side by side."""
    dag_id = f"{options.dag_id}{SEQUENTIAL}"
    if all(dag["dag_id"] != dag_id for dag in airflow.pages("dags", "dags")):
        return
    branches = _branches(json.loads(_report(airflow, options.dag_id, run_id, "--output", "json")))
    console.print(f"\nThe same, one after another ({dag_id}):")
    # It comes second, so that what the first run left in the disk's cache is to its advantage, not to ours.
    run_id = airflow.trigger(dag_id)
    step_ids = {branch.name for branch in branches}
    with demo_view.progress(console) as show:
        plan = Plan(shown=frozenset(step_ids))
        state, instances = _follow(airflow, dag_id, run_id, show, timeout=options.run_timeout, plan=plan)
    if state == "failed":
        raise DemoError(_why_failed(airflow, dag_id, run_id, instances, ()))
    console.print()
    steps = shown(instances, plan)
    console.print(demo_view.comparison(branches, steps, cores=os.cpu_count()))


def _branches(report: Mapping[str, Any]) -> list[BranchTiming]:
    """Return when the branches of a report were queued and ran."""
    return [
        BranchTiming(
            name=branch["name"],
            state=branch["state"],
            queued=demo_view.moment(branch["queued"]),
            started=demo_view.moment(branch["started"]),
            ended=demo_view.moment(branch["ended"]),
        )
        for group in report["groups"]
        for branch in group["branches"]
    ]


def _follow(
    airflow: EmbeddedAirflow,
    dag_id: str,
    run_id: str,
    show: Callable[[Sequence[BranchTiming], Mapping[str, str]], None],
    *,
    plan: Plan,
    timeout: float,
) -> tuple[str, list[dict[str, Any]]]:
    """Show what is to be shown until the run has ended; return its state and all its task instances."""
    deadline = time.monotonic() + timeout
    notes: dict[str, str] = {}
    while True:
        airflow.ensure_alive()
        # The state first: what ended before it is in the instances that are read after it.
        state = str(airflow.run(dag_id, run_id)["state"])
        instances = airflow.task_instances(dag_id, run_id)
        for ti in instances:
            name = demo_view.batch_name(ti)
            if ti["task_id"] in plan.batched and ti["state"] in {"success", "failed"} and name not in notes:
                record = _record(airflow, dag_id, run_id, ti)
                notes[name] = demo_view.items_done(record) or "with no record of its items"
        show(shown(instances, plan), notes)
        if state in FINISHED_RUN_STATES:
            return state, instances
        if time.monotonic() > deadline:
            msg = f"the run has not ended within {timeout:.0f} s"
            raise DemoError(msg)
        time.sleep(0.3)


def _record(
    airflow: EmbeddedAirflow, dag_id: str, run_id: str, ti: Mapping[str, Any]
) -> dict[str, Any] | None:
    record = _xcom(airflow, dag_id, run_id, ti["task_id"], key=RECORD_KEY, map_index=ti["map_index"])
    return record if isinstance(record, dict) else None


def _xcom(airflow: EmbeddedAirflow, dag_id: str, run_id: str, task_id: str, **which: Any) -> Any:
    try:
        return airflow.xcom(dag_id, run_id, task_id, **which)
    except KeyError:
        return None


def _why_failed(
    airflow: EmbeddedAirflow,
    dag_id: str,
    run_id: str,
    instances: Sequence[dict[str, Any]],
    fan_in_ids: Collection[str],
) -> str:
    reports = [_xcom(airflow, dag_id, run_id, fan_in_id, key="fan_out_report") for fan_in_id in fan_in_ids]
    found = [problem for report in reports for problem in (report or {}).get("problems", [])]
    # A branch that never started has no error of its own: what kept it from starting has.
    problems = [f"{each['name']} {each['state']} ({each['error']})" for each in found if each["error"]]
    if not problems:
        problems = [
            f"{demo_view.instance_name(ti)} failed ({_logged_error(airflow, dag_id, run_id, ti)})"
            for ti in instances
            if ti["state"] == "failed" and ti["task_id"] not in fan_in_ids
        ]
    return f"the run failed: {'; '.join(problems[:5])}"


def _logged_error(airflow: EmbeddedAirflow, dag_id: str, run_id: str, ti: dict[str, Any]) -> str:
    entries = airflow.log_entries(
        dag_id, run_id, ti["task_id"], try_number=ti["try_number"], map_index=ti["map_index"]
    )
    errors = [
        entry["error_detail"][0] for entry in entries if isinstance(entry, dict) and entry.get("error_detail")
    ]
    if not errors:
        return "its log has no error"
    return on_one_line(f"{errors[-1]['exc_type']}: {errors[-1]['exc_value']}")


def _say_how_to_look(airflow: EmbeddedAirflow, options: DemoOptions, run_id: str, console: Console) -> None:
    if options.keep:
        console.print(f"\nIn the browser: {airflow.base_url}/dags/{options.dag_id}/runs/{run_id}")
        console.print(f"Logs and database: {airflow.home}, which stays. Ctrl-C stops Airflow.")
    else:
        console.print("\nTo look at it in the browser: airflow fanout demo --keep")


def _keep_running(airflow: EmbeddedAirflow) -> None:
    try:
        while True:
            airflow.ensure_alive()
            time.sleep(1)
    except KeyboardInterrupt:
        return


def _complain(problem: str) -> None:
    print(f"airflow fanout demo: {problem}", file=sys.stderr)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
