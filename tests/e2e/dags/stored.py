"""Items from storage, of which some change after they were planned."""

from __future__ import annotations

import gzip
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.storage import CsvItems, JsonLinesItems, ObjectItems, ParquetItems, SqlItems
from tests.e2e.dump import dump

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
FOLDER = SCRATCH / "stored"
DATABASE = SCRATCH / "stored.db"
QUERY = "SELECT x FROM things ORDER BY x"


@task
def make() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in "abc":
        lines = "".join(f'{name}{number},"{name}\n{number}"\r\n' for number in range(4))
        (FOLDER / f"{name}.csv").write_text(f"id,x\r\n{lines}", newline="")
    text = "".join(f'{{"x": {number}}}\n' if number != 2 else "{oops\n" for number in range(5))
    (FOLDER / "lines.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.table({"x": range(25), "y": ["z"] * 25}), FOLDER / "rows.parquet", row_group_size=10)
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS things (x INT)")
        connection.executemany("INSERT INTO things VALUES (?)", [(number,) for number in range(5)])


@task
def change() -> None:
    with (FOLDER / "b.csv").open("a") as file:
        file.write("b4,new\r\n")
    (FOLDER / "c.csv").unlink()
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.execute("DELETE FROM things")


def x_of(row: dict[str, Any]) -> Any:
    return row["x"]


def size_of(path: Any) -> int:
    return len(path.read_bytes())


with DAG("stored", schedule=None, catchup=False):
    made = make()
    several: Any = {"branch": x_of, "items_per_task": 3}
    groups = {
        "rows": FanOutGroup("rows", items=CsvItems(f"{FOLDER}/*.csv", name="id"), **several),
        "lines": FanOutGroup("lines", items=JsonLinesItems(f"{FOLDER}/*.jsonl.gz"), **several),
        "parquet": FanOutGroup(
            "parquet", items=ParquetItems(f"{FOLDER}/rows.parquet"), branch=x_of, items_per_task=15
        ),
        "queried": FanOutGroup(
            "queried", items=SqlItems("stored", "SELECT x FROM things ORDER BY x"), **several
        ),
        "objects": FanOutGroup(
            "objects", items=ObjectItems(f"file://{SCRATCH}/**/*.csv"), branch=size_of, items_per_task=9
        ),
        "nothing": FanOutGroup("nothing", items=CsvItems(f"{FOLDER}/none/*"), **several),
    }
    changed = change()
    for group_id, group in groups.items():
        made >> group
        FanInOperator(
            task_id=f"collect_{group_id}",
            fan_out=group,
            min_success=0,
            on_empty="succeed",
            python_callable=dump,
        )
        split, each = (group.dag.get_task(f"{group_id}.{name}") for name in ("split", "each"))
        split >> changed >> each
