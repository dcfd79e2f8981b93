"""Parses Dag files as Airflow's Dag processor does, and times it; run as a process of its own."""

from __future__ import annotations

import importlib
import json
import sys
import time
from functools import partial
from pathlib import Path

from airflow.dag_processing import processor
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.file import iter_airflow_imports

from benchmarks.forks import in_fork
from benchmarks.pairs import alternated


def parse(file: Path) -> tuple[float, float]:
    """
    Import a Dag file in a fork of this process, which has Airflow imported, but nothing else.

    Its CPU seconds are counted, which it needs however busy the machine is: all that it does is compute.

    :return: Seconds to import the file and build its Dags, and seconds to serialize these.
    """
    return in_fork(partial(_parse_here, file))


def _parse_here(file: Path) -> tuple[float, float]:
    began = time.process_time()
    bag = BundleDagBag(file, bundle_path=file.parent, bundle_name="benchmarks", load_op_links=False)
    parsed = time.process_time()
    for dag in bag.dags.values():
        DagSerialization.to_dict(dag)
    serialized = time.process_time()
    if bag.import_errors or not bag.dags:
        raise ImportError(bag.import_errors or file)
    return parsed - began, serialized - parsed


def main(output: str, runs: str, ours: str, by_hand: str) -> None:
    """Write pairs of what :func:`parse` returns; into a file, for Airflow logs to standard output."""
    for module in sorted({processor.__name__, *iter_airflow_imports(ours), *iter_airflow_imports(by_hand)}):
        importlib.import_module(module)
    pairs = alternated(int(runs), partial(parse, Path(ours)), partial(parse, Path(by_hand)))
    Path(output).write_text(json.dumps(pairs), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
