"""What was declared, and what the server knows of it -> one outcome for every branch; on the worker."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from airflow_fanout.branch_outcomes import read_one_by_one
from airflow_fanout.exceptions import BranchesRunningError
from airflow_fanout.instance_pages import read_instances
from airflow_fanout.names import listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_fanout.instance_states import States
    from airflow_fanout.results import Page
    from airflow_fanout.sources import Source
    from airflow_fanout.xcom import RunReader

__all__ = ["collect", "refuse_cleared"]


def collect(reader: RunReader, states: States, sources: Sequence[Source], key: str) -> list[Page]:
    """
    Find the outcome of every branch, in the order of the sources.

    :param reader: Reads the run.
    :param states: States of the run's finished instances.
    :param sources: What was declared.
    :param key: XCom key of each branch's value.
    :raises BranchesRunningError: If a branch is not finished: it was cleared after the fan-in had been
        started.
    """
    _refuse_unfinished(reader, states, sources)
    pages: list[Page] = []
    index = 0
    for mapped, alike in groupby(sources, key=lambda source: source.mapped):
        read = _read_mapped if mapped else read_one_by_one
        for page in read(reader, states, alike, key, index):
            pages.append(page)
            index += len(page)
    return pages


def _read_mapped(
    reader: RunReader, states: States, sources: Iterable[Source], key: str, index: int
) -> Iterator[Page]:
    for source in sources:
        if source.naming is None:
            pages = read_instances(reader, states, source, key, index)
        else:
            pages = source.naming.read(reader, states, source, key, index)
        for page in pages:
            yield page
            index += len(page)


def _refuse_unfinished(reader: RunReader, states: States, sources: Sequence[Source]) -> None:
    unfinished = [s.name for s in sources if not s.mapped and (s.task_id, s.map_index) not in states]
    # A mapped group of this package finds out by itself.
    mapped = [source.task_id for source in sources if source.mapped and source.naming is None]
    if mapped:
        finished = sum(task_id in set(mapped) for task_id, _ in states)
        running = reader.instance_count(mapped) - finished
        if running:
            unfinished.append(f"{running} instances of {listing(mapped)}")
    if unfinished:
        message = (
            f"Branches are not finished: {listing(unfinished)}. They were cleared after this fan-in had been "
            "started, or added to the Dag file after the run had. It takes them in when it runs again."
        )
        raise BranchesRunningError(message, names=unfinished)


def refuse_cleared(reader: RunReader, states: States, pages: Iterable[Page]) -> None:
    """
    Refuse to take for None, or for missing, what a branch has lost because it runs again.

    Airflow deletes what a task pushed when its next try starts; that try may have ended already.

    :param reader: Reads the run.
    :param states: States of the run's finished instances, as they were before any value was read.
    :param pages: What was read.
    :raises BranchesRunningError: If a branch is no longer what it was then.
    """
    now = reader.states()
    heads = (page.peek(place) for page in pages for place in range(len(page)))
    names = [
        head.name
        for head in heads
        if now.get((head.task_id, head.map_index)) != states[head.task_id, head.map_index]
    ]
    if names:
        message = (
            f"Branches are not finished: {listing(names)}. They were cleared while this fan-in was reading. "
            "It takes them in when it runs again."
        )
        raise BranchesRunningError(message, names=names)
