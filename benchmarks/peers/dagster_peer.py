"""Dagster, as its documentation maps an op over dynamic outputs; run by Dagster's own Python."""

# Dagster looks at annotations when it defines an op: they must not be texts.

import os
import sys
import time
from pathlib import Path

import dagster as dg

from exchange import answer  # beside this file, for this package is not in the peer's environment


@dg.op(out=dg.DynamicOut(), config_schema={"values": [float]})
def split(context: dg.OpExecutionContext):
    for place, value in enumerate(context.op_config["values"]):
        yield dg.DynamicOutput(value, mapping_key=str(place))


@dg.op
def double(item: float) -> float:
    return 2 * item


@dg.op
def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@dg.op
def combine(results: list) -> float:
    return sum(results)


@dg.job
def items():
    """Double the items."""
    combine(split().map(double).collect())


@dg.job
def waits():
    """Wait, at the same time."""
    combine(split().map(wait).collect())


def run(job: dg.JobDefinition, values: list[float], executor: dict) -> float:
    config = {"ops": {"split": {"config": {"values": values}}}, "execution": {"config": executor}}
    with (
        dg.DagsterInstance.get() as instance,
        dg.execute_job(dg.reconstructable(job), instance=instance, run_config=config) as found,
    ):
        return found.output_for_node("combine")


if __name__ == "__main__":
    in_process = "--in-process" in sys.argv
    # By default as many ops at once as there are cores; ops that wait are told to be all at once.
    forkserver = {"start_method": {"forkserver": {"preload_modules": ["dagster_peer"]}}}
    many = {"in_process": {}} if in_process else {"multiprocess": forkserver}
    at_once = {"multiprocess": {**forkserver, "max_concurrent": 16}}
    os.chdir(Path(__file__).parent)
    answer(
        [each for each in sys.argv[1:] if each != "--in-process"],
        version=dg.__version__,
        how="dynamic outputs in one process"
        if in_process
        else "dynamic outputs, a process each (forkserver)",
        items=lambda count: run(items, [float(each) for each in range(count)], many),
        waits=lambda seconds: run(waits, seconds, many if in_process else at_once),
    )
