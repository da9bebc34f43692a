"""Updates of resources: ``updateMask`` (AIP-134, AIP-161)."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, TypeAlias, cast

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_dicom.emulator.messages import JsonObject

#: The fields that may be updated, each with its own fields; None: only as a whole.
Fields: TypeAlias = "Mapping[str, Fields | None]"

#: A map, such as ``labels``: every key may be updated by itself.
MAP: Fields = {}


def masked_update(resource: JsonObject, changes: JsonObject, query: JsonObject, fields: Fields) -> JsonObject:
    """Return a resource with the fields of ``updateMask`` replaced; those that ``changes`` lacks are removed.

    :param resource: stays unchanged.
    :param changes: the body of the request.
    :param query: the query of the request.
    :param fields: the fields that may be updated.
    :raises ApiError: ``updateMask`` is missing, or names another field.
    """
    mask = [path for part in cast("str", query.get("updateMask", "")).split(",") if (path := part.strip())]
    if not mask:
        raise ApiError.invalid_argument("update_mask is required")
    updated = copy.deepcopy(resource)
    for path in mask:
        names = _names(path, fields)
        _replace(updated, changes, names)
    return updated


def _names(path: str, fields: Fields) -> list[str]:
    """Return the names of the fields on a path, in camelCase."""
    names: list[str] = []
    inner: Fields | None = fields
    for part in path.split("."):
        name = part if inner is MAP else re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), part)
        if inner is None or not name or (inner is not MAP and name not in inner):
            raise ApiError.invalid_argument(
                f"invalid update_mask {path!r}: fields that can be updated are {', '.join(sorted(fields))}"
            )
        names.append(name)
        inner = None if inner is MAP else inner[name]
    return names


def _replace(target: JsonObject, source: JsonObject, names: list[str]) -> None:
    name, *inner = names
    if inner and name in source:
        _replace(cast("JsonObject", target.setdefault(name, {})), cast("JsonObject", source[name]), inner)
    elif inner and name in target:
        _replace(cast("JsonObject", target[name]), {}, inner)
    elif name in source:
        target[name] = source[name]
    else:
        target.pop(name, None)
