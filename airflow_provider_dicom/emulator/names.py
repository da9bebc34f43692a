"""Resource names: projects, locations, datasets, DICOM stores, operations."""

from __future__ import annotations

import re

from airflow_provider_dicom.emulator.errors import ApiError

_ID = re.compile(r"[\w.\-]{1,256}")
_UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(?:\.[0-9]+)*")


def check_id(kind: str, value: str | None) -> str:
    """Return the id that a new resource is to have.

    :param kind: what it names, such as ``dicomStoreId``.
    :param value: letters and digits of any script, ``_``, ``-`` and ``.``, at most 256.
    :raises ApiError: the id is missing or holds anything else.
    """
    if not value:
        raise ApiError.invalid_argument(f"{kind} is required")
    if not _ID.fullmatch(value):
        raise ApiError.invalid_argument(
            rf"invalid {kind} {value!r}: it must match [\p{{L}}\p{{N}}_\-\.]{{1,256}}"
        )
    return value


def is_uid(value: str) -> bool:
    """Tell whether a text can be a DICOM UID, so that it can be part of a path."""
    return _UID.fullmatch(value) is not None


def dataset_of(name: str) -> str:
    """Return ``projects/P/locations/L/datasets/D`` of the name of anything in a dataset."""
    return "/".join(name.split("/", 6)[:6])


def project_of(name: str) -> str:
    """Return the project id of a resource name."""
    return name.split("/", 2)[1]
