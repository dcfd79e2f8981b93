"""``FanOutGroup``, the task group that declares parallel branches."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import TaskGroup, XComArg
from airflow.sdk.definitions.xcom_arg import PlainXComArg, ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.definitions import group_checks as checks
from airflow_fanout.definitions.branches import as_branch
from airflow_fanout.definitions.function_branches import FunctionBranch
from airflow_fanout.definitions.stored_arguments import storable
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.arguments import NO_ITEM, as_declared, is_run_time
from airflow_fanout.execution_time.items import KwargsItems, source_and_functions
from airflow_fanout.operators.fan_in_checks import check_number, check_stop
from airflow_fanout.operators.hooks import add_failure_hook, add_stop
from airflow_fanout.rules.capacity import Limit, describe, effective_concurrency
from airflow_fanout.rules.names import EACH, PLACEHOLDER, SPLIT, indexed_names, name_problem, text_problem
from airflow_fanout.rules.pacing import seconds_in
from airflow_fanout.rules.wording import counted, listing, typed
from airflow_fanout.serialization.declaration import (
    DeclaredBranch,
    DeclaredGroup,
    ItemExecutor,
    Mode,
    ResultsFormat,
)
from airflow_fanout.serialization.tasks import nearest_mapped_group
from airflow_fanout.storage.stored_items import StoredItems

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk.definitions.param import DagParam

    from airflow_fanout.definitions.branches import Branch
    from airflow_fanout.execution_time.batch_work import BatchWork
    from airflow_fanout.execution_time.combination import Combination
    from airflow_fanout.operators.split import SplitOperator
    from airflow_fanout.storage.reuse import Reuse


SETTINGS_OF_RUN = ("items_per_task", "item_concurrency", "stop_after_failures")
"""Numbers that may be known only at run time."""

NO_SINGLE_VALUE = (
    "a group has no single value. Collect its branches: FanInOperator(task_id=…, fan_out=<the group>, "
    "python_callable=…).output, or call a @task.fan_in function with it"
)
SHOWN_NAME_LENGTH = 250  # the longest name of an instance that Airflow's database takes
NAMES_SHOWN = 20  # in a group's documentation


@checks.refuse_unknown_arguments
@attrs.define(repr=False, eq=False)
class FanOutGroup(TaskGroup, ResolveMixin):
    """
    A task group of parallel branches: how many, what each runs, and nothing else.

    One of ``count``, ``items`` and a mapping as ``branch`` says how many. A branch's name is ``<label>_<i>``,
    where label is ``group_id`` without its parents', or the mapping's key; its task id is
    ``<group_id>.<name>`` (``prefix_group_id=False``: ``<name>``). A :class:`~airflow_fanout.FanInOperator`
    with ``fan_out=`` this group collects what the branches return.

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
        time: one branch for each. The function gets its item as its first parameter that is not bound, not
        counting Airflow's context names (``ti``, ``ds``, …). For an operator class each item is a dict of the
        arguments to add. Or a :func:`~airflow_fanout.product`: one branch for each combination of the values
        of several arguments.
        With ``items_per_task`` also stored items, such as ``CsvItems("s3://raw/*.csv")`` of
        ``airflow_fanout.storage``, which each batch reads by itself.
    :param partial: Arguments that are bound in every branch; values may be XComArgs. In a list of functions
        they go to the first.
    :param mapped: Whether all branches are instances of one mapped task ``<group_id>.each``; None: if their
        number is known only at run time.
    :param max_concurrency: Instances of that task that run at once. A static group can't be limited.
    :param items_per_task: Number of items that one task runs, one after another or ``item_concurrency`` at a
        time. The branches are then plain Python functions, and a retry runs only the items that failed or had
        not ended (from Airflow 3.3 on). A task ``<group_id>.split`` cuts the items into batches.
    :param item_concurrency: Items of one task that run at once, in threads, or on an event loop if the
        function is ``async def``; at most ``items_per_task``. Default 1; for a mapping of functions all of a
        task's items.
    :param item_executor: ``"thread"``, or ``"process"``: ``item_concurrency`` child processes of the task,
        for items that compute, and so use all cores, or that may end their process or take all memory. That
        costs such an item alone: it runs once more by itself, and fails for good if its process ends again.
        Not for ``async def``.
    :param combine: With ``items_per_task``, a function of two values that makes one of them; associative. The
        values of a task's items are folded with it in declared order, and those of the tasks in the fan-in,
        which finds what came of it in ``results.combined``. The items' own values aren't kept.
    :param combine_by: With ``combine``, a function of an item's value that returns a text: one value is kept
        for each, and ``results.combined`` is a mapping, in order of first appearance.
    :param reuse: With ``items_per_task``, a :class:`~airflow_fanout.storage.Reuse`: items whose values an
        earlier run has stored aren't run. They count as successes, and their outcomes have ``reused=True``.
        The function takes nothing of Airflow's context (``ti``, ``ds``, …), which no fingerprint can hold.
    :param results_path: With ``items_per_task``, a folder, as a text or an ``ObjectStoragePath``, templated,
        another one in each run: ``"s3://connection_id@bucket/scores/{{ run_id }}"``. Each task writes the
        values of its items into a file there, ``part-<batch>-<try>.jsonl``, and its failed items into
        ``failed-<batch>-<try>.jsonl``; XComs have only paths and numbers. A fan-in reads these files one
        after another, and writes ``manifest.json`` beside them, whose path it returns without
        ``python_callable``.
    :param results_format: ``"jsonl"``, or ``"parquet"`` for the values (extra ``storage``).
    :param item_timeout: A timedelta, or seconds, after which an item has failed with ``ItemTimeoutError``. A
        process is killed, an item of an event loop is cancelled. A thread can't be stopped: it goes on, and
        its place is lost until it ends; without a place left, what has not started fails with its task.
    :param item_retries: How often an item that fails is tried again within one try of its task, after
        ``retry_delay`` (with ``retry_exponential_backoff`` and ``max_retry_delay``), while its neighbours
        run; ``AirflowFailException`` and a skip are final. A ``retry_policy`` (Airflow 3.3) is asked about
        each item, with the item's own exception. What has failed after that is for ``retries`` of the task.
    :param item_retry_delay: A timedelta, or seconds, in place of ``retry_delay`` there.
    :param items_per_second: Calls of items that start in a second, in all tasks of the group in one run,
        tries after the first included; what was not used is made up for within a second. Each task has an
        equal share, so ``max_concurrency`` is needed if there can be several.
    :param stop_after_failures: Number of failed branches after which no more are started: each branch asks
        before it starts (one request), and is skipped with that reason. Such a branch stays expected and
        counts as a failure, whatever ``count_skipped`` says. A retried or cleared branch always runs. It,
        ``items_per_task`` and ``item_concurrency`` may be Dag params or outputs of tasks: numbers known at
        run time, of which an unusable one fails the task that first gets it, which says why.
    :raises DeclarationValueError: If an argument has an unusable value; a ``ValueError``.
    :raises DeclarationTypeError: If an argument has the wrong type; a ``TypeError``.

    All arguments of ``TaskGroup`` are taken too; ``default_args`` (retries, pool, queue, execution_timeout,
    …) hold for every branch. ``tooltip`` and ``doc_md`` describe the branches unless they are given.
    """

    branch: Any = attrs.field(kw_only=True)
    count: int | DagParam | XComArg | None = attrs.field(kw_only=True, default=None)
    items: Sequence[Any] | Mapping[str, Any] | KwargsItems | XComArg | StoredItems | None = attrs.field(
        kw_only=True, default=None
    )
    partial: Mapping[str, Any] | None = attrs.field(kw_only=True, default=None)
    mapped: bool | None = attrs.field(kw_only=True, default=None)
    max_concurrency: int | None = attrs.field(kw_only=True, default=None)
    items_per_task: int | DagParam | XComArg | None = attrs.field(kw_only=True, default=None)
    item_concurrency: int | DagParam | XComArg | None = attrs.field(kw_only=True, default=None)
    item_executor: ItemExecutor | None = attrs.field(kw_only=True, default=None)
    item_timeout: timedelta | float | None = attrs.field(kw_only=True, default=None)
    item_retries: int = attrs.field(kw_only=True, default=0)
    item_retry_delay: timedelta | float | None = attrs.field(kw_only=True, default=None)
    items_per_second: float | None = attrs.field(kw_only=True, default=None)
    stop_after_failures: int | DagParam | XComArg | None = attrs.field(kw_only=True, default=None)
    combine: Callable[[Any, Any], Any] | None = attrs.field(kw_only=True, default=None)
    combine_by: Callable[[Any], str] | None = attrs.field(kw_only=True, default=None)
    reuse: Reuse | None = attrs.field(kw_only=True, default=None)
    results_path: Any = attrs.field(kw_only=True, default=None)
    results_format: ResultsFormat = attrs.field(kw_only=True, default="jsonl")

    spreads_items: bool = attrs.field(init=False, default=False)
    """Whether an item is a dict of arguments, of a function too."""
    product_arguments: tuple[str, ...] | None = attrs.field(init=False, default=None)
    """Names of the arguments of a product that only the task ``split`` can make."""
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
        if isinstance(self.items, KwargsItems):
            self.product_arguments, self.spreads_items = self.items.arguments, True
            self.items = self.items.items
        # Before the group is registered, for a branch that was called may have taken its id.
        branches = self._branches()
        self._check_arguments()
        super().__attrs_post_init__()  # type: ignore[no-untyped-call]
        items = self._known_items()
        count = None if items is None else len(items)
        check_stop(self.title, self.stop_after_failures, count)
        checks.check_rate_is_shared(
            self.title, self.items_per_second, self.max_concurrency, self.items_per_task, count
        )
        self._check_branches(branches)
        self._check_names(branches, items or {})
        settings = self._batch_settings(branches) if self.mode == "batched" else {}
        if count == 0:
            self._add_placeholder(branches[""])
        if self.mode == "static" or count == 0:
            self.declared = self._add_static(branches, items or {})
        elif self.mode == "mapped":
            self.declared = self._add_mapped(branches[""], items)
        else:
            self.declared = self._add_batched(branches, items, settings)
        self._describe(list(branches.values()), count)

    @property
    def title(self) -> str:
        """How messages name the group."""
        return f"FanOutGroup {self._group_id!r}"

    @property
    def mode(self) -> Mode:
        """How branches are run: a task each, an instance of one mapped task each, or several in a task."""
        if self.items_per_task is not None:
            return "batched"
        return "mapped" if self.mapped or is_run_time(self.count) or is_run_time(self.items) else "static"

    @property
    def combination(self) -> Combination | None:
        """How its values are folded; None if they are kept by name."""
        from airflow_fanout.execution_time.combination import Combination

        if self.combine is None:
            return None
        return Combination(combine=self.combine, combine_by=self.combine_by)

    @property
    def branch_label(self) -> str:
        """Start of the names of branches that have no name of their own."""
        return str(self._group_id)

    def known_name(self, map_index: int) -> str | None:
        """Name of an instance of a mapped group; None if this process does not know it."""
        if (names := self.declared.names) is not None:
            return names[map_index] if 0 <= map_index < len(names) else None
        if is_run_time(self.items) and map_index not in self.noted_names:
            return None
        return self.noted_names.get(map_index) or f"{self.branch_label}_{map_index}"

    def branch_name(self, map_index: int) -> str:
        """What the UI calls an instance of a mapped group."""
        name = self.known_name(map_index) or str(map_index)
        return name if len(name) <= SHOWN_NAME_LENGTH else name[: SHOWN_NAME_LENGTH - 1] + "…"

    def iter_references(self) -> NoReturn:
        """Refuse to be an argument: Airflow asks this of whatever is handed to a task."""
        message = f"{self.title} was handed to a task as an argument, but {NO_SINGLE_VALUE}"
        raise TypeError(message)

    @property
    def output(self) -> NoReturn:
        """Refuse to have a value, as tasks have."""
        message = f"{self.title} has no output, for {NO_SINGLE_VALUE}"
        raise AttributeError(message)

    def resolve(self, context: object) -> NoReturn:
        """Refuse to be rendered."""
        self.iter_references()

    def _branches(self) -> dict[str, Branch]:
        """The branch by name, for a mapping; else the one that all run, under the name ''."""
        if not isinstance(self.branch, Mapping):
            return {"": as_branch(self.title, "branch", self.branch, spreads_items=self.spreads_items)}
        if not self.branch:
            raise DeclarationValueError(self.title, "branch", "found an empty mapping; name at least one")
        return {name: as_branch(self.title, f"branch[{name!r}]", self.branch[name]) for name in self.branch}

    def _check_arguments(self) -> None:
        """Check all that can be checked without knowing what a branch is."""
        checks.check_how_many(self.title, branch=self.branch, count=self.count, items=self.items)
        for source in (self.count, self.items, *(getattr(self, name) for name in SETTINGS_OF_RUN)):
            if isinstance(source, FanOutGroup):
                source.iter_references()
        checks.check_mapped_group(self.title, self.mode, self.count, self.items, nearest_mapped_group(self))
        if self.mode != "static":
            checks.check_limit(self.title, self.max_concurrency, "default_args", self.default_args or {})
        checks.check_count(self.title, self.count)
        if self.product_arguments is None:  # which was checked when it was made
            checks.check_items(self.title, self.items, self.mode)
        checks.check_partial(self.title, self.partial)
        check_number(self.title, "max_concurrency", self.max_concurrency)
        for name in SETTINGS_OF_RUN:
            check_number(self.title, name, getattr(self, name), at_run_time=True)
        check_number(self.title, "default_args['pool_slots']", (self.default_args or {}).get("pool_slots"))
        checks.check_item_concurrency(self.title, self.item_concurrency, self.items_per_task)
        checks.check_item_executor(self.title, self.item_executor, self.items_per_task)
        checks.check_combination(self.title, self.combine, self.combine_by, self.items_per_task)
        checks.check_reuse(self.title, self.reuse, self.items_per_task, combine=self.combine)
        checks.check_results_path(
            self.title, self.results_path, self.items_per_task, combine=self.combine, reuse=self.reuse
        )
        checks.check_results_format(self.title, self.results_format, self.results_path)
        checks.check_item_timeout(self.title, self.item_timeout, self.items_per_task)
        checks.check_rate(self.title, self.items_per_second, self.items_per_task)
        checks.check_item_retries(self.title, self.item_retries, self.item_retry_delay, self.items_per_task)
        checks.check_mapped(self.title, self.mode, self.mapped, self.prefix_group_id, self.branch)

    def _known_items(self) -> dict[str, Any] | None:
        """Item of each branch by name, NO_ITEM if it gets none; None if they are known only at run time."""
        items: Any = self.items
        if isinstance(self.branch, Mapping):
            return dict.fromkeys(self.branch, NO_ITEM)
        if isinstance(items, Mapping):
            return dict(items)
        if is_run_time(items) or is_run_time(self.count):
            return None
        values = [NO_ITEM] * self.count if items is None else list(items)  # type: ignore[operator]
        return dict(zip(indexed_names(self.branch_label, len(values)), values, strict=True))

    def _check_branches(self, branches: Mapping[str, Branch]) -> None:
        """Check that what every branch is given fits, and that Airflow can limit them as declared."""
        items: Any = () if is_run_time(self.items) else self.items
        if self.product_arguments is not None:  # which are known, if not their values
            items = [dict.fromkeys(self.product_arguments, NO_ITEM)]
        if isinstance(items, Mapping):
            items = list(items.values())
        # Airflow fills a function's parameters from default_args where it makes a task of its own.
        default_args = () if self.mode == "batched" else self._default_args.keys()
        for branch in branches.values():
            if self._gives_index(branch) and "index" in {**branch.bound, **(self.partial or {})}:
                problem = f"binds 'index', which {branch.title} gets from count=; rename one of them"
                raise DeclarationValueError(self.title, "partial", problem)
            branch.check(self._bound(branch, 0), items, default_args=default_args)
        self._check_max_concurrency(branches.values())

    def _check_max_concurrency(self, branches: Collection[Branch]) -> None:
        """Refuse a limit that Airflow does not have."""
        are_groups = any(branch.is_group for branch in branches)
        can_be_limited = self.mode == "batched" or (self.mode == "mapped" and not are_groups)
        if self.max_concurrency is not None and not can_be_limited:
            what = "branches of several tasks" if are_groups else "the branches of a static group"
            problem = f"Airflow can't limit {what} without a pool; {self._ways_to_limit(branches)}"
            raise DeclarationValueError(self.title, "max_concurrency", problem)

    def _ways_to_limit(self, branches: Collection[Branch]) -> str:
        """Ways out for somebody who wants few of these branches to run at once."""
        ways = ['make a pool with that many slots and give default_args={"pool": …}']
        if any(branch.is_group for branch in branches):
            ways[0] += ", and weight_rule='upstream', so that a branch that has begun goes before the next"
        elif not isinstance(self.branch, Mapping):
            ways.append("make them instances of one task with mapped=True")
        if all(isinstance(branch, FunctionBranch) for branch in branches):
            ways.append("make them items of a few tasks with items_per_task=")
        return ", or ".join(ways)

    def _check_names(self, branches: Mapping[str, Branch], names: Collection[Any]) -> None:
        by_count = "branch" if isinstance(self.branch, Mapping) else "group_id"
        argument = by_count if self.items is None else "items"
        if self.mode != "static":
            if wrong_names := [name for name in names if not name or not isinstance(name, str)]:
                found = typed(wrong_names[0])
                raise DeclarationTypeError(self.title, argument, f"expected texts as names, found {found}")
            if refusals := [refusal for name in names if (refusal := text_problem(name))]:
                raise DeclarationValueError(
                    self.title, argument, f"Airflow would refuse a name: {refusals[0]}"
                )
            return
        for name in names:
            branch = branches.get(name) or branches[""]
            if problem := name_problem(name, prefix=self._child_id(""), is_group=branch.is_group):
                raise DeclarationValueError(self.title, argument, f"Airflow would refuse a name: {problem}")
        existing = {*self.dag.task_dict, *self.used_group_ids}
        if taken_ids := existing.intersection(map(self._child_id, names)):
            problem = f"the Dag has tasks or groups with the ids {listing(taken_ids)}; rename one of each"
            raise DeclarationValueError(self.title, argument, problem)

    def _batch_settings(self, branches: Mapping[str, Branch]) -> dict[str, Any]:
        """Settings of the task that runs a batch, which are those of its functions."""
        if not self._default_args.get("do_xcom_push", True):
            problem = "do_xcom_push=False would lose the values of all items; leave it out, or return None"
            raise DeclarationValueError(self.title, "default_args", problem)
        settings: dict[str, Any] | None = None
        for name, branch in branches.items():
            argument = f"branch[{name!r}]" if name else "branch"
            if not isinstance(branch, FunctionBranch) or not branch.is_python:
                fault = "but items of one task are calls of a plain Python function; leave items_per_task out"
                problem = f"{branch.title} is {branch.kind}, {fault}, or give a function"
                raise DeclarationTypeError(self.title, argument, problem)
            if self.reuse is not None:
                checks.check_is_repeatable(self.title, branch.arguments)
            checks.check_processes(self.title, self.item_executor, branch.title, branch.arguments.function)
            settings, earlier_settings = branch.batch_settings, settings
            if earlier_settings not in (None, settings):
                fault = f"{branch.title} has other settings than the functions before it"
                problem = f"{fault}, but all are items of one task; give them as default_args of the group"
                raise DeclarationValueError(self.title, argument, problem)
        checks.check_limit(self.title, self.max_concurrency, "branch", settings or {})
        of_task = {**self._default_args, **(settings or {})}
        checks.check_retry_policy(self.title, of_task.get("retry_policy"), self.item_retries)
        checks.check_task_outlasts_item(self.title, self.item_timeout, of_task.get("execution_timeout"))
        checks.check_reuse_of_dag(self.title, self.reuse, fail_fast=self.dag.fail_fast)
        limit = {} if self.max_concurrency is None else {"max_active_tis_per_dagrun": self.max_concurrency}
        return {**limit, **(settings or {})}

    def _add_static(self, branches: Mapping[str, Branch], items: Mapping[str, Any]) -> DeclaredGroup:
        tasks_of_branches, declared_branches = [], []
        around = {**(self.dag.default_args or {}), **(getattr(self.parent_group, "default_args", None) or {})}
        ways = self._ways_to_limit(branches.values())
        for index, (name, item) in enumerate(items.items()):
            branch = branches.get(name) or branches[""]
            tasks = branch.create(name, self._bound(branch, index), item, task_group=self)
            task_ids = tuple(task.task_id for task in tasks)
            checks.check_unused_limits(self.title, tasks, self.default_args, around, ways=ways)
            tasks_of_branches.append(tasks)
            declared_branches.append(DeclaredBranch(name=name, task_ids=task_ids))
        declared = DeclaredGroup(
            group_id=str(self.group_id),
            prefix=self._child_id(""),
            branches=tuple(declared_branches),
            stop_after_failures=as_declared(self.stop_after_failures),
            combined=self.combine is not None,
            **self._declared_results,
        )
        if self.stop_after_failures is not None:
            for tasks in tasks_of_branches:
                add_stop(self.title, tasks, declared, self.stop_after_failures)
        return declared

    def _add_mapped(self, branch: Branch, items: Mapping[str, Any] | None) -> DeclaredGroup:
        from airflow_fanout.definitions.expansion import Expansion  # a worker imports what it needs

        known: Sequence[Any] = ()
        output: Any = None
        if items is not None:
            known = list(items.values()) if self.items is not None else range(len(items))
        else:
            output = self.items
            if output is None or self.product_arguments is not None:
                output = self._add_split(count=self.count, items=output).output
        expansion = Expansion(
            owner=self.title,
            group_id=str(self.group_id),
            items=known,
            output=output,
            gives="item" if self.items is not None else "index" if branch.takes_index else "nothing",
            noted_names=self.noted_names,
            max_concurrency=self.max_concurrency,
            shows_names=self._default_args.get("map_index_template") is None,
            is_stoppable=self.stop_after_failures is not None,
        )
        tasks = branch.expand(dict(self.partial or {}), expansion, task_group=self)
        declared = self._declare_mapped(items, [task.task_id for task in tasks])
        if self.stop_after_failures is not None:
            add_stop(self.title, tasks, declared, self.stop_after_failures)
        return declared

    @property
    def _results_folder(self) -> Any:
        """Where values are written, as a text if it is known when the Dag is parsed."""
        is_known = self.results_path is not None and not is_run_time(self.results_path)
        return str(self.results_path) if is_known else self.results_path

    @property
    def _declared_results(self) -> dict[str, Any]:
        has_path = self.results_path is not None
        results_format = self.results_format if has_path else None
        return {"results_path": as_declared(self._results_folder), "results_format": results_format}

    def _add_batched(
        self, branches: Mapping[str, Branch], items: Mapping[str, Any] | None, settings: Mapping[str, Any]
    ) -> DeclaredGroup:
        from airflow_fanout.execution_time.batch_work import BatchWork
        from airflow_fanout.operators.batch import BatchOperator

        functions: dict[str, Any] = {name: branch.arguments for name, branch in branches.items()}  # type: ignore[union-attr]
        gives_index = any(map(self._gives_index, branches.values()))
        self.work = BatchWork(functions=functions, known_items=items, gives_index=gives_index)
        declared = self._declare_mapped(items, [self._child_id(EACH)])
        source: dict[str, Any] = (
            {"count": self.count, "items": self.items} if items is None else {"count": len(items)}
        )
        limits: dict[str, Any] = {
            "item_concurrency": self.item_concurrency,
            "stop_after_failures": self.stop_after_failures,
        }
        results_path = self._results_folder
        checks.check_results_folder(self.title, results_path, self.dag.task_dict.values())
        partial = self.partial or {}
        bound = {name: storable({**branch.bound, **partial}) for name, branch in branches.items()}
        if self.reuse is not None:
            source |= {"op_kwargs": bound, "reuse_path": self.reuse.path}
        split = self._add_split(**source, **limits, items_per_task=self.items_per_task)
        settings = {**settings, "task_id": EACH, "task_group": self, "dag": self.dag}
        mapped = BatchOperator.partial(
            op_kwargs=bound,
            results_path=storable(results_path),
            declared_group=declared.to_json(),
            **storable(limits),
            **settings,
        )
        batches = mapped.expand(batch=split.output)
        add_failure_hook(batches)
        of_run = [*(items or {}).values(), *limits.values(), results_path]
        XComArg.apply_upstream_relationship(batches, of_run)
        return declared

    def _declare_mapped(self, items: Mapping[str, Any] | None, task_ids: Sequence[str]) -> DeclaredGroup:
        is_mapping = isinstance(self.branch, Mapping)
        is_named = is_mapping or isinstance(self.items, Mapping)
        return DeclaredGroup(
            group_id=str(self.group_id),
            prefix=self._child_id(""),
            mode=self.mode,
            label=self.branch_label,
            names=tuple(items) if is_named and items is not None else None,
            count=None if items is None else len(items),
            each=tuple(task_ids),
            items_from=None if items is not None else self._items_from(),
            cut_from=() if items is not None else self._cut_from(),
            stop_after_failures=as_declared(self.stop_after_failures),
            max_concurrency=self.max_concurrency,
            items_per_task=as_declared(self.items_per_task),
            items_per_second=self.items_per_second,
            # All of a task's functions run at once unless told otherwise.
            item_concurrency=as_declared(
                self.item_concurrency or (self.items_per_task if is_mapping else None)
            ),
            item_executor=self.item_executor,
            item_timeout=None if self.item_timeout is None else float(seconds_in(self.item_timeout)),
            combined=self.combine is not None,
            stored_items=self.items.title if isinstance(self.items, StoredItems) else None,
            needs_pieces=isinstance(self.items, StoredItems) and self.items.needs_pieces,
            reuses=self.reuse is not None,
            **self._declared_results,
        )

    def _items_from(self) -> str | None:
        source, _ = source_and_functions(self.count if self.items is None else self.items)
        if isinstance(source, PlainXComArg) and not source.operator.is_mapped:
            return source.operator.task_id
        return self.split_task_id if self.mode == "mapped" else None

    def _cut_from(self) -> tuple[str, ...]:
        if (self.mode == "mapped" and self.split_task_id is None) or self.reuse is not None:
            return ()
        sources = XComArg.iter_xcom_references([self.count, self.items])
        return tuple(sorted({task.task_id for task, _ in sources}))

    def _add_split(self, **arguments: Any) -> SplitOperator:
        from airflow_fanout.operators.split import SplitOperator, split_task_settings

        arguments |= split_task_settings(self)
        kind: type[SplitOperator] = SplitOperator
        if self.reuse is not None:
            from airflow_fanout.operators.reusing_split import ReusingSplitOperator

            kind = ReusingSplitOperator
        split = kind(task_id=SPLIT, task_group=self, dag=self.dag, **arguments)
        self.split_task_id = split.task_id
        return split

    def _add_placeholder(self, branch: Branch) -> None:
        name = PLACEHOLDER if self.prefix_group_id else f"{self._group_id}_{PLACEHOLDER}"
        doc = f"{self.title} has zero branches; this keeps the tasks before it before its fan-in."
        placeholder = EmptyOperator(task_id=name, doc_md=doc, task_group=self, dag=self.dag)
        XComArg.apply_upstream_relationship(placeholder, {**branch.bound, **(self.partial or {})})
        self.placeholder_task_id = placeholder.task_id

    def _gives_index(self, branch: Branch) -> bool:
        return self.count is not None and branch.takes_index

    def _bound(self, branch: Branch, index: int) -> dict[str, Any]:
        return {**(self.partial or {}), **({"index": index} if self._gives_index(branch) else {})}

    @property
    def _default_args(self) -> dict[str, Any]:
        """All that hold for a branch; Airflow has merged those of the groups around into the group's own."""
        return {**(self.dag.default_args or {}), **self.default_args}

    def _child_id(self, name: str) -> str:
        return str(self.child_id(name))  # type: ignore[no-untyped-call]

    def _describe(self, branches: Sequence[Branch], count: int | None) -> None:
        size = self._size(count)
        self.tooltip = self.tooltip or f"Fan-out: {size}"
        if hasattr(TaskGroup, "doc_md") and self.doc_md is None:  # from Airflow 3.3 on
            self.doc_md = "\n\n".join(self._documentation(size, branches if count != 0 else ()))

    def _size(self, count: int | None) -> str:
        if count is None:
            return "as many branches as there are at run time"
        if count == 0:
            return "no branches"
        limits = [Limit(name="max_active_tasks", slots=self.dag.max_active_tasks, where="the Dag")]
        if self.max_concurrency is not None:
            limits.insert(0, Limit(name="max_concurrency", slots=self.max_concurrency))
        if self.items_per_task is None:
            return describe(effective_concurrency(count, limits), of_each=self.declared.steps)
        if not isinstance(self.items_per_task, int):
            return f"{counted(count, 'item', 'items')}, as many in a task as the run says"
        tasks = effective_concurrency(math.ceil(count / self.items_per_task), limits)
        rate = "" if self.items_per_second is None else f", at most {self.items_per_second:g} a second"
        return f"{counted(count, 'item', 'items')} in {describe(tasks, one='task', many='tasks')}{rate}"

    def _documentation(self, size: str, branches: Sequence[Branch]) -> Iterator[str]:
        yield f"**Fan-out** `{self.group_id}`: {size}."
        titles = ", ".join(dict.fromkeys(f"`{branch.title}`" for branch in branches))
        if branches:
            yield f"Each runs {titles}." if len(branches) == 1 else f"They run {titles}."
        if names := self.declared.known_names:
            more = len(names) - NAMES_SHOWN
            shown = ", ".join(f"`{name}`" for name in names[:NAMES_SHOWN])
            yield f"In order: {shown}" + (f" and {more} more." if more > 0 else ".")
