"""``python -m benchmarks.peers``: the same fan-out and fan-in here and in other orchestrators, in one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.database import metadata_database
from benchmarks.machine import machine_facts
from benchmarks.peers.exchange import MARK
from benchmarks.twins import DAGS, FAN_IN, REPOSITORY
from tests.support.airflow import ControlledAirflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HERE = Path(__file__).parent
ENVIRONMENTS = REPOSITORY / ".venv-peers"
WAITS = (3.5, 3.0, 3.0)
ITEMS = (64, 300, 3_000)
MAPPED_AT_MOST = 300
"""Items that are given an instance each; more take batches, as the README says."""

NOT_MEASURED = "\N{EN DASH}"
WIDTH = 150


@dataclass(frozen=True, kw_only=True)
class Peer:
    """
    Another orchestrator.

    :param name: Its name.
    :param script: What runs it, in this folder.
    :param requirements: What its environment has.
    :param arguments: What its script is given first.
    :param env: Environment variables of it; ``{home}`` is a folder of its own.
    """

    name: str
    script: str
    requirements: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


PREFECT = Peer(
    name="Prefect",
    script="prefect_peer.py",
    requirements=("prefect>=3", "fastapi<0.130"),  # Prefect 3.8 can't start its server with newer ones
    env={
        "PREFECT_HOME": "{home}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    },
)
DAGSTER = Peer(
    name="Dagster",
    script="dagster_peer.py",
    requirements=("dagster>=1.13",),
    env={"DAGSTER_HOME": "{home}", "DAGSTER_DISABLE_TELEMETRY": "1"},
)
DAGSTER_IN_PROCESS = Peer(
    name="Dagster",
    script="dagster_peer.py",
    requirements=DAGSTER.requirements,
    arguments=("--in-process",),
    env=DAGSTER.env,
)
ZENML = Peer(
    name="ZenML",
    script="zenml_peer.py",
    requirements=("zenml[local]>=0.98",),
    env={"ZENML_CONFIG_PATH": "{home}", "ZENML_ANALYTICS_OPT_IN": "false", "ZENML_LOGGING_VERBOSITY": "WARN"},
)
PEERS = (PREFECT, DAGSTER, DAGSTER_IN_PROCESS, ZENML)

Key = tuple[str, str]
"""Kind and size of what was measured: ``("items", "64")``, ``("waits", "3.5 3.0 3.0")``."""


@dataclass
class Contestant:
    """
    Somebody who is measured.

    :param title: Name, version and way of running.
    :param measure: Takes the kind and the numbers, and returns seconds, or says why there are none.
    :param told: What was measured so far.
    """

    title: str
    measure: Callable[[str, Sequence[float]], float | str]
    told: dict[Key, list[float | str]] = field(default_factory=dict)

    def measure_once_more(self, key: Key, kind: str, numbers: Sequence[float]) -> None:
        """
        Measure, unless it could not be done before.

        :param key: What it is.
        :param kind: ``items`` or ``waits``.
        :param numbers: How many, or how long.
        """
        told = self.told.setdefault(key, [])
        if not any(isinstance(each, str) for each in told):
            told.append(self.measure(kind, numbers))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all in turns, each round in another order, and show the medians."""
    parser = ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--items", default=",".join(map(str, ITEMS)), help="(default: %(default)s)")
    parser.add_argument(
        "--give-up", type=float, default=600, metavar="SECONDS", help="per measurement (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    items = [int(each) for each in options.items.split(",")]
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as homes, _airflow(items) as airflow:
        contestants = [
            *_ours(airflow, options.give_up),
            *(_theirs(peer, Path(homes), options.give_up, progress.print) for peer in PEERS),
        ]
        for round_ in range(options.rounds):
            turned = contestants[round_ % len(contestants) :] + contestants[: round_ % len(contestants)]
            for kind, numbers in [*(("items", [count]) for count in items), ("waits", WAITS)]:
                for each in turned:
                    key = (kind, " ".join(map(str, numbers)))
                    each.measure_once_more(key, kind, numbers)
                    progress.print(f"{each.title}: {kind} {key[1]}: {_said(each.told[key][-1:])}")
    _show(contestants)
    return 0


@contextmanager
def _airflow(items: Sequence[int]) -> Iterator[ControlledAirflow]:
    env = {
        "FANOUT_BENCHMARK_PEER_ITEMS": ",".join(map(str, items)),
        "FANOUT_BENCHMARK_PEER_WAITS": ",".join(map(str, WAITS)),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    with (
        metadata_database() as database_url,
        ControlledAirflow(database_url=database_url, dag_files=[DAGS / "peers_ours.py"], env=env) as airflow,
    ):
        yield airflow


def _ours(airflow: ControlledAirflow, give_up: float) -> Iterator[Contestant]:
    """Run with this package; a run's seconds are from the trigger to its end, as the server tells."""

    def measure(mode: str, kind: str, numbers: Sequence[float]) -> float | str:
        if kind == "items" and mode == "mapped" and numbers[0] > MAPPED_AT_MOST:
            return NOT_MEASURED
        dag_id = f"peers_{mode}_{int(numbers[0])}" if kind == "items" else f"peers_waits_{mode}"
        airflow.wait_for_dag(dag_id)
        began = datetime.now(UTC)
        run_id = airflow.trigger(dag_id)
        state = airflow.wait_for_run(dag_id, run_id, timeout=give_up)
        ended = datetime.fromisoformat(airflow.run(dag_id, run_id)["end_date"])
        value = airflow.xcom(dag_id, run_id, FAN_IN) if state == "success" else None
        expected = sum(numbers) if kind == "waits" else numbers[0] * (numbers[0] - 1)
        if value != expected:
            message = f"{dag_id}: expected {expected} from a successful run, found {value!r}, {state}"
            raise RuntimeError(message)
        return (ended - began).total_seconds()

    facts = machine_facts()
    ways = {
        "batched": "8 tasks (waits: a static branch each), a process each",
        "mapped": "a mapped instance each, a process each",
        "together": "all in one task (waits: its items in threads)",
    }
    for mode, how in ways.items():
        title = f"airflow-fanout {facts['airflow_fanout']}, Airflow {facts['airflow']}: {how}"
        yield Contestant(title=title, measure=partial(measure, mode))


def _theirs(peer: Peer, homes: Path, give_up: float, tell: Callable[[str], None]) -> Contestant:
    python = ENVIRONMENTS / peer.name.lower() / "bin" / "python"
    if not python.exists():
        tell(f"{peer.name} is installed in {python.parents[1]}")
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *peer.requirements], check=True)
    home = homes / "-".join([peer.name.lower(), *peer.arguments])
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    env = {**kept, "HOME": str(home)} | {name: value.format(home=home) for name, value in peer.env.items()}

    def measure(kind: str, numbers: Sequence[float]) -> float | str:
        command = [str(python), peer.script, *peer.arguments, kind, *map(str, numbers)]
        try:
            done = subprocess.run(
                command, cwd=HERE, env=env, timeout=give_up, capture_output=True, text=True, check=True
            )
        except subprocess.TimeoutExpired:
            return f"> {give_up:.0f} s"
        except subprocess.CalledProcessError as failed:
            *_, last = [line for line in failed.stderr.splitlines() if line.strip()] or ["?"]
            tell(f"{' '.join(command)}: {failed.stderr[-2000:]}")
            return f"fails: {last.strip()}"
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(MARK))
        told = json.loads(line.removeprefix(MARK))
        contestant.title = f"{peer.name} {told['version']}: {told['how']}"
        return float(told["seconds"])

    contestant = Contestant(title=f"{peer.name} {' '.join(peer.arguments)}".strip(), measure=measure)
    return contestant


def _said(told: Sequence[float | str]) -> str:
    why = next((each for each in told if isinstance(each, str)), None)
    return f"{statistics.median(float(each) for each in told):.1f} s" if why is None else why


def _show(contestants: Sequence[Contestant]) -> None:
    keys = list(contestants[0].told)
    table = Table()
    table.add_column("")
    for kind, size in keys:
        table.add_column(f"{kind} {size}", justify="right")
    for each in contestants:
        row = [each.title]
        for key in keys:
            said = _said(each.told[key])
            pairs = [
                theirs / ours
                for theirs, ours in zip(each.told[key], contestants[0].told[key], strict=False)
                if isinstance(theirs, float) and isinstance(ours, float)
            ]
            if pairs and each is not contestants[0]:
                said = f"{statistics.median(pairs):.2f} ×  {said}"
            row.append(said)
        table.add_row(*row)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    facts = machine_facts()
    rounds = max(len(told) for told in contestants[0].told.values())
    console.print(
        f"Medians of {rounds} rounds, all in turns; ratios to the first row's. "
        f"{facts['cores']} cores, {facts['system']}, Python {facts['python']}, LocalExecutor, "
        f"{facts['database']}"
    )


if __name__ == "__main__":
    sys.exit(main())
