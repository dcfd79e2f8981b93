"""Write what Airflow's Dag processor would store of some Dag files; run as a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.serialized_objects import DagSerialization


def main(output: str, *files: str) -> None:
    """Write ``{dag_id: {"hash": …, "data": …}}`` into a file; Airflow itself logs to standard output."""
    found: dict[str, Any] = {}
    for file in map(Path, files):
        bag = DagBag(file)
        if bag.import_errors:
            raise ImportError(bag.import_errors)
        for dag_id, dag in bag.dags.items():
            data = DagSerialization.to_dict(dag)
            dag_hash = SerializedDagModel.hash(data)  # type: ignore[no-untyped-call]
            found[dag_id] = {"hash": dag_hash, "data": data}
    Path(output).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
