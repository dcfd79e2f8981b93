"""The task that runs the items of a batched group, so many in each instance: parsed, then executed."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_fanout.exceptions import BatchFailedError, FinalBatchFailedError, ItemsError
from airflow_fanout.execution_time.arguments import NO_ITEM
from airflow_fanout.execution_time.batch import Batch
from airflow_fanout.execution_time.batch_work import BrokenItem
from airflow_fanout.execution_time.batched import failures_of_others
from airflow_fanout.execution_time.checkpoints import Checkpoints, fingerprint
from airflow_fanout.execution_time.items import has_templates, read_at_once, source_and_functions
from airflow_fanout.execution_time.recording import core_count, peak_memory_bytes, redacted_error
from airflow_fanout.execution_time.stopping import item_stop_reason
from airflow_fanout.execution_time.xcom import RunReader, resumes
from airflow_fanout.rules.records import (
    ITEM_FAILED,
    ITEM_STOPPED,
    ITEM_SUCCEEDED,
    RECORD_KEY,
    RETURN_VALUE,
    BatchRecord,
    batch_key,
)
from airflow_fanout.rules.wording import counted, on_one_line
from airflow_fanout.serialization.stored_values import values_lie_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import Context


__all__ = ["BatchOperator"]

PROGRESS_EVERY = 5.0
"""Seconds between two progress lines."""

CHECKPOINT_EVERY = 2.0
"""Seconds between two checkpoints; with the time that one takes, well below the 5 s that may be lost."""

ERRORS_SHOWN = 5


class BatchOperator(BaseOperator):
    """
    Run the items of one batch of a group with ``items_per_task``.

    Its value, ``{name: value}`` of the items that succeeded, is pushed first, then what became of each item,
    and then it fails if an item did, so that Airflow retries it, and a retry runs only what has failed or not
    ended. Whatever ends the task between the two leaves a value that nothing refers to, never the reverse.

    :param batch: Places ``[start, stop]`` of its items among all.
    :param op_kwargs: Bound arguments: ``{function's name: {parameter: value}}``, under "" for the only one.
        (templated)
    :param declared_group: The group as the serialized Dag holds it, for those who have no Dag file.
    """

    template_fields: Sequence[str] = ("batch", "op_kwargs")
    template_fields_renderers: ClassVar[dict[str, str]] = {"op_kwargs": "py"}
    ui_color = "#dae8fc"

    def __init__(
        self,
        *,
        batch: Sequence[int],
        op_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
        declared_group: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch = batch
        self.op_kwargs = op_kwargs or {}
        self.declared_group = declared_group
        self._watch: _Watch | None = None

    def execute(self, context: Context) -> Any:
        """Run the items, report, and decide."""
        deadline = _deadline()
        ti: Any = context["ti"]
        start, _ = self.batch
        names, labels, items = self._items(context)
        group = self._group
        if group.work is None:
            message = f"{self.task_id!r} has lost its group's functions"
            raise TypeError(message)
        bound = {
            function: {name: read_at_once(value) for name, value in arguments.items()}
            for function, arguments in self.op_kwargs.items()
        }
        batch = Batch(
            len(items),
            group.work.calls(labels, items, start=start, bound=bound, context=context),
            describe=redacted_error,
            tell=self._log_tracebacks(labels),
            concurrency=group.item_concurrency or (len(items) if "" not in group.work.functions else 1),
            is_async=group.work.is_async(labels),
            most_failures=self._most_failures(group, context),
            counts=lambda is_final: is_final or not _retries(ti),
            deadline=deadline,
        )
        checkpoints = self._checkpoints(context, labels, items, bound)
        self._reuse(batch, checkpoints)
        self._watch = _Watch(self.log, batch, checkpoints)
        begun = batch.progress
        to_run = counted(begun.total - begun.done, "item", "items")
        self.log.info("%s to run, %s done by an earlier try", to_run, begun.reused)
        unfinished = "it was not started, or had not ended, when the task ended"
        try:
            with self._watch:
                batch.run()
        except (AirflowTaskTimeout, KeyboardInterrupt) as ended:
            batch.close()
            self._refuse_unserializable(batch, labels)
            self._keep(ti, batch, checkpoints, all_final=False)
            self._report(ti, batch, names, labels, unfinished=f"{unfinished}: {type(ended).__name__}")
            ended.fan_out_recorded = True  # type: ignore[union-attr]
            raise
        stopped = item_stop_reason(group.declared) if batch.is_stopped else None
        self._refuse_unserializable(batch, labels)
        try:
            values = self._report(ti, batch, names, labels, unfinished=unfinished, stopped=stopped)
        except BaseException:  # such as a value that is too large for the database
            self._keep(ti, batch, checkpoints, all_final=False)
            raise
        return self._decide(ti, batch, labels, checkpoints, values)

    def on_kill(self) -> None:
        """Let no further item start, and save what was done."""
        if self._watch is not None:
            self._watch.kill()

    @property
    def _group(self) -> Any:
        return self.task_group

    def _items(self, context: Context) -> tuple[list[str] | None, list[str], list[Any]]:
        """Names, if they are not numbered; what the items are called; and the items."""
        start, stop = self.batch
        group = self._group
        ti: Any = context["ti"]
        if group.work.known_items is not None:
            all_names = list(group.work.known_items)
            names = all_names[start:stop]
            items = [self._rendered(group.work.known_items[name], context) for name in names]
            return (None if group.declared.names is None else names), names, items
        if group.items is None:  # a count
            return (
                None,
                [f"{group.branch_label}_{place}" for place in range(start, stop)],
                [NO_ITEM] * (stop - start),
            )
        number = ti.map_index
        payload = None
        with suppress(FileNotFoundError):  # the body of an object-storage XCom
            payload = ti.xcom_pull(task_ids=group.split_task_id, key=batch_key(number), map_indexes=-1)
        if not isinstance(payload, dict):
            message = f"the items of batch {number} are no longer stored; clear {group.split_task_id!r}"
            raise ItemsError(message)
        names = payload["names"]
        labels = names or [f"{group.branch_label}_{place}" for place in range(start, stop)]
        _, functions = source_and_functions(group.items)
        return names, labels, [_transformed(item, functions) for item in payload["items"]]

    def _rendered(self, item: Any, context: Context) -> Any:
        """Render an item of the Dag file, as Airflow does those of a static group."""
        try:
            return self.render_template(item, context) if has_templates(item) else item
        except Exception as broken:  # fails this item, when it is called
            return BrokenItem(broken)

    def _log_tracebacks(self, labels: Sequence[str]) -> Callable[[int, BaseException], None]:
        """Log where the first items failed: the task's own exception tells no more than their messages."""
        left = iter(range(ERRORS_SHOWN))

        def tell(place: int, exception: BaseException) -> None:
            if next(left, None) is not None:
                self.log.error("%s failed", on_one_line(labels[place]), exc_info=exception)

        return tell

    def _checkpoints(
        self, context: Any, labels: Sequence[str], items: Sequence[Any], bound: Mapping[str, Any]
    ) -> Checkpoints | None:
        store = context.get("task_state_store")
        if store is None:
            if context["ti"].try_number > 1:
                self.log.warning("This Airflow keeps no state of tasks (3.3 does): all items run again")
            return None
        base = fingerprint(bound)
        # Before anything runs, for a function may change its item.
        prints = [
            None if base is None else fingerprint(base, label, None if item is NO_ITEM else [item])
            for label, item in zip(labels, items, strict=True)
        ]
        return Checkpoints(store, prints.__getitem__, self.log, retried=_retries(context["ti"]))

    def _reuse(self, batch: Batch, checkpoints: Checkpoints | None) -> None:
        if checkpoints is None:
            return
        done = checkpoints.load()
        if not done:
            return
        for place in range(len(batch.states)):
            found = done.get(checkpoints.fingerprint_of(place) or "")
            if found is not None:
                batch.reuse(place, found)

    def _most_failures(self, group: Any, context: Any) -> int | None:
        ti = context["ti"]
        if group.stop_after_failures is None or ti.try_number > 1 or resumes(ti):
            return None
        others = failures_of_others(
            RunReader(ti), self.task_id, ti.map_index, split_task_id=str(group.split_task_id)
        )
        allowed: int = group.stop_after_failures
        return max(allowed - others, 0)

    def _refuse_unserializable(self, batch: Batch, labels: Sequence[str]) -> None:
        """Fail the items whose values Airflow can't store; the others keep theirs."""
        from airflow.sdk.bases.xcom import BaseXCom

        # Another backend may store what Airflow's own can't.
        if values_lie_elsewhere() or _why_not_stored(list(batch.values.values()), BaseXCom) is None:
            return
        for place in sorted(batch.values):
            # In a list: as deep as it is to lie beside the others.
            if (unfit := _why_not_stored([batch.values[place]], BaseXCom)) is not None:
                self.log.error("The value of %s can't be stored: %s", on_one_line(labels[place]), unfit)
                batch.fail(place, f"its value can't be stored: {unfit}")

    def _report(
        self,
        ti: Any,
        batch: Batch,
        names: list[str] | None,
        labels: Sequence[str],
        *,
        unfinished: str,
        stopped: str | None = None,
    ) -> dict[str, Any]:
        """Push the values by name, and then what became of each item; return the values."""
        for place in batch.pending:
            if stopped is None:
                batch.states[place], batch.errors[place] = ITEM_FAILED, unfinished
            else:
                batch.states[place] = ITEM_STOPPED
        values = {
            labels[place]: batch.values[place]
            for place, state in enumerate(batch.states)
            if state == ITEM_SUCCEEDED
        }
        record = BatchRecord(
            map_index=ti.map_index,
            start=self.batch[0],
            names=names,
            statuses="".join(batch.states),
            errors={str(place): batch.errors[place] for place in sorted(batch.errors)},
            stopped=stopped,
            seconds=[_rounded(each) for each in batch.seconds],
            cpu_seconds=[_rounded(each) for each in batch.cpu_seconds],
            peak_memory_bytes=peak_memory_bytes(),
            cores=core_count(),
            concurrency=batch.concurrency,
            elapsed=_rounded(batch.elapsed),
        )
        ti.xcom_push(RETURN_VALUE, values)
        ti.xcom_push(RECORD_KEY, record.to_xcom())
        self.do_xcom_push = False  # it is there already; a post_execute of the author's is still given it
        self.log.info("%s", batch.progress)
        return values

    def _decide(
        self,
        ti: Any,
        batch: Batch,
        labels: Sequence[str],
        checkpoints: Checkpoints | None,
        values: dict[str, Any],
    ) -> dict[str, Any]:
        failed = [place for place, state in enumerate(batch.states) if state == ITEM_FAILED]
        if not failed:
            if checkpoints is not None:
                checkpoints.forget()
            return values
        all_final = batch.final.issuperset(failed)
        self._keep(ti, batch, checkpoints, all_final=all_final)
        lines = [
            f"  {on_one_line(labels[place])}: {batch.errors.get(place)}" for place in failed[:ERRORS_SHOWN]
        ]
        if len(failed) > ERRORS_SHOWN:
            lines.append(f"  and {len(failed) - ERRORS_SHOWN} more")
        message = "\n".join(
            [f"{len(failed)} of {counted(len(batch.states), 'item', 'items')} failed:", *lines]
        )
        if all_final:
            raise FinalBatchFailedError(message)
        raise BatchFailedError(message)

    def _keep(self, ti: Any, batch: Batch, checkpoints: Checkpoints | None, *, all_final: bool) -> None:
        """Save what the retry that comes, or whoever clears the batch, need not do again."""
        if checkpoints is None:
            return
        if self._watch is not None:
            self._watch.save()
        if all_final or not _retries(ti):
            checkpoints.forget_final_failures()
        checkpoints.log_unsaved()


class _Watch:
    """A thread beside the items, which saves what is done and says how far the batch is."""

    def __init__(self, log: Any, batch: Batch, checkpoints: Checkpoints | None) -> None:
        self._log, self._batch, self._checkpoints = log, batch, checkpoints
        self._end = threading.Event()
        self._asked = threading.Event()
        self._saved = threading.Event()
        self._saving = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True, name="fan-out-watch")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *ended: object) -> None:
        self._end.set()
        self._asked.set()
        self._thread.join(timeout=30)

    def save(self) -> None:
        """Save what has ended since the last time."""
        if self._checkpoints is not None:
            with self._saving:
                self._checkpoints.save(self._batch)

    def kill(self) -> None:
        """Stop, from a signal handler: the main thread may be in the midst of a request."""
        self._batch.close()
        self._saved.clear()
        self._asked.set()
        self._saved.wait(timeout=3)

    def _run(self) -> None:
        passed = 0.0
        while not self._end.is_set():
            asked = self._asked.wait(CHECKPOINT_EVERY)
            self._asked.clear()
            if self._end.is_set():
                return
            if self._checkpoints is not None:
                with self._saving:  # when all items have ended, the task itself decides what is worth keeping
                    self._checkpoints.save(self._batch, give_up=self._end.is_set)
            self._saved.set()
            passed += 0.0 if asked else CHECKPOINT_EVERY
            if passed >= PROGRESS_EVERY:
                passed = 0.0
                self._log.info("%s", self._batch.progress)


def _transformed(item: Any, functions: Sequence[Callable[[Any], Any]]) -> Any:
    """Make what the branch gets of an item, as its ``.map()`` says."""
    try:
        for function in functions:
            item = function(item)
    except Exception as broken:  # fails, or skips, this item, when it is called
        return BrokenItem(broken)
    return item


def _deadline() -> float | None:
    """When ``execution_timeout``, which Airflow has set an alarm for, is over; None if there is none."""
    begin = time.monotonic()
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    return begin + left if left else None


def _retries(ti: Any) -> bool:
    """Whether Airflow will try this task again if it fails."""
    return bool(ti.max_tries and ti.try_number <= ti.max_tries)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _why_not_stored(value: Any, backend: Any) -> str | None:
    try:
        backend.serialize_value(value)
    except Exception as unfit:  # whatever a serializer of the author's raises
        return redacted_error(unfit)[:200]
    return None
