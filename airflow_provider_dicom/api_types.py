"""Shapes of what the API returns, other than Operations."""

from __future__ import annotations

from typing import TypedDict


class DicomStore(TypedDict, total=False):
    """``DicomStore`` of the API."""

    name: str
    labels: dict[str, str]
    notificationConfig: dict[str, object]
    notificationConfigs: list[dict[str, object]]
    streamConfigs: list[dict[str, object]]


class DicomStoreMetrics(TypedDict, total=False):
    """``DicomStoreMetrics`` of the API: int64 as strings, each left out when zero."""

    name: str
    studyCount: str
    seriesCount: str
    instanceCount: str
    structuredStorageSizeBytes: str
    blobStorageSizeBytes: str


#: One match of a search in the DICOM JSON model: tags as eight hexadecimal digits.
DicomJson = dict[str, dict[str, object]]
