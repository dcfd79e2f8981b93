"""What a fan-in collects, and what the server knows of it -> one outcome for every branch."""

from __future__ import annotations

import logging
from itertools import groupby
from typing import TYPE_CHECKING

from airflow_fanout.execution_time.batched import batch_pages
from airflow_fanout.execution_time.mapped import group_pages
from airflow_fanout.execution_time.results import Page
from airflow_fanout.execution_time.wiring import refuse_running
from airflow_fanout.execution_time.xcom import PAGE_SIZE, BranchReader, RunReader, at_once
from airflow_fanout.rules.identity import REMOVED
from airflow_fanout.rules.instances import States, instances_of, total_duration
from airflow_fanout.rules.names import instance_name, natural_key
from airflow_fanout.rules.outcomes import BranchOutcome, Ruling
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.stored_values import values_lie_elsewhere

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from airflow_fanout.execution_time.wiring import Source
    from airflow_fanout.serialization.declaration import DeclaredGroup

log = logging.getLogger(__name__)


def collect(reader: RunReader, states: States, sources: Sequence[Source], key: str) -> list[Page]:
    """Find the outcome of every branch, in the order of the sources; raises if one is not finished."""
    _refuse_unfinished(reader, states, sources)
    pages: list[Page] = []
    start = 0
    for is_mapped, alike in groupby(sources, key=lambda source: source.is_mapped):
        read = _mapped_pages if is_mapped else _branch_pages
        for page in read(reader, states, list(alike), key, start):
            pages.append(page)
            start += len(page)
    return pages


def _branch_pages(
    reader: RunReader, states: States, sources: Sequence[Source], key: str, start: int
) -> Iterator[Page]:
    """Read branches with a request or more for each, some at the same time."""
    branches = [(source.name, source.tasks) for source in sources]
    outcomes = at_once(lambda branch: BranchReader(reader, states).outcome(*branch, key), branches)
    foreign = {source.name for source in sources if not source.tasks.is_ours}
    if silent := [o.name for o in outcomes if o.name in foreign and o.state == "success" and o.value is None]:
        log.info(
            "No value, taken for None; if somebody marked them success, nobody can tell: %s", listing(silent)
        )
    yield Page.of(outcomes, start)


def _mapped_pages(
    reader: RunReader, states: States, sources: Sequence[Source], key: str, start: int
) -> Iterator[Page]:
    for source in sources:
        if source.group is None:
            pages = _instance_pages(reader, states, source, key, start)
        elif source.group.mode == "batched":
            pages = batch_pages(reader, states, source, start)
        else:
            pages = group_pages(reader, states, source, key, start)
        for page in pages:
            yield page
            start += len(page)


def _instance_pages(
    reader: RunReader, states: States, source: Source, key: str, start: int
) -> Iterator[Page]:
    """Read anybody's mapped task: in pages where positions are identities, one by one where they are not."""
    instances = instances_of(states, source.task_id)
    if not instances:
        return
    success_count = sum(instance.state == "success" for instance in instances.values())
    value_count = reader.value_count(source.task_id, key)
    if success_count == value_count == len(instances):
        for first in range(0, len(instances), PAGE_SIZE):
            indexes = list(instances)[first : first + PAGE_SIZE]
            yield _instance_page(reader, states, source, key, indexes=indexes, first=first, start=start)
        return
    log.info(
        "%s: %s of %s instances succeeded and pushed %s values; positions don't tell whose they are, so that "
        "each is read alone",
        source.task_id,
        success_count,
        len(instances),
        value_count,
    )
    yield from _branch_pages(reader, states, [source.instance(index) for index in instances], key, start)


def _instance_page(
    reader: RunReader,
    states: States,
    source: Source,
    key: str,
    *,
    indexes: Sequence[int],
    first: int,
    start: int,
) -> Page:
    """Make a page of instances all of which succeeded and pushed a value, the first of them at a position."""
    is_last = indexes[-1] == max(instances_of(states, source.task_id))
    page = Page(
        start=start + first,
        names=[instance_name(source.name, index) for index in indexes],
        rulings=[Ruling(state="success")] * len(indexes),
        instances=[(source.task_id, index) for index in indexes],
        durations=[states[source.task_id, index].duration for index in indexes],
        load=lambda: BranchReader(reader, states).page(source.task_id, key, indexes, first, is_last=is_last),
    )
    # A value that is gone has to be found out before the verdict.
    return page.settle() if values_lie_elsewhere() else page


def _refuse_unfinished(reader: RunReader, states: States, sources: Sequence[Source]) -> None:
    unfinished = [s.name for s in sources if not s.is_mapped and (s.task_id, s.map_index) not in states]
    # A mapped group of this package finds out by itself.
    mapped = [source.task_id for source in sources if source.is_mapped and source.group is None]
    if mapped:
        finished_count = sum(task_id in set(mapped) for task_id, _ in states)
        running_count = reader.instance_count(mapped) - finished_count
        if running_count:
            unfinished.append(f"{running_count} instances of {listing(mapped)}")
    if unfinished:
        how = "cleared after this fan-in had been started, or added to the Dag file after the run had"
        refuse_running(unfinished, how)


def refuse_cleared(reader: RunReader, states: States, pages: Iterable[Page]) -> None:
    """
    Refuse to take for None, or for missing, what a branch has lost because it runs again.

    Airflow deletes what a task pushed when its next try starts; that try may have ended already.
    """
    now = reader.states()
    branches = (branch for page in pages for branch in page.instances())
    names = [name for name, instance in branches if now.get(instance) != states.get(instance)]
    if names:
        refuse_running(names, "cleared while this fan-in was reading")


def removed_branches(
    states: States, group: DeclaredGroup, declared_ids: Container[str], *, map_index: int, start: int
) -> Page | None:
    """Account for tasks that ran in a static group and are no longer declared: the Dag file changed."""
    removed: dict[str, list[tuple[str, int]]] = {}
    for task_id, index in states:
        name = None if task_id in declared_ids else group.undeclared_branch(task_id)
        if name is not None and (map_index < 0 or index == map_index):
            removed.setdefault(name, []).append((task_id, index))
    outcomes = [
        BranchOutcome(
            name=name,
            index=0,
            state="removed",
            error=REMOVED.error,
            task_id=max(removed[name])[0],
            map_index=max(removed[name])[1],
            duration=total_duration(states[instance] for instance in removed[name]),
        )
        for name in sorted(removed, key=natural_key)
    ]
    return Page.of(outcomes, start) if outcomes else None
