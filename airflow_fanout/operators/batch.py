"""The operator of a batched group: each of its mapped instances runs the items of one batch."""

from __future__ import annotations

import copy
import math
import mmap
import os
import signal
import threading
from contextlib import suppress
from functools import partial, reduce
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_fanout.exceptions import BatchFailedError, FinalBatchFailedError, ItemsError
from airflow_fanout.execution_time.arguments import NO_ITEM, names_of_run
from airflow_fanout.execution_time.batch import AlarmThread, Batch, ItemResult, alarm_deadline
from airflow_fanout.execution_time.batched import failures_of_others
from airflow_fanout.execution_time.checkpoints import Checkpoints, CheckpointThread, ValueParts, fingerprint
from airflow_fanout.execution_time.item_retries import ItemRetries
from airflow_fanout.execution_time.items import has_templates, read_at_once, source_and_functions
from airflow_fanout.execution_time.recording import core_count, peak_memory_bytes, redacted_error
from airflow_fanout.execution_time.stopping import item_stop_reason
from airflow_fanout.execution_time.stored_results import ResultsWriter, recorded_columns, written_values
from airflow_fanout.execution_time.transport import is_of_values, refused_values
from airflow_fanout.execution_time.xcom import (
    RunReader,
    answered_in_process,
    make_requests_in_a_thread,
    resumes,
)
from airflow_fanout.operators.settings import number_of_run
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.rules.pacing import retry_seconds, seconds_in
from airflow_fanout.rules.records import (
    ITEM_FAILED,
    ITEM_STOPPED,
    ITEM_SUCCEEDED,
    RECORD_KEY,
    RETURN_VALUE,
    BatchRecord,
    batch_key,
    part_key,
    read_bounds,
)
from airflow_fanout.rules.wording import counted, on_one_line
from airflow_fanout.storage.stored_items import StoredItems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import Context

    from airflow_fanout.exceptions import CombineError
    from airflow_fanout.execution_time.batch_work import BatchWork
    from airflow_fanout.execution_time.combination import Combination
    from airflow_fanout.rules.records import StoredResults
    from airflow_fanout.serialization.declaration import ItemExecutor


ERRORS_SHOWN = 5

UNCHANGEABLE = frozenset({type(NO_ITEM), type(None), bool, int, float, str})
"""Types of items that a function can't change."""

UNFINISHED = "it was not started, or had not ended, when the task ended"
NO_PLACE = f"{UNFINISHED}: every place was lost to an item whose time was over, and that could not be stopped"
KILLED = "the process of its batch ended before it had reported"


class BatchOperator(BaseOperator):
    """
    Run the items of one batch of a group with ``items_per_task``.

    It pushes its value first, ``{name: value}`` of the items that succeeded (if all have ended, and the group
    has ``combine``: what that made of them, ``[[key, value], …]``), and then a record of all items.
    With ``results_path`` the values go into a file there, and the XCom names it:
    ``{"part": path, "succeeded": 499, "failed": 1, "skipped": 0, "failed_items": path or None}``.
    Then it fails if an item did, so that Airflow retries it, and a retry runs only what has failed or not
    ended. Whatever ends the task between the two leaves a value that nothing refers to, never the reverse.

    :param batch: Its first item's index among all, that after its last, and the try of the task that cut it.
    :param op_kwargs: Bound arguments: ``{function's name: {parameter: value}}``, under "" for the only one.
        (templated)
    :param item_concurrency: As the group has it; None for one at a time, or, of a mapping of functions, all.
    :param stop_after_failures: As the group has it.
    :param results_path: Folder of the files that values go into, in place of an XCom. (templated)
    :param declared_group: The group as the serialized Dag holds it, for those who have no Dag file.
    """

    template_fields: Sequence[str] = (
        *("batch", "op_kwargs", "item_concurrency", "stop_after_failures", "results_path"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"op_kwargs": "py"}
    ui_color = "#dae8fc"

    def __init__(
        self,
        *,
        batch: Sequence[int],
        op_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
        item_concurrency: Any = None,
        stop_after_failures: Any = None,
        results_path: Any = None,
        declared_group: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch = batch
        self.op_kwargs = op_kwargs or {}
        self.item_concurrency = item_concurrency
        self.stop_after_failures = stop_after_failures
        self.results_path = results_path
        self.numbers_of_run = names_of_run(
            item_concurrency=item_concurrency, stop_after_failures=stop_after_failures
        )
        self.declared_group = declared_group
        self._indexes: Sequence[int] = ()
        self._beside: CheckpointThread | None = None

    def execute(self, context: Context) -> Any:
        """Run the items, report, and decide."""
        for name in self.numbers_of_run:  # split may have seen others, or ran before somebody cleared this
            number = number_of_run(f"FanOutGroup {self._group.group_id!r}", name, getattr(self, name))
            setattr(self, name, number)
        items, is_named = self._items(context)
        labels = list(items)
        bound = {
            function: {name: read_at_once(value) for name, value in arguments.items()}
            for function, arguments in self.op_kwargs.items()
        }
        batch = self._batch(context, items, bound)
        writer = self._results_writer(context["ti"], items, is_named=is_named)
        checkpoints = self._checkpoints(context, items, bound)
        checkpoints.restore(batch)
        batch.prepare()
        names = labels if is_named else None
        report = partial(self._report, context["ti"], labels, names, writer=writer)
        with AlarmThread(batch, give_up=partial(self._end_process, batch, report)):
            try:
                return self._run(context["ti"], batch, checkpoints, labels, report)
            except BaseException as ended:  # also of values that are too large for the database
                batch.close()
                signal.setitimer(signal.ITIMER_REAL, 0)  # nothing else is to cut short what follows
                checkpoints.keep(batch)
                if isinstance(ended, AirflowTaskTimeout | KeyboardInterrupt):
                    report(batch, f"{UNFINISHED}: {type(ended).__name__}")
                    ended.fan_out_recorded = True  # type: ignore[union-attr]
                raise

    def _run(
        self,
        ti: Any,
        batch: Batch,
        checkpoints: Checkpoints,
        labels: Sequence[str],
        report: Callable[..., Any],
    ) -> Any:
        """Run the items, report, and return the values, or raise if an item has failed."""
        make_requests_in_a_thread()
        parts = ValueParts()
        so_far = partial(report, unfinished=KILLED, parts=parts)
        are_in_files = self.results_path is not None
        self._beside = CheckpointThread(self.log, batch, checkpoints, so_far, writes_failures=are_in_files)
        to_run = counted(len(batch.pending), "item", "items")
        self.log.info("%s to run, %s done by an earlier try", to_run, batch.reused)
        with self._beside:
            batch.run()
            folded, errors = self._fold(batch, labels)
        if errors:
            checkpoints.keep(batch)  # a retry folds once more, and runs no item again
            for error in islice(dict.fromkeys(errors.values()), ERRORS_SHOWN):
                self.log.error("%s", error, exc_info=error)
            for index, error in errors.items():
                batch.fail(index, redacted_error(error))
        unfinished = NO_PLACE if batch.is_stuck and not batch.is_stopped else UNFINISHED
        values = report(batch, unfinished, folded=folded)
        self._clear(ti, parts)
        if failed := _with_status(batch, ITEM_FAILED):
            is_final = all(result.is_final for result in failed.values())
            kind = FinalBatchFailedError if is_final else BatchFailedError
            raise kind(_failure_message(failed, labels))
        if self._post_execute_hook is not None:  # the author's, which may fail
            checkpoints.keep(batch)
        self.on_success_callback = [lambda _: checkpoints.forget(), *self.on_success_callback]
        return values

    def on_kill(self) -> None:
        """Let no further item start, and save what was done."""
        if self._beside is not None:
            self._beside.kill()

    def _fold(
        self, batch: Batch, labels: Sequence[str]
    ) -> tuple[list[list[Any]] | None, Mapping[int, CombineError]]:
        """Fold the values, None if they are kept by name; and the errors of items that fail by it."""
        combination: Combination | None = self._group.combination
        if combination is None:
            return None, {}
        successes = _with_status(batch, ITEM_SUCCEEDED)
        return combination.fold_batch(labels, {index: result.value for index, result in successes.items()})

    def _end_process(self, batch: Batch, report: Callable[[Batch, str], object]) -> None:
        """End a task that can't be interrupted, after a last try to report."""
        if answered_in_process():
            return  # the process of dag.test() is the user's own
        batch.close()
        self.log.error("execution_timeout is over, and the task can't be interrupted: its process ends")
        unfinished = f"{UNFINISHED}: {AirflowTaskTimeout.__name__}"
        reporting = threading.Thread(target=report, args=(batch, unfinished), daemon=True)
        reporting.start()
        reporting.join(1)
        os._exit(1)

    @property
    def _group(self) -> Any:
        return self.task_group

    @property
    def _work(self) -> BatchWork:
        work: BatchWork | None = self._group.work
        if work is None:
            message = f"{self.task_id!r} has lost its group's functions"
            raise TypeError(message)
        return work

    def _items(self, context: Context) -> tuple[dict[str, Any], bool]:
        """Items by name, and whether they have names of their own, or are numbered."""
        start, stop, *_ = self.batch
        group, known = self._group, self._work.known_items
        self._indexes = range(start, stop)
        ti: Any = context["ti"]
        if group.reuse is not None:
            return self._items_to_run(ti, context), True
        numbers = [f"{group.branch_label}_{index}" for index in self._indexes]
        if known is not None:
            known = dict(islice(known.items(), start, stop))
            return _made(known, partial(self._rendered, context)), group.declared.names is not None
        if group.items is None:  # a count
            return dict.fromkeys(numbers, NO_ITEM), False
        stored = self._stored_batch(ti)
        names = stored["names"] or numbers
        if isinstance(group.items, StoredItems):
            items = dict(zip(names, group.items.read(stored["places"]), strict=True))
        else:
            items = self._mapped(dict(zip(names, stored["items"], strict=True)))
        return items, stored["names"] is not None

    def _items_to_run(self, ti: Any, context: Context) -> dict[str, Any]:
        """Items of a batch of a group some of whose items need not run, by name."""
        group, known, stored = self._group, self._work.known_items, self._stored_batch(ti)
        self._indexes = stored["indexes"]
        names = stored["names"]
        if known is not None:
            values = list(known.values())
            if max(self._indexes) >= len(values):
                message = f"the Dag file has fewer items than were cut; clear {group.split_task_id!r}"
                raise ItemsError(message)
            items = {name: values[index] for name, index in zip(names, self._indexes, strict=True)}
            return _made(items, partial(self._rendered, context))
        if group.items is None:  # a count
            return dict.fromkeys(names, NO_ITEM)
        if isinstance(group.items, StoredItems):
            return dict(zip(names, group.items.read(stored["places"]), strict=True))
        return self._mapped(dict(zip(names, stored["items"], strict=True)))

    def _stored_batch(self, ti: Any) -> dict[str, Any]:
        """What the task that cut the items has pushed for this batch."""
        split_task_id = self._group.split_task_id
        stored: Any = None
        with suppress(FileNotFoundError):  # the body of an object-storage XCom
            stored = ti.xcom_pull(task_ids=split_task_id, key=batch_key(ti.map_index), map_indexes=-1)
        if not isinstance(stored, dict):
            message = f"the items of batch {ti.map_index} are no longer stored; clear {split_task_id!r}"
            raise ItemsError(message)
        return stored

    def _mapped(self, items: dict[str, Any]) -> dict[str, Any]:
        _, functions = source_and_functions(self._group.items)
        if not functions:
            return items
        return _made(items, lambda item: reduce(lambda made, call: call(made), functions, item))

    def _rendered(self, context: Context, item: Any) -> Any:
        """Render an item as Airflow does those of a static group."""
        return self.render_template(item, context) if has_templates(item) else item

    def _results_writer(self, ti: Any, items: Mapping[str, Any], *, is_named: bool) -> ResultsWriter | None:
        if self.results_path is None:
            return None
        return ResultsWriter(
            str(self.results_path),
            self._group.results_format,
            ti=ti,
            start=self.batch[0],
            labels=list(items),
            items=[
                None if item is NO_ITEM or isinstance(item, BrokenItem) else item for item in items.values()
            ],
            is_named=is_named,
            log=self.log,
        )

    def _batch(self, context: Any, items: Mapping[str, Any], bound: Mapping[str, Mapping[str, Any]]) -> Batch:
        ti, work, labels = context["ti"], self._work, list(items)
        return Batch(
            len(items),
            work.calls(
                labels,
                list(items.values()),
                indexes=self._indexes,
                bound=bound,
                context=context,
                copies_items=self.results_path is not None,  # who failed is written with its item
            ),
            on_failure=self._log_tracebacks(labels),
            on_trouble=lambda index, trouble: self.log.warning("%s: %s", on_one_line(labels[index]), trouble),
            executor=self._executor,
            judge=self._item_retries(labels, context),
            concurrency=self._concurrency(len(items)),
            is_async=work.is_async(labels),
            failures_left=self._failures_left(ti),
            is_retried=bool(ti.max_tries and ti.try_number <= ti.max_tries),
            item_timeout=self._group.declared.item_timeout,
            per_second=self._share_of_rate(ti),
            deadline=alarm_deadline(),
        )

    def _concurrency(self, size: int) -> int:
        """Count the items that run at the same time: in ``dag.test()``, which answers one thread, one."""
        concurrency: int = self.item_concurrency or (size if "" not in self._work.functions else 1)
        if concurrency > 1 and answered_in_process():
            self.log.info("dag.test() answers one thread at a time: items run one after another")
            return 1
        return concurrency

    @property
    def _executor(self) -> ItemExecutor:
        """Where items run: in ``dag.test()``, which answers no process but its own, in this one."""
        executor: ItemExecutor = self._group.item_executor or "thread"
        if executor == "process" and answered_in_process():
            self.log.info("dag.test() answers no other process: items run in this one")
            return "thread"
        return executor

    def _item_retries(self, labels: Sequence[str], context: Any) -> ItemRetries | None:
        if not self._group.item_retries:
            return None
        ti, own_delay = context["ti"], self._group.item_retry_delay
        delay = partial(
            retry_seconds,
            delay=seconds_in(self.retry_delay if own_delay is None else own_delay),
            multiplier=self.retry_exponential_backoff,
            most=None if self.max_retry_delay is None else seconds_in(self.max_retry_delay),
            ceiling=conf.getint("core", "max_task_retry_delay", fallback=24 * 60 * 60),
        )

        def delay_of(name: str, tries: int) -> float:
            return delay(tries, identity=f"{ti.dag_id}#{ti.run_id}#{self.task_id}#{name}#{tries}")

        return ItemRetries(
            labels,
            most=self._group.item_retries,
            delay=delay_of,
            policy=getattr(self, "retry_policy", None),  # from Airflow 3.3 on
            context=context,
            log=self.log,
        )

    def _share_of_rate(self, ti: Any) -> float | None:
        """Divide the group's rate by the tasks that can run at once; one request if nobody knows them."""
        rate: float | None = self._group.items_per_second
        if rate is None:
            return None
        tasks: int = self._group.max_concurrency or 1
        if tasks > 1:
            tasks = min(tasks, self._batch_count(ti) or tasks)
            self.log.info("At most %g items a second start here: %g in %s tasks", rate / tasks, rate, tasks)
        return rate / tasks

    def _batch_count(self, ti: Any) -> int | None:
        count: int | None = self._group.declared.count
        size = self._group.items_per_task
        if count is not None and isinstance(size, int) and self._group.reuse is None:
            return math.ceil(count / size)
        cuts: object = None
        with suppress(FileNotFoundError):  # the body of an object-storage XCom
            cuts = RunReader(ti).value(str(self._group.split_task_id), -1, RETURN_VALUE)
        bounds = read_bounds(cuts)
        return None if bounds is None else len(bounds)

    def _failures_left(self, ti: Any) -> int | None:
        """Count the failures after which no further item starts; None for no limit."""
        limit: int | None = self.stop_after_failures
        if limit is None or ti.try_number > 1 or resumes(ti):
            return None
        split_task_id = str(self._group.split_task_id)
        others = failures_of_others(RunReader(ti), self.task_id, ti.map_index, split_task_id=split_task_id)
        return max(limit - others, 0)

    def _log_tracebacks(self, labels: Sequence[str]) -> Callable[[int, BaseException], None]:
        """Log where the first items failed: the task's own exception has no more than their messages."""
        shown = mmap.mmap(-1, 1)  # a number that the children of item_executor="process" share

        def log(index: int, exception: BaseException) -> None:
            if shown[0] < ERRORS_SHOWN:
                shown[0] += 1
                self.log.error("%s failed", on_one_line(labels[index]), exc_info=exception)

        return log

    def _checkpoints(self, context: Any, items: Mapping[str, Any], bound: Mapping[str, Any]) -> Checkpoints:
        store, ti = context.get("task_state_store"), context["ti"]
        if store is None and ti.try_number > 1:
            self.log.warning("This Airflow keeps no state of tasks (3.3 does): all items run again")
        # What was saved is of no use after the items were split again, with what they stand for.
        base = None if store is None else fingerprint(bound, self.batch[2])
        labels, values = list(items), list(items.values())

        def fingerprint_of(index: int) -> str | None:
            item = values[index]
            return fingerprint(base, labels[index], None if item is NO_ITEM else [item])

        # A function may change its item, so these are made before anything runs; all others when asked for.
        changeable = {index for index, item in enumerate(values) if type(item) not in UNCHANGEABLE}
        made = {index: fingerprint_of(index) for index in changeable if base is not None}

        def known_fingerprint(index: int) -> str | None:
            if base is None:
                return None
            return made[index] if index in made else fingerprint_of(index)

        return Checkpoints(store, known_fingerprint, self.log, max_tries=ti.max_tries)

    def _report(
        self,
        ti: Any,
        labels: Sequence[str],
        names: list[str] | None,
        batch: Batch,
        unfinished: str = UNFINISHED,
        *,
        writer: ResultsWriter | None = None,
        folded: list[list[Any]] | None = None,
        parts: ValueParts | None = None,
    ) -> Any:
        """
        Push the values, and then the record; return the values.

        :param unfinished: Error of items that have not ended, unless enough failures have stopped them.
        :param writer: Where values go into files, what writes them.
        :param folded: What to push in place of the values by name, if they have been folded.
        :param parts: Where values go of a batch that has not ended, of which few are pushed again.
        """
        is_stopped = batch.is_stopped and unfinished == UNFINISHED
        stopped = item_stop_reason(self._group.group_id, self.stop_after_failures) if is_stopped else None
        for index in batch.pending if stopped is None else ():
            batch.fail(index, unfinished)
        values: Any = None
        stored: StoredResults | None = None
        if writer is not None:
            stored = writer.write(batch, parts)
            if parts is None:
                ti.xcom_push(RETURN_VALUE, values := written_values(batch, stored))
        elif parts is not None:
            push = partial(self._push_values, ti, batch, labels)
            parts.push(_with_status(batch, ITEM_SUCCEEDED), push)
        elif folded is None:
            values = self._push_values(ti, batch, labels, [*_with_status(batch, ITEM_SUCCEEDED)])
        else:
            ti.xcom_push(RETURN_VALUE, values := folded)
        results = [batch.results.get(index, ItemResult(ITEM_STOPPED, tries=0)) for index in range(batch.size)]
        record = BatchRecord(
            map_index=ti.map_index,
            start=self.batch[0],
            split=self.batch[2],
            statuses="".join(result.status for result in results),
            stopped=stopped,
            **(_columns(results, names) if stored is None else recorded_columns(batch, stored)),
            peak_memory_bytes=peak_memory_bytes(),
            cores=core_count(),
            concurrency=batch.concurrency,
            parts=None if parts is None or stored is not None else parts.number or None,
            elapsed=batch.elapsed,
            task_cpu_seconds=batch.cpu_seconds,
            rate_wait_seconds=round(batch.rate_wait_seconds, 6),
            idle_seconds=round(batch.idle_seconds, 6),
            read_bytes=batch.read_bytes,
            written_bytes=batch.written_bytes,
        )
        ti.xcom_push(RECORD_KEY, record.to_xcom())
        if writer is not None:
            writer.delete_replaced()
        self.do_xcom_push = False  # it is there already; a post_execute of the author's is still given it
        return values

    def _clear(self, ti: Any, parts: ValueParts) -> None:
        """Make room of values that are in one XCom now."""
        try:
            for part in range(parts.number):
                ti.xcom_push(part_key(part), None)
        except Exception as error:  # costs room, and must not fail the batch
            self.log.warning("Values that were pushed before the end can't be deleted: %s", error)

    def _push_values(
        self, ti: Any, batch: Batch, labels: Sequence[str], indexes: Sequence[int], part: int | None = None
    ) -> dict[str, Any]:
        """Push values of items by name; one that is refused fails its item alone."""

        def push(indexes: Sequence[int]) -> dict[str, Any]:
            values = {labels[index]: batch.results[index].value for index in indexes}
            ti.xcom_push(RETURN_VALUE if part is None else part_key(part), values)
            return values

        try:
            return push(indexes)
        except Exception as error:
            if not is_of_values(error):
                raise
            push([])  # raises if it is something else
            refused = refused_values(push, indexes)
            for index, refusal in refused.items():
                text = redacted_error(refusal)
                self.log.error("The value of %s can't be stored: %s", on_one_line(labels[index]), text)
                batch.fail(index, f"its value can't be stored in an XCom: {text}")
            # Raises if together they are too large.
            return push([index for index in indexes if index not in refused])


def _made(items: Mapping[str, Any], make: Callable[[Any], Any]) -> dict[str, Any]:
    """Make something of each item, shared with no other; an exception is its item's, when it is called."""
    made = dict(items)
    for name, item in items.items():
        if item is NO_ITEM:
            continue
        try:
            made[name] = make(item)
        except Exception as error:
            made[name] = BrokenItem(error)
            continue
        with suppress(Exception):  # what can't be copied, such as a lock, is shared
            made[name] = copy.deepcopy(made[name])
    return made


def _with_status(batch: Batch, status: str) -> dict[int, ItemResult]:
    """Results of the items that have ended so, in the order of the items."""
    results = ((index, batch.results.get(index)) for index in range(batch.size))
    return {index: result for index, result in results if result is not None and result.status == status}


def _columns(results: Sequence[ItemResult], names: list[str] | None) -> dict[str, Any]:
    """What the record of a batch says of every item, where its values are in an XCom."""
    return {
        "names": names,
        "errors": {str(index): r.error for index, r in enumerate(results) if r.error is not None},
        "tries": {
            str(index): r.tries for index, r in enumerate(results) if r.tries != (r.seconds is not None)
        },
        "seconds": [result.seconds for result in results],
        "cpu_seconds": [result.cpu_seconds for result in results],
    }


def _failure_message(failed: Mapping[int, ItemResult], labels: Sequence[str]) -> str:
    lines = [f"{len(failed)} of {counted(len(labels), 'item', 'items')} failed:"]
    lines += [
        f"  {on_one_line(labels[index])}: {result.error}"
        for index, result in islice(failed.items(), ERRORS_SHOWN)
    ]
    if len(failed) > ERRORS_SHOWN:
        lines.append(f"  and {len(failed) - ERRORS_SHOWN} more")
    return "\n".join(lines)
