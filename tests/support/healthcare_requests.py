"""Requests that the local Healthcare API has received."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control


def request_count(control: Control, *routes: str) -> int:
    """
    Return the number of requests to routes since the last reset.

    :param control: controls the local Healthcare API.
    :param routes: such as ``operations.get``; all routes if not given.
    """
    counts: dict[str, int] = control.requests()["counts"]
    return sum(count for route, count in counts.items() if not routes or route in routes)


def accepted_exports(control: Control, store: DicomStoreName) -> list[str]:
    """
    Return the names of the Operations of all exports of a DICOM store that were accepted.

    :param control: controls the local Healthcare API.
    :param store: the DICOM store.
    """
    operations = control.exports()["operations"]
    return [operation["name"] for operation in operations if operation["dicomStore"] == str(store)]
