"""Tells how many of the declared branches can run at once; used when the Dag is parsed, then by ``check``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_fanout.rules.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable


__all__ = ["Capacity", "Limit", "describe", "effective_concurrency", "pool_limit"]

UNLIMITED_POOL = -1


@dataclass(frozen=True, kw_only=True)
class Limit:
    """
    Something that holds branches back.

    :param name: The setting, in Airflow's words: ``max_active_tasks``, ``parallelism``, ``pool``.
    :param slots: Number of branches that it lets run at once; 0 lets none start.
    :param where: What the setting belongs to: ``the Dag``, a pool's name. Empty if the name says it all.
    :param reason: Clause that explains the number, where ``<name> of <where> is <slots>`` would not.
    :raises ValueError: If ``slots`` is negative; what is unlimited is no limit.
    """

    name: str
    slots: int
    where: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        """Refuse a number of slots that can't be counted."""
        if self.slots < 0:
            msg = f"Limit {self.name!r}: expected slots of 0 or more, not {self.slots}"
            raise ValueError(msg)

    @property
    def because(self) -> str:
        """Clause that names the setting and its number."""
        if self.reason:
            return self.reason
        setting = f"{self.name} of {self.where}" if self.where else self.name
        return f"{setting} is {self.slots}"


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """
    What was declared, and what of it can run at once.

    :param declared: Number of branches (or batch tasks) that want to run at once.
    :param effective: Number that can, at most ``declared``; 0 of some declared means that they wait for ever.
    :param limit: What sets ``effective``; None if nothing holds them back.
    """

    declared: int
    effective: int
    limit: Limit | None


def effective_concurrency(declared: int, limits: Iterable[Limit | None]) -> Capacity:
    """
    Find the limit that decides how many branches run at once.

    :param declared: Number of branches that were declared.
    :param limits: Everything that may hold them back, the likeliest to be named first: the smallest wins,
        and of equal ones the first. None, as :func:`pool_limit` gives for an unlimited pool, is passed over.
    :return: The capacity; its ``limit`` is None if every limit has room for all that was declared.
    :raises ValueError: If ``declared`` is negative.
    """
    if declared < 0:
        msg = f"declared: expected 0 or more, not {declared}"
        raise ValueError(msg)
    smallest = min(
        (limit for limit in limits if limit is not None), key=lambda limit: limit.slots, default=None
    )
    if smallest is None or declared <= smallest.slots:
        return Capacity(declared=declared, effective=declared, limit=None)
    return Capacity(declared=declared, effective=smallest.slots, limit=smallest)


def pool_limit(name: str, slots: int, pool_slots: int) -> Limit | None:
    """
    Tell how many branches a pool has room for.

    :param name: Name of the pool.
    :param slots: Slots that the pool has in all; -1 is Airflow's word for unlimited, 0 is a closed pool.
    :param pool_slots: Slots that each branch takes.
    :return: The limit; None for an unlimited pool. Its ``slots`` is 0 if a branch takes more than there are.
    :raises ValueError: If ``slots`` is below -1 or ``pool_slots`` below 1; Airflow takes neither.
    """
    if pool_slots < 1:
        msg = f"Pool {name!r}: expected pool_slots of 1 or more, not {pool_slots}"
        raise ValueError(msg)
    if slots < UNLIMITED_POOL:
        msg = f"Pool {name!r}: expected slots of 0 or more, or -1 for unlimited, not {slots}"
        raise ValueError(msg)
    if slots == UNLIMITED_POOL:
        return None
    reason = f"pool {name!r} has {counted(slots, 'slot', 'slots')}"
    if pool_slots > 1:
        reason += f", each branch takes {pool_slots}"
    return Limit(name="pool", slots=slots // pool_slots, where=name, reason=reason)


def describe(
    capacity: Capacity, *, one: str = "branch", many: str = "branches", of_each: str | None = None
) -> str:
    """
    Put a capacity into a sentence for a tooltip or a terminal, without a full stop.

    :param capacity: What :func:`effective_concurrency` found.
    :param one: What one of the declared is called.
    :param many: What several are called.
    :param of_each: What each has several of, which are what is limited: of branches that wait between two of
        their ``tasks`` more can be on their way at once. None if the declared themselves are limited.
    :return: Such as ``50 branches, at most 16 at once: max_active_tasks of the Dag is 16``.
    """
    branches = counted(capacity.declared, one, many)
    if capacity.limit is None:
        return f"{branches}, all at once" if capacity.declared > 1 else branches
    if capacity.effective == 0:
        return f"{branches}, none can start: {capacity.limit.because}"
    limited = "" if of_each is None else f" of their {of_each}"
    return f"{branches}, at most {capacity.effective}{limited} at once: {capacity.limit.because}"
