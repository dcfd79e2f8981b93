"""Names decide, never positions: the Dag file is another, or the task of the items runs again by itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.distributed.dags.names import DECLARED, SOURCES, YIELDED
from tests.support.airflow import ControlledAirflow
from tests.support.database import metadata_database
from tests.support.report import read_groups
from tests.support.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

DAG_FILE = Path(__file__).parent / "dags" / "names.py"
PATIENCE = 600
ROUNDS = 3
"""How often ``rerun`` is given a chance, at most."""

CHANGES = {
    "gained": ["at", "de", "fr", "us"],
    "dropped": ["de", "fr", "us"],
    "reordered": ["us", "de", "fr"],
    "renamed": ["de", "xx", "us"],
    "shrunk": ["shard_2"],
}
"""What the Dag file declares in the end."""

Outcome = tuple[str, Any, str | None]
"""State, value and error of a branch."""

Outcomes = dict[str, Outcome]
"""By name and in order."""

BROKEN: Outcome = ("failed", None, "ValueError: fr is broken")
GONE: Outcome = ("removed", None, "it is no longer declared")
NEVER_RAN: Outcome = (
    "missing",
    None,
    "no task instance ran it: the Dag, or its items, changed after the branches had run",
)


def success(value: Any) -> Outcome:
    return "success", value, None


def ran_as(name: str) -> Outcome:
    return "missing", None, f"its instance ran as {name!r} before the Dag, or its items, changed"


GAINED = {"at": ran_as("de"), "de": success("DE"), "fr": BROKEN, "us": success("US")}
REORDERED = {"us": success("US"), "de": success("DE"), "fr": BROKEN}
RENAMED = {"de": success("DE"), "xx": ran_as("fr"), "us": success("US"), "fr": GONE}
READ: dict[str, Outcomes] = {
    "gained_mapped": GAINED,
    # Airflow removes the last instance of a mapped task, which had run 'us'.
    "dropped_mapped": {
        "de": success("DE"),
        "fr": BROKEN,
        "us": ran_as("fr"),
        "at": GONE,
        "us (dropped_mapped.each[3])": GONE,
    },
    "reordered_mapped": REORDERED,
    "renamed_mapped": RENAMED,
    "gained_listed": {
        "gained_listed_0": success("DE"),
        "gained_listed_1": BROKEN,
        "gained_listed_2": success("US"),
        # Airflow adds its instance only when another one of the task runs again.
        "gained_listed_3": NEVER_RAN,
    },
    "dropped_listed": {
        "dropped_listed_0": success("AT"),
        "dropped_listed_1": success("DE"),
        "dropped_listed_2": BROKEN,
        "dropped_listed_3": GONE,
    },
    "gained_batched": GAINED,
    "renamed_batched": RENAMED,
    "dropped_functions": {"de": success("DE"), "fr": BROKEN, "us": success("US"), "at": GONE},
    "reordered_functions": REORDERED,
    "shrunk_static": {"shard_2": success("SHARD_2"), "shard_0": GONE, "shard_1": GONE},
    "shrunk_mapped": {
        "shard_2": ran_as("shard_0"),
        "shard_0": GONE,
        "shard_1": GONE,
        "shard_2 (shrunk_mapped.each[2])": GONE,
    },
    "shrunk_batched": {"shard_2": success("SHARD_2"), "shard_0": GONE, "shard_1": GONE},
}
"""What a fan-in says that is cleared alone after the change."""
RERUN = [group_id for group_id in DECLARED if not group_id.startswith("shrunk")]
"""Groups in which ``fr`` had failed."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where branches note that they ran, and runs are said to be mended."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, scratch: Path) -> Iterator[ControlledAirflow]:
    """An Airflow that looks at its Dag files often."""
    with (
        metadata_database() as database_url,
        ControlledAirflow(
            dag_files=[DAG_FILE],
            home=tmp_path_factory.mktemp("airflow"),
            database_url=database_url,
            env={
                "FANOUT_E2E_SCRATCH": str(scratch),
                "AIRFLOW__CORE__PARALLELISM": "8",
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "2",
            },
        ) as started,
    ):
        yield started


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs that have ended: to clear fan-ins alone, to ``rerun``, and whose items' tasks run again."""

    read: Run
    rerun: Run
    yielded: Run


@pytest.fixture(scope="module")
def runs(airflow: ControlledAirflow) -> Runs:
    """Start all runs at once, and wait for them."""
    started = Runs(
        read=Run.start(airflow, "names_declared"),
        rerun=Run.start(airflow, "names_declared"),
        yielded=Run.start(airflow, "names_yielded"),
    )
    for run in (started.read, started.rerun, started.yielded):
        run.wait()
    return started


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run's fan-ins, and what the report reads of them, at one time."""

    outcomes: dict[str, Outcomes]
    reports: dict[str, dict[str, Any]]
    in_database: dict[str, dict[str, list[Any]]]
    failures: dict[str, str]

    def of(self, group_id: str) -> Outcomes:
        """What a fan-in's function was given."""
        if group_id in self.failures:
            pytest.fail(self.failures[group_id])
        return self.outcomes[group_id]

    def counts(self, group_id: str) -> dict[str, int]:
        """What a fan-in has counted."""
        names = ("expected", "counted", "succeeded", "failed", "missing")
        return {name: self.reports[group_id][name] for name in names}

    def in_fan_in(self, group_id: str) -> dict[str, list[Any]]:
        """State and error by name, as the fan-in was given them."""
        return {name: [state, error] for name, (state, _, error) in self.of(group_id).items()}


def see(airflow: ControlledAirflow, run: Run, scratch: Path) -> Seen:
    """Look at a run that has ended."""
    fan_ins = {f"collect_{group_id}": group_id for group_id in (*DECLARED, *SOURCES)}
    ran = {task_id: group_id for task_id, group_id in fan_ins.items() if (task_id, -1) in run.instances}
    good = {task_id: g for task_id, g in ran.items() if run.instance(task_id).state == "success"}
    return Seen(
        outcomes={
            group_id: {
                name: (outcome["state"], outcome["value"], outcome["error"])
                for name, outcome in run.collected(task_id).outcomes.items()
            }
            for task_id, group_id in good.items()
        },
        reports={group_id: run.report(task_id) for task_id, group_id in good.items()},
        in_database=read_groups(airflow, run, scratch),
        failures={
            group_id: f"{task_id} failed: {error_in(run.log(task_id))}"
            for task_id, group_id in ran.items()
            if task_id not in good
        },
    )


def error_in(log: str) -> str:
    """What a task's log says that it failed of."""
    found = re.search(r"'exc_type': (.*?), 'exc_notes'", log)
    return log if found is None else found[1]


def fan_ins(run: Run) -> list[str]:
    return sorted({task_id for task_id, _ in run.instances if task_id.startswith("collect_")})


def counts_of(outcomes: Outcomes) -> dict[str, int]:
    """What a fan-in has to count: nothing that is removed, and nothing was skipped."""
    states = [state for state, _, _ in outcomes.values() if state != "removed"]
    return {
        "expected": len(states),
        "counted": len(states),
        "succeeded": states.count("success"),
        "failed": states.count("failed"),
        "missing": states.count("missing"),
    }


def declared_now(group_id: str) -> list[str]:
    """What a group's branches are in the changed Dag file."""
    change, _, mode = group_id.partition("_")
    texts = CHANGES[change]
    return [f"{group_id}_{index}" for index in range(len(texts))] if mode == "listed" else texts


@pytest.fixture(scope="module")
def changed(airflow: ControlledAirflow, runs: Runs) -> Runs:
    """Runs that have ended, and whose Dag has changed since."""
    before = version_count(airflow)
    file = airflow.dags_folder / DAG_FILE.name
    text = file.read_text()
    for group_id, names in DECLARED.items():
        line = f'"{group_id}": {json.dumps(names)}'
        assert line in text
        text = text.replace(line, f'"{group_id}": {json.dumps(CHANGES[group_id.partition("_")[0]])}')
    file.write_text(text)
    airflow.poll(
        lambda: version_count(airflow) > before or None,
        timeout=PATIENCE,
        condition=lambda: "The Dag processor has not seen the file",
    )
    return runs


def version_count(airflow: ControlledAirflow) -> int:
    return len(airflow.pages("dags/names_declared/dagVersions", "dag_versions"))


@pytest.fixture(scope="module")
def read_again(airflow: ControlledAirflow, changed: Runs, scratch: Path) -> Seen:
    """What the fan-ins say that were cleared alone after the change."""
    run = changed.read
    airflow.clear(run.dag_id, run.run_id, fan_ins(run))
    run.wait()
    return see(airflow, run, scratch)


@pytest.mark.parametrize("group_id", DECLARED)
def test_a_fan_in_cleared_alone_has_every_value_under_the_name_that_ran(
    read_again: Seen, group_id: str
) -> None:
    found = read_again.of(group_id)
    assert list(found.items()) == list(READ[group_id].items())
    assert read_again.counts(group_id) == counts_of(READ[group_id])
    assert read_again.in_database[group_id] == read_again.in_fan_in(group_id)


@dataclass(frozen=True, kw_only=True)
class Again:
    """What ``airflow fanout rerun --yes`` said that it runs again, what ran, and what the fan-ins say."""

    said: dict[str, set[str]]
    ran: dict[str, set[str]]
    seen: Seen


@pytest.fixture(scope="module")
def reruns(airflow: ControlledAirflow, changed: Runs, scratch: Path) -> list[Again]:
    """Rounds of ``rerun``, until it runs nothing, of a run which was mended before the first."""
    run = changed.rerun
    (scratch / f"{run.run_id}.mended").touch()
    rounds: list[Again] = []
    while len(rounds) < ROUNDS:
        before = len(noted(scratch, run))
        said = rerun(airflow, run)
        if not said:
            break
        run.wait()
        ran: dict[str, set[str]] = {}
        for event in noted(scratch, run)[before:]:
            ran.setdefault(event["group"], set()).add(event["text"])
        rounds.append(Again(said=said, ran=ran, seen=see(airflow, run, scratch)))
    return rounds


def noted(scratch: Path, run: Run) -> list[dict[str, Any]]:
    events = map(json.loads, (scratch / "ran.jsonl").read_text().splitlines())
    return [event for event in events if event["run"] == run.run_id]


def rerun(airflow: ControlledAirflow, run: Run) -> dict[str, set[str]]:
    """Run the command; names of the branches, or batches, that it says run again, by group."""
    ended = airflow.command("fanout", "rerun", run.dag_id, run.run_id, "--yes", "--output", "json")
    assert ended.returncode == 0, ended.stderr
    groups = json.loads(ended.stdout)["groups"]
    return {group["group"]: {branch["name"] for branch in group["branches"]} for group in groups}


@pytest.mark.parametrize("group_id", RERUN)
class TestRerunsAfterTheDagFileHasChanged:
    """``fr`` had failed, and is mended; the Dag processor has seen the change."""

    def test_no_branch_has_the_value_of_another(self, reruns: list[Again], group_id: str) -> None:
        for again in reruns:
            found = again.seen.of(group_id)
            assert [name for name, outcome in found.items() if outcome[0] != "removed"] == declared_now(
                group_id
            )
            good = {name: value for name, (state, value, _) in found.items() if state == "success"}
            if not group_id.endswith("listed"):
                assert good == {name: name.upper() for name in good}
            others = {outcome for outcome in found.values() if outcome[0] not in {"success", "removed"}}
            assert all("the Dag, or its items, changed" in str(error) for _, _, error in others)
            assert {state for state, _, _ in others} <= {"missing"}
            assert again.seen.in_database[group_id] == again.seen.in_fan_in(group_id)

    def test_the_last_one_leaves_nothing_missing(self, reruns: list[Again], group_id: str) -> None:
        found = reruns[-1].seen.of(group_id)
        assert {found[name][0] for name in declared_now(group_id)} == {"success"}


@pytest.mark.parametrize("group_id", [group_id for group_id in RERUN if group_id.endswith("_mapped")])
def test_a_rerun_runs_what_it_says(reruns: list[Again], group_id: str) -> None:
    for again in reruns:
        assert again.ran.get(group_id, set()) == again.said.get(group_id, set())


@pytest.fixture(scope="module")
def sources(airflow: ControlledAirflow, runs: Runs, scratch: Path) -> dict[str, Seen]:
    """What the fan-ins say after the items' tasks alone have run again, and then after ``split`` has, too."""
    run, rounds = runs.yielded, {}
    ids = {task_id for task_id, _ in run.instances}
    tells = {task_id for task_id in ids if task_id.startswith("tell_")}
    for what, cleared in (
        ("items", tells),
        ("items and split", tells | {task_id for task_id in ids if task_id.endswith(".split")}),
    ):
        airflow.clear(run.dag_id, run.run_id, sorted(cleared))
        run.wait()
        airflow.clear(run.dag_id, run.run_id, fan_ins(run))
        run.wait()
        rounds[what] = see(airflow, run, scratch)
    return rounds


def yielded(group_id: str) -> Outcomes:
    """What the fan-in has to say after the items' task has run again, alone or with ``split``."""
    change, _, origin = SOURCES[group_id]
    texts = YIELDED[change]
    if origin == "mapping":
        found = {
            name: success(name.upper())
            if name in {"de", "fr", "us"}
            else ran_as(["de", "fr", "us"][place])
            if place < 3
            else NEVER_RAN
            for place, name in enumerate(texts)
        }
        return found | {name: GONE for name in ("de", "fr", "us") if name not in texts}
    values: list[Any] = ["DE", "FR", "US"] if origin == "list" else [0, 1, 2]
    found = {
        f"{group_id}_{n}": success(values[n]) if n < len(values) else NEVER_RAN for n in range(len(texts))
    }
    return found | {f"{group_id}_{n}": GONE for n in range(len(texts), len(values))}


@pytest.mark.parametrize("group_id", SOURCES)
@pytest.mark.parametrize("what", ["items", "items and split"])
def test_expected_is_what_was_yielded_last(sources: dict[str, Seen], group_id: str, what: str) -> None:
    """The fan-in is cleared alone; no branch has run again."""
    expected = yielded(group_id)
    assert list(sources[what].of(group_id).items()) == list(expected.items())
    assert sources[what].counts(group_id) == counts_of(expected)
    assert sources[what].in_database[group_id] == sources[what].in_fan_in(group_id)
