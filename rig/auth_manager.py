"""Airflow's simple auth manager, extended by a DAG that one user may not see."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

#: ``user:dag_id``: the user may see all DAGs but this one. A list of all DAGs is permitted, as by FAB's auth
#: manager: Airflow filters what it contains.
HIDDEN = "RIG_HIDDEN_DAG"


class AuthManager(SimpleAuthManager):
    """Decides which requests the API server permits."""

    def is_authorized_dag(
        self,
        *,
        method: ResourceMethod,
        user: SimpleAuthManagerUser,
        access_entity: DagAccessEntity | None = None,
        details: DagDetails | None = None,
    ) -> bool:
        """Tell whether a user may do something with a DAG."""
        name, _, hidden = os.environ.get(HIDDEN, "").partition(":")
        if user.username == name and (details is not None and details.id == hidden):
            return False
        return super().is_authorized_dag(
            method=method, user=user, access_entity=access_entity, details=details
        )
