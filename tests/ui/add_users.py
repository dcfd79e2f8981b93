"""Adds users of FAB's auth manager, each with a role of its own."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def add(roles: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """
    Add a role and a user for each name.

    :param roles: What each may do: pairs of action and resource, by name. The name is also the password.
    """
    with get_application_builder() as builder:
        manager: Any = builder.sm
        for name, rights in roles.items():
            role = manager.add_role(name)
            for action, resource in rights:
                manager.add_permission_to_role(role, manager.create_permission(action, resource))
            user = manager.add_user(name, name, name, f"{name}@example.com", role, password=name)
            if not user:
                message = f"No user {name!r} was made"
                raise RuntimeError(message)


if __name__ == "__main__":
    add(json.loads(sys.stdin.read()))
