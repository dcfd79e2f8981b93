"""Runs in which something changes: a branch is cleared, the Dag file is another, the file system is full."""

from __future__ import annotations

import errno
import os
import resource
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.execution_time.xcom import RunReader
from tests.e2e.dump import dump

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
STORAGE = Path(os.environ.get("FANOUT_E2E_STORAGE", "."))
BALLAST = STORAGE / "ballast"
PATIENCE = 600
BODY = "x" * 5000
"""A value too large for the database, by this Airflow's configuration."""


def wait_for(happened: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            message = f"{what} has not happened"
            raise TimeoutError(message)
        time.sleep(0.1)


def hold(name: str) -> None:
    """Say that this point is reached, and wait until the test lets it go on."""
    (SCRATCH / f"{name}.held").touch()
    wait_for((SCRATCH / f"{name}.go").exists, name)


class HeldFanIn(FanInOperator):
    """A fan-in whose first try stops where it is told to: before it asks for states, or right after."""

    def __init__(self, *, hold_after_states: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hold_after_states = hold_after_states

    def execute(self, context: Context) -> Any:
        """Hold, then do what a fan-in does."""
        ti: Any = context["ti"]
        if ti.try_number > 1:
            return super().execute(context)
        if not self.hold_after_states:
            hold(f"{ti.dag_id}.{ti.task_id}")
            return super().execute(context)
        ask = RunReader.states
        is_held = False

        def asked(reader: RunReader) -> Any:
            nonlocal is_held
            found = ask(reader)
            if not is_held:
                is_held = True
                hold(f"{ti.dag_id}.{ti.task_id}")
            return found

        with patch.object(RunReader, "states", asked):
            return super().execute(context)


def again(letter: str, ti: Any = None) -> str:
    """Tell which try this is; the second waits."""
    if ti.try_number > 1:
        hold(f"{ti.dag_id}.{ti.task_id}[{ti.map_index}]")
    return f"{letter}{ti.try_number}"


WAYS: dict[str, dict[str, Any]] = {
    "static": {},
    "mapped": {"mapped": True},
    "batched": {"items_per_task": 1},
}
for when in ("before", "while"):
    with DAG(f"cleared_{when}_it_reads", schedule=None):
        for way, arguments in WAYS.items():
            letters = FanOutGroup(way, branch=again, items={"a": "a", "b": "b", "c": "c"}, **arguments)
            HeldFanIn(
                task_id=f"collect_{way}",
                fan_out=letters,
                min_success=1,
                hold_after_states=when == "while",
            )
        foreign = [task(task_id=f"foreign_{letter}")(again)(letter) for letter in "abc"]
        HeldFanIn(
            task_id="collect_foreign",
            task_id_prefix="foreign_",
            min_success=1,
            hold_after_states=when == "while",
        ).set_upstream(foreign)


def upper(name: str) -> str:
    return name.upper()


DECLARED = {
    "branch_added": ["a", "b", "c"],
    "branch_removed": ["a", "b", "c"],
    "branch_renamed": ["a", "b", "c"],
}  # The test changes these lines.


def not_at_first(results: Any, ti: Any) -> Any:
    if ti.try_number == 1:
        hold(ti.dag_id)
        message = "the first try fails"
        raise ValueError(message)
    return dump(results)


for dag_id, names in DECLARED.items():
    with DAG(dag_id, schedule=None):
        named = FanOutGroup("group", branch=upper, items={name: name for name in names})
        FanInOperator(
            task_id="collect",
            fan_out=named,
            min_success=1,
            python_callable=not_at_first,
            retries=1,
            retry_delay=timedelta(seconds=1),
        )


def fill(*, when: int) -> None:
    """
    Let nothing be written to where values are kept, once so many of them are there.

    Where no file system of its own could be mounted, this process may write no files at all.
    """
    wait_for(lambda: len([path for path in STORAGE.rglob("*") if path.is_file()]) >= when, f"{when} values")
    if not STORAGE.is_mount():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return
    with BALLAST.open("wb", buffering=0) as ballast:
        for size in (65536, 4096, 1):
            try:
                while True:
                    ballast.write(b"\0" * size)
            except OSError as full:
                if full.errno != errno.ENOSPC:
                    raise


@task
def keep(letter: str, ti: Any = None) -> str:
    if letter == "c" and ti.try_number == 1:
        fill(when=2)
    return letter + BODY


def keep_number(number: int, ti: Any = None) -> int:
    if number == 0 and ti.try_number == 1:
        fill(when=2)  # the record and the values of the other batch
    return number


def shortened(results: Any) -> dict[str, Any]:
    return {
        "values": {name: value[:1] for name, value in results.items()},
        "errors": {name: outcome.error for name, outcome in results.failed.items()},
    }


def counted(results: Any) -> dict[str, Any]:
    return {
        "values": len(results),
        "right": all(name == f"group_{value}" for name, value in results.items()),
        "errors": sorted({str(outcome.error) for outcome in results.failed.values()}),
    }


def overflowing(results: Any, ti: Any) -> str:
    if ti.try_number == 1:
        fill(when=2)
    return "".join(value[:1] for value in results.values()) + BODY


with DAG("full_for_a_branch", schedule=None):
    kept = FanOutGroup("group", branch=keep, items={"a": "a", "b": "b", "c": "c"})
    FanInOperator(task_id="collect", fan_out=kept, min_success=1, python_callable=shortened)

with DAG("full_for_a_batch", schedule=None):
    # A record of so many items is large itself.
    numbers = FanOutGroup("group", branch=keep_number, items=list(range(800)), items_per_task=400)
    FanInOperator(task_id="collect", fan_out=numbers, min_success=1, python_callable=counted)

with DAG("full_for_the_fan_in", schedule=None):
    both = FanOutGroup("group", branch=keep, items=["a", "b"])
    FanInOperator(task_id="collect", fan_out=both, python_callable=overflowing)
