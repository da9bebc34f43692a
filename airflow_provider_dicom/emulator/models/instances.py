"""What an export hands on: a stored instance, and the place it is written to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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
    :param last_updated: when it was stored; aware, UTC.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    path: Path
    dicom_store: str
    last_updated: datetime


class ExportDestination(Protocol):
    """Where an export writes; used by one thread at a time, from ``open`` to ``close``."""

    def open(self) -> None:
        """Check that the destination can be written to.

        :raises ApiError: it cannot; the export ends with this error.
        """

    def write(self, instance: StoredInstance) -> None:
        """Write one instance.

        :raises CannotTranscode: this instance fails, the export goes on.
        :raises ApiError: the destination fails, the export ends with this error.
        """

    def close(self, *, cancelled: bool) -> None:
        """Make what was written visible and let go of connections.

        :param cancelled: the export was cancelled or failed: give up what was not written yet.
        :raises ApiError: what was written cannot be made visible.
        """
