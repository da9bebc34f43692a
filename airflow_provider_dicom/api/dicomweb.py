"""Resource paths: where in a DICOM store a study, a series or an instance is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow_provider_dicom.api.resource_names import MAX_UID_LENGTH, UID_PATTERN
from airflow_provider_dicom.exceptions import DicomExportUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_dicom.api_types import DicomJson

ACCEPTED = "'/studies/UID[/series/UID[/instances/UID]]'"
_RESOURCE_PATH = re.compile(rf"/studies/{UID_PATTERN}(?:/series/{UID_PATTERN}(?:/instances/{UID_PATTERN})?)?")
_KINDS = ("studies", "series", "instances")
_TAGS = {"studies": "0020000D", "series": "0020000E", "instances": "00080018"}


def is_resource_path(path: object) -> bool:
    """
    Tell whether a value is the path of a study, a series or an instance.

    :param path: the value.
    """
    return (
        isinstance(path, str)
        and _RESOURCE_PATH.fullmatch(path) is not None
        and all(len(part) <= MAX_UID_LENGTH for part in path.split("/"))
    )


def resource_path(*uids: object) -> str:
    """
    Build a resource path.

    :param uids: the UIDs of the study, and of the series and the instance below it.
    :raises DicomExportUnavailableError: if one of them is no UID.
    """
    path = "".join(f"/{kind}/{uid}" for kind, uid in zip(_KINDS, uids, strict=False))
    if not is_resource_path(path):
        raise DicomExportUnavailableError("The answer holds something that should be a UID and is none.")
    return path


def path_of_match(match: DicomJson, level: str, *, below: Sequence[str] = ()) -> str:
    """
    Build the resource path of a search's match, of which nothing else is looked at.

    :param match: the match.
    :param level: studies, series or instances.
    :param below: the UIDs of the study, and of the series, that the search was within.
    :raises DicomExportUnavailableError: if it holds no UID.
    """
    kinds = _KINDS[len(below) : _KINDS.index(level) + 1]
    return resource_path(*below, *(_first(match.get(_TAGS[kind], {}).get("Value")) for kind in kinds))


def uids_of(path: str) -> list[str]:
    """
    Take a resource path apart.

    :param path: the resource path.
    """
    return path.split("/")[2::2]


def _first(values: object) -> object:
    return values[0] if isinstance(values, list) and values else None
