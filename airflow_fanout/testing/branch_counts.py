"""Numbers of branches that only a run knows, as an author tells them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.rules.wording import listing, typed

if TYPE_CHECKING:
    from airflow_fanout.execution_time.wiring import Source

Counts = int | Mapping[str, int]
"""How many; or that by the ids of groups and tasks."""

Names = Sequence[str] | Mapping[str, Sequence[str]]
"""The names; or those by the ids of groups."""


@dataclass(frozen=True, kw_only=True)
class BranchCounts:
    """
    Reads ``count=`` and ``names=`` of ``simulate``.

    :param owner: What they are given to, for error messages.
    :param unknown: What the numbers belong to, by the id of the group or task.
    :param unexpanded: Ids among these of what never comes to have branches.
    """

    owner: str
    unknown: Mapping[str, Source]
    unexpanded: Collection[str]

    def read(self, count: Counts | None, names: Names | None) -> Mapping[str, int | Sequence[str]]:
        """
        Number, or the names if they were given, by the id of the group or task.

        :raises DeclarationValueError: If something is not told, or can't be.
        :raises DeclarationTypeError: If it is no number, or no list of names.
        """
        counts, named = self._by_id("count", count), self._by_id("names", names)
        if both := counts.keys() & named.keys():
            self._refuse("names", f"expected count= or names= for {listing(both)}, found both")
        if untold := self.unknown.keys() - counts.keys() - named.keys() - {*self.unexpanded}:
            example = "3" if len(self.unknown) == 1 else f"{{{min(untold)!r}: 3}}"
            problem = f"expected the number of branches of {listing(untold)}, which only a run knows"
            self._refuse("count", f"{problem}; give count={example}")
        for key, number in counts.items():
            if isinstance(number, bool) or not isinstance(number, int):
                problem = f"expected a whole number of branches of {key!r}, found {typed(number)}"
                raise DeclarationTypeError(self.owner, "count", problem)
            if number < 0:
                self._refuse("count", f"expected 0 or more branches of {key!r}, found {number}")
        for key, names_of_key in named.items():
            self._check_names(key, names_of_key)
        return {**counts, **named}

    def _by_id(self, argument: str, given: Any) -> Mapping[str, Any]:
        """What is given for each id; given without one it is for the only one."""
        if given is None:
            return {}
        if not self.unknown:
            problem = f"found {given!r}, but all branches are known from the Dag file; leave it out"
            self._refuse(argument, problem)
        if not isinstance(given, Mapping):
            if len(self.unknown) > 1:
                problem = f"found {given!r} for several: {listing(self.unknown)}; give "
                self._refuse(argument, f"{problem}{{{min(self.unknown)!r}: …}}")
            return self._by_id(argument, {next(iter(self.unknown)): given})
        if odd := given.keys() - self.unknown.keys():
            problem = (
                f"found {listing(odd)}; only the branches of {listing(self.unknown)} are counted in a run"
            )
            self._refuse(argument, problem)
        if never := given.keys() & self.unexpanded:
            problem = f"{listing(never)} never gets branches, because of the outcomes of the tasks before it"
            self._refuse(argument, f"{problem}; leave it out")
        return dict(given)

    def _check_names(self, key: str, names: object) -> None:
        if isinstance(names, str) or not isinstance(names, Sequence):
            problem = f"expected a list of names of the branches of {key!r}, found {typed(names)}"
            raise DeclarationTypeError(self.owner, "names", problem)
        if odd := [name for name in names if not isinstance(name, str) or not name]:
            problem = f"expected texts as names of the branches of {key!r}, found {typed(odd[0])}"
            self._refuse("names", problem)
        if twice := [name for name, number in Counter(names).items() if number > 1]:
            self._refuse("names", f"found {listing(twice)} more than once")
        if not self.unknown[key].may_have_names:
            problem = f"the branches of {key!r} have numbers, and no names of their own; give count="
            self._refuse("names", problem)

    def _refuse(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationValueError(self.owner, argument, problem)
