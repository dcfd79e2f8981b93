"""Side records: what a branch, or a batch, pushes beside its value. They are written and read here alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow_fanout.rules.names import IndexedNames, PartlyKnownNames, batch_name, names_digest
from airflow_fanout.rules.wording import on_one_line

if TYPE_CHECKING:
    from airflow_fanout.rules.run_lengths import RunLengths

RETURN_VALUE = "return_value"
"""XCom key of what a task returns."""

REPORT_KEY = "fan_out_report"
"""XCom key of a fan-in's report."""

REUSE_KEY = "fan_out_reuse"
"""XCom key of what a run reuses, pushed by the task that cut the items."""

NO_REUSE = "fan_out_no_reuse"
"""Key of a run's conf with the ids of groups that are to run all of their items."""

RECORD_KEY = "fan_out_branch"
"""XCom key of a side record."""

ITEM_PENDING, ITEM_SUCCEEDED, ITEM_FAILED, ITEM_SKIPPED, ITEM_STOPPED = ".", "S", "F", "K", "X"
"""Status of an item of a batch."""

SKIPPED_KEY = "skipmixin_key"
"""XCom key under which a branching task, or a short circuit, of Airflow says what it skipped after it."""

BATCH = "batch"

RARE = ("tries", "rate_wait_seconds", "idle_seconds", "results")
"""What a batch records only where there is something to say."""

MOST, MOST_ITEMS, MOST_SECONDS = 2**63, 2_000_000, 3.2e9
"""What a recorded number, the items of a batch, and recorded seconds stay below: more is no record."""

MOST_BRANCHES = 100_000
"""Mapped branches of one group, at most: Airflow's ``max_map_length`` is 1,024 unless told."""

MOST_STEPS = 50
"""Functions of a branch that is a list of them which are timed; the rest are not."""

Bounds = tuple[int, int, int]
"""Index of a batch's first item, and of the one after its last, and the try of the task that cut it."""


class Step(NamedTuple):
    """A function of a branch that is a list of them, and the seconds that it took."""

    name: str
    seconds: float


class BranchRecord(NamedTuple):
    """
    What a task of a branch says of itself.

    :param state: How it ended. ``stopped``: ``stop_after_failures`` did not let it start; for Airflow it is
        skipped.
    :param has_value: Whether a success pushed a value; a None is not pushed.
    :param error: ``"ValueError: message"``, the reason of a skip or of a stop; None if there is none.
    :param map_index: Index of the instance of a mapped task; None of any other.
    :param name: Name of the branch of such an instance; None if its process did not know it.
    :param seconds: Seconds inside ``execute``.
    :param cpu_seconds: CPU seconds of these.
    :param peak_memory_bytes: Peak memory of the process.
    :param cores: Cores that it could run on.
    :param read_bytes: Bytes that the process read meanwhile, as ``io_bytes`` of ``recording`` counts them.
    :param written_bytes: Bytes that it wrote.
    :param steps: The functions that were called, the last of which may have raised, if it is a list of them.
    """

    state: Literal["success", "failed", "skipped", "stopped"]
    has_value: bool | None = None
    error: str | None = None
    map_index: int | None = None
    name: str | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    cores: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    steps: tuple[Step, ...] | None = None

    def to_xcom(self) -> dict[str, Any]:
        """Return the value of the XCom, without what is not known."""
        own = {name: value for name, value in self._asdict().items() if value is not None}
        return own if self.steps is None else {**own, "steps": [list(step) for step in self.steps]}


class StoredPart(NamedTuple):
    """
    A file of values that a batch has written.

    :param path: Where it is.
    :param rows: Number of values in it.
    :param size: Bytes that it takes.
    :param version: What tells it from another one at that path: the store's ETag, or the time of its change.
    """

    path: str
    rows: int
    size: int
    version: str


class ItemSeconds(NamedTuple):
    """Seconds of one item's last call; its position within the batch, and its name."""

    position: int
    name: str
    seconds: float


class StoredResults(NamedTuple):
    """
    Where the values of a batch's items are, and what its record says of the items in place of columns.

    :param parts: Files of the values, each item's in one: a single one, unless the batch has not ended.
    :param failed_path: File of the items that failed; None if none did.
    :param names_digest: Digest of the items' names; None if they are numbered.
    :param names: Names of the items that did not succeed, by index as text, unless they are numbered.
    :param skips: Index of the first, and of that after the last, of skipped items in a row with one reason.
    :param recorded: Number of items whose last call ended, and ``seconds`` of these calls together.
    :param success_seconds: Seconds of these that items took which succeeded.
    :param longest: Success that took longest; None if none is known.
    :param slowest: Items that took longest, the skipped left out, the longest first.
    :param cpu_seconds: CPU seconds of the calls; None where they can't be told.
    """

    parts: Sequence[StoredPart] = ()
    failed_path: str | None = None
    names_digest: str | None = None
    names: Mapping[str, str] = MappingProxyType({})
    skips: Sequence[tuple[int, int, str]] = ()
    recorded: int = 0
    seconds: float | None = None
    success_seconds: float | None = None
    longest: ItemSeconds | None = None
    slowest: Sequence[ItemSeconds] = ()
    cpu_seconds: float | None = None

    def to_xcom(self) -> dict[str, Any]:
        """Return what the XCom of the record has of it."""
        return {
            **self._asdict(),
            "parts": [list(part) for part in self.parts],
            "names": dict(self.names),
            "skips": [list(skip) for skip in self.skips],
            "longest": None if self.longest is None else list(self.longest),
            "slowest": [list(slow) for slow in self.slowest],
        }


class BatchRecord(NamedTuple):
    """
    What a batch says of its items.

    :param map_index: Number of the batch.
    :param start: Index of its first item among all of the group.
    :param split: Try of the task that cut it.
    :param names: Names of the items; None if they are numbered.
    :param statuses: Status of each item, a character for each.
    :param errors: Why an item failed or was skipped, by its index within the batch as text.
    :param stopped: Why the stopped items were not started; None if none was stopped.
    :param tries: Number of an item's calls over all tries of the batch, by its index as text, where it is
        another than that of its ``seconds``: one, or none.
    :param seconds: Seconds of each item's last call; None where it did not end.
    :param cpu_seconds: CPU seconds of these; None where they can't be told.
    :param peak_memory_bytes: Peak memory of the process.
    :param cores: Cores that it could run on.
    :param concurrency: Number of items that could run at once.
    :param parts: Number of XComs with its values, if it has not ended: see :func:`part_key`. None if all are
        in one.
    :param elapsed: Seconds that the items of this try took together.
    :param task_cpu_seconds: CPU seconds of the task in these. What is left of them was spent waiting; an item
        by itself can't tell, for of threads that compute all but one wait.
    :param rate_wait_seconds: Those of ``elapsed`` in which an item could have started but for the rate.
    :param idle_seconds: Those in which no item ran, for all waited for the rate or for their next try.
    :param results: Where the values are, if they are not in an XCom. Then nothing here grows with the number
        of items that succeed: there are neither ``names`` nor seconds, and ``errors`` are those of the first
        failures.
    :param read_bytes: Bytes that the process read in ``elapsed``, as of a branch.
    :param written_bytes: Bytes that it wrote.
    """

    map_index: int = 0
    start: int = 0
    split: int = 0
    names: list[str] | None = None
    statuses: Sequence[str] = ""
    errors: Mapping[str, str] = MappingProxyType({})
    stopped: str | None = None
    tries: Mapping[str, int] = MappingProxyType({})
    seconds: Sequence[float | None] = ()
    cpu_seconds: Sequence[float | None] = ()
    peak_memory_bytes: int | None = None
    cores: int | None = None
    concurrency: int | None = None
    parts: int | None = None
    elapsed: float | None = None
    task_cpu_seconds: float | None = None
    rate_wait_seconds: float | None = None
    idle_seconds: float | None = None
    results: StoredResults | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None

    def to_xcom(self) -> dict[str, Any]:
        """Return the value of the XCom."""
        own = self._asdict() | {"errors": dict(self.errors), "tries": dict(self.tries)}
        own = {name: value for name, value in own.items() if name not in RARE or value}
        if self.results is None:
            return {"state": BATCH, **own, "seconds": [*self.seconds], "cpu_seconds": [*self.cpu_seconds]}
        from airflow_fanout.rules.run_lengths import RunLengths  # only such a batch needs it

        statuses = [list(run) for run in RunLengths((status, 1) for status in self.statuses).runs]
        columns = {"names", "seconds", "cpu_seconds", "parts"}
        own = {name: value for name, value in own.items() if name not in columns}
        return {"state": BATCH, **own, "statuses": statuses, "results": self.results.to_xcom()}

    @property
    def cut(self) -> Bounds:
        """Index of its first item, and of the one after its last, and the try that cut it."""
        return self.start, self.start + len(self.statuses), self.split

    def item_names(self, label: str, now: Sequence[str] | None = None) -> Sequence[str]:
        """
        Names of its items; those without names of their own have numbers after a label.

        :param now: Names of what is to be run there now, which say all names if they are those that it ran.
        """
        results = self.results
        if results is None or results.names_digest is None:
            return self.names or IndexedNames(label, len(self.statuses), first=self.start)
        if now is not None and len(now) == len(self.statuses) and names_digest(now) == results.names_digest:
            return now
        named = {int(index): name for index, name in results.names.items()}
        return PartlyKnownNames(label, len(self.statuses), first=self.start, known=named)

    @property
    def is_named(self) -> bool:
        """Whether its items have names of their own."""
        return self.names is not None or (self.results is not None and self.results.names_digest is not None)

    @property
    def knows_names(self) -> bool:
        """Whether it has the names of all its items: not if those of its successes are in files."""
        return self.results is None or self.results.names_digest is None

    @property
    def work_seconds(self) -> float | None:
        """Seconds of the last calls of all items together; None if none has ended."""
        if self.results is not None:
            return self.results.seconds
        known = [seconds for seconds in self.seconds if seconds is not None]
        return math.fsum(known) if known else None

    @property
    def knows_cpu_seconds(self) -> bool:
        """Whether the CPU seconds of an item can be told."""
        if self.results is not None:
            return self.results.cpu_seconds is not None
        return any(seconds is not None for seconds in self.cpu_seconds)

    @property
    def successes(self) -> list[int]:
        """Indexes of the items that succeeded."""
        return [index for index, status in enumerate(self.statuses) if status == ITEM_SUCCEEDED]

    @property
    def busy_seconds(self) -> float | None:
        """Seconds in which an item ran; None if that isn't known."""
        return None if self.elapsed is None else max(0.0, self.elapsed - (self.idle_seconds or 0.0))

    def error(self, index: int) -> str | None:
        """Why an item failed or was skipped; of a failure that is told elsewhere, where."""
        error = _text(self.errors.get(str(index)))
        if self.results is None or error is not None:
            return error
        if self.statuses[index] == ITEM_FAILED:
            return self.told_elsewhere
        return next((reason for start, stop, reason in self.results.skips if start <= index < stop), None)

    @property
    def told_elsewhere(self) -> str | None:
        """What the record says of a failure that is told in a file; None if there is no such file."""
        path = None if self.results is None else self.results.failed_path
        return None if path is None else f"its error is in {path}"

    def tries_of(self, index: int) -> int | None:
        """How often an item was called, over all tries of the batch; None if never, as far as it tells."""
        if self.results is not None:
            was_called = self.statuses[index] not in {ITEM_STOPPED, ITEM_PENDING}
        else:
            was_called = index < len(self.seconds) and self.seconds[index] is not None
        return self.tries.get(str(index), 1 if was_called else None)


class ReuseRecord(NamedTuple):
    """
    What the task that cuts a group's items says of those that need not run.

    :param root: Folder of the store, and ``plan`` the file in it with what is reused.
    :param total: Number of all items.
    :param reused: Number of those that don't run, for their values are stored.
    :param unknown: Number of those that run because they can't be told from others.
    """

    root: str
    plan: str
    total: int
    reused: int
    unknown: int = 0

    def to_xcom(self) -> dict[str, Any]:
        """Return the value of the XCom."""
        return self._asdict()


def read_reuse(value: object) -> ReuseRecord | None:
    """Read what was found under the key of what is reused; None if it is something else."""
    if not isinstance(value, Mapping):
        return None
    root, plan = value.get("root"), value.get("plan")
    total, reused, unknown = (_whole(value.get(name), least=0) for name in ("total", "reused", "unknown"))
    if not isinstance(root, str) or not isinstance(plan, str) or None in (total, reused, unknown):
        return None
    return ReuseRecord(root=root, plan=plan, total=total or 0, reused=reused or 0, unknown=unknown or 0)


class LostRecord(NamedTuple):
    """
    Stands for a record whose body in object storage is gone.

    :param path: Where it was.
    """

    path: str

    @property
    def error(self) -> str:
        """What to say in place of what it recorded."""
        return f"what it recorded is no longer stored: {self.path}"


Record = BranchRecord | BatchRecord | LostRecord


def read_record(value: object) -> BranchRecord | BatchRecord | None:
    """Read what was found under the key of records; None if it is no record, for anybody may push there."""
    if not isinstance(value, Mapping):
        return None
    return _read_batch(value) if value.get("state") == BATCH else _read_branch(value)


def _read_branch(value: Mapping[str, Any]) -> BranchRecord | None:
    match value.get("state"):
        case "success" | "failed" | "skipped" | "stopped" as state:
            has_value, name = value.get("has_value"), value.get("name")
            return BranchRecord(
                state=state,
                has_value=has_value if isinstance(has_value, bool) else None,
                error=_text(value.get("error")),
                map_index=_whole(value.get("map_index"), least=0),
                name=name if isinstance(name, str) and name else None,
                seconds=seconds_of(value.get("seconds")),
                cpu_seconds=seconds_of(value.get("cpu_seconds")),
                peak_memory_bytes=_whole(value.get("peak_memory_bytes")),
                cores=_whole(value.get("cores")),
                read_bytes=_whole(value.get("read_bytes"), least=0),
                written_bytes=_whole(value.get("written_bytes"), least=0),
                steps=_steps(value.get("steps")),
            )
    return None


def _read_batch(value: Mapping[str, Any]) -> BatchRecord | None:
    """Read the record of a batch; None if a part that says something of every item is not whole."""
    statuses: Any = value.get("statuses")
    names, errors, results = value.get("names"), value.get("errors"), None
    if (stored := value.get("results")) is not None:
        statuses, results = _read_statuses(statuses), _read_results(stored)
        if results is None:
            return None
        # There are none.
        value = {**value, "seconds": [], "cpu_seconds": [], "parts": None}
        names = None
    map_index, start = _whole(value.get("map_index"), least=0), _whole(value.get("start"), least=0)
    has_statuses = isinstance(statuses, str) if results is None else statuses is not None
    if not has_statuses or not isinstance(errors, Mapping):
        return None
    if map_index is None or start is None or len(statuses) > MOST_ITEMS:
        return None
    seconds: Any = value.get("seconds")
    cpu_seconds: Any = value.get("cpu_seconds")
    columns = () if results is not None else (seconds, cpu_seconds)
    if not all(isinstance(each, list) and len(each) == len(statuses) for each in columns):
        return None
    if names is not None and not (
        isinstance(names, list) and len(names) == len(statuses) and set(map(type, names)) <= {str}
    ):
        return None
    return BatchRecord(
        map_index=map_index,
        start=start,
        split=_whole(value.get("split")) or 0,
        names=names,
        statuses=statuses,
        errors={index: error for index, error in errors.items() if isinstance(error, str)},
        stopped=_text(value.get("stopped")),
        tries=_tries(value.get("tries"), len(statuses)),
        seconds=_all_seconds(seconds),
        cpu_seconds=_all_seconds(cpu_seconds),
        peak_memory_bytes=_whole(value.get("peak_memory_bytes")),
        cores=_whole(value.get("cores")),
        concurrency=_whole(value.get("concurrency")),
        parts=parts if (parts := _whole(value.get("parts"))) is None else min(parts, MOST_PARTS),
        elapsed=seconds_of(value.get("elapsed")),
        rate_wait_seconds=seconds_of(value.get("rate_wait_seconds")),
        idle_seconds=seconds_of(value.get("idle_seconds")),
        read_bytes=_whole(value.get("read_bytes"), least=0),
        written_bytes=_whole(value.get("written_bytes"), least=0),
        task_cpu_seconds=seconds_of(value.get("task_cpu_seconds")),
        results=results,
    )


def _read_statuses(value: object) -> RunLengths[str] | None:
    from airflow_fanout.rules.run_lengths import RunLengths  # no Dag file needs it

    runs: list[tuple[str, int]] = []
    for run in value if isinstance(value, list) else [None]:
        match run:
            case [str(status), int(count)] if len(status) == 1 and 0 < count <= MOST_ITEMS:
                runs.append((status, count))
            case _:
                return None
    return RunLengths(runs)


def _read_results(value: object) -> StoredResults | None:
    """Read where the values of a batch are; None unless all of that is whole."""
    if not isinstance(value, Mapping) or not isinstance(value.get("parts"), list):
        return None
    parts = []
    for part in value["parts"]:
        match part:
            case [str(path), int(count), int(size), str(version)]:
                parts.append(StoredPart(path, count, size, version))
            case _:
                return None
    failed_path, digest = value.get("failed_path"), value.get("names_digest")
    names, slowest = value.get("names"), value.get("slowest")
    timed = [_item_seconds(slow) for slow in (slowest if isinstance(slowest, list) else ())]
    return StoredResults(
        parts=tuple(parts),
        failed_path=failed_path if isinstance(failed_path, str) else None,
        names_digest=digest if isinstance(digest, str) else None,
        names={
            index: name
            for index, name in (names if isinstance(names, Mapping) else {}).items()
            if index.isdecimal() and isinstance(name, str)
        },
        skips=_read_skips(value.get("skips")),
        recorded=_whole(value.get("recorded"), least=0) or 0,
        seconds=seconds_of(value.get("seconds")),
        success_seconds=seconds_of(value.get("success_seconds")),
        longest=_item_seconds(value.get("longest")),
        slowest=[slow for slow in timed if slow is not None],
        cpu_seconds=seconds_of(value.get("cpu_seconds")),
    )


def _item_seconds(value: object) -> ItemSeconds | None:
    match value:
        case [int(index), str(name), int(seconds) | float(seconds)] if seconds_of(seconds) is not None:
            return ItemSeconds(index, name, float(seconds))
    return None


def _read_skips(value: object) -> list[tuple[int, int, str]]:
    skips = []
    for skip in value if isinstance(value, list) else ():
        match skip:
            case [int(start), int(stop), str(reason)]:
                skips.append((start, stop, on_one_line(reason)))
    return skips


def name_in(record: Record | None, group_id: str) -> str | None:
    """
    Name under which an instance of a mapped group ran, by its record; None if that has none.

    What left the record of a batch ran before the group was declared as mapped: its value is that of no
    branch.
    """
    match record:
        case BranchRecord(name=name):
            return name
        case BatchRecord(map_index=number):
            return batch_name(group_id, number)
    return None


def is_skipped_by(pushed: object, task_id: str) -> bool:
    """Whether a branching task, or a short circuit, skipped a task after it, by what it pushed."""
    if not isinstance(pushed, Mapping):
        return False
    followed, skipped = pushed.get("followed"), pushed.get("skipped")
    is_left_out = isinstance(followed, Sequence) and task_id not in followed
    return is_left_out or (isinstance(skipped, Sequence) and task_id in skipped)


def skips_in(value: object) -> Mapping[str, Sequence[str]] | None:
    """Read what a branching task pushed of what it skipped; None if it pushed something else."""
    if not isinstance(value, Mapping):
        return None
    lists = {name: value.get(name) for name in ("followed", "skipped")}
    return {
        name: [task_id for task_id in task_ids if isinstance(task_id, str)]
        for name, task_ids in lists.items()
        if isinstance(task_ids, list)
    }


def read_bounds(value: object) -> list[Bounds] | None:
    """Read what a group's items were cut into; None unless it is whole, from the first item to the last."""
    bounds: list[Bounds] = []
    last = 0
    for cut in value if isinstance(value, list) else [None]:
        match cut:
            case [int(first), int(stop), int(split), *_] if first == last < stop < MOST:
                bounds.append((first, stop, split))
                last = stop
            case _:
                return None
    return bounds


def source_mark_in(value: object) -> str | None:
    """Read which run of the items' task was cut, as ``split`` noted it; None if there is no such task."""
    match value:
        case [[_, _, _, str(mark)], *_]:
            return mark
    return None


def bounds_in(value: object) -> list[Bounds] | None:
    """Read what a report shows of the cuts; None also if they are of more items than one shows."""
    bounds = read_bounds(value)
    if bounds is None or len(bounds) > MOST_BRANCHES or sum(stop for _, stop, _ in bounds[-1:]) > MOST_ITEMS:
        return None
    return bounds


def names_in(value: object) -> list[str] | None:
    """Read the names among what was stored with a batch's items; None if there are none."""
    names = value.get("names") if isinstance(value, Mapping) else None
    is_list = isinstance(names, list) and len(names) <= MOST_ITEMS and set(map(type, names)) <= {str}
    return names if is_list else None


def yielded_in(value: object) -> list[str] | int | None:
    """Read which branches an items' task has yielded: their names, or how many; else None."""
    if isinstance(value, Mapping) and "__classname__" in value:
        value = value.get("__data__")  # of a tuple, a list
    if isinstance(value, str) and len(value) <= len(str(MOST_BRANCHES)) and value.strip().isdecimal():
        value = int(value)  # a count that came as text
    count = len(value) if isinstance(value, list | Mapping) else _whole(value, least=0)
    if count is None or count > MOST_BRANCHES:
        return None
    return list(value) if isinstance(value, Mapping) else count


def seconds_of(value: object) -> float | None:
    """Return seconds that were recorded; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_SECONDS:
        return None
    return float(value)


def _all_seconds(values: Sequence[Any]) -> list[float | None]:
    is_plain = set(map(type, values)) == {float} and min(values) >= 0 and max(values) < MOST_SECONDS
    # With a NaN among them, which neither least nor most tells of, the sum is one.
    return list(values) if is_plain and not math.isnan(sum(values)) else list(map(seconds_of, values))


def _steps(value: object) -> tuple[Step, ...] | None:
    if not isinstance(value, list) or not 0 < len(value) <= MOST_STEPS:
        return None
    steps = []
    for step in value:
        match step:
            case [str(name), took] if (seconds := seconds_of(took)) is not None:
                steps.append(Step(on_one_line(name), seconds))
            case _:
                return None
    return tuple(steps)


def _tries(value: object, most: int) -> dict[str, int]:
    if not isinstance(value, Mapping) or len(value) > most:
        return {}
    return {
        index: number
        for index, tries in value.items()
        if isinstance(index, str) and (number := _whole(tries)) is not None
    }


PART_KEY = "fan_out_values_"
MOST_PARTS = 100
"""XComs with the values of a batch that has not ended, at most: those of a million reports are fewer."""


def part_key(number: int) -> str:
    """XCom key of some values of a batch that has not ended; of two for one item either holds."""
    return f"{PART_KEY}{number}"


BATCH_KEY = "batch_"


def batch_key(number: int) -> str:
    """XCom key of a batch's items."""
    return f"{BATCH_KEY}{number}"


def _text(value: object) -> str | None:
    return (on_one_line(value) or None) if isinstance(value, str) else None


def _whole(value: object, *, least: int = 1) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and least <= value < MOST else None  # type: ignore[operator, return-value]
