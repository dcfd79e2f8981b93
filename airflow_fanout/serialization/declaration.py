"""
What was declared, as plain values that outlive the Dag file.

The serialized Dag holds a group or a fan-in as one text of JSON, in the fields that ``FanInOperator`` and
``BatchOperator`` add: Airflow can't read a dict back, and the hash that tells a new version of a Dag ignores
the order of a list of names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow_fanout.rules.names import PLACEHOLDER, indexed_names
from airflow_fanout.rules.policy import AT_RUN_TIME, Policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_fanout.rules.policy import AtRunTime


Mode = Literal["static", "mapped", "batched"]
"""How a group's branches are run: a task each, an instance of one mapped task each, or several in a task."""


ItemExecutor = Literal["thread", "process"]
"""Where the items of a batch run that are not ``async def``."""


ResultsFormat = Literal["jsonl", "parquet"]
"""What values of items are written as, where they go into files."""


class DeclaredBranch(NamedTuple):
    """One branch as declared."""

    name: str
    task_ids: tuple[str, ...]
    """Its tasks, without teardowns, in the order in which they run; the last one's value is the branch's."""

    @property
    def last_task_id(self) -> str:
        """Id of the task whose value is the branch's."""
        return self.task_ids[-1]


class DeclaredGroup(NamedTuple):
    """
    A fan-out group as declared; limits as in ``FanOutGroup``.

    :param prefix: What stands before a branch's name in its task id, the dot included; "" without a prefix.
    :param branches: Those of a static group; of a mapped or batched one ``names`` and ``count``, where known.
    :param label: What the names of branches without one of their own begin with.
    :param each: Ids of the mapped tasks that its branches are instances of, in the order in which they run.
    :param items_from: Id of the task whose value says in a run which mapped branches, or items, there are: a
        list, a mapping by name, or a number.
    :param cut_from: Ids of the tasks of whose values the task ``split`` makes what there is to run.
    :param combined: Whether its values are folded with ``combine``.
    :param stored_items: Where its items lie, for people: ``CsvItems s3://raw/*.csv``; None if nowhere.
    :param needs_pieces: Whether they have to be written below ``[fanout] storage_path``, as far as is known.
    :param reuses: Whether items may be left out because an earlier run's values hold.
    :param results_path: Folder into which batches write values, with its templates, in ``results_format``.
    """

    group_id: str
    prefix: str
    branches: tuple[DeclaredBranch, ...] = ()
    mode: Mode = "static"
    label: str = ""
    names: tuple[str, ...] | None = None
    count: int | None = None  # type: ignore[assignment]  # a tuple has a method of this name
    each: tuple[str, ...] = ()
    items_from: str | None = None
    cut_from: tuple[str, ...] = ()
    stop_after_failures: int | AtRunTime | None = None
    max_concurrency: int | None = None
    items_per_task: int | AtRunTime | None = None
    item_concurrency: int | AtRunTime | None = None
    item_executor: ItemExecutor | None = None
    item_timeout: float | None = None
    items_per_second: float | None = None
    combined: bool = False
    stored_items: str | None = None
    needs_pieces: bool = False
    reuses: bool = False
    results_path: str | AtRunTime | None = None
    results_format: ResultsFormat | None = None

    @property
    def known_count(self) -> int | None:
        """Number of branches; None if it is known only at run time."""
        return len(self.branches) if self.mode == "static" else self.count

    @property
    def known_names(self) -> Sequence[str]:
        """Names of the branches, as far as they are known at parse time."""
        if self.mode == "static":
            return [branch.name for branch in self.branches]
        return self.names if self.names is not None else indexed_names(self.label, self.count or 0)

    @property
    def steps(self) -> str | None:
        """What each branch has several of, ``tasks``; None if each is one task."""
        several = len(self.each) > 1 or any(len(branch.task_ids) > 1 for branch in self.branches)
        return "tasks" if several else None

    def undeclared_branch(self, task_id: str) -> str | None:
        """Name of the branch that a task, no longer in the Dag, was of; None if it was of no such branch."""
        name = task_id.removeprefix(self.prefix)
        if not self.prefix or name in {task_id, PLACEHOLDER}:
            return None
        several = {branch.name for branch in self.branches if len(branch.task_ids) > 1}
        first = name.partition(".")[0]
        if first in several:  # a task that a branch has lost
            return None
        # A branch of several tasks is a task group.
        return first if several and first not in self.known_names else name

    @property
    def all_task_ids(self) -> list[str]:
        """Ids of all tasks that branches are made of."""
        return [*self.each, *(task_id for branch in self.branches for task_id in branch.task_ids)]

    def to_json(self) -> str:
        """Put the group into a text for the serialized Dag."""
        return json.dumps(_group_as_dict(self))

    @classmethod
    def from_json(cls, text: str) -> DeclaredGroup:
        """Read what :meth:`to_json` wrote."""
        return _group_of_dict(json.loads(text))


@dataclass(frozen=True, kw_only=True)
class DeclaredFanIn:
    """A fan-in as declared: it collects a group, or by a prefix as the author wrote it."""

    group: DeclaredGroup | None
    task_id_prefix: str | None
    key: str
    policy: Policy

    def to_json(self) -> str:
        """Put the fan-in into a text for the serialized Dag."""
        ratio = self.policy.min_success_ratio
        policy = {
            **self.policy._asdict(),
            "min_success_ratio": None if ratio is None else str(ratio),
            "on_empty": self.policy.when_empty,
        }
        group = None if self.group is None else _group_as_dict(self.group)
        fan_in = {"group": group, "task_id_prefix": self.task_id_prefix, "key": self.key, "policy": policy}
        return json.dumps(fan_in)

    @classmethod
    def from_json(cls, text: str) -> DeclaredFanIn:
        """Read what :meth:`to_json` wrote."""
        stored = json.loads(text)
        group, policy = stored["group"], stored["policy"]
        if policy["min_success_ratio"] not in {None, AT_RUN_TIME}:
            policy["min_success_ratio"] = Fraction(policy["min_success_ratio"])
        stored["group"] = None if group is None else _group_of_dict(group)
        return cls(**{**stored, "policy": Policy(**policy)})


def declared_group(task_group: object) -> DeclaredGroup | None:
    """Return what a fan-out group has declared; None of any other task group."""
    declared = getattr(task_group, "declared", None)
    return declared if isinstance(declared, DeclaredGroup) else None


def _group_as_dict(group: DeclaredGroup) -> dict[str, Any]:
    """Everything but defaults; of the branches, their names and what follows these in their tasks' ids."""
    defaults = DeclaredGroup._field_defaults
    stored = {name: value for name, value in group._asdict().items() if value != defaults.get(name)}
    if group.branches:
        names = tuple(branch.name for branch in group.branches)
        label = names[0].removesuffix("_0")
        endings = [
            [task_id.removeprefix(group.prefix + branch.name) for task_id in branch.task_ids]
            for branch in group.branches
        ]
        is_numbered = names == indexed_names(label, len(names))
        is_uniform = endings.count(endings[0]) == len(endings)
        stored["branches"] = {
            "names": {"label": label, "count": len(names)} if is_numbered else names,
            "endings": endings[:1] if is_uniform else endings,
        }
    return stored


def _group_of_dict(stored: Mapping[str, Any]) -> DeclaredGroup:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    if "branches" in stored:
        names, endings = stored["branches"]["names"], stored["branches"]["endings"]
        names = indexed_names(**names) if isinstance(names, dict) else names
        endings = endings * len(names) if len(endings) == 1 else endings
        values["branches"] = tuple(
            DeclaredBranch(name=name, task_ids=tuple(f"{stored['prefix']}{name}{end}" for end in ends))
            for name, ends in zip(names, endings, strict=True)
        )
    return DeclaredGroup(**values)
