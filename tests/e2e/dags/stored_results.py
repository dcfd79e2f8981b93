"""Values of items in files: tries, a batch that dies, a file that vanishes, and storage that refuses."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
FATES = ["a", "recovers", "b", "c", "fails", "d", "e", "f", "g", "h", "i", "dies"]


def act(fate: str, ti: Any = None, name: str = "stored") -> dict[str, Any]:
    """Succeed, fail or end the process, as it is told."""
    with (SCRATCH / f"{name}-ran").open("a") as file:
        file.write(f"{fate}\n")
    if fate == "fails" or (fate == "recovers" and ti.try_number == 1):
        message = f"broken on try {ti.try_number}"
        raise ValueError(message)
    if fate == "dies":
        time.sleep(8)  # what had ended is saved meanwhile
        os.kill(os.getpid(), signal.SIGKILL)
    return {"fate": fate, "pair": (1, 2)}


def tell(results: FanInResults) -> dict[str, Any]:
    outcomes = {name: [o.state, o.error, o.value] for name, o in results.outcomes.items()}
    return {"outcomes": outcomes, "parts": results.parts}


FOLDER_OF_TRY = "{{ 'a-file/x' if ti.try_number == 1 else 'fine' }}"
"""On the first try below a file, where there can be no folder."""

with DAG("stored_results", default_args={"retries": 1, "retry_delay": 1.0}):

    @task
    def list_fates() -> dict[str, str]:
        return {f"item {index:02}": fate for index, fate in enumerate(FATES)}

    @task(retries=0)
    def lose(run_id: Any = None) -> None:
        (SCRATCH / "stored" / run_id / "part-2-1.jsonl").unlink()

    acts = FanOutGroup(
        "acts",
        branch=act,
        items=list_fates(),
        items_per_task=3,
        results_path=f"file://{SCRATCH}/stored/{{{{ run_id }}}}",
    )
    lost = lose()
    lost.operator.trigger_rule = "all_done"
    acts >> lost
    lost >> FanInOperator(task_id="tell", fan_out=acts, python_callable=tell, min_success=0)
    lost >> FanInOperator(task_id="manifest", fan_out=acts, min_success=0)

    refused = FanOutGroup(
        "refused",
        branch=act,
        items=["a", "b", "c"],
        items_per_task=3,
        partial={"name": "refused"},
        results_path=f"file://{SCRATCH}/{FOLDER_OF_TRY}/{{{{ run_id }}}}",
        results_format="parquet",
    )
    FanInOperator(task_id="tell_refused", fan_out=refused, python_callable=tell)
