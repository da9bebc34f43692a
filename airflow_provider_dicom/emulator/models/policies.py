"""IAM policies of datasets and DICOM stores, which are kept but grant and deny nothing."""

from __future__ import annotations

import base64
import json
import os
import re
from typing import TYPE_CHECKING, cast

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_dicom.emulator.messages import JsonObject
    from airflow_provider_dicom.emulator.models.database import Database

#: The etag of a policy that was never set.
_FIRST_ETAG = "ACAB"
_VERSIONS = (0, 1, 3)
_MEMBER = re.compile(
    r"allUsers|allAuthenticatedUsers|(?:user|serviceAccount|group|domain|principal|principalSet|deleted):\S+"
)
#: What is set without an update mask.
_DEFAULT_MASK = ("bindings", "etag")


def get(database: Database, resource: str, version: int) -> JsonObject:
    """Return the policy of a resource.

    :param version: the largest version that the caller understands.
    :raises ApiError: the version is invalid, or the policy has conditions and the version is below 3.
    """
    _check_version(version)
    rows = database.rows("SELECT policy FROM policies WHERE resource = ?", (resource,))
    if not rows:
        return {"etag": _FIRST_ETAG}
    policy: JsonObject = json.loads(rows[0][0])
    if _has_conditions(policy) and version < 3:
        raise ApiError.invalid_argument(
            "The policy has conditional role bindings: options.requestedPolicyVersion must be 3."
        )
    return policy


def put(database: Database, resource: str, given: JsonObject, mask: Iterable[str]) -> JsonObject:
    """Replace some fields of the policy of a resource, and return the policy.

    :param given: the new policy.
    :param mask: the fields to replace; empty: bindings and etag.
    :raises ApiError: the policy is invalid, or another one was set since the caller read its etag.
    """
    version = cast("int", given.get("version", 0))
    _check_version(version)
    _check_bindings(given, version)
    with database.transaction() as connection:
        present = get(database, resource, 3)
        etag = given.get("etag", present["etag"])
        if etag != present["etag"]:
            raise ApiError(
                409,
                10,
                "ABORTED",
                "There were concurrent policy changes. Please retry the whole read-modify-write with "
                "exponential backoff.",
            )
        policy = dict(present)
        for field in tuple(mask) or _DEFAULT_MASK:
            if field in given:
                policy[field] = given[field]
            else:
                policy.pop(field, None)
        policy["version"] = 3 if _has_conditions(policy) else 1
        policy["etag"] = base64.b64encode(os.urandom(8)).decode()
        connection.execute("INSERT OR REPLACE INTO policies VALUES (?, ?)", (resource, json.dumps(policy)))
    return policy


def _bindings(policy: JsonObject) -> list[JsonObject]:
    return cast("list[JsonObject]", policy.get("bindings", []))


def _has_conditions(policy: JsonObject) -> bool:
    return any("condition" in binding for binding in _bindings(policy))


def _check_version(version: int) -> None:
    if version not in _VERSIONS:
        raise ApiError.invalid_argument(f"invalid policy version {version}: it must be 0, 1 or 3")


def _check_bindings(policy: JsonObject, version: int) -> None:
    for binding in _bindings(policy):
        if not binding.get("role"):
            raise ApiError.invalid_argument("Role name must be set in every binding.")
        members = cast("list[str]", binding.get("members", []))
        if not members:
            raise ApiError.invalid_argument(f"The binding of {binding['role']} has no members.")
        for member in members:
            if not _MEMBER.fullmatch(member):
                raise ApiError.invalid_argument(
                    f"Invalid member {member!r}: it must have a type, as in user:EMAIL."
                )
    if _has_conditions(policy) and version != 3:
        raise ApiError.invalid_argument("A policy with conditional role bindings must have version 3.")
