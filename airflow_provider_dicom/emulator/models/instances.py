"""One stored instance, as exports and retrieval read it, and counts of instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


@dataclass(frozen=True)
class StoredInstance:
    """One instance of a DICOM store.

    :param study_uid: its StudyInstanceUID.
    :param series_uid: its SeriesInstanceUID.
    :param instance_uid: its SOPInstanceUID.
    :param path: the DICOM Part 10 file as it was uploaded.
    :param dicom_store: ``projects/P/locations/L/datasets/D/dicomStores/S``.
    :param last_updated: time of the upload; timezone-aware, UTC.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    path: Path
    dicom_store: str
    last_updated: datetime

    @property
    def resource_path(self) -> str:
        """The path in the DICOM store, as in filter files."""
        return f"/studies/{self.study_uid}/series/{self.series_uid}/instances/{self.instance_uid}"

    @property
    def name(self) -> str:
        """The resource name of the instance, as in notifications."""
        return f"{self.dicom_store}/dicomWeb{self.resource_path}"


class Metrics(TypedDict):
    """Counts and sizes of a store, a study or a series."""

    studies: int
    series: int
    instances: int
    blob_bytes: int
    structured_bytes: int
