"""What stands upstream of a fan-in, and what it collects from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.exceptions import PrefixError, UpstreamFailedError
from airflow_fanout.execution_time.batched import BatchNaming
from airflow_fanout.execution_time.items import names_and_items
from airflow_fanout.execution_time.mapped import InstanceNaming
from airflow_fanout.execution_time.sources import Source, branch_source
from airflow_fanout.rules.instances import States, unexpanded_state
from airflow_fanout.rules.names import natural_key
from airflow_fanout.rules.wording import counted, listing
from airflow_fanout.serialization.declaration import declared_group
from airflow_fanout.serialization.tasks import nearest_mapped_group, placeholder_matches

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup

    AnyOperator = BaseOperator | MappedOperator

__all__ = [
    "before_expansion",
    "group_sources",
    "no_branches",
    "of_this_package",
    "sources_by_prefix",
    "what_came_before",
]


def group_sources(
    fan_in: BaseOperator, declared: DeclaredGroup, context: Context, map_index: int
) -> list[Source]:
    """
    Say where to read the branches of a group.

    :param fan_in: The fan-in.
    :param declared: The group.
    :param context: The fan-in's context.
    :param map_index: The fan-in's own index in a mapped task group; -1 outside of one.
    """
    if declared.mode == "static":
        return [branch_source(branch, declared, map_index) for branch in declared.branches]
    group: Any = fan_in.dag.task_group.get_task_group_dict()[declared.group_id]
    if declared.mode == "batched":
        return [_mapped_source(declared, _batch_naming(group))]
    items: Any = group.items

    def ask() -> tuple[Sequence[str] | None, int]:
        names, found = names_and_items(group.title, items.resolve(context))
        return names, len(found)

    # Airflow maps over a mapping only where one task, which is not mapped itself, returned it.
    may_be_a_mapping = isinstance(items, PlainXComArg) and not items.operator.is_mapped
    naming = InstanceNaming(label=declared.label, names=declared.names, ask=ask if may_be_a_mapping else None)
    return [_mapped_source(declared, naming)]


def _batch_naming(group: Any, prefix: str = "") -> BatchNaming:
    return BatchNaming(
        prefix=prefix,
        label=group.declared.label,
        names=group.declared.names,
        split_task_id=str(group.split_task_id),
        may_be_named=group.items is not None and group.declared.count is None,
    )


def _mapped_source(declared: DeclaredGroup, naming: InstanceNaming | BatchNaming) -> Source:
    return Source(
        name=declared.each[-1],
        task_id=declared.each[-1],
        mapped=True,
        recorded=True,
        task_ids=declared.each,
        stoppable=declared.stop_after_failures is not None,
        naming=naming,
    )


def sources_by_prefix(fan_in: BaseOperator, prefix: object, map_index: int) -> list[Source]:
    """
    Match a prefix against the ids of a fan-in's direct upstream tasks, in natural order.

    :param fan_in: The fan-in.
    :param prefix: The prefix as rendered.
    :param map_index: The fan-in's own index in a mapped task group; -1 outside of one.
    :raises PrefixError: If nothing matches, or a task that is neither upstream nor downstream does.
    """
    if not isinstance(prefix, str) or not prefix:
        message = f"task_id_prefix: expected a prefix of task ids, not {prefix!r} (as rendered)"
        raise PrefixError(message, prefix=str(prefix), candidates=())
    helpers, branches = of_this_package(fan_in)
    _refuse_strays(fan_in, prefix, helpers)
    upstream = [task for task in fan_in.upstream_list if task.task_id.startswith(prefix)]
    placeholders = [i for i in fan_in.upstream_task_ids if i in helpers and placeholder_matches(i, prefix)]
    if not upstream and not placeholders:
        candidates = sorted(fan_in.upstream_task_ids - helpers.keys(), key=natural_key)
        message = f"No upstream task id starts with {prefix!r}; upstream: {listing(candidates)}"
        raise PrefixError(message, prefix=prefix, candidates=candidates)
    return [
        _source(fan_in, task, branches.get(task.task_id), map_index)
        for task in sorted(upstream, key=lambda task: natural_key(task.task_id))
        if task.task_id not in helpers
    ]


def what_came_before(
    fan_in: BaseOperator, states: States, sources: Sequence[Source], map_index: int
) -> UpstreamFailedError | AirflowSkipException | None:
    """
    What a direct upstream that is no branch, or mapped branches that never came to be, make the fan-in raise.

    :param fan_in: The fan-in.
    :param states: States of the run's finished instances.
    :param sources: What the fan-in collects.
    :param map_index: The fan-in's own index in a mapped task group; -1 outside of one.
    :returns: An ``UpstreamFailedError`` if one of them failed, an ``AirflowSkipException`` if one was
        skipped; else None.
    """
    found = {
        task.task_id: set(_states_of(states, task, fan_in, map_index))
        for task in no_branches(fan_in, sources)
    }
    unexpanded = {
        source.task_id: state
        for source in sources
        if source.mapped and (state := unexpanded_state(states, source.task_id))
        # An empty list leaves one skipped instance, and so does a skipped upstream.
        if state != "skipped" or not _had_no_items(fan_in, states, source.task_id)
    }
    found |= {task_id: {state} for task_id, state in unexpanded.items()}
    if failed := [task_id for task_id, its in found.items() if its & {"failed", "upstream_failed"}]:
        causes = _causes(fan_in, states, failed)
        because = f" (because of {listing(causes)})" if causes else ""
        message = f"Failed, and no branch: {listing(failed)}{because}. No branch can make up for that."
        return UpstreamFailedError(message, task_ids=failed)
    if skipped := [task_id for task_id, its in found.items() if "skipped" in its]:
        message = f"Skipped, and no branch: {listing(skipped)}"
        return AirflowSkipException(message)
    if unexpanded:
        message = (
            f"Marked by hand before it was expanded, so that nobody knows its branches: {listing(unexpanded)}"
        )
        return UpstreamFailedError(message, task_ids=list(unexpanded))
    return None


def no_branches(fan_in: BaseOperator, sources: Sequence[Source]) -> list[AnyOperator]:
    """
    Direct upstream tasks of a fan-in that it collects nothing from; teardowns say nothing of the run.

    :param fan_in: The fan-in.
    :param sources: What it collects.
    """
    collected = {source.task_id for source in sources}
    return [task for task in fan_in.upstream_list if task.task_id not in collected and not task.is_teardown]


def _source(
    fan_in: BaseOperator,
    task: AnyOperator,
    own: tuple[DeclaredGroup, DeclaredBranch | None] | None,
    map_index: int,
) -> Source:
    mapped = _is_expanded(task, fan_in)
    map_index = map_index if nearest_mapped_group(task.task_group) else -1
    if own is not None and not mapped:
        group, branch = own
        if branch is not None and task.task_id == branch.last_task_id:
            return branch_source(branch, group, map_index, name=task.task_id)
    if own is not None and own[1] is None and task.task_id == own[0].each[-1]:
        declared = own[0]
        if declared.mode == "mapped":
            return _mapped_source(declared, InstanceNaming(label=None))
        batched: Any = fan_in.dag.task_group.get_task_group_dict()[declared.group_id]
        return _mapped_source(declared, _batch_naming(batched, declared.prefix))
    return Source(
        name=task.task_id,
        task_id=task.task_id,
        mapped=mapped,
        recorded=own is not None,
        map_index=map_index,
    )


def of_this_package(
    fan_in: BaseOperator,
) -> tuple[dict[str, Any], dict[str, tuple[DeclaredGroup, DeclaredBranch | None]]]:
    """In the whole Dag: this package's helper tasks with their groups, and its branches by their tasks."""
    helpers: dict[str, Any] = {}
    branches: dict[str, tuple[DeclaredGroup, DeclaredBranch | None]] = {}
    for group in fan_in.dag.task_group.get_task_group_dict().values():
        if (declared := declared_group(group)) is not None:
            made: Any = group
            helpers |= dict.fromkeys(filter(None, (made.placeholder_task_id, made.split_task_id)), made)
            branches |= dict.fromkeys(declared.each, (declared, None))
            branches |= {
                task_id: (declared, branch) for branch in declared.branches for task_id in branch.task_ids
            }
    return helpers, branches


def _refuse_strays(fan_in: BaseOperator, prefix: str, helpers: Collection[str]) -> None:
    known = {fan_in.task_id, *helpers}
    known |= fan_in.get_flat_relative_ids(upstream=True) | fan_in.get_flat_relative_ids(upstream=False)
    strays = [
        task_id
        for task_id, task in fan_in.dag.task_dict.items()
        # A teardown of a branch comes after it, beside the fan-in.
        if task_id.startswith(prefix) and task_id not in known and not task.is_teardown
    ]
    if strays:
        message = (
            f"{counted(len(strays), 'task starts', 'tasks start')} with {prefix!r} and "
            f"{'is' if len(strays) == 1 else 'are'} neither upstream nor downstream of "
            f"{fan_in.task_id!r}: {listing(strays)}. Wire what is missing (task >> fan_in), or choose a "
            f"longer prefix; upstream: {listing(fan_in.upstream_task_ids)}"
        )
        raise PrefixError(message, prefix=prefix, candidates=sorted(strays, key=natural_key))


def _had_no_items(fan_in: BaseOperator, states: States, task_id: str) -> bool:
    """Whether a mapped task has no instances because there were no items, and not because of a skip."""
    return all(
        state == "success"
        for each, upstream in before_expansion(fan_in, task_id)
        for state in _states_of(states, upstream, each, -1)
    )


def before_expansion(fan_in: BaseOperator, task_id: str) -> Iterator[tuple[AnyOperator, AnyOperator]]:
    """
    What a mapped task, or the mapped group that it is in, is expanded after.

    :param fan_in: A task of the same Dag.
    :param task_id: Id of the mapped task.
    :returns: Pairs of a task that is expanded and one directly before it that is not.
    """
    task = fan_in.dag.get_task(task_id)
    mapped_group = next(task.task_group.iter_mapped_task_groups(), None) if task.task_group else None
    expanded: list[Any] = [task] if mapped_group is None else list(mapped_group.iter_tasks())
    within = {each.task_id for each in expanded}
    for each in expanded:
        yield from ((each, upstream) for upstream in each.upstream_list if upstream.task_id not in within)


def _causes(fan_in: BaseOperator, states: States, task_ids: Sequence[str]) -> list[str]:
    """Failed tasks further up, for those that are only ``upstream_failed``."""
    before = {
        i for task_id in task_ids for i in fan_in.dag.get_task(task_id).get_flat_relative_ids(upstream=True)
    }
    return sorted(
        {task_id for (task_id, _), its in states.items() if task_id in before and its.state == "failed"}
    )


def _is_expanded(task: AnyOperator, reader: BaseOperator) -> bool:
    """Whether a reader sees many instances of a task: mapped, or in a mapped group that it is not in."""
    its, ours = nearest_mapped_group(task.task_group), nearest_mapped_group(reader.task_group)
    return bool(task.is_mapped) or (its is not None and its != ours)


def _states_of(states: States, task: AnyOperator, reader: AnyOperator, map_index: int) -> Iterator[str]:
    """States of the instances of a task that a reader has before it."""
    its, ours = nearest_mapped_group(task.task_group), nearest_mapped_group(reader.task_group)
    together = its is not None and its == ours and map_index >= 0
    for (task_id, at), found in states.items():
        if task_id == task.task_id and (not together or at == map_index):
            yield found.state
