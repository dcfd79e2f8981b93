"""Runs an example Dag on an embedded Airflow and shows what came of it; ``airflow fanout demo``."""

from __future__ import annotations

import math
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
from rich.console import Console

from airflow_fanout import demo_view
from airflow_fanout.embedded import EmbeddedAirflow, EmbeddedAirflowError, PortTakenError
from airflow_fanout.hooks import RECORD_KEY
from airflow_fanout.rest import FINISHED_RUN_STATES, RestError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from airflow_fanout.report import BranchTiming

__all__ = ["DemoError", "DemoOptions", "command", "run_demo"]

AT_ONCE = 32
"""Tasks that may run at once, in all; ``[core] parallelism`` has the same default."""


class DemoError(Exception):
    """Raised when the demo can't go on; its text is for the terminal."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """
    What to run and how.

    :param dag_id: Id of an example Dag, which is also the name of its file.
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
            "AIRFLOW_FANOUT_DEMO_COUNT": str(self.count),
            "AIRFLOW_FANOUT_DEMO_WORK_SECONDS": f"{self.work_seconds:g}",
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
    except httpx.HTTPError as error:
        problem = f"the embedded Airflow does not answer: {error}"
    except (DemoError, EmbeddedAirflowError, OSError, PortTakenError, RestError, RuntimeError) as error:
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
    known = {file.stem: file for file in sorted(folder.glob("[!_]*.py"))}
    if dag_id not in known:
        msg = f"no example Dag {dag_id!r}; there are: {', '.join(known) or 'none in ' + str(folder)}"
        raise DemoError(msg)
    return known[dag_id]


def _examples_folder() -> Path:
    package = Path(__file__).parent
    installed = package / "example_dags"
    return installed if installed.is_dir() else package.parent / "dags"


def _demo(options: DemoOptions, console: Console) -> int:
    airflow = EmbeddedAirflow(
        dag_files=[example_file(options.dag_id)],
        env=options.environment,
        port=options.port,
        keep=options.keep,
    )
    began = time.monotonic()
    try:
        with demo_view.waiting(console, "Starting Airflow"):
            airflow.start()
            airflow.wait_for_dag(options.dag_id)
        console.print(f"Airflow is up at {airflow.base_url} after {time.monotonic() - began:.0f} s")
        if options.count > AT_ONCE:
            console.print(f"{options.count} branches, at most {AT_ONCE} at once: [core] parallelism")
        run_id = airflow.trigger(options.dag_id)
        problem = _follow(airflow, options, run_id, console)
        if problem is not None:
            _complain(problem)
        _say_how_to_look(airflow, options, run_id, console)
        if options.keep:
            _keep_running(airflow)
    finally:
        airflow.stop()
    return 0 if problem is None else 1


def _follow(airflow: EmbeddedAirflow, options: DemoOptions, run_id: str, console: Console) -> str | None:
    """Show the run until it has ended, then its result, or return why there is none."""
    branch_ids, fan_in_ids = _fan_ins(airflow, options.dag_id)
    deadline = time.monotonic() + options.run_timeout
    with demo_view.progress(console) as show:
        while True:
            airflow.ensure_alive()
            # The state first: what ended before it is in the instances that are read after it.
            state = airflow.run(options.dag_id, run_id)["state"]
            instances = airflow.task_instances(options.dag_id, run_id)
            show([timing for _, timing in _branches(instances, branch_ids)])
            if state in FINISHED_RUN_STATES:
                break
            if time.monotonic() > deadline:
                return f"the run has not ended within {options.run_timeout:.0f} s"
            time.sleep(0.3)
    if state == "failed":
        return _why_failed(airflow, options.dag_id, run_id, instances, fan_in_ids)
    for fan_in_id in fan_in_ids:
        console.print(f"\n{fan_in_id} returned:")
        console.print(demo_view.result_text(_xcom(airflow, options.dag_id, run_id, fan_in_id)))
    console.print()
    timings = _with_records(airflow, options.dag_id, run_id, _branches(instances, branch_ids))
    console.print(demo_view.figures(timings, work_seconds=options.work_seconds))
    return None


def _fan_ins(airflow: EmbeddedAirflow, dag_id: str) -> tuple[set[str], list[str]]:
    """Return the ids of what the Dag's fan-ins wait for, and those of the fan-ins."""
    tasks = airflow.request("GET", f"dags/{dag_id}/tasks")["tasks"]
    fan_ins = [task["task_id"] for task in tasks if task["class_ref"]["class_name"] == "FanInOperator"]
    branches = {task["task_id"] for task in tasks if set(task["downstream_task_ids"]) & set(fan_ins)}
    return branches, sorted(fan_ins)


def _branches(
    instances: Sequence[dict[str, Any]], branch_ids: set[str]
) -> list[tuple[dict[str, Any], BranchTiming]]:
    found = [(ti, demo_view.timing_of(ti)) for ti in instances if ti["task_id"] in branch_ids]
    return sorted(found, key=lambda pair: demo_view.in_order(pair[1]))


def _with_records(
    airflow: EmbeddedAirflow,
    dag_id: str,
    run_id: str,
    branches: Sequence[tuple[dict[str, Any], BranchTiming]],
) -> list[BranchTiming]:
    """Add the work that the branches recorded."""
    timings = []
    for ti, timing in branches:
        record = _xcom(airflow, dag_id, run_id, ti["task_id"], key=RECORD_KEY, map_index=ti["map_index"])
        seconds = record.get("seconds") if isinstance(record, dict) else None
        timings.append(demo_view.with_work(timing, seconds))
    return timings


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
    fan_in_ids: Sequence[str],
) -> str:
    problems: list[str] = []
    for fan_in_id in fan_in_ids:
        report = _xcom(airflow, dag_id, run_id, fan_in_id, key="fan_out_report")
        problems += [
            f"{problem['name']} {problem['state']} ({problem['error']})"
            for problem in (report or {}).get("problems", [])
        ]
    if not problems:
        problems = [f"{demo_view.instance_name(ti)} failed" for ti in instances if ti["state"] == "failed"]
    return f"the run failed: {'; '.join(problems[:5])}"


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
