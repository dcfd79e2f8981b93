"""``airflow fanout suggest``: finds what could run at once in a Dag, and shows it."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.utils.cli import suppress_logs_and_warning

from airflow_fanout.cli.command_line import metadata_session, while_read
from airflow_fanout.metadata.dags import load_dag
from airflow_fanout.metadata.durations import read_durations
from airflow_fanout.reports.suggest import suggest
from airflow_fanout.rules.wording import counted, format_seconds
from airflow_fanout.serialization.data_flow import steps_of

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from airflow_fanout.reports.suggest import Chain, Path, Suggestion

MOST_NAMES = 10
MOST_PAIRS = 20


@suppress_logs_and_warning
@while_read()
def command(args: Namespace) -> None:
    """Print what could run at once in a Dag."""
    # What Airflow logs and Dag files print is not part of it.
    with redirect_stdout(sys.stderr), metadata_session("suggest") as session:
        dag, source = load_dag(args.dag_id)
        runs, durations = read_durations(args.dag_id, args.runs, session=session)
        suggestion = suggest(args.dag_id, steps_of(dag), durations, runs=runs, source=source)
    if args.output == "json":
        print(json.dumps(as_json(suggestion), indent=2))
    else:
        print("\n".join(lines(suggestion)))


def as_json(suggestion: Suggestion) -> dict[str, Any]:
    """Make of a suggestion what programs get."""

    def path(found: Path | None) -> dict[str, Any] | None:
        return None if found is None else found._asdict()

    return {
        "dag_id": suggestion.dag_id,
        "source": suggestion.source,
        "runs": suggestion.runs,
        "critical_path": path(suggestion.critical_path),
        "parallel_path": path(suggestion.parallel_path),
        "saved_seconds": suggestion.saved_seconds,
        "chains": [
            {**asdict(chain), "pairs": [pair._asdict() for pair in chain.pairs]}
            for chain in suggestion.chains
        ],
        "tasks": [
            {"task_id": task_id, "median_seconds": seconds} for task_id, seconds in suggestion.seconds.items()
        ],
        "unknown": list(suggestion.unknown),
    }


def lines(suggestion: Suggestion) -> Iterator[str]:
    """Lay a suggestion out for people."""
    of_runs = f"median of {counted(suggestion.runs, 'run', 'runs')}" if suggestion.runs else "no runs yet"
    title = f"{suggestion.dag_id} ({of_runs})"
    before, after = suggestion.critical_path, suggestion.parallel_path
    if not suggestion.chains:
        yield f"{title}: no two tasks come one after another without a reason in the Dag"
    elif before is None or after is None:
        chains = counted(len(suggestion.chains), "chain", "chains")
        yield f"{title}: {chains} of tasks without data between them"
    else:
        at_once = f"{format_seconds(after.seconds)} if all below ran at once"
        yield f"{title}: the critical path takes {format_seconds(before.seconds)}, and {at_once}"
    if before is not None:
        yield f"Critical path: {_path(before.tasks)}"
    for chain in suggestion.chains:
        yield ""
        yield from _chain_lines(chain, suggestion)
    if suggestion.unknown:
        yield "\nNot known:"
        yield from (f"  {text}" for text in suggestion.unknown)


def _chain_lines(chain: Chain, suggestion: Suggestion) -> Iterator[str]:
    saves = (
        "" if chain.saved_seconds is None else f": at once they save {format_seconds(chain.saved_seconds)}"
    )
    yield f"{counted(len(chain.tasks), 'task', 'tasks')} without data between them{saves}"
    seconds = suggestion.seconds
    for pair in chain.pairs[:MOST_PAIRS]:
        before, after = (i if seconds[i] is None else f"{i} ({format_seconds(seconds[i])})" for i in pair)
        yield f"  {after} takes nothing from {before}"
    if len(chain.pairs) > MOST_PAIRS:
        yield f"  and {len(chain.pairs) - MOST_PAIRS} more"


def _path(tasks: tuple[str, ...]) -> str:
    if len(tasks) <= MOST_NAMES:
        return " >> ".join(tasks)
    half = MOST_NAMES // 2
    return " >> ".join([*tasks[:half], f"… {len(tasks) - 2 * half} more …", *tasks[-half:]])
