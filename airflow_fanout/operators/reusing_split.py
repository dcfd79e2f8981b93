"""The task before the batches of a group with ``reuse``: it cuts what no earlier run has done."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import nullcontext
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import XComArg

from airflow_fanout.execution_time.arguments import NO_ITEM
from airflow_fanout.execution_time.items import has_templates, read_at_once
from airflow_fanout.operators.split import SplitOperator
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.rules.records import NO_REUSE, REUSE_KEY, batch_key
from airflow_fanout.rules.wording import counted
from airflow_fanout.storage.stored_items import StoredItems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow.sdk import Context

    from airflow_fanout.storage.pieces import Pieces
    from airflow_fanout.storage.stored_items import Place


class ReusingSplitOperator(SplitOperator):
    """
    Look every item up among the values of earlier runs, and cut the others into batches.

    Bounds count the items that run. Each batch is told which these are, as an XCom ``batch_0``, …:
    ``{"indexes": [index, …], "names": [name, …], "items": [item, …] or None}``, without items where
    the Dag file has them, and of stored items with ``places`` in their stead. What is reused is the XCom
    ``fan_out_reuse``: the file that says it, and numbers.

    :param op_kwargs: Bound arguments of the branches, which are part of what an item is known by.
        (templated)
    :param reuse_path: Folder of the store. (templated)
    """

    template_fields: Sequence[str] = (*SplitOperator.template_fields, "op_kwargs", "reuse_path")
    template_fields_renderers: ClassVar[dict[str, str]] = {"op_kwargs": "py"}

    def __init__(self, *, op_kwargs: Mapping[str, Mapping[str, Any]], reuse_path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.op_kwargs, self.reuse_path = op_kwargs, reuse_path
        known = getattr(self.task_group, "items", None)  # which may hold outputs of tasks
        XComArg.apply_upstream_relationship(self, known)

    def execute(self, context: Context) -> Any:
        """Cut what has to run into batches."""
        from airflow.sdk import ObjectStoragePath

        from airflow_fanout.execution_time.reused import plan_reuse
        from airflow_fanout.storage.reuse_store import ReuseStore

        ti: Any = context["ti"]
        group: Any = self.task_group
        self._check_numbers()
        items: Any = self.items
        places: _Places | None = None
        names: Sequence[str] | None
        if isinstance(items, StoredItems):
            places = _Places(self._rendered(items, context), self.items_per_task or 1, self._pieces(ti))
            names, identities = places.names, places.identities()
        else:
            names, items = self._all_items(context)
            identities = self._identities(context, names, items)
        store = ReuseStore(ObjectStoragePath(self.reuse_path))
        is_off = group.group_id in ((context["dag_run"].conf or {}).get(NO_REUSE) or ())
        with nullcontext() if is_off else store.index(group.reuse.expire_after) as index:
            planned = plan_reuse(store, index, self._fingerprints(identities), is_named=names is not None)
        record, to_run = planned.record, planned.to_run
        self.log.info(
            "%s of %s reused%s",
            record.reused,
            counted(record.total, "item", "items"),
            ": rerun --no-reuse was asked for" if is_off else "",
        )
        if record.unknown:
            what = counted(record.unknown, "item", "items")
            self.log.warning("%s can't be told from others, and always run: they can't be serialized", what)
        ranges = self._ranges(len(to_run), ti)
        label = group.branch_label
        for batch, (start, stop, *_) in enumerate(ranges):
            indexes = list(to_run[start:stop])
            payload: dict[str, Any] = {
                "indexes": indexes,
                "names": [f"{label}_{index}" if names is None else names[index] for index in indexes],
            }
            if places is not None:
                payload["places"] = places.of(indexes)
            else:
                payload["items"] = None if self.items is None else [items[index] for index in indexes]
            ti.xcom_push(batch_key(batch), payload)
        ti.xcom_push(REUSE_KEY, record.to_xcom())
        return ranges

    def _all_items(self, context: Context) -> tuple[Sequence[str] | None, Sequence[Any]]:
        """Names, None if they are numbered, and items, as the Dag file or a task has them."""
        group: Any = self.task_group
        known: Mapping[str, Any] | None = group.work.known_items
        if self.items is not None:
            return self._named_items(context)
        if known is None:
            return None, [NO_ITEM] * self._counted(context)
        return group.declared.names, list(known.values())

    def _identities(
        self, context: Context, names: Sequence[str] | None, items: Sequence[Any]
    ) -> Iterator[tuple[str | None, Any]]:
        for index, item in enumerate(items):
            is_template = self.items is None and has_templates(item)
            value = self.render_template(item, context) if is_template else item
            yield None if names is None else names[index], value

    def _fingerprints(
        self, identities: Iterable[tuple[str | None, Any]]
    ) -> Iterator[tuple[str | None, str | None]]:
        from airflow_fanout.execution_time.fingerprints import Fingerprints

        group: Any = self.task_group
        bound = {
            function: {name: read_at_once(value) for name, value in arguments.items()}
            for function, arguments in self.op_kwargs.items()
        }
        fingerprints = Fingerprints(
            group.work.functions, bound, version=group.reuse.version, by_index=group.count is not None
        )
        for index, (name, value) in enumerate(identities):
            is_broken = isinstance(value, BrokenItem)  # it runs, and fails by name
            yield None if is_broken else fingerprints.of(index, name, value), name


class _Places:
    """
    Where stored items lie, and those that run.

    :param names: Names of the items, as far as they have been planned; None if they are numbered.
    """

    def __init__(self, source: StoredItems, size: int, pieces: Pieces) -> None:
        self._source, self._cuts = source, source.plan(size, pieces)
        self.names: list[str] | None = [] if source.has_names else None
        self._places: list[Place] = []
        self._starts: list[int] = []

    def identities(self) -> Iterator[tuple[str | None, Any]]:
        """Yield name, None if it has none, and identity of each item, with memory for those of a batch."""
        start = 0
        for cut in self._cuts:
            for place in cut.places:
                self._places.append(place)
                self._starts.append(start)
                start += place["count"]
            if self.names is not None:
                self.names += cut.names or ()
            names: Sequence[str | None] = cut.names or [None] * cut.count
            yield from zip(names, self._source.identities(cut.places), strict=True)

    def of(self, indexes: Iterable[int]) -> list[Place]:
        """Return where some items lie, in order."""
        places = []
        for number, some in groupby(indexes, lambda index: bisect_right(self._starts, index) - 1):
            place, only = self._places[number], [index - self._starts[number] for index in some]
            places.append(place if len(only) == place["count"] else {**place, "only": only})
        return places
