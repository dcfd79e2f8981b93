"""Parses Dag files as Airflow's Dag processor does, and times it; run as a process of its own."""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.dag_processing import processor
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.file import iter_airflow_imports

from benchmarks.pairs import alternated

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

FORK = multiprocessing.get_context("fork")


def parse(file: Path) -> tuple[float, float]:
    """
    Import a Dag file in a fork of this process, which has Airflow imported, but nothing else.

    Its CPU seconds are counted, which it needs however busy the machine is: all that it does is compute.

    :return: Seconds to import the file and build its Dags, and seconds to serialize these.
    """
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_parse_here, args=(file, sender))
    child.start()
    sender.close()
    try:
        seconds: tuple[float, float] = receiver.recv()
    finally:
        child.join()
    return seconds


def _parse_here(file: Path, sender: Connection) -> None:
    began = time.process_time()
    bag = BundleDagBag(file, bundle_path=file.parent, bundle_name="benchmarks", load_op_links=False)
    parsed = time.process_time()
    for dag in bag.dags.values():
        DagSerialization.to_dict(dag)
    serialized = time.process_time()
    if bag.import_errors or not bag.dags:
        raise ImportError(bag.import_errors or file)
    sender.send((parsed - began, serialized - parsed))


def main(output: str, runs: str, ours: str, by_hand: str) -> None:
    """Write pairs of what :func:`parse` returns; into a file, for Airflow logs to standard output."""
    for module in sorted({processor.__name__, *iter_airflow_imports(ours), *iter_airflow_imports(by_hand)}):
        importlib.import_module(module)
    gc.freeze()  # the Dag processor's own: its forks' garbage collection copies no pages
    pairs = alternated(int(runs), partial(parse, Path(ours)), partial(parse, Path(by_hand)))
    Path(output).write_text(json.dumps(pairs), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
