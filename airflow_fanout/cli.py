"""Defines ``airflow fanout …``; loaded by every ``airflow`` command, so what one runs is imported late."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand, lazy_load_command

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand

__all__ = ["get_fanout_cli_commands"]

MOST_BRANCHES = 200
LONGEST_WAIT = 600.0
LAST_PORT = 65535


def branch_count(text: str) -> int:
    """Read ``--count``."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST_BRANCHES:
        msg = f"expected a whole number from 1 to {MOST_BRANCHES}, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def wait_seconds(text: str) -> float:
    """Read ``--work-seconds``."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_WAIT:
        msg = f"expected seconds from 0 to {LONGEST_WAIT:g}, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def port_number(text: str) -> int:
    """Read ``--port``."""
    if not text.isdecimal() or not 1 <= int(text) <= LAST_PORT:
        msg = f"expected a port from 1 to {LAST_PORT}, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _arg(*flags: str, **settings: Any) -> Arg:
    return Arg(flags, **settings)  # type: ignore[no-untyped-call]


DEMO = ActionCommand(
    name="demo",
    help="Run an example pipeline on an Airflow of its own and show what running in parallel brings",
    description=(
        "Starts an Airflow of its own (SQLite, LocalExecutor) in a throwaway home, on loopback only, runs "
        "one of this package's example Dags on it, and shows the branches while they run, the combined "
        "result and the speed-up. Where there is a Dag that does the same one after another "
        "(DAG_ID_sequential), that runs next, and both are shown side by side, whichever was faster. Your "
        "own Airflow's Dags, settings and database are neither used nor changed. It takes half a minute to "
        "two; afterwards nothing is left of it, also after Ctrl-C."
    ),
    epilog="Exit code: 0 if the run succeeded, 1 if it failed or was stopped, 2 for a wrong argument.",
    func=lazy_load_command("airflow_fanout.demo.command"),
    args=(
        _arg(
            "--dag",
            help="Example Dag to run (default: %(default)s); a wrong one lists those there are. Some need "
            'pip install "airflow-fanout[examples]", and say so',
            default="fan_out_fan_in_pipeline",
            metavar="DAG_ID",
        ),
        _arg(
            "--count",
            help=f"Number of parallel branches, 1 to {MOST_BRANCHES} (default: %(default)s); "
            "Dags whose branches are given otherwise ignore it",
            type=branch_count,
            default=8,
            metavar="N",
        ),
        _arg(
            "--work-seconds",
            help="Seconds that each branch waits, as if it called a service (default: %(default)g); "
            "Dags whose branches have work of their own ignore it",
            type=wait_seconds,
            default=3.0,
            metavar="SECONDS",
        ),
        _arg(
            "--keep",
            help="Leave Airflow running afterwards, to look at the run in the browser, until Ctrl-C; "
            "its logs and database stay",
            action="store_true",
        ),
        _arg(
            "--port",
            help="Port of the web interface on 127.0.0.1 (default: a free one)",
            type=port_number,
        ),
    ),
)


def get_fanout_cli_commands() -> list[CLICommand]:
    """Return what the provider adds to the ``airflow`` command."""
    return [
        GroupCommand(
            name="fanout",
            help="Fan-out and fan-in: try it out",
            description="Parallel branches that are all accounted for. Start with: airflow fanout demo",
            subcommands=(DEMO,),
        )
    ]
