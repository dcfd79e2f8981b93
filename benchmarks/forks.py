"""Calls in forks of this process, as Airflow's own are made: everything imported, nothing of ours."""

from __future__ import annotations

import gc
import multiprocessing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

__all__ = ["in_fork"]

FORK = multiprocessing.get_context("fork")

T = TypeVar("T")


def in_fork(work: Callable[[], T]) -> T:
    """Return what a call returns in a fork, whose garbage collection copies no page of this process."""
    gc.freeze()
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_send, args=(work, sender))
    child.start()
    sender.close()
    try:
        result: T = receiver.recv()
    finally:
        child.join()
    return result


def _send(work: Callable[[], T], sender: Connection) -> None:
    sender.send(work())
