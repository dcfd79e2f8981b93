"""What might be found under this package's XCom keys, if anybody may push anything there."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, nan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["BATCHES", "BRANCHES", "SIZE", "Case", "branch_records", "cases", "good_batch"]

BATCHES, SIZE, BRANCHES = 3, 4, 3
"""Batches, items of each, and mapped branches of a run."""

NUMBERS = (
    *(-1, 0, 1, 5, 2**31, 2**63, 2**64, -(10**30), 10**400, True),
    *(0.5, -0.0, 1e-320, 1.7e308, -1.7e308, 3.2e9, nan, inf, -inf),
)

TEXTS = (
    *("", " ", "x", "\n", "S" * 7, "1" * 4301, "x_" + "9" * 4301, "\u202e", "\x1b[2J", "\ud800", "\x00"),
    *("__proto__", "<script>", "ä" * 100_000, "file:///gone"),
)


def nested(depth: int) -> Any:
    """A list in a list in a list …"""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


JUNK: tuple[Any, ...] = (
    *(None, [], {}, [None], {"": None}, [[]], {"__classname__": "os.system", "__data__": "true"}),
    *({"__classname__": 1}, {"state": {"state": "batch"}}, [nan, inf], nested(90), nested(900)),
)

ANYTHING = (*NUMBERS, *TEXTS, *JUNK)

MB = 1_000_000
"""Characters of one."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """
    What is found in one run; what is not given is as it should be.

    :param batches: Record of batches by their number.
    :param branches: Record of mapped branches by their index.
    :param names: What is stored with the items of a batch, by its number.
    :param cuts: What ``split`` returned.
    :param items: What the items of the mapped branches are.
    :param state: State of all task instances of branches.
    """

    title: str
    batches: Mapping[int, Any] = field(default_factory=dict)
    branches: Mapping[int, Any] = field(default_factory=dict)
    names: Mapping[int, Any] = field(default_factory=dict)
    cuts: Any = field(default_factory=lambda: [[n * SIZE, (n + 1) * SIZE, 1] for n in range(BATCHES)])
    items: Any = field(default_factory=lambda: ["a", "b", "c"])
    state: str = "success"


def good_batch(number: int, **other: Any) -> dict[str, Any]:
    """The record of a batch of which one item failed, but for what is given."""
    return {
        "state": "batch",
        "map_index": number,
        "start": number * SIZE,
        "split": 1,
        "names": None,
        "statuses": "SSSF",
        "errors": {"3": "ValueError: no"},
        "stopped": None,
        "tries": {"3": 2},
        "rate_wait_seconds": 0.5,
        "idle_seconds": 0.25,
        "seconds": [1.0, 2.0, 3.0, None],
        "cpu_seconds": [0.5, 0.5, None, None],
        "peak_memory_bytes": 10**8,
        "cores": 2,
        "concurrency": 1,
        "parts": None,
        "elapsed": 6.0,
        "task_cpu_seconds": 1.0,
        **other,
    }


def branch_records() -> Iterator[Any]:
    """Records of branches, each with one thing that is not as it should be."""
    yield from ANYTHING
    good = {"state": "success", "has_value": True, "seconds": 1.0, "cpu_seconds": 0.5, "map_index": 1}
    for name in (*good, "name", "error", "peak_memory_bytes", "cores"):
        values = TEXTS if name in {"name", "error"} else NUMBERS
        yield from ({**good, name: value} for value in (*values, JUNK[-1]))
    yield {**good, "name": "n" * 20 * MB, "error": "e" * 20 * MB}
    yield {**good, "seconds": 1e-320, "cpu_seconds": 3e9}


def cases() -> Iterator[Case]:
    """Each says in its title what is wrong with it."""
    records = list(branch_records())
    for start in range(0, len(records), BRANCHES):
        some = dict(enumerate(records[start : start + BRANCHES]))
        for state in ("success", "failed", "skipped"):
            yield Case(title=f"branches {start} {state}", branches=some, state=state)
    for name in good_batch(0):
        for index, value in enumerate(ANYTHING):
            yield Case(title=f"batch {name} {index}", batches={1: good_batch(1, **{name: value})})
    for index, value in enumerate(ANYTHING):
        elements = [value, *[1.0] * 3]
        record = good_batch(1, seconds=elements, cpu_seconds=elements, names=elements, errors={"3": value})
        yield Case(title=f"elements {index}", batches={1: record}, state="failed")
        yield Case(
            title=f"seconds {index}", batches={1: good_batch(1, seconds=elements, cpu_seconds=[9.0] * 4)}
        )
        yield Case(
            title=f"record {index}", batches={0: value, 1: value}, names={0: value, 1: {"names": value}}
        )
        yield Case(title=f"names {index}", names={n: {"names": [value] * 4, "items": []} for n in range(3)})
        yield Case(title=f"cuts {index}", cuts=value)
        yield Case(title=f"a cut {index}", cuts=[[0, value, 1], [value, 12, value], value])
        yield Case(title=f"items {index}", items=value)
        yield Case(title=f"keys {index}", items={str(value): 1, "b": 2})
    million = {"statuses": "S" * 3 * MB, "seconds": [1.0] * 3 * MB, "cpu_seconds": [None] * 3 * MB}
    yield Case(title="3 million items", batches={0: good_batch(0, **million)})
    yield Case(title="3 million statuses", batches={0: good_batch(0, statuses="S" * 3 * MB)})
    for start in (0, 3, 5, 2**62):
        yield Case(title=f"overlap {start}", batches={n: good_batch(n, start=start) for n in range(3)})
    yield Case(title="one index", batches={n: good_batch(0) for n in range(3)})
    same = ["x", "x", "x", "y"]
    yield Case(title="same names", batches={n: good_batch(n, names=same) for n in range(3)})
    long_names = [letter * 20 * MB for letter in "abcd"]
    yield Case(title="long names", batches={1: good_batch(1, names=long_names)}, state="failed")
    yield Case(title="other names", batches={1: good_batch(1, names=["a", "b" * MB, "c", "d"])})
    yield Case(title="long names of items", items={letter * 20 * MB: 1 for letter in "ab"})
    yield Case(title="far cut", cuts=[[0, 2**62, 1]])
    yield Case(title="a million cuts", cuts=[[n, n + 1, 1] for n in range(MB)])
    yield Case(title="many items", items=[0] * MB)
    yield Case(title="fewer names", names={1: {"names": ["a"]}})
    yield Case(title="more names", names={1: {"names": ["a"] * 9}}, batches={1: None})
