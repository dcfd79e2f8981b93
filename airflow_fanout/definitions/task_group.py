"""``FanOutGroup``, the task group that declares parallel branches; runs when the Dag is parsed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import attrs
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import TaskGroup, XComArg
from airflow.sdk.definitions.xcom_arg import ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.definitions.branches import Branch, as_branch, titles
from airflow_fanout.definitions.expansion import Expansion
from airflow_fanout.definitions.function_branches import FunctionBranch
from airflow_fanout.definitions.group_checks import GroupChecks, refuse_unknown_arguments
from airflow_fanout.definitions.stored_arguments import storable
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import NO_ITEM, is_run_time
from airflow_fanout.execution_time.recording import record_failure
from airflow_fanout.operators.hooks import add_stop
from airflow_fanout.operators.split import SplitOperator, settings_of_its_own
from airflow_fanout.rules.capacity import Limit, describe, effective_concurrency
from airflow_fanout.rules.names import EACH, PLACEHOLDER, SPLIT, indexed_names, unusable_because
from airflow_fanout.rules.wording import counted, listing
from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup, Mode

if TYPE_CHECKING:
    from airflow.sdk.definitions.param import DagParam

    from airflow_fanout.execution_time.batch_work import BatchWork


__all__ = ["FanOutGroup"]

SHOWN_NAME_LENGTH = 250
"""Longest name of an instance that Airflow's database takes."""

A_POOL = 'make a pool with that many slots and give default_args={"pool": …}'
"""How branches are limited that Airflow has no other limit for."""

ENDS_FIRST = "with weight_rule='upstream' beside it a branch that has begun goes before the next one"
"""What keeps a pool from running the first tasks of all branches before the last of any."""

NAMES_SHOWN = 20
"""Names that a group's documentation spells out."""


@refuse_unknown_arguments
@attrs.define(repr=False, eq=False)
class FanOutGroup(TaskGroup, ResolveMixin):
    """
    A task group of parallel branches: how many, what each runs, and nothing else.

    One of ``count``, ``items`` and a mapping as ``branch`` says how many. A branch's name is ``<label>_<i>``,
    where label is ``group_id`` without its parents', or the mapping's key; its task id is
    ``<group_id>.<name>`` (``prefix_group_id=False``: ``<name>``). What came of each branch is for a
    :class:`~airflow_fanout.FanInOperator`, given ``fan_out=`` this group.

    .. code-block:: python

        process = FanOutGroup("process", branch=process_step, count=8, partial={"input_data": load_step()})

    :param group_id: Id of the group, as for any ``TaskGroup``.
    :param branch: What one branch runs: a ``@task`` function (with ``.override()`` and ``.partial()`` if
        wanted) or a plain function, which becomes a Python task; a ``@task_group`` function, whose last
        task's value is the branch's; an operator class, or ``functools.partial`` of one; a list of functions,
        one task that hands each one's value to the next; or a mapping ``{name: any of these}``, different
        work for each name.
    :param count: Number of branches, 0 or more; a Dag param or the output of a task is a number known at run
        time. A function with a parameter ``index`` is given 0, 1, ….
    :param items: A list, or a mapping ``{name: item}``, or the output of a task that returns either at run
        time: one branch for each. The function gets its item as
        its first parameter that is not bound; Airflow's context names (``ti``, ``ds``, …) don't count. For an
        operator class each item is a dict of the arguments to add.
    :param partial: Arguments that are bound in every branch; values may be XComArgs. In a list of functions
        they go to the first.
    :param mapped: Whether all branches are instances of one mapped task ``<group_id>.each``; None: if their
        number is known only at run time.
    :param max_concurrency: Instances of that task that run at once. A static group can't be limited.
    :param items_per_task: Number of items that one task runs, one after another or ``item_concurrency`` at a
        time. The branches are then plain Python functions, and a retry runs only the items that failed or had
        not ended (from Airflow 3.3 on). A task ``<group_id>.split`` cuts them into batches.
    :param item_concurrency: Items of one task that run at once, in threads, or on an event loop if the
        function is ``async def``; no more than ``items_per_task``. Default 1; for a mapping of functions all
        of a task's items.
    :param stop_after_failures: Number of failed branches after which those that have not started are
        skipped; each asks once before it starts, one request. What is retried or cleared runs. For the fan-in
        they are skipped with the reason, stay expected and count as failures, whatever ``count_skipped``
        says.
    :raises DeclarationValueError: If an argument has an unusable value; a ``ValueError``.
    :raises DeclarationTypeError: If an argument has the wrong type; a ``TypeError``.

    All arguments of ``TaskGroup`` are taken too; ``default_args`` (retries, pool, queue, execution_timeout,
    …) hold for every branch. ``tooltip`` and ``doc_md`` describe the branches unless they are given.
    """

    branch: Any = attrs.field(kw_only=True)
    count: int | DagParam | XComArg | None = attrs.field(kw_only=True, default=None)
    items: Sequence[Any] | Mapping[str, Any] | XComArg | None = attrs.field(kw_only=True, default=None)
    partial: Mapping[str, Any] | None = attrs.field(kw_only=True, default=None)
    mapped: bool | None = attrs.field(kw_only=True, default=None)
    max_concurrency: int | None = attrs.field(kw_only=True, default=None)
    items_per_task: int | None = attrs.field(kw_only=True, default=None)
    item_concurrency: int | None = attrs.field(kw_only=True, default=None)
    stop_after_failures: int | None = attrs.field(kw_only=True, default=None)

    declared: DeclaredGroup = attrs.field(init=False)
    """The branches as plain values."""
    placeholder_task_id: str | None = attrs.field(init=False, default=None)
    """Id of the task that keeps the order upstream -> fan-in where there are no branches."""
    split_task_id: str | None = attrs.field(init=False, default=None)
    """Id of the task that counts the branches at run time, or cuts their items into batches."""
    work: BatchWork | None = attrs.field(init=False, default=None)
    """What the items of a batched group run."""
    noted_names: dict[int, str | None] = attrs.field(init=False, factory=dict)
    """Names by map index, of items known only at run time, as far as this process knows; None in a list."""

    def __attrs_post_init__(self) -> None:
        """Check what was declared, then make the tasks."""
        checks = GroupChecks(self)
        # Before the group is registered, for a branch that was called may have taken its id.
        branches = self._branches()
        checks.check()
        super().__attrs_post_init__()  # type: ignore[no-untyped-call]
        self._check_branches(branches)
        count = self._known_count()
        checks.check_stop(count)
        settings = self._check_mode(branches)
        if count == 0:
            self._add_placeholder(branches)
        if self.mode == "static" or count == 0:
            self.declared = self._add_static(branches)
        elif self.mode == "mapped":
            self.declared = self._add_mapped(branches[""])
        else:
            self.declared = self._add_batched(branches, settings)
        self._describe(list(branches.values()), count)

    @property
    def owner(self) -> str:
        """How messages name the group."""
        return f"FanOutGroup {self._group_id!r}"

    @property
    def mode(self) -> Mode:
        """How branches are run: a task each, an instance of one mapped task each, or several in a task."""
        if self.items_per_task is not None:
            return "batched"
        return "mapped" if self.mapped or is_run_time(self.count) or is_run_time(self.items) else "static"

    @property
    def label(self) -> str:
        """What the names of branches without one of their own begin with."""
        return str(self._group_id)

    def known_name(self, map_index: int) -> str | None:
        """Name of an instance of a mapped group; None if this process does not know it."""
        names = self.declared.names
        if names is not None:
            return names[map_index] if 0 <= map_index < len(names) else None
        if is_run_time(self.items) and map_index not in self.noted_names:
            return None
        return self.noted_names.get(map_index) or f"{self.label}_{map_index}"

    def branch_name(self, map_index: int) -> str:
        """What the UI calls an instance of a mapped group."""
        name = self.known_name(map_index) or str(map_index)
        return name if len(name) <= SHOWN_NAME_LENGTH else name[: SHOWN_NAME_LENGTH - 1] + "…"

    def iter_references(self) -> NoReturn:
        """Refuse to be an argument: Airflow asks this of whatever is handed to a task."""
        message = (
            f"{self.owner} was handed to a task as an argument, but a group has no single value. "
            "Collect its branches: FanInOperator(task_id=…, fan_out=<the group>, python_callable=…), or "
            "call a @task.fan_in function with it"
        )
        raise TypeError(message)

    def resolve(self, context: object) -> NoReturn:
        """Refuse to be rendered."""
        self.iter_references()

    def _branches(self) -> dict[str, Branch]:
        """What each name of a mapping runs, or what all run, under the name ''."""
        if not isinstance(self.branch, Mapping):
            return {"": as_branch(self.owner, "branch", self.branch)}
        if not self.branch:
            self._refuse_value("branch", "is an empty mapping; name at least one branch")
        return {
            name: as_branch(self.owner, f"branch[{name!r}]", branch) for name, branch in self.branch.items()
        }

    def _check_branches(self, branches: Mapping[str, Branch]) -> None:
        """Check that what every branch is given fits."""
        items: Any = self.items
        if isinstance(items, Mapping):
            items = list(items.values())
        for branch in branches.values():
            self._check_branch(branch, () if is_run_time(items) else items)

    def _known_count(self) -> int | None:
        """Return the number of branches; None if it is known only at run time."""
        if isinstance(self.branch, Mapping):
            return len(self.branch)
        counted: Any = self.count if self.items is None else self.items
        if is_run_time(counted):
            return None
        return counted if self.items is None else len(counted)

    def _known_items(self) -> dict[str, Any] | None:
        """Item of each branch by name, NO_ITEM if it gets none; None if they are known only at run time."""
        items: Any = self.items
        count: Any = self.count
        if isinstance(items, Mapping):
            return dict(items)
        if is_run_time(items) or is_run_time(count):
            return None
        given = [NO_ITEM] * count if items is None else list(items)
        return dict(zip(indexed_names(self.label, len(given)), given, strict=True))

    def _add_static(self, branches: Mapping[str, Branch]) -> DeclaredGroup:
        """Make a task, or a task group, for each branch."""
        if isinstance(self.branch, Mapping):
            plan = {name: (branch, NO_ITEM) for name, branch in branches.items()}
        else:
            plan = {name: (branches[""], item) for name, item in (self._known_items() or {}).items()}
        self._check_names({name: branch for name, (branch, _) in plan.items()})
        tasks = {
            name: branch.create(name, self._bound(branch, index), item, task_group=self)
            for index, (name, (branch, item)) in enumerate(plan.items())
        }
        declared = DeclaredGroup(
            group_id=str(self.group_id),
            prefix=f"{self.group_id}." if self.prefix_group_id else "",
            branches=tuple(
                DeclaredBranch(name=name, index=index, task_ids=tuple(each.task_id for each in its))
                for index, (name, its) in enumerate(tasks.items())
            ),
            stop_after_failures=self.stop_after_failures,
        )
        if self.stop_after_failures is not None:
            for its in tasks.values():
                add_stop(self.owner, its, declared)
        return declared

    def _add_mapped(self, branch: Branch) -> DeclaredGroup:
        """Make one task, or task group, that all branches are instances of."""
        known = self._known_items()
        checks = GroupChecks(self)
        checks.check_names(known or ())
        gives: Literal["item", "index", "nothing"] = "nothing"
        if self.items is not None:
            gives = "item"
        elif branch.takes_index:
            gives = "index"
        output: Any = self.items
        if known is not None:
            output = None
        elif self.items is None:
            output = self._add_split(count=self.count).output
        expansion = Expansion(
            group=self,
            items=None
            if known is None
            else list(known.values())
            if self.items is not None
            else range(len(known)),
            output=output,
            gives=gives,
        )
        bound = dict(self.partial or {})
        tasks = branch.expand(bound, expansion, task_group=self)
        declared = DeclaredGroup(
            group_id=str(self.group_id),
            prefix=f"{self.group_id}.",
            mode="mapped",
            label=self.label,
            names=tuple(known) if isinstance(self.items, Mapping) and known is not None else None,
            count=self._known_count(),
            each=tuple(each.task_id for each in tasks),
            stop_after_failures=self.stop_after_failures,
            max_concurrency=self.max_concurrency,
        )
        if self.stop_after_failures is not None:
            add_stop(self.owner, tasks, declared)
        return declared

    def _check_mode(self, branches: Mapping[str, Branch]) -> dict[str, Any]:
        """
        Check that branches can be run as declared, be it that there are none today.

        :returns: Settings of the task that runs a batch.
        """
        if self.mode == "batched":
            return self._batch_settings(branches)
        if self.mode == "static" and self.max_concurrency is not None:
            self._refuse_limit(branches.values())
        if self.mode == "mapped" and branches[""].is_group and self.max_concurrency is not None:
            self._refuse_value(
                "max_concurrency",
                f"Airflow limits the instances of each task of {branches[''].title} alone, not its branches; "
                f"{A_POOL}, or leave it out; {ENDS_FIRST}",
            )
        return {}

    def _refuse_limit(self, branches: Collection[Branch]) -> NoReturn:
        """Refuse a limit that Airflow has none for, with the ways out that these branches have."""
        ways = [A_POOL]
        if any(branch.is_group for branch in branches):
            ways = [f"{A_POOL}; {ENDS_FIRST}"]
        else:
            if not isinstance(self.branch, Mapping):
                ways.append("make them instances of one task with mapped=True")
            if all(isinstance(branch, FunctionBranch) for branch in branches):
                ways.append("make them items of a few tasks with items_per_task=")
        self._refuse_value(
            "max_concurrency",
            "Airflow can't limit the tasks of a static group, where each branch has its own, without a pool; "
            + ", or ".join(ways),
        )

    def _batch_settings(self, branches: Mapping[str, Branch]) -> dict[str, Any]:
        from airflow_fanout.definitions.batching import batch_work

        checks = GroupChecks(self)
        checks.check_keeps_values()
        gives_index = self.items is None and "" in branches and branches[""].takes_index
        known = self._items_by_name(branches)
        self.work, settings = batch_work(self.owner, branches, known, gives_index=gives_index)
        checks.check_settings(settings)
        if self.max_concurrency is not None:
            settings.setdefault("max_active_tis_per_dagrun", self.max_concurrency)
        return settings

    def _items_by_name(self, branches: Mapping[str, Branch]) -> Mapping[str, Any] | None:
        """Items of a batched group, whose functions may have names instead; None until run time."""
        known = dict.fromkeys(branches, NO_ITEM) if isinstance(self.branch, Mapping) else self._known_items()
        GroupChecks(self).check_names(known or ())
        return known

    def _add_batched(self, branches: Mapping[str, Branch], settings: Mapping[str, Any]) -> DeclaredGroup:
        """Make one mapped task, each instance of which runs the items of a batch."""
        from airflow_fanout.operators.batch import BatchOperator

        known = None if self.work is None else self.work.known_items
        count = self._known_count()
        is_named = isinstance(self.branch, Mapping) or isinstance(self.items, Mapping)
        declared = DeclaredGroup(
            group_id=str(self.group_id),
            prefix=f"{self.group_id}.",
            mode="batched",
            label=self.label,
            names=tuple(known) if is_named and known is not None else None,
            count=count,
            each=(self._child_id(EACH),),
            stop_after_failures=self.stop_after_failures,
            max_concurrency=self.max_concurrency,
            items_per_task=self.items_per_task,
            # All of a task's functions run at once unless told.
            item_concurrency=self.item_concurrency
            or (self.items_per_task if isinstance(self.branch, Mapping) else None),
        )
        items: Any = self.items
        split = self._add_split(
            count=count if known is not None else self.count,
            items=items if known is None and items is not None else None,
            items_per_task=self.items_per_task,
        )
        bound = {
            name: storable({**branch.bound, **(self.partial or {})}) for name, branch in branches.items()
        }
        each = BatchOperator.partial(
            task_id=EACH,
            task_group=self,
            dag=self.dag,
            op_kwargs=bound,
            declared_group=declared.to_json(),
            **settings,
        ).expand(batch=split.output)
        each.partial_kwargs["on_failure_callback"] = [
            record_failure,
            *(each.partial_kwargs.get("on_failure_callback") or ()),
        ]
        XComArg.apply_upstream_relationship(each, list((known or {}).values()))
        return declared

    def _add_split(self, **arguments: Any) -> SplitOperator:
        split = SplitOperator(
            task_id=SPLIT,
            task_group=self,
            dag=self.dag,
            **settings_of_its_own(self),
            **arguments,
        )
        self.split_task_id = split.task_id
        return split

    def _check_branch(self, branch: Branch, items: Collection[Any] | None) -> None:
        if self._gives_index(branch) and "index" in {**branch.bound, **(self.partial or {})}:
            self._refuse_value(
                "partial",
                f"binds 'index', which count= gives to each branch of {branch.signature}; rename one of them",
            )
        # Airflow fills a function's parameters from default_args where it makes a task of its own.
        default_args = () if self.mode == "batched" else self._default_names()
        branch.check(self._bound(branch, 0), items, default_args=default_args)

    def _bound(self, branch: Branch, index: int) -> dict[str, Any]:
        given = dict(self.partial or {})
        return {**given, "index": index} if self._gives_index(branch) else given

    def _gives_index(self, branch: Branch) -> bool:
        return self.count is not None and branch.takes_index

    def _default_names(self) -> set[str]:
        parent = self.parent_group.default_args if self.parent_group else {}
        return {*(self.dag.default_args or {}), *(parent or {}), *self.default_args}

    def _check_names(self, plan: Mapping[str, Branch]) -> None:
        argument = (
            "branch"
            if isinstance(self.branch, Mapping)
            else "items"
            if self.items is not None
            else "group_id"
        )
        prefix = self._child_id("")
        for name, branch in plan.items():
            if reason := unusable_because(name, prefix=prefix, is_group=branch.is_group):
                self._refuse_value(argument, f"a name that Airflow would refuse: {reason}")
        taken = [name for name in plan if self._is_taken(self._child_id(name))]
        if taken:
            ids = [self._child_id(name) for name in taken]
            self._refuse_value(
                argument,
                f"the Dag already has tasks or groups with the ids {listing(ids)}; rename one of each pair",
            )

    def _child_id(self, name: str) -> str:
        return str(self.child_id(name))  # type: ignore[no-untyped-call]

    def _is_taken(self, node_id: str) -> bool:
        return self.dag.has_task(node_id) or node_id in self.used_group_ids

    def _add_placeholder(self, branches: Mapping[str, Branch]) -> None:
        name = PLACEHOLDER if self.prefix_group_id else f"{self._group_id}_{PLACEHOLDER}"
        if self._is_taken(self._child_id(name)):
            self._refuse_value(
                "group_id",
                f"the Dag already has {self._child_id(name)!r}, which stands for zero branches; rename it",
            )
        doc = f"{self.owner} was declared with zero branches; this keeps what is before it before its fan-in."
        placeholder = EmptyOperator(task_id=name, doc_md=doc, task_group=self, dag=self.dag)
        bound = branches[""].bound
        XComArg.apply_upstream_relationship(placeholder, {**bound, **(self.partial or {})})
        self.placeholder_task_id = placeholder.task_id

    def _describe(self, branches: Sequence[Branch], count: int | None) -> None:
        limits = [Limit(name="max_active_tasks", slots=self.dag.max_active_tasks, where="the Dag")]
        if self.max_concurrency is not None:
            limits.insert(0, Limit(name="max_concurrency", slots=self.max_concurrency))
        if count is None:
            sentence = "as many branches as there are at run time"
        elif count == 0:
            sentence = "no branches"
        elif self.items_per_task is not None:
            tasks = effective_concurrency(math.ceil(count / self.items_per_task), limits)
            sentence = f"{counted(count, 'item', 'items')} in {describe(tasks, one='task', many='tasks')}"
        else:
            sentence = describe(effective_concurrency(count, limits), of_each=self.declared.steps)
        if not self.tooltip:
            self.tooltip = f"Fan-out: {sentence}"
        has_doc_md = hasattr(TaskGroup, "doc_md")  # from Airflow 3.3 on
        if has_doc_md and self.doc_md is None:
            self.doc_md = "\n\n".join(self._documentation(sentence, branches, count))

    def _documentation(self, sentence: str, branches: Sequence[Branch], count: int | None) -> Iterator[str]:
        yield f"**Fan-out** `{self.group_id}`: {sentence}."
        if count == 0:
            return
        yield (f"Each runs {titles(branches)}." if len(branches) == 1 else f"They run {titles(branches)}.")
        names = self.declared.known_names
        more = len(names) - NAMES_SHOWN
        if names:
            yield f"In order: {', '.join(f'`{name}`' for name in names[:NAMES_SHOWN])}" + (
                f" and {more} more." if more > 0 else "."
            )

    def _refuse_value(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationValueError(self.owner, argument, problem)

    def _refuse_type(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationTypeError(self.owner, argument, problem)
