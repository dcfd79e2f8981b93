"""What ran in a group and is no longer declared -> outcomes; on the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_fanout.declaration import PLACEHOLDER
from airflow_fanout.instance_states import total_duration
from airflow_fanout.names import instance_name, natural_key
from airflow_fanout.results import BranchOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_fanout.declaration import DeclaredGroup
    from airflow_fanout.instance_states import States

__all__ = ["removed_branches"]


def removed_branches(
    states: States, group: DeclaredGroup, known_task_ids: Iterable[str], *, map_index: int, index: int
) -> list[BranchOutcome]:
    """
    Outcomes of what ran in a group and is no longer declared: the Dag file changed during the run.

    :param states: States of the run's finished instances.
    :param group: The group; its branches' ids start with the group's.
    :param known_task_ids: Ids of all tasks that are declared now.
    :param map_index: Instances of this mapped task group alone; -1 outside of one.
    :param index: Place of the first of them.
    """
    known = {*known_task_ids, group.prefix + PLACEHOLDER}
    inner = sorted(
        {
            task_id.removeprefix(group.prefix + branch.name)
            for branch in group.branches
            for task_id in branch.task_ids
        },
        key=len,
        reverse=True,
    )
    lasts = tuple(
        {
            branch.last_task_id.removeprefix(group.prefix + branch.name)
            for branch in group.branches
            if len(branch.task_ids) > 1
        }
    )
    still_declared = tuple(f"{group.prefix}{branch.name}." for branch in group.branches)
    gone: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for task_id, at in states:
        if not task_id.startswith(group.prefix) or task_id in known or (map_index >= 0 and at != map_index):
            continue
        if task_id.startswith(still_declared):
            continue  # a task that a branch has lost
        name = task_id.removeprefix(group.prefix)
        # Tasks of one branch have the same endings in each: '.extract', '.load'.
        ending = next((each for each in inner if each and name.endswith(each)), "")
        gone.setdefault((name.removesuffix(ending), at), []).append((task_id, at))
    for name, at in sorted(gone, reverse=True):
        # Within a branch there may be mapped tasks, a teardown, and tasks of a kind that no other branch has.
        owner = next((each for each in _may_be_of(name, at) if each in gone), None)
        if owner is not None:
            gone[owner] += gone.pop((name, at))
    ordered = sorted(gone.items(), key=lambda pair: (natural_key(pair[0][0]), pair[0][1]))
    return [
        BranchOutcome(
            name=name if map_index >= 0 or at < 0 else instance_name(name, at),
            index=index + place,
            state="removed",
            error="it is no longer declared",
            task_id=max(
                (i for i, _ in instances), key=lambda task_id: (task_id.endswith(lasts), natural_key(task_id))
            ),
            map_index=at,
            duration=total_duration(states[instance] for instance in instances),
        )
        for place, ((name, at), instances) in enumerate(ordered)
    ]


def _may_be_of(name: str, at: int) -> Iterator[tuple[str, int]]:
    """What a name within a removed branch would be part of, the nearest first."""
    if at >= 0:
        yield name, -1
    while "." in name:
        name = name.rpartition(".")[0]
        yield from dict.fromkeys([(name, at), (name, -1)])
