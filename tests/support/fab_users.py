"""Creates users and roles of the FAB auth manager, as a program with the settings of that Airflow.

Its input is JSON: ``{user: {"roles": [name], "permissions": [[action, resource]]}}``. A user with permissions
gets a role of the same name with them; the password of a user is the user's name.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(users: dict[str, dict[str, Any]]) -> None:
    """Create the users."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        manager = builder.sm
        manager.sync_roles()
        for name, wanted in users.items():
            roles = [manager.find_role(role) for role in wanted.get("roles", [])]
            if permissions := wanted.get("permissions"):
                role = manager.add_role(name)
                for action, resource in permissions:
                    manager.add_permission_to_role(role, manager.create_permission(action, resource))
                roles.append(role)
            if not manager.add_user(name, name, name, f"{name}@example.org", roles, password=name):
                raise RuntimeError(f"the user {name} was not created")


if __name__ == "__main__":
    main(json.load(sys.stdin))
