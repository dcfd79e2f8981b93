"""Defines ``airflow fanout …``; loaded by every ``airflow`` command, so what one runs is imported late."""

from __future__ import annotations

import argparse
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.cli import cli_config

if TYPE_CHECKING:
    from collections.abc import Callable


MOST_BRANCHES, LONGEST_WAIT, LAST_PORT, MOST_RUNS = 200, 600, 65535, 1000


def _number(read: Callable[[str], float], noun: str, least: int, most: int, text: str) -> float:
    try:
        number = read(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        msg = f"expected {noun} from {least} to {most}, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return number


branch_count = partial(_number, int, "a whole number", 1, MOST_BRANCHES)
run_count = partial(_number, int, "a whole number", 1, MOST_RUNS)
wait_seconds = partial(_number, float, "seconds", 0, LONGEST_WAIT)
port_number = partial(_number, int, "a port", 1, LAST_PORT)


def _arg(*flags: str, **settings: Any) -> cli_config.Arg:
    return cli_config.Arg(flags, **settings)  # type: ignore[no-untyped-call]


OUTPUT = _arg(
    "-o",
    "--output",
    help="text for people, or json for programs (default: %(default)s)",
    choices=("text", "json"),
    default="text",
)

DEMO = cli_config.ActionCommand(
    name="demo",
    help="Run an example pipeline on an Airflow of its own and show what running in parallel brings",
    description=(
        "Starts an Airflow of its own (SQLite, LocalExecutor) in a throwaway home, on loopback only, runs an "
        "example Dag on it and shows its branches while they run, the result and the report; then a Dag that "
        "does the same one by one, if there is one (DAG_ID_sequential). Your own Airflow is neither used nor "
        "changed. It takes half a minute to two, and leaves nothing behind."
    ),
    epilog="Exit code: 0 if the run succeeded, 1 if it failed or was stopped, 2 for a wrong argument.",
    func=cli_config.lazy_load_command("airflow_fanout.demo.demo.command"),
    args=(
        _arg(
            "--dag",
            help="Example Dag to run (default: %(default)s); a wrong one lists those there are",
            default="fan_out_fan_in_pipeline",
            metavar="DAG_ID",
        ),
        _arg(
            "--count",
            help=f"Number of branches, 1 to {MOST_BRANCHES} (default: %(default)s), if the Dag has none",
            type=branch_count,
            default=8,
            metavar="N",
        ),
        _arg(
            "--work-seconds",
            help="Seconds that each branch waits (default: %(default)g), if it has no work of its own",
            type=wait_seconds,
            default=3.0,
            metavar="SECONDS",
        ),
        _arg("--keep", help="Leave Airflow running until Ctrl-C, and its files", action="store_true"),
        _arg("--port", help="Port of the web interface on 127.0.0.1 (default: a free one)", type=port_number),
    ),
)

CHECK = cli_config.ActionCommand(
    name="check",
    help="Say how many branches of a Dag can run at once, and why; and what would go wrong",
    description=(
        "Why do only 16 of my 50 branches run? For each fan-out group: how many branches it declares, how "
        "many can run at once if nothing else does, and the limit that sets that number. For each fan-in: "
        "what it collects and when it succeeds. Problems keep tasks waiting for ever or fail the fan-in. The "
        "Dag is taken from its file, or from the database if no file has it; nothing is written."
    ),
    epilog=(
        "Examples: airflow fanout check scores; airflow fanout check --all --output json. "
        "Exit code: 0 if all is well, 1 if there is a problem, 2 if that can't be told: no such Dag, a file "
        "that can't be imported, no database, a wrong argument. "
        "JSON and YAML: dags (each: dag_id; source, 'file' or 'database'; groups; fan_ins; problems; notes), "
        "problems (their number), others (number of Dags without fan-out and fan-in), import_errors (file, "
        "error). A group: group_id (as rerun --group takes it), mode, declared (branches or items; null if "
        "known only at run time), tasks (branches or batches that want to run at once), effective (how many "
        "can), effective_items and items_per_second (of batches), limit (what sets it: name, slots, where, "
        "reason; named 'branches' if there are no more), limits (all there are). A fan-in: task_id, group_id "
        "or prefix, matches (task ids), count, key, threshold. A problem: kind, message, task_ids."
    ),
    func=cli_config.lazy_load_command("airflow_fanout.cli.check.command"),
    args=(
        _arg("dag_id", help="The Dag to check", nargs="?", metavar="DAG_ID"),
        _arg("--all", help="Check every Dag that has a fan-out or a fan-in", action="store_true"),
        cli_config.ARG_OUTPUT,
        cli_config.ARG_VERBOSE,
    ),
)

RERUN = cli_config.ActionCommand(
    name="rerun",
    help="Run again the branches of a run that did not succeed, the fan-in and what comes after it",
    description=(
        "Clears, in one run: of every branch that is not a success (failed, upstream_failed, skipped, "
        "stopped by stop_after_failures, or without a value) the tasks that aren't; the fan-ins; everything "
        "downstream of them; and the setups and teardowns of all these. Batches run again only what their "
        "last try had not done (on Airflow 3.2 all). A failed task before the branches is offered too; --yes "
        "takes it. What succeeded, or has not ended, is not cleared. First it shows all that, and asks."
    ),
    epilog=(
        "Examples: 'airflow fanout rerun my_dag my_run --dry-run' only shows it; "
        "'airflow fanout rerun my_dag my_run --group process --yes' clears one group's without a question. "
        "Exit code: 0 if it was cleared, or there is nothing to clear; 1 if you said no; 2 if there is no "
        "such Dag, run or group, no database, or no terminal to ask on. JSON, which needs --yes or "
        "--dry-run: dag_id, run_id, run_state; groups (each: group, branches, unexpanded, fan_ins; a branch: "
        "name, state, stopped, error, task_instances); downstream; setups_and_teardowns; causes; between "
        "(what stands between these and the branches); notes; no_reuse (groups that run all "
        "again); cleared; changed_meanwhile (not cleared for that). A task instance: task_id, map_index, "
        "state."
    ),
    func=cli_config.lazy_load_command("airflow_fanout.cli.rerun.command"),
    args=(
        _arg("dag_id", help="Id of the Dag"),
        _arg("run_id", help="Id of the run"),
        _arg(
            "--group",
            help="Only this group, or what this fan-in collects by prefix; may be given several times",
            action="append",
            metavar="GROUP_ID",
        ),
        _arg("--no-downstream", help="Leave alone what comes after the fan-ins", action="store_true"),
        _arg("--whole-branches", help="Of an unsuccessful branch run all tasks again", action="store_true"),
        _arg(
            "--no-reuse",
            help="Run all items of groups with reuse again, whatever earlier runs have stored",
            action="store_true",
        ),
        _arg("--dry-run", help="Show what would be cleared, and clear nothing", action="store_true"),
        _arg("--yes", "-y", help="Don't ask; take the cause too, if there is one", action="store_true"),
        OUTPUT,
    ),
)

REPORT = cli_config.ActionCommand(
    name="report",
    help="Show what became of each branch of a run, what running in parallel brought, and what to change",
    description=(
        "For each group of a run: how its branches ended, work, wall, speed-up and overhead, a time line, "
        "errors, and advice that follows from these figures. Work is the time inside the branches' own code; "
        "a dash stands for what was not recorded. Of a run that is still running these are the figures so "
        "far, without advice. With --runs, a line for each of the last runs, with their medians and the "
        "branches that failed in them. It changes nothing."
    ),
    epilog=(
        "Examples: airflow fanout report nightly; airflow fanout report nightly --runs 30 --group score. "
        "Exit code: 0, also where the run has no fan-out; 2 if there is no such Dag, run or group, or no "
        "database. JSON has all branches, times in ISO 8601, durations in seconds, null for what was not "
        "recorded; its keys are listed in docs/reference.md."
    ),
    func=cli_config.lazy_load_command("airflow_fanout.cli.report.command"),
    args=(
        _arg("dag_id", help="Id of the Dag", metavar="DAG_ID"),
        _arg("run_id", help="Id of the run (default: the latest)", metavar="RUN_ID", nargs="?"),
        _arg(
            "--runs",
            help=f"Compare the last N runs, 1 to {MOST_RUNS}, in place of showing one",
            type=run_count,
            metavar="N",
        ),
        _arg("--group", help="Only this group, or what this fan-in collects by prefix", metavar="GROUP_ID"),
        OUTPUT,
        cli_config.ARG_VERBOSE,
    ),
)


SUGGEST = cli_config.ActionCommand(
    name="suggest",
    help="Say which tasks of a Dag come one after another without need, and what that costs",
    description=(
        "Tasks that stand one after another although no data flows between them: the later one has no "
        "reference to the output of the earlier one, no template or function that pulls its XComs, no asset "
        "of it; and neither trigger rules, setups, sensors nor skips ask for the order. With the durations "
        "of the last runs it says how long the critical path is, and would be with these tasks at once. What "
        "tasks do elsewhere (files, tables, other systems) a Dag doesn't show, so look before you change it. "
        "Any Dag will do, with fan-outs or without. It changes nothing."
    ),
    epilog=(
        "Examples: airflow fanout suggest etl; airflow fanout suggest etl --runs 30 --output json. "
        "Exit code: 0; 2 if there is no such Dag, a file that can't be imported, or no database. JSON: "
        "dag_id; source, 'file' or 'database'; runs (how many the medians are of); critical_path and "
        "parallel_path (tasks, seconds; null if no task has succeeded in these); saved_seconds; chains "
        "(each: tasks, pairs of before and after, saved_seconds if only it ran at once); tasks (task_id, "
        "median_seconds); unknown."
    ),
    func=cli_config.lazy_load_command("airflow_fanout.cli.suggest.command"),
    args=(
        _arg("dag_id", help="Id of the Dag", metavar="DAG_ID"),
        _arg(
            "--runs",
            help=f"Ended runs to take durations of, the last ones, 1 to {MOST_RUNS} (default: %(default)s)",
            type=run_count,
            default=10,
            metavar="N",
        ),
        OUTPUT,
        cli_config.ARG_VERBOSE,
    ),
)


def get_fanout_cli_commands() -> list[cli_config.CLICommand]:
    """Return what the provider adds to the ``airflow`` command."""
    return [
        cli_config.GroupCommand(
            name="fanout",
            help="Fan-out and fan-in: try it out, check Dags, report on runs, run again what failed",
            description=(
                "Parallel branches that are all accounted for. Start with: airflow fanout demo. Of your own "
                "Dags: airflow fanout check DAG_ID before a run, airflow fanout report DAG_ID after it, and "
                "airflow fanout rerun DAG_ID RUN_ID for what failed; and of any Dag, airflow fanout suggest "
                "DAG_ID for what could run at once."
            ),
            subcommands=(DEMO, CHECK, REPORT, RERUN, SUGGEST),
        )
    ]
