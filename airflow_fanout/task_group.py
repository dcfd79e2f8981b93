"""``FanOutGroup``, the task group that declares parallel branches; runs when the Dag is parsed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import attrs
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Param, TaskGroup, XComArg
from airflow.sdk.definitions.param import DagParam
from airflow.sdk.definitions.xcom_arg import ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.branches import NO_ITEM, Branch, as_branch, titles
from airflow_fanout.capacity import Limit, describe, effective_concurrency
from airflow_fanout.declaration import DeclaredBranch, DeclaredGroup
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.ledger import PLACEHOLDER
from airflow_fanout.names import indexed_names, listing, unusable_because
from airflow_fanout.stopping import add_stop

__all__ = ["FanOutGroup"]

NAMES_SHOWN = 20
"""Names that a group's documentation spells out."""

VALUE_SHOWN = 80
"""Characters of a bad value that an error shows."""

_LIMITS = ("max_concurrency", "items_per_task", "item_concurrency", "stop_after_failures")


@attrs.define(repr=False, eq=False)
class FanOutGroup(TaskGroup, ResolveMixin):
    """
    A task group of parallel branches: how many, what each runs, and nothing else.

    One of ``count``, ``items`` and a mapping as ``branch`` says how many. A branch's name is ``<label>_<i>``,
    where label is ``group_id`` without its parents', or the mapping's key; its task id is
    ``<group_id>.<name>`` (``prefix_group_id=False``: ``<name>``). What came of each branch is for a
    :class:`~airflow_fanout.operators.FanInOperator`, given ``fan_out=`` this group.

    .. code-block:: python

        process = FanOutGroup("process", branch=process_step, count=8, partial={"input_data": load_step()})

    :param group_id: Id of the group, as for any ``TaskGroup``.
    :param branch: What one branch runs: a ``@task`` function (with ``.override()`` and ``.partial()`` if
        wanted) or a plain function, which becomes a Python task; a ``@task_group`` function, whose last
        task's value is the branch's; an operator class, or ``functools.partial`` of one; a list of functions,
        one task that hands each one's value to the next; or a mapping ``{name: any of these}``, different
        work for each name.
    :param count: Number of branches, 0 or more. A function with a parameter ``index`` is given 0, 1, ….
    :param items: A list, or a mapping ``{name: item}``: one branch for each. The function gets its item as
        its first parameter that is not bound; Airflow's context names (``ti``, ``ds``, …) don't count. For an
        operator class each item is a dict of the arguments to add.
    :param partial: Arguments that are bound in every branch; values may be XComArgs. In a list of functions
        they go to the first.
    :param mapped: Whether one mapped task runs all branches. Not built yet: None or False.
    :param max_concurrency: Branches of a mapped group that run at once. Not built yet.
    :param items_per_task: Items that one task runs. Not built yet.
    :param item_concurrency: Items of one task that run at once. Not built yet.
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
    count: int | None = attrs.field(kw_only=True, default=None)
    items: Sequence[Any] | Mapping[str, Any] | None = attrs.field(kw_only=True, default=None)
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

    def __attrs_post_init__(self) -> None:
        """Check what was declared, then make the tasks."""
        self._check_arguments()
        super().__attrs_post_init__()  # type: ignore[no-untyped-call]
        plan = self._plan()
        self._check_names(plan)
        self._check_stop(len(plan))
        if not plan:
            self._add_placeholder()
        tasks = {
            name: branch.create(name, self._bound(branch, index), item, task_group=self)
            for index, (name, (branch, item)) in enumerate(plan.items())
        }
        self.declared = DeclaredGroup(
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
                add_stop(self._owner, its, self.declared)
        self._describe([branch for branch, _ in plan.values()])

    def iter_references(self) -> NoReturn:
        """Refuse to be an argument: Airflow asks this of whatever is handed to a task."""
        message = (
            f"{self._owner} was handed to a task as an argument, but a group has no single value. "
            "Collect its branches: FanInOperator(task_id=…, fan_out=<the group>, python_callable=…)"
        )
        raise TypeError(message)

    def resolve(self, context: object) -> NoReturn:
        """Refuse to be rendered."""
        self.iter_references()

    @property
    def _owner(self) -> str:
        return f"FanOutGroup {self._group_id!r}"

    def _check_arguments(self) -> None:
        given = [
            name
            for name, is_given in (
                ("count", self.count is not None),
                ("items", self.items is not None),
                ("a mapping as branch", isinstance(self.branch, Mapping)),
            )
            if is_given
        ]
        if len(given) != 1:
            self._refuse_value(
                given[0] if given else "count",
                f"expected one of count=, items= and a mapping branch, found {' and '.join(given) or 'none'}",
            )
        self._check_count()
        self._check_items()
        if self.partial is not None and not isinstance(self.partial, Mapping):
            self._refuse_type("partial", f"expected a dict of arguments, found {_typed(self.partial)}")
        names: Collection[object] = self.partial or ()
        if odd := [name for name in names if not isinstance(name, str)]:
            self._refuse_type("partial", f"expected parameter names as keys, found {_typed(odd[0])}")
        self._check_limits()

    def _check_count(self) -> None:
        if self.count is None:
            return
        self._refuse_run_time("count", self.count)
        if isinstance(self.count, bool) or not isinstance(self.count, int):
            self._refuse_type("count", f"expected a whole number of branches, found {_typed(self.count)}")
        if self.count < 0:
            self._refuse_value("count", f"expected 0 or more branches, found {self.count}")

    def _check_items(self) -> None:
        items: object = self.items
        if items is None:
            return
        self._refuse_run_time("items", items)
        if isinstance(items, Mapping):
            return
        if isinstance(items, FanOutGroup):
            items.iter_references()
        if isinstance(items, str | bytes | bytearray) or not isinstance(items, Sequence):
            order = ", which has no order" if isinstance(items, set | frozenset) else ""
            way_out = "sorted(…)" if order else "[…] or list(…)"
            self._refuse_type(
                "items",
                f"expected a list or a mapping by name, found {_typed(self.items)}{order}; use {way_out}",
            )

    def _check_limits(self) -> None:
        for name in _LIMITS:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                self._refuse_type(name, f"expected a whole number, 1 or more, found {_typed(value)}")
            if value < 1:
                self._refuse_value(name, f"expected 1 or more, found {value}")
        if self.mapped is not None and not isinstance(self.mapped, bool):
            self._refuse_type("mapped", f"expected True or False, found {_typed(self.mapped)}")
        if self.item_concurrency is not None and self.items_per_task is None:
            self._refuse_value("item_concurrency", "is for the items of one task; give items_per_task too")
        for name in ("mapped", "items_per_task"):
            if getattr(self, name):
                self._refuse_value(name, "is not built yet; declare the branches without it")
        if self.max_concurrency is not None:
            self._refuse_value(
                "max_concurrency",
                "Airflow can't limit the tasks of a static group, one task for each branch, without a pool; "
                'make a pool with that many slots and give default_args={"pool": …}',
            )

    def _refuse_run_time(self, argument: str, value: object) -> None:
        if isinstance(value, XComArg | DagParam | Param):
            self._refuse_value(
                argument,
                f"a value known only at run time ({type(value).__name__}) is not built yet; give a literal",
            )

    def _plan(self) -> dict[str, tuple[Branch, Any]]:
        """What each name runs, and its item; in declared order."""
        if isinstance(self.branch, Mapping):
            if not self.branch:
                self._refuse_value("branch", "is an empty mapping; name at least one branch")
            different = {
                name: as_branch(self._owner, f"branch[{name!r}]", branch)
                for name, branch in self.branch.items()
            }
            for branch in different.values():
                self._check_branch(branch, None)
            return {name: (branch, NO_ITEM) for name, branch in different.items()}
        same = as_branch(self._owner, "branch", self.branch)
        if isinstance(self.items, Mapping):
            items = dict(self.items)
        else:
            given = [NO_ITEM] * (self.count or 0) if self.items is None else list(self.items)
            items = dict(zip(indexed_names(str(self._group_id), len(given)), given, strict=True))
        self._check_branch(same, None if self.items is None else list(items.values()))
        return {name: (same, item) for name, item in items.items()}

    def _check_branch(self, branch: Branch, items: Collection[Any] | None) -> None:
        if self._gives_index(branch) and "index" in {**branch.bound, **(self.partial or {})}:
            self._refuse_value(
                "partial",
                f"binds 'index', which count= gives to each branch of {branch.signature}; rename one of them",
            )
        branch.check(self._bound(branch, 0), items, default_args=self._default_names())

    def _bound(self, branch: Branch, index: int) -> dict[str, Any]:
        given = dict(self.partial or {})
        return {**given, "index": index} if self._gives_index(branch) else given

    def _gives_index(self, branch: Branch) -> bool:
        return self.count is not None and branch.takes_index

    def _default_names(self) -> set[str]:
        parent = self.parent_group.default_args if self.parent_group else {}
        return {*(self.dag.default_args or {}), *(parent or {}), *self.default_args}

    def _check_names(self, plan: Mapping[str, tuple[Branch, Any]]) -> None:
        argument = (
            "branch"
            if isinstance(self.branch, Mapping)
            else "items"
            if self.items is not None
            else "group_id"
        )
        prefix = self._child_id("")
        for name, (branch, _) in plan.items():
            if reason := unusable_because(name, prefix=prefix, is_group=branch.is_group):
                self._refuse_value(argument, f"a name that Airflow would refuse: {reason}")
        taken = [name for name in plan if self._is_taken(self._child_id(name))]
        if taken:
            ids = [self._child_id(name) for name in taken]
            self._refuse_value(
                argument,
                f"the Dag already has tasks or groups with the ids {listing(ids)}; rename one of each pair",
            )

    def _check_stop(self, count: int) -> None:
        if self.stop_after_failures is not None and 0 < count <= self.stop_after_failures:
            self._refuse_value(
                "stop_after_failures",
                f"{self.stop_after_failures} failures of {count} branches leave none to stop; "
                f"choose a number below {count}, or leave it out",
            )

    def _child_id(self, name: str) -> str:
        return str(self.child_id(name))  # type: ignore[no-untyped-call]

    def _is_taken(self, node_id: str) -> bool:
        return self.dag.has_task(node_id) or node_id in self.used_group_ids

    def _add_placeholder(self) -> None:
        name = PLACEHOLDER if self.prefix_group_id else f"{self._group_id}_{PLACEHOLDER}"
        if self._is_taken(self._child_id(name)):
            self._refuse_value(
                "group_id",
                f"the Dag already has {self._child_id(name)!r}, which stands for zero branches; rename it",
            )
        doc = (
            f"{self._owner} was declared with zero branches; this keeps what is before it before its fan-in."
        )
        placeholder = EmptyOperator(task_id=name, doc_md=doc, task_group=self, dag=self.dag)
        bound = as_branch(self._owner, "branch", self.branch).bound
        XComArg.apply_upstream_relationship(placeholder, {**bound, **(self.partial or {})})
        self.placeholder_task_id = placeholder.task_id

    def is_stood_for(self, prefix: str) -> bool:
        """Whether a prefix takes the placeholder, as it would take the first branch if there were one."""
        return self._child_id(f"{self._group_id}_0").startswith(prefix)

    def _describe(self, branches: Sequence[Branch]) -> None:
        count = len(branches)
        limits = [Limit(name="max_active_tasks", slots=self.dag.max_active_tasks, where="the Dag")]
        sentence = describe(effective_concurrency(count, limits)) if count else "no branches"
        if not self.tooltip:
            self.tooltip = f"Fan-out: {sentence}"
        has_doc_md = hasattr(TaskGroup, "doc_md")  # from Airflow 3.3 on
        if has_doc_md and self.doc_md is None:
            self.doc_md = "\n\n".join(self._documentation(sentence, branches))

    def _documentation(self, sentence: str, branches: Sequence[Branch]) -> Iterator[str]:
        yield f"**Fan-out** `{self.group_id}`: {sentence}."
        if not branches:
            return
        yield (
            f"Each runs {titles(branches)}."
            if len(set(map(id, branches))) == 1
            else f"They run {titles(branches)}."
        )
        names = [branch.name for branch in self.declared.branches]
        more = len(names) - NAMES_SHOWN
        yield f"In order: {', '.join(f'`{name}`' for name in names[:NAMES_SHOWN])}" + (
            f" and {more} more." if more > 0 else "."
        )

    def _refuse_value(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationValueError(self._owner, argument, problem)

    def _refuse_type(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationTypeError(self._owner, argument, problem)


def _typed(value: object) -> str:
    """A value and its type, for messages; cut, so that a large value does not flood the log."""
    said = repr(value)
    return f"{said if len(said) <= VALUE_SHOWN else said[:VALUE_SHOWN] + '…'} of type {type(value).__name__}"
