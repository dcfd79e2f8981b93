"""What stands upstream of a fan-in, and what it collects from."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import XComArg
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.exceptions import BranchesRunningError, ItemsError, PrefixError, UpstreamFailedError
from airflow_fanout.execution_time.arguments import is_run_time
from airflow_fanout.execution_time.items import (
    names_and_items,
    read_at_once,
    source_and_functions,
    whole_count,
)
from airflow_fanout.execution_time.reused import GroupReuse
from airflow_fanout.rules.instances import States, unexpanded_state
from airflow_fanout.rules.names import instance_name, natural_key
from airflow_fanout.rules.outcomes import BranchTasks
from airflow_fanout.rules.records import SKIPPED_KEY, is_skipped_by
from airflow_fanout.rules.wording import counted, listing
from airflow_fanout.serialization.declaration import declared_group
from airflow_fanout.serialization.tasks import nearest_mapped_group, placeholder_matches
from airflow_fanout.storage.stored_items import StoredItems

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.execution_time.combination import Combination
    from airflow_fanout.execution_time.xcom import RunReader
    from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredFanIn, DeclaredGroup

    AnyOperator = BaseOperator | MappedOperator


@dataclass(frozen=True, kw_only=True)
class Source:
    """
    A branch that a fan-in collects, or a mapped task each of whose instances is one, or runs a batch.

    :param name: Name of the branch; of a mapped task, the part before ``[map_index]``.
    :param group: The group of this package whose branches the instances are; None of any other task.
    :param combination: How such a group folds its values; None if they are kept by name.
    :param by_prefix: Whether a prefix brought it in: then names are task ids.
    :param may_have_names: Whether the items of such a group, known only at run time, may have names.
    :param ask_items: Asks the items' task for the names, None of a list, and the number of what it has
        yielded last; None if they are declared.
    :param reuse: What is to be stored of such a group for later runs; None if nothing is.
    :param had_no_items: Whether such a group that never was expanded had no items, and was not skipped
        because a task before it was.
    """

    name: str
    tasks: BranchTasks
    is_mapped: bool = False
    group: DeclaredGroup | None = None
    combination: Combination | None = None
    by_prefix: bool = False
    may_have_names: bool = False
    ask_items: Callable[[], tuple[Sequence[str] | None, int]] | None = None
    reuse: GroupReuse | None = None
    had_no_items: Callable[[States], bool] = lambda _: False

    def never_expands(self, states: States) -> bool:
        """Whether it has no instances, nor gets any; if it had no items, there may be some now."""
        state = unexpanded_state(states, self.task_id)
        return state is not None and not (state == "skipped" and self.had_no_items(states))

    @property
    def task_id(self) -> str:
        """Id of the task that the value comes from."""
        return self.tasks.task_ids[-1]

    @property
    def map_index(self) -> int:
        """Index of its instance; -1 if it is mapped itself, or in no mapped task group."""
        return self.tasks.map_index

    def instance(self, map_index: int, name: str | None = None) -> Source:
        """One instance of a mapped task as a branch of its own."""
        return replace(
            self,
            name=instance_name(self.name, map_index) if name is None else name,
            tasks=replace(self.tasks, map_index=map_index),
            is_mapped=False,
        )


def group_sources(
    fan_in: BaseOperator, declared: DeclaredGroup, context: Context, map_index: int
) -> list[Source]:
    """Say where to read the branches of a group."""
    if declared.mode == "static":
        return [
            Source(name=branch.name, tasks=BranchTasks(task_ids=branch.task_ids, map_index=map_index))
            for branch in declared.branches
        ]
    return [_group_source(fan_in, declared, context)]


def _group_source(
    fan_in: BaseOperator, declared: DeclaredGroup, context: Context, *, by_prefix: bool = False
) -> Source:
    group: Any = fan_in.dag.task_group.get_task_group_dict()[declared.group_id]
    is_known = declared.count is not None
    may_have_names = group.items is not None and not is_known
    if isinstance(group.items, StoredItems):
        may_have_names = group.items.has_names
    if declared.mode == "mapped":
        may_have_names = (
            may_have_names and declared.items_from is not None and not source_and_functions(group.items)[1]
        )
    asks = not is_known and (declared.mode == "mapped" or bool(declared.cut_from))
    return Source(
        may_have_names=may_have_names,
        name=declared.each[-1],
        tasks=BranchTasks(task_ids=declared.each),
        is_mapped=True,
        group=declared,
        combination=group.combination,
        by_prefix=by_prefix,
        ask_items=partial(_yielded, fan_in, group, context) if asks else None,
        reuse=GroupReuse(expire_after=group.reuse.expire_after) if declared.reuses else None,
        had_no_items=partial(_had_no_items, fan_in, declared.each[-1], context),
    )


def _yielded(fan_in: BaseOperator, group: Any, context: Context) -> tuple[Sequence[str] | None, int]:
    """Ask the items' task for the names, None of a list, and the number of what it has yielded last."""
    from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

    from airflow_fanout.execution_time.xcom import current_count

    ti: Any = context["ti"]
    is_batched = group.declared.mode == "batched"
    # Of a split that counts, or multiplies, it doesn't matter what it had found: its task may have run again.
    items = group.count if group.items is None else group.items
    if not isinstance(items, XComArg):
        items = fan_in.dag.get_task(group.split_task_id).output  # the count is a Dag param
    if is_batched:
        items, _ = source_and_functions(items)  # as split, which leaves .map() to the batches
    value = _resolved(items, context)
    if value is None:
        raise cleared_items(_task_ids(items))
    if items is group.count:
        return None, whole_count(group.title, value)
    if is_batched:
        value = read_at_once(value, lambda values: values[: current_count(ti, values)])
    names, found = names_and_items(group.title, value)
    return names, current_count(ti, found) if isinstance(found, LazyXComSequence) else len(found)


def _resolved(items: Any, context: Context) -> Any:
    """Read items; raises ``ItemsError`` if they are no longer stored."""
    try:
        return items.resolve(context)
    except FileNotFoundError as gone:  # the body of an object-storage XCom
        raise lost_items(_task_ids(items), gone) from None


def _task_ids(items: Any) -> str:
    return ", ".join(task.task_id for task, _ in items.iter_references())


def lost_items(task_id: str, gone: FileNotFoundError) -> ItemsError:
    """Make the error of items whose number is no longer stored."""
    return ItemsError(
        f"The items are not known: what {task_id!r} returned is no longer stored ({gone}). "
        "Clear it, with the branches that come after it"
    )


def refuse_running(names: Sequence[str], how: str = "cleared after this fan-in had been started") -> NoReturn:
    """Refuse to account for branches that are running again."""
    message = (
        f"Branches are not finished: {listing(names)}. They were {how}. It takes them in when it runs again."
    )
    raise BranchesRunningError(message, names=names)


def refuse_unfinished(reader: RunReader, task_id: str, states: States, names: Sequence[str]) -> None:
    """Refuse to account for expected instances of a mapped task of which some are running again."""
    finished = {index for of, index in states if of == task_id}
    missing = [name for index, name in enumerate(names) if index not in finished]
    unfinished_count = reader.instance_count([task_id]) - len(finished) if missing else 0
    if unfinished_count > 0:
        refuse_running(missing[:unfinished_count])


def cleared_items(task_id: str) -> BranchesRunningError:
    """Make the error of items whose task has begun its next try, or whose XCom somebody has deleted."""
    message = (
        f"{task_id!r} no longer says which items there are: it was cleared after this fan-in had been "
        "started, which takes them in when it runs again."
    )
    return BranchesRunningError(message, names=[task_id])


def sources_by_prefix(fan_in: BaseOperator, prefix: object, context: Context, map_index: int) -> list[Source]:
    """Match a prefix, as rendered, against the ids of a fan-in's direct upstream tasks, in natural order."""
    if not isinstance(prefix, str) or not prefix:
        message = f"task_id_prefix: expected a prefix of task ids, found {prefix!r} (as rendered)"
        raise PrefixError(message, prefix=str(prefix), candidates=())
    helpers, branches = fan_out_tasks(fan_in)
    _refuse_strays(fan_in, prefix, helpers)
    upstream = [task for task in fan_in.upstream_list if task.task_id.startswith(prefix)]
    placeholders = [i for i in fan_in.upstream_task_ids if i in helpers and placeholder_matches(i, prefix)]
    if not upstream and not placeholders:
        candidates = sorted(fan_in.upstream_task_ids - helpers.keys(), key=natural_key)
        message = f"No upstream task id starts with {prefix!r}; upstream: {listing(candidates)}"
        raise PrefixError(message, prefix=prefix, candidates=candidates)
    return [
        _prefix_source(fan_in, task, branches.get(task.task_id), context, map_index)
        for task in sorted(upstream, key=lambda task: natural_key(task.task_id))
        if task.task_id not in helpers
    ]


def combinations_of(
    fan_in: BaseOperator, declared: DeclaredFanIn, sources: Sequence[Source]
) -> list[Combination]:
    """Say how the groups that a fan-in collects, also one without branches, fold their values."""
    groups: list[DeclaredGroup | None] = [declared.group, *(source.group for source in sources)]
    if (prefix := declared.task_id_prefix) is not None:
        helpers, _ = fan_out_tasks(fan_in)
        before = sorted(fan_in.upstream_task_ids & helpers.keys())
        groups += [declared_group(helpers[i]) for i in before if placeholder_matches(i, prefix)]
    made: dict[str, Any] = fan_in.dag.task_group.get_task_group_dict()
    group_ids = dict.fromkeys(group.group_id for group in groups if group is not None and group.combined)
    return [made[group_id].combination for group_id in group_ids]


def upstream_failure(
    fan_in: BaseOperator,
    states: States,
    sources: Sequence[Source],
    map_index: int,
    context: Context | None = None,
) -> UpstreamFailedError | AirflowSkipException | None:
    """
    Say what a fan-in raises because of an upstream task that is no branch, or of unexpanded branches.

    :param context: What items are read with, a request or more, if mapped branches were skipped before they
        were expanded; None if a skip says that there were none.
    """
    unexpanded = _unexpanded(fan_in, states, sources, context)
    upstream = {
        task.task_id: set(_states_of(states, task, fan_in, map_index))
        for task in other_upstreams(fan_in, sources)
    }
    upstream |= {task_id: {state} for task_id, state in unexpanded.items()}
    failed = [task_id for task_id, found in upstream.items() if found & {"failed", "upstream_failed"}]
    if failed:
        return UpstreamFailedError(_failed_upstream(failed, _causes(fan_in, states, failed)), task_ids=failed)
    if skipped := [task_id for task_id, found in upstream.items() if "skipped" in found]:
        tasks, was = ("task", "was") if len(skipped) == 1 else ("tasks", "were")
        return AirflowSkipException(f"Upstream {tasks} {listing(skipped)} {was} skipped")
    if unexpanded:
        message = (
            f"{listing(unexpanded)} was marked by hand before Airflow expanded it, so its branches are not "
            "known. Clear it"
        )
        return UpstreamFailedError(message, task_ids=list(unexpanded))
    return None


def _failed_upstream(task_ids: Sequence[str], causes: Sequence[str]) -> str:
    one = len(task_ids) == 1
    because = f", because {listing(causes)} failed" if causes else ""
    return (
        f"Upstream {'task' if one else 'tasks'} {listing(task_ids)} failed{because}. "
        f"{'It is' if one else 'They are'} not one of the branches, so min_success does not apply to "
        f"{'it' if one else 'them'}."
    )


def _unexpanded(
    fan_in: BaseOperator, states: States, sources: Sequence[Source], context: Context | None
) -> dict[str, str]:
    """States of mapped tasks that have no instances although there may have been items."""
    return {
        source.task_id: state
        for source in sources
        if source.is_mapped and (state := unexpanded_state(states, source.task_id))
        # An empty list leaves one skipped instance, and so does a skipped upstream.
        if state != "skipped"
        or not _had_no_items(fan_in, source.task_id, context, states)
        # What was not made by this package says nothing of items that there are now.
        or (
            source.group is None and context is not None and _item_count(fan_in, source.task_id, context) != 0
        )
    }


def other_upstreams(fan_in: BaseOperator, sources: Sequence[Source]) -> list[AnyOperator]:
    """Direct upstream tasks that are no branches; teardowns say nothing of the run."""
    collected = {source.task_id for source in sources}
    return [task for task in fan_in.upstream_list if task.task_id not in collected and not task.is_teardown]


def _prefix_source(
    fan_in: BaseOperator,
    task: AnyOperator,
    own: tuple[DeclaredGroup, DeclaredBranch | None] | None,
    context: Context,
    map_index: int,
) -> Source:
    is_mapped = _is_expanded(task, fan_in)
    if own is not None:
        group, branch = own
        if branch is None and task.task_id == group.each[-1]:
            return _group_source(fan_in, group, context, by_prefix=True)
    task_ids: tuple[str, ...] = (task.task_id,)
    if own is not None and not is_mapped and branch is not None and task.task_id == branch.last_task_id:
        task_ids = branch.task_ids
    index = map_index if nearest_mapped_group(task.task_group) and not is_mapped else -1
    return Source(
        name=task.task_id,
        tasks=BranchTasks(task_ids=task_ids, map_index=index, is_ours=own is not None),
        is_mapped=is_mapped,
    )


def fan_out_tasks(
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


def _had_no_items(fan_in: BaseOperator, task_id: str, context: Context | None, states: States) -> bool:
    """
    Whether a mapped task has no instances because there were no items, and not because of a skip.

    :param context: What is asked with, one request each, what branching tasks before it skipped: they succeed
        too. None if there is nobody to ask.
    """
    pairs = list(tasks_before_expansion(fan_in, task_id))
    return all(
        state == "success" for task, before in pairs for state in _states_of(states, before, task, -1)
    ) and not any(context is not None and _is_skipped_by(before, task, context) for task, before in pairs)


def _is_skipped_by(before: AnyOperator, task: AnyOperator, context: Context) -> bool:
    """Whether a task before another one has skipped that: branching, short-circuit, latest-only."""
    kind = before.operator_class if before.is_mapped else type(before)
    if getattr(kind, "inherits_from_skipmixin", False) is not True:  # a property where it is not
        return False
    pushed = context["ti"].xcom_pull(task_ids=before.task_id, key=SKIPPED_KEY, map_indexes=-1)
    return is_skipped_by(pushed, task.task_id)


def _item_count(fan_in: BaseOperator, task_id: str, context: Context) -> int | None:
    """Count what a mapped task is to be expanded over; None if nothing, or something else, is there."""
    mapped: Any = fan_in.dag.get_task(task_id)
    group: Any = next(mapped.task_group.iter_mapped_task_groups(), None) if mapped.task_group else None
    expand_input = mapped._get_specified_expand_input() if group is None else group._expand_input  # noqa: SLF001
    given = expand_input.value
    values = []
    for expanded in given.values() if isinstance(given, Mapping) else [given]:
        source, _ = source_and_functions(expanded)
        values.append(_resolved(source, context) if is_run_time(source) else source)
    return min(map(len, values)) if all(isinstance(value, Sized) for value in values) else None


def tasks_before_expansion(fan_in: BaseOperator, task_id: str) -> Iterator[tuple[AnyOperator, AnyOperator]]:
    """Pairs of a task that is expanded with a mapped one, and a task directly before it that is not."""
    mapped: Any = fan_in.dag.get_task(task_id)
    mapped_group = next(mapped.task_group.iter_mapped_task_groups(), None) if mapped.task_group else None
    expanded: list[Any] = [mapped] if mapped_group is None else list(mapped_group.iter_tasks())
    expanded_ids = {task.task_id for task in expanded}
    for task in expanded:
        yield from (
            (task, upstream) for upstream in task.upstream_list if upstream.task_id not in expanded_ids
        )


def _causes(fan_in: BaseOperator, states: States, task_ids: Sequence[str]) -> list[str]:
    """Failed tasks further up, for those that are only ``upstream_failed``."""
    before: set[str] = set()
    for task_id in task_ids:
        before |= fan_in.dag.get_task(task_id).get_flat_relative_ids(upstream=True)
    return sorted({i for (i, _), instance in states.items() if i in before and instance.state == "failed"})


def _is_expanded(task: AnyOperator, reader: BaseOperator) -> bool:
    """Whether a reader sees many instances of a task: mapped, or in a mapped group that it is not in."""
    group = nearest_mapped_group(task.task_group)
    return bool(task.is_mapped) or (group is not None and group != nearest_mapped_group(reader.task_group))


def _states_of(
    states: States, task: AnyOperator, reader: AnyOperator, map_index: int
) -> Iterator[str | None]:
    """States of the instances of a task that a reader has before it."""
    group = nearest_mapped_group(task.task_group)
    is_together = group is not None and group == nearest_mapped_group(reader.task_group) and map_index >= 0
    for (task_id, index), instance in states.items():
        if task_id == task.task_id and (not is_together or index == map_index):
            yield instance.state
