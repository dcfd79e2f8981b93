"""The task before a mapped one: it counts the instances, or cuts items into batches."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.exceptions import ItemsError
from airflow_fanout.execution_time.arguments import names_of_run
from airflow_fanout.execution_time.items import (
    names_and_items,
    read_at_once,
    source_and_functions,
    whole_count,
)
from airflow_fanout.operators.fan_in_checks import check_items_at_once, check_stop
from airflow_fanout.operators.settings import number_of_run, refused_in_run
from airflow_fanout.rules.instances import runs_mark
from airflow_fanout.rules.records import batch_key
from airflow_fanout.rules.wording import counted, listing
from airflow_fanout.storage.stored_items import StoredItems

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context, TaskGroup

    from airflow_fanout.storage.pieces import Pieces


BRANCH_SETTINGS = (
    "queue",
    "pool",
    "pool_slots",
    "executor",
    "executor_config",
    "resources",
    "execution_timeout",
    "max_active_tis_per_dag",
    "max_active_tis_per_dagrun",
    "pre_execute",
    "post_execute",
)
"""Settings in a group's ``default_args`` that are meant for its branches, and not for this task."""


def split_task_settings(group: TaskGroup) -> dict[str, Any]:
    """Values from around a group, or Airflow's defaults, for settings that the group gives its branches."""
    group_args = getattr(group.parent_group, "default_args", None) or {}
    outer_args = {**(group.dag.default_args or {}), **group_args}
    defaults = inspect.signature(BaseOperator.__init__).parameters
    names = [name for name in BRANCH_SETTINGS if name in group.default_args]
    return {name: outer_args.get(name, defaults[name].default) for name in names}


class SplitOperator(BaseOperator):
    """
    Return what a mapped task is expanded over: numbers, items, or the bounds of batches.

    The numbers are ``[0, 1, …]``. The bounds are ``[[0, 500, 1], [500, 1000, 1], …]``: the first item, the
    one after the last, and the try of this task, which tells batches that it has run again since they saved
    results. After that, if a task gives the items, or their number, stands which run of it was cut: a fan-in
    sees by it that the task has run again by itself.

    Items known only at run time are pushed batch by batch, as XComs ``batch_0``, ``batch_1``, …: ``{"names":
    [name, …] or None, "items": [item, …]}``, as they are before a ``.map()``, which each batch applies to its
    own. Of stored items the batches get places in their stead, ``{"names": …, "places": [place, …]}``: no
    item passes through an XCom.

    :param item_concurrency: Checked here, before the batches that it is for; ``stop_after_failures`` too.
    """

    template_fields: Sequence[str] = ("count", "items_per_task", "item_concurrency", "stop_after_failures")
    template_ext: Sequence[str] = (".sql",)  # of the query of stored items
    ui_color = "#e1e8f0"

    def __init__(
        self,
        *,
        count: Any = None,
        items: XComArg | StoredItems | None = None,
        items_per_task: Any = None,
        item_concurrency: Any = None,
        stop_after_failures: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "do_xcom_push": True})  # whatever default_args say of the branches
        self.count = count
        self.items = items
        self.items_per_task = items_per_task
        self.item_concurrency = item_concurrency
        self.stop_after_failures = stop_after_failures
        self.numbers_of_run = names_of_run(
            items_per_task=items_per_task,
            item_concurrency=item_concurrency,
            stop_after_failures=stop_after_failures,
        )
        values = items.values_to_render() if isinstance(items, StoredItems) else items
        sources = XComArg.iter_xcom_references([count, values])
        self.source_ids = sorted({task.task_id for task, _ in sources})
        if items is not None:  # no template field: Airflow would show all of them in the UI
            XComArg.apply_upstream_relationship(self, values)

    def execute(self, context: Context) -> Any:
        """Count the branches, or cut the items into batches."""
        ti: Any = context["ti"]
        self._check_numbers()
        if self.items is None:
            count = self._counted(context)
            if self.items_per_task is None:
                self._check_number(count, "mapped branches", "give items_per_task=")
                return list(range(count))
            ranges = self._ranges(count, ti)
        elif isinstance(self.items, StoredItems):
            ranges = self._plan(self.items, context)
        else:
            names, items = self._named_items(context)
            if self.items_per_task is None:  # of a mapped group, which is expanded over what this returns
                self._check_number(len(items), "mapped branches", "give items_per_task=")
                return items if names is None else dict(zip(names, items, strict=True))
            ranges = self._ranges(len(items), ti)
            for batch, (start, stop, *_) in enumerate(ranges):
                batch_names = None if names is None else list(names[start:stop])
                ti.xcom_push(batch_key(batch), {"names": batch_names, "items": list(items[start:stop])})
        return ranges

    def _plan(self, items: StoredItems, context: Context) -> list[list[int]]:
        """Push where the items of each batch lie, batch by batch, as they are found; return the bounds."""
        ti: Any = context["ti"]
        size, ranges, stop = self.items_per_task or 1, list[list[int]](), 0
        for cut in self._rendered(items, context).plan(size, self._pieces(ti)):
            ranges.append([stop, stop + cut.count, ti.try_number])
            stop += cut.count
            self._check_batches(len(ranges), size)
            ti.xcom_push(batch_key(len(ranges) - 1), {"names": cut.names, "places": cut.places})
        self._log_batches(stop, len(ranges), size)
        return ranges

    def _rendered(self, items: StoredItems, context: Context) -> StoredItems:
        """Stored items as this run has them; skips, as a mapped task does, if a task that is asked was."""

        def render(value: Any) -> Any:
            rendered = self.render_template(value, context)
            if value is not None:
                self._skip_with_source(context, rendered)
            return rendered

        return items.rendered(render)

    def _pieces(self, ti: Any) -> Pieces:
        from airflow_fanout.storage.pieces import Pieces  # not needed when a Dag is parsed

        return Pieces(ti.dag_id, ti.run_id, self.task_id, try_number=ti.try_number)

    def _counted(self, context: Context) -> int:
        """Number of branches, which may be known only now."""
        self._skip_with_source(context, self.count)
        return whole_count(self._owner, self.count)

    def _named_items(self, context: Context) -> tuple[Sequence[str] | None, Sequence[Any]]:
        """Names, None for a list, and items that are known only now."""
        from airflow_fanout.execution_time.xcom import current_count  # not needed when a Dag is parsed

        ti: Any = context["ti"]
        source, _ = source_and_functions(self.items)
        found = source.resolve(context)
        self._skip_with_source(context, found)
        read = read_at_once(found, lambda values: values[: current_count(ti, values)])
        return names_and_items(self._owner, read)

    def _skip_with_source(self, context: Context, found: object) -> None:
        """Skip, as a mapped task does, if there is nothing because its task was skipped; one request then."""
        from airflow_fanout.execution_time.xcom import RunReader  # not needed when a Dag is parsed

        if found is not None or not self.source_ids:
            return
        states = RunReader(context["ti"]).states()  # type: ignore[arg-type]
        skipped = {task_id for (task_id, _), instance in states.items() if instance.state == "skipped"}
        if skipped_ids := [task_id for task_id in self.source_ids if task_id in skipped]:
            message = f"{listing(skipped_ids)} was skipped"
            raise AirflowSkipException(message)

    @property
    def _owner(self) -> str:
        return f"FanOutGroup {getattr(self.task_group, 'group_id', None)!r}"

    def _check_numbers(self) -> None:
        """Check what only the run knows, with all that it has to fit to."""
        for name in self.numbers_of_run:
            setattr(self, name, number_of_run(self._owner, name, getattr(self, name)))
        if self.numbers_of_run:
            group: Any = self.task_group
            with refused_in_run():
                check_items_at_once(self._owner, self.item_concurrency, self.items_per_task)
                check_stop(self._owner, self.stop_after_failures, group.declared.known_count)

    def _ranges(self, total: int, ti: Any) -> list[list[Any]]:
        size = self.items_per_task or 1
        mark = self._source_mark(ti) if total else []
        ranges = [[start, min(start + size, total), ti.try_number, *mark] for start in range(0, total, size)]
        self._log_batches(total, len(ranges), size)
        self._check_batches(len(ranges), size)
        return ranges

    def _log_batches(self, total: int, number: int, size: int) -> None:
        batches = counted(number, "batch", "batches")
        self.log.info("%s in %s of up to %s", counted(total, "item", "items"), batches, size)

    def _check_batches(self, number: int, size: int) -> None:
        self._check_number(number, f"batches of {size} items", "raise items_per_task=")

    def _source_mark(self, ti: Any) -> list[str]:
        """Say which run of the items' task is cut; one request, none if there is no such task."""
        from airflow_fanout.execution_time.xcom import RunReader  # not needed when a Dag is parsed

        return [runs_mark(RunReader(ti).states(), self.source_ids)] if self.source_ids else []

    def _check_number(self, number: int, what: str, way_out: str) -> None:
        """Refuse more instances than Airflow maps over, before it fails with a message of its own."""
        limit = conf.getint("core", "max_map_length")
        if number > limit:
            excess = f"{number} {what} are more than the {limit} that [core] max_map_length allows"
            self._refuse(f"{excess}; {way_out} or raise that")

    def _refuse(self, problem: str) -> NoReturn:
        message = f"{self._owner}: {problem}"
        raise ItemsError(message)
