"""What a peer is asked (``items COUNT…`` or ``waits SECONDS…``), and how it answers: a line of JSON each."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "measured: "
"""Begins the line with an answer; peers print much else."""


def answer(
    arguments: list[str],
    *,
    version: str,
    how: str,
    items: Callable[[int], float],
    waits: Callable[[list[float]], float],
) -> None:
    """
    Run what is asked for, in a process that is warm: the first run of each kind is small and not counted.

    :param arguments: ``items 64 300 …`` or ``waits 3.5 3 3``.
    :param version: Of the orchestrator.
    :param how: How it runs them, in a few words.
    :param items: Doubles so many items and adds them up.
    :param waits: Waits so many seconds in each branch, and adds them up.
    """
    kind, *numbers = arguments

    def told(count: int, took: float) -> None:
        said = {"version": version, "how": how, "kind": kind, "count": count, "seconds": took}
        print(MARK + json.dumps(said), flush=True)

    if kind == "items":
        items(4)
        for count in map(int, numbers):
            began = time.perf_counter()
            _check(items(count), expected=count * (count - 1))
            told(count, time.perf_counter() - began)
        return
    seconds = [float(each) for each in numbers]
    waits([0.0, 0.0])
    began = time.perf_counter()
    _check(waits(seconds), expected=sum(seconds))
    told(len(seconds), time.perf_counter() - began)


def _check(value: float, *, expected: float) -> None:
    if value != expected:
        sys.exit(f"expected {expected}, found {value!r}")
