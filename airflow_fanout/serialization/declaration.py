"""What was declared, as plain values that outlive the Dag file; made when the Dag is parsed."""

from __future__ import annotations

import base64
import hashlib
import json
import string
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from airflow_fanout.rules.names import indexed_names, natural_key
from airflow_fanout.rules.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence


__all__ = [
    "DeclaredBranch",
    "DeclaredFanIn",
    "DeclaredGroup",
    "declared_group",
    "describe_fan_in",
    "describe_group",
    "read_fan_in",
    "read_group",
]

Mode = Literal["static", "mapped", "batched"]
"""How a group's branches are run: a task each, an instance of one mapped task each, or several in a task."""

BUDGET = 3_000
"""Characters that names and tasks may take; Airflow cuts a template field at 4,096
(``max_templated_field_length``)."""

TASKS_BUDGET = 1_200
"""Of these, characters that the tasks within branches may take."""

LIMITS = ("stop_after_failures", "max_concurrency", "items_per_task", "item_concurrency")

_KINDS = string.digits + string.ascii_letters
"""One character for each kind of branch."""

DIGEST_LENGTH = 5
"""Characters that tell one of several hundred long names from the others."""


@dataclass(frozen=True, kw_only=True)
class DeclaredBranch:
    """
    One branch as declared.

    :param name: The branch's name.
    :param index: Its place, from 0.
    :param task_ids: Full ids of its tasks, in the order in which they run; the last one's value is the
        branch's. Teardowns are not among them.
    """

    name: str
    index: int
    task_ids: tuple[str, ...]

    @property
    def last_task_id(self) -> str:
        """Id of the task whose value is the branch's."""
        return self.task_ids[-1]


@dataclass(frozen=True, kw_only=True)
class DeclaredGroup:
    """
    A fan-out group as declared.

    :param group_id: Full id of the group.
    :param prefix: What stands before a branch's name in its task id, the dot included; "" where the group
        does not prefix.
    :param branches: The branches of a static group, in declared order.
    :param mode: ``static``, ``mapped`` or ``batched``.
    :param label: What the names of branches without one of their own begin with.
    :param names: The names of a mapped or batched group, if it has some that are known at parse time.
    :param names_untold: Whether they have such names, and a description had no room for them.
    :param count: The number of its branches, if it is known at parse time.
    :param each: Ids of the mapped tasks that its branches are instances of, in the order in which they run.
    :param stop_after_failures: Number of failed branches after which no more are started; None for no limit.
    :param max_concurrency: Number of instances that run at once; None for no limit.
    :param items_per_task: Items that an instance of a batched group runs.
    :param item_concurrency: Of these, how many at once.
    """

    group_id: str
    prefix: str
    branches: tuple[DeclaredBranch, ...] = ()
    mode: Mode = "static"
    label: str = ""
    names: tuple[str, ...] | None = None
    names_untold: bool = False
    count: int | None = None
    each: tuple[str, ...] = ()
    stop_after_failures: int | None = None
    max_concurrency: int | None = None
    items_per_task: int | None = None
    item_concurrency: int | None = None

    @property
    def known_count(self) -> int | None:
        """Number of branches; None if it is known only at run time."""
        return len(self.branches) if self.mode == "static" else self.count

    @property
    def known_names(self) -> Sequence[str]:
        """Names of the branches, as far as they are known at parse time."""
        if self.mode == "static":
            return [branch.name for branch in self.branches]
        if self.names_untold:
            return []
        return self.names if self.names is not None else indexed_names(self.label, self.count or 0)

    @property
    def steps(self) -> str | None:
        """What each branch has several of, ``tasks``; None if each is one task."""
        several = len(self.each) > 1 or any(len(branch.task_ids) > 1 for branch in self.branches)
        return "tasks" if several else None

    @property
    def all_task_ids(self) -> list[str]:
        """Ids of all tasks that branches are made of."""
        return [*self.each, *(task_id for branch in self.branches for task_id in branch.task_ids)]


@dataclass(frozen=True, kw_only=True)
class DeclaredFanIn:
    """
    A fan-in as declared.

    :param group: The group that it collects; None if it collects by prefix.
    :param task_id_prefix: What it collects by, as the author wrote it; None if it collects a group.
    :param key: XCom key that it reads.
    :param policy: Its tolerance.
    """

    group: DeclaredGroup | None
    task_id_prefix: str | None
    key: str
    policy: Policy


def declared_group(task_group: object) -> DeclaredGroup | None:
    """Return what a fan-out group has declared; None of any other task group."""
    declared = getattr(task_group, "declared", None)
    return declared if isinstance(declared, DeclaredGroup) else None


def describe_group(group: DeclaredGroup) -> str:
    """
    Put a mapped or batched group into one line of JSON that survives serialization and template rendering.

    :param group: The group.
    """
    limits = {name: value for name in LIMITS if (value := getattr(group, name)) is not None}
    said = {"mode": group.mode, "group": group.group_id, "prefix": group.prefix, **_pack_mapped(group)}
    return _as_text({**said, "limits": limits} if limits else said)


def describe_fan_in(fan_in: DeclaredFanIn) -> str:
    """Put a fan-in into one line of JSON that survives serialization and template rendering."""
    group, policy = fan_in.group, fan_in.policy
    said: dict[str, Any] = {"mode": "prefix", "prefix": fan_in.task_id_prefix}
    if group is not None:
        said = {"mode": group.mode, "group": group.group_id, "prefix": group.prefix}
        said |= _pack_static(group) if group.mode == "static" else _pack_mapped(group)
        limits = {name: getattr(group, name) for name in LIMITS}
        if set(limits.values()) != {None}:
            said["limits"] = {name: value for name, value in limits.items() if value is not None}
    said["key"] = fan_in.key
    said["policy"] = {
        "min_success": policy.min_success,
        "min_success_ratio": None if policy.min_success_ratio is None else str(policy.min_success_ratio),
        "count_skipped": policy.count_skipped,
        "on_empty": policy.when_empty,
    }
    return _as_text(said)


def _as_text(said: Mapping[str, Any]) -> str:
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=True)
    # Outside of strings JSON has no brace before '{', '%' or '#', so this changes strings alone.
    for opening in ("{{", "{%", "{#"):
        text = text.replace(opening, "\\u007b" + opening[1:].replace("{", "\\u007b"))
    return text


def read_fan_in(
    text: str, *, task_ids: Iterable[str], upstream_task_ids: Iterable[str] = ()
) -> DeclaredFanIn:
    """
    Read what :func:`describe_fan_in` wrote, from the serialized Dag and without the Dag file.

    :param task_ids: Ids of all tasks of the Dag, in any order.
    :param upstream_task_ids: Ids of the fan-in's direct upstream tasks, which tell a branch's last task where
        the description has no room for it.
    """
    said = json.loads(text)
    policy = said["policy"]
    ratio = policy["min_success_ratio"]
    group = None
    if said["mode"] == "static":
        group = _unpack_static(said, task_ids, upstream_task_ids)
    elif said["mode"] != "prefix":
        group = _unpack_mapped(said)
    return DeclaredFanIn(
        group=group,
        task_id_prefix=said["prefix"] if said["mode"] == "prefix" else None,
        key=said["key"],
        policy=Policy(
            min_success=policy["min_success"],
            min_success_ratio=None if ratio is None else Fraction(ratio),
            count_skipped=policy["count_skipped"],
            on_empty=policy["on_empty"],
        ),
    )


def _unpack_static(
    said: Mapping[str, Any], task_ids: Iterable[str], upstream_task_ids: Iterable[str]
) -> DeclaredGroup:
    prefix = said["prefix"]
    tasks = said.get("tasks", {})
    inner = [i.removeprefix(prefix) for i in task_ids if i.startswith(prefix)]
    upstream = {i.removeprefix(prefix) for i in upstream_task_ids if i.startswith(prefix)}
    within = _by_prefix(inner) if tasks else {}
    return DeclaredGroup(
        group_id=said["group"],
        prefix=prefix,
        branches=tuple(
            DeclaredBranch(
                name=name,
                index=index,
                task_ids=tuple(
                    prefix + each
                    for each in _inner_ids(name, _endings(tasks, index), within.get(name, ()), upstream)
                ),
            )
            for index, name in enumerate(_unpack_names(said["branches"], inner, tasks, upstream))
        ),
        **said.get("limits", {}),
    )


def read_group(text: str) -> DeclaredGroup:
    """
    Read what :func:`describe_group` wrote.

    :param text: The description.
    """
    return _unpack_mapped(json.loads(text))


def _unpack_mapped(said: Mapping[str, Any]) -> DeclaredGroup:
    packed = said["branches"]
    return DeclaredGroup(
        group_id=said["group"],
        prefix=said["prefix"],
        mode=said["mode"],
        label=packed["label"],
        count=packed["count"],
        names=None if packed.get("names") is None else tuple(packed["names"]),
        names_untold=packed.get("names_untold", False),
        each=tuple(said["each"]),
        **said.get("limits", {}),
    )


def _pack_static(group: DeclaredGroup) -> dict[str, Any]:
    inner = _pack_tasks(group)
    names = _pack_names([branch.name for branch in group.branches], BUDGET - len(json.dumps(inner)))
    if "of" in inner and "task_ids" in names and "digests" not in names:
        inner = {"endings": None}  # nobody knows which branch is which
    return {"branches": names, "tasks": inner} if inner else {"branches": names}


def _pack_mapped(group: DeclaredGroup) -> dict[str, Any]:
    names = None if group.names is None else list(group.names)
    left = BUDGET - len(json.dumps(group.each))
    # Names too long for a template field are left to what the instances record.
    told: dict[str, Any] = {}
    if names is not None:
        told = {"names": names} if len(json.dumps(names)) <= left else {"names_untold": True}
    return {"branches": {"label": group.label, "count": group.count, **told}, "each": list(group.each)}


def _pack_names(names: Sequence[str], budget: int) -> dict[str, Any]:
    if not names:
        return {"names": []}
    label, _, number = names[0].rpartition("_")
    if number == "0" and list(names) == [f"{label}_{index}" for index in range(len(names))]:
        return {"label": label, "count": len(names)}
    if len(json.dumps(names)) <= budget:
        return {"names": list(names)}
    # Too long for a template field: the task ids tell the names, a few characters which is which.
    digests = [_digest(name) for name in names]
    fits = len(names) * DIGEST_LENGTH <= budget and len(set(digests)) == len(names)
    return {"task_ids": len(names), "digests": "".join(digests)} if fits else {"task_ids": len(names)}


def _digest(name: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest())[:DIGEST_LENGTH].decode()


def _unpack_names(
    packed: Mapping[str, Any], inner: Sequence[str], tasks: Mapping[str, Any], upstream: Collection[str]
) -> Sequence[str]:
    if "names" in packed:
        return list(packed["names"])
    if "label" in packed:
        return [f"{packed['label']}_{index}" for index in range(packed["count"])]
    lasts = {_endings(tasks, index)[-1] for index in range(packed["task_ids"])}
    known = {each for each in lasts if each is not None}
    candidates = [each for each in inner if not upstream or each in upstream]
    names = {name.removesuffix(last) for name in candidates for last in known if name.endswith(last)}
    if None in lasts:
        names |= {name.partition(".")[0] for name in candidates}
    if "digests" not in packed:
        return sorted(names, key=natural_key)
    by_digest = {_digest(name): name for name in names}
    packs = packed["digests"]
    return [by_digest[packs[at : at + DIGEST_LENGTH]] for at in range(0, len(packs), DIGEST_LENGTH)]


def _pack_tasks(group: DeclaredGroup) -> dict[str, Any]:
    """
    Endings of the ids of branches of several tasks, once for all branches alike.

    ``{"endings": [[".extract", ".load"], …], "of": "010…"}``; ``of`` is left out if all are alike. Where
    that is too much to say, None stands for the tasks before the last one, or for all endings.
    """
    of = [
        tuple(task_id.removeprefix(group.prefix + branch.name) for task_id in branch.task_ids)
        for branch in group.branches
    ]
    kinds = {kind: place for place, kind in enumerate(dict.fromkeys(of))}
    if list(kinds) in ([], [("",)]):
        return {}
    if len(kinds) > len(_KINDS):
        return {"endings": None}
    packed: dict[str, Any] = {"of": "".join(_KINDS[kinds[each]] for each in of)} if len(kinds) > 1 else {}
    lasts = [[None, kind[-1]] if len(kind) > 1 else [*kind] for kind in kinds]
    for endings in ([list(kind) for kind in kinds], lasts):
        packed["endings"] = endings
        if len(json.dumps(packed)) <= TASKS_BUDGET:
            return packed
    return {"endings": None}


def _endings(tasks: Mapping[str, Any], index: int) -> Sequence[str | None]:
    """Endings of the task ids of a branch, by its place; None for what was too much to say."""
    if not tasks:
        return ("",)
    if tasks["endings"] is None:
        return (None,)
    found: Sequence[str | None] = tasks["endings"][_KINDS.index(tasks["of"][index]) if "of" in tasks else 0]
    return found


def _by_prefix(inner: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Ids in natural order by what stands before any of their dots, and by themselves."""
    found: dict[str, list[str]] = {}
    for task_id in sorted(inner, key=natural_key):
        found.setdefault(task_id, []).append(task_id)
        prefix = task_id
        while "." in prefix:
            prefix = prefix.rpartition(".")[0]
            found.setdefault(prefix, []).append(task_id)
    return found


def _inner_ids(
    name: str, endings: Sequence[str | None], within: Sequence[str], upstream: Collection[str]
) -> Iterator[str]:
    if endings[-1] is None:
        last = next((each for each in within if each in upstream), within[-1] if within else name)
    else:
        last = f"{name}{endings[-1]}"
    if None in endings:
        yield from (each for each in within if each != last)
    else:
        yield from (f"{name}{ending}" for ending in endings[:-1])
    yield last
