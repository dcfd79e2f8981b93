"""How many branches can run at once: the least of their limits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from airflow_fanout.rules.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable


UNKNOWN = sys.maxsize
"""Number of branches that is known only at run time: more than any limit."""


class Limit(NamedTuple):
    """A setting of Airflow that lets ``slots`` branches run at once; none if that is not above 0."""

    name: str
    slots: int
    where: str = ""
    """What it is set on: ``the Dag``, a pool's name. Empty if the name says it."""
    reason: str = ""
    """Clause that explains the number, if ``<name> of <where> is <slots>`` does not."""

    @property
    def explanation(self) -> str:
        """Clause that names the setting and its number."""
        setting = f"{self.name} of {self.where}" if self.where else self.name
        return self.reason or f"{setting} is {self.slots}"


class Capacity(NamedTuple):
    """How many of the declared branches can run at once; no limit if all can."""

    declared: int
    effective: int
    limit: Limit | None


def effective_concurrency(declared: int, limits: Iterable[Limit]) -> Capacity:
    """Find the limit that decides how many branches run at once; of equal ones the first."""
    least = min(limits, key=lambda limit: limit.slots, default=None)
    if least is None or declared <= max(0, least.slots):
        return Capacity(declared=declared, effective=declared, limit=None)
    return Capacity(declared=declared, effective=max(0, least.slots), limit=least)


def describe(
    capacity: Capacity, *, one: str = "branch", many: str = "branches", of_each: str | None = None
) -> str:
    """
    Put a capacity into words: ``50 branches, at most 16 at once: max_active_tasks of the Dag is 16``.

    :param of_each: What each has several of, such as ``tasks``: more branches can have begun than run them.
    """
    branches = counted(capacity.declared, one, many)
    if capacity.declared == UNKNOWN:
        branches = f"as many {many} as there are at run time"
    if capacity.limit is None:
        return f"{branches}, all at once" if capacity.declared > 1 else branches
    if capacity.effective == 0:
        return f"{branches}, none can start: {capacity.limit.explanation}"
    limited = "" if of_each is None else f" of their {of_each}"
    return f"{branches}, at most {capacity.effective}{limited} at once: {capacity.limit.explanation}"
