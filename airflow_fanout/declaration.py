"""What was declared, as plain values that outlive the Dag file; made when the Dag is parsed."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from airflow_fanout.names import natural_key
from airflow_fanout.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["DeclaredBranch", "DeclaredGroup", "describe_fan_in", "read_fan_in"]

NAMES_BUDGET = 3_000
"""Characters that names may take; Airflow cuts a template field at 4,096 (``max_templated_field_length``)."""


DIGEST_LENGTH = 5
"""Characters that tell one of several hundred long names from the others."""


@dataclass(frozen=True, kw_only=True)
class DeclaredBranch:
    """
    One branch as declared.

    :param name: The branch's name.
    :param index: Its place, from 0.
    :param task_ids: Full ids of its tasks; the last one's value is the branch's.
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
    :param branches: The branches, in declared order.
    """

    group_id: str
    prefix: str
    branches: tuple[DeclaredBranch, ...]


def describe_fan_in(
    *,
    key: str,
    policy: Policy,
    group: DeclaredGroup | None = None,
    task_id_prefix: str | None = None,
) -> str:
    """
    Put a fan-in into one line of JSON that survives serialization and template rendering.

    :param key: XCom key that is read.
    :param policy: The tolerance.
    :param group: The group that it fans in, or None.
    :param task_id_prefix: Or the prefix, as the author wrote it.
    """
    said: dict[str, Any] = {"mode": "prefix", "prefix": task_id_prefix}
    if group is not None:
        said = {
            "mode": "static",
            "group": group.group_id,
            "prefix": group.prefix,
            "branches": _pack_names([branch.name for branch in group.branches]),
        }
        several = {branch.name: branch.task_ids for branch in group.branches if len(branch.task_ids) > 1}
        if several:
            said["tasks"] = several
    said["key"] = key
    said["policy"] = {
        "min_success": policy.min_success,
        "min_success_ratio": None if policy.min_success_ratio is None else str(policy.min_success_ratio),
        "count_skipped": policy.count_skipped,
        "on_empty": policy.when_empty,
    }
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=True)
    # Outside of strings JSON has no brace before '{', '%' or '#', so this changes strings alone.
    for opening in ("{{", "{%", "{#"):
        text = text.replace(opening, "\\u007b" + opening[1:].replace("{", "\\u007b"))
    return text


def read_fan_in(
    text: str, *, task_ids: Iterable[str], upstream_task_ids: Iterable[str] = ()
) -> tuple[DeclaredGroup | None, str | None, str, Policy]:
    """
    Read what :func:`describe_fan_in` wrote, from the serialized Dag and without the Dag file.

    :param text: The description.
    :param task_ids: Ids of all tasks of the Dag, in any order.
    :param upstream_task_ids: Ids of the fan-in's direct upstream tasks; what a prefix is matched against.
    :returns: The group (for a prefix: one with a branch for each upstream task that matches), the prefix, the
        XCom key and the policy.
    """
    said = json.loads(text)
    policy = said["policy"]
    ratio = policy["min_success_ratio"]
    tolerance = Policy(
        min_success=policy["min_success"],
        min_success_ratio=None if ratio is None else Fraction(ratio),
        count_skipped=policy["count_skipped"],
        on_empty=policy["on_empty"],
    )
    if said["mode"] == "prefix":
        matches = sorted((i for i in upstream_task_ids if i.startswith(said["prefix"])), key=natural_key)
        branches = tuple(
            DeclaredBranch(name=name, index=index, task_ids=(name,)) for index, name in enumerate(matches)
        )
        return (
            DeclaredGroup(group_id="", prefix="", branches=branches),
            said["prefix"],
            said["key"],
            tolerance,
        )
    prefix = said["prefix"]
    several: Mapping[str, Sequence[str]] = said.get("tasks", {})
    inner = [i[len(prefix) :] for i in task_ids if i.startswith(prefix)] if prefix else list(task_ids)
    group = DeclaredGroup(
        group_id=said["group"],
        prefix=prefix,
        branches=tuple(
            DeclaredBranch(name=name, index=index, task_ids=tuple(several.get(name, (prefix + name,))))
            for index, name in enumerate(_unpack_names(said["branches"], inner))
        ),
    )
    return group, None, said["key"], tolerance


def _pack_names(names: Sequence[str]) -> dict[str, Any]:
    if not names:
        return {"names": []}
    label, _, number = names[0].rpartition("_")
    if number == "0" and list(names) == [f"{label}_{index}" for index in range(len(names))]:
        return {"label": label, "count": len(names)}
    if len(json.dumps(names)) <= NAMES_BUDGET:
        return {"names": list(names)}
    # Too long for a template field: the task ids tell the names, a few characters which is which.
    digests = [_digest(name) for name in names]
    fits = len(names) * DIGEST_LENGTH <= NAMES_BUDGET and len(set(digests)) == len(names)
    return {"task_ids": len(names), "digests": "".join(digests)} if fits else {"task_ids": len(names)}


def _digest(name: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest())[:DIGEST_LENGTH].decode()


def _unpack_names(packed: Mapping[str, Any], inner: Sequence[str]) -> Sequence[str]:
    if "names" in packed:
        return list(packed["names"])
    if "label" in packed:
        return [f"{packed['label']}_{index}" for index in range(packed["count"])]
    if "digests" not in packed:
        return sorted(inner, key=natural_key)
    by_digest = {_digest(name): name for name in inner}
    packs = packed["digests"]
    return [by_digest[packs[at : at + DIGEST_LENGTH]] for at in range(0, len(packs), DIGEST_LENGTH)]
