"""Items and values that are objects of an author's class: no API server imports it to show the tab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.hostile import good_batch
from tests.ui.airflow_with_users import log_in
from tests.ui.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import RunKey

SCRIPT = Path(__file__).parent / "write_items.py"
DESERIALIZE = Path(__file__).parent / "deserialize.py"
DAG_ID = "tab_items"


def traced(number: int) -> dict[str, Any]:
    """What Airflow stores of an object of the class."""
    return {"__classname__": "tests.ui.traced.Traced", "__version__": 1, "__data__": {"number": number}}


def xcoms() -> Iterator[tuple[str, int, str, Any]]:
    """Mapped branches and batches over a mapping of objects, each of which returned an object."""
    items = {name: traced(number) for number, name in enumerate("abcdefgh")}
    yield "list", -1, "return_value", items
    yield "docs.split", -1, "return_value", [[0, 4, 1], [4, 8, 1]]
    names = list(items)
    for number in range(2):
        four = names[number * 4 : number * 4 + 4]
        yield "docs.split", -1, f"batch_{number}", {"names": four, "items": [items[name] for name in four]}
        yield "docs.each", number, "return_value", [traced(number)] * 4
    # Of the second batch nothing was recorded: its names are those that lie with the items.
    yield "docs.each", 0, "fan_out_branch", good_batch(0, names=names[:4], errors={"3": traced(9)})
    for index, name in enumerate(names):
        record = {"state": "success", "has_value": True, "map_index": index, "name": name}
        yield "load.each", index, "fan_out_branch", record
        yield "load.each", index, "return_value", traced(index)


def stored(folder: Path, values: Iterator[tuple[str, int, str, Any]]) -> Iterator[tuple[str, int, str, Any]]:
    """Put values into files of a folder, as Airflow's object storage does; what is left are references."""
    for number, (task_id, index, key, value) in enumerate(values):
        body = folder / f"{number}.json"
        body.write_text(json.dumps(value), encoding="utf-8")
        yield task_id, index, key, f"file://{body}"


def write(airflow: AirflowWithUsers, run_id: str, values: Iterator[tuple[str, int, str, Any]]) -> RunKey:
    airflow.wait_for_dag(DAG_ID, timeout=180)
    like = (DAG_ID, airflow.trigger(DAG_ID))  # the Dag is paused
    run = {"run_id": run_id, "state": "failed", "branches": "success"}
    mapped = {"docs.each": 2, "load.each": 8}
    airflow.run_script(SCRIPT, {"like": like, "runs": [{**run, "mapped": mapped, "xcoms": list(values)}]})
    return DAG_ID, run_id


def ask_all(base_url: str, token: str, run: RunKey) -> None:
    """Ask for all that the tab shows, and look whether the objects are there."""
    with Routes(base_url, run, token=token) as routes:
        report = routes.ask("report")
        assert report.status_code == 200, report.text
        groups = {group["title"]: group for group in report.json()["report"]["groups"]}
        assert [branch["name"] for branch in groups["load"]["branches"]] == list("abcdefgh")
        assert groups["docs"]["items"]["states"] == {"missing": 5, "success": 3}
        pages = [routes.ask("items", group="docs", batch=number) for number in range(2)]
        assert [[item["name"] for item in page.json()["items"]] for page in pages] == [
            list("abcd"),
            list("efgh"),
        ]
        plan = routes.ask("plan", group="docs")
        assert plan.status_code == 200, plan.text
        assert plan.json()["groups"]


@pytest.fixture
def trace(scratch: Path) -> Iterator[Path]:
    """The file in which the class leaves its traces."""
    path = scratch / "trace"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def test_objects_in_the_database_stay_as_they_are_stored(
    airflow: AirflowWithUsers, tokens: dict[str, str], trace: Path
) -> None:
    run = write(airflow, "objects", xcoms())

    ask_all(airflow.base_url, tokens["admin"], run)

    assert not trace.exists()


def test_so_do_those_in_object_storage(airflow: AirflowWithUsers, trace: Path, tmp_path: Path) -> None:
    run = write(airflow, "objects_elsewhere", stored(tmp_path, xcoms()))

    with airflow.with_object_storage(tmp_path):
        ask_all(airflow.fab_url, log_in(airflow.fab_url, "admin"), run)

    assert not trace.exists()


def test_who_makes_the_objects_leaves_the_trace(airflow: AirflowWithUsers, trace: Path) -> None:
    """Or the tests above could not fail."""
    airflow.run_script(DESERIALIZE, traced(1))

    assert trace.read_text(encoding="utf-8").splitlines()[-1] == "deserialized {'number': 1}"
