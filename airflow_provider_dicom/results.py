"""What tasks of this provider return, as types for the code of DAGs."""

from __future__ import annotations

from typing import Literal, TypedDict


class DicomExportResult(TypedDict):
    """What a finished export leaves behind as return value and XCom, the same in every mode."""

    operation_name: str
    dicom_store: str | None
    destination: str | None
    state: Literal["SUCCEEDED", "PARTIAL"]
    success: int
    failure: int
    pending: int
    create_time: str | None
    end_time: str | None
    logs_url: str


class DicomSelection(TypedDict):
    """
    What a query selected for an export.

    ``since`` and ``until`` are RFC 3339 times, or None where the query knows no time of arrival: what arrived
    after ``since``, and not after ``until``, was selected.
    """

    filter_uri: str
    count: int
    since: str | None
    until: str | None


class DicomExportCheckResult(TypedDict):
    """
    What a check found at an export's destination, in instances.

    ``arrived`` counts all that are there, expected or not; ``missing_paths`` names the first few of
    ``missing``.
    """

    destination: str
    expected: int
    arrived: int
    missing: int
    missing_paths: list[str]
