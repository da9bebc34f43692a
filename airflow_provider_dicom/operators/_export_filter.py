"""The filter file of an export, and how much data the export reads, as far as that is known beforehand."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.exceptions import (
    DicomExportError,
    DicomExportPermissionError,
    DicomExportUnavailableError,
)
from airflow_provider_dicom.selection.filter_file import FilterFile, read_filter, stored_filter
from airflow_provider_dicom.selection.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.compat import Log
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook


class PreparedFilter(NamedTuple):
    """
    The filter of an export.

    :param digest: a digest of the filter file's content; None without a filter.
    :param is_written: the task itself writes the file.
    :param prepare: has to be called before the submission.
    :param volume: the data that the filter selects, as far as it is known.
    :param is_split_anew: the filter is a part of a selection that an earlier try has split otherwise.
    """

    digest: str | None = None
    is_written: bool = False
    prepare: Callable[[], None] = lambda: None
    volume: Volume = Volume()
    is_split_anew: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportFilter:
    """
    Reads and writes the filter file of an export.

    :param filter_uri: ``gs://bucket/object``.
    :param gcp_conn_id: the Airflow connection.
    :param impersonation_chain: a service account to impersonate, or a chain of them.
    :param log: the task's log.
    """

    filter_uri: str
    gcp_conn_id: str
    impersonation_chain: str | Sequence[str] | None
    log: Log

    def stored(self) -> PreparedFilter:
        """
        Look at a file that others have written.

        :raises AirflowSkipException: if the file selects nothing.
        """
        try:
            stored = stored_filter(
                self.filter_uri,
                gcp_conn_id=self.gcp_conn_id,
                impersonation_chain=self.impersonation_chain,
            )
        except DicomExportPermissionError as error:
            # Only the Healthcare Service Agent needs to read the file.
            self.log.warning("%s. Submitting without a look at the filter file.", error)
            return PreparedFilter()
        if stored.is_empty:
            raise AirflowSkipException(
                f"The filter file {self.filter_uri} is empty: there is nothing to export."
            )
        return PreparedFilter(stored.digest, volume=stored.volume, is_split_anew=stored.is_split_anew)

    @contextmanager
    def written(self, paths: Sequence[str]) -> Iterator[PreparedFilter]:
        """
        Prepare the upload of paths.

        :param paths: the resource paths.
        """

        def upload() -> None:
            file.upload(
                self.filter_uri,
                gcp_conn_id=self.gcp_conn_id,
                impersonation_chain=self.impersonation_chain,
            )
            self.log.info("Wrote %d resource paths to %s.", file.count, self.filter_uri)

        with FilterFile.of(paths) as file:
            yield PreparedFilter(file.digest, True, upload, file.volume)

    @contextmanager
    def written_before(self, digest: str | None) -> Iterator[PreparedFilter]:
        """
        Return to the file that an earlier step of the task has written.

        The paths may render to others by now: what counts is the file written of the first ones.

        :param digest: the digest of the paths.
        :raises DicomExportUnavailableError: if the file has changed.
        """
        paths = read_filter(
            self.filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain
        )
        with FilterFile.of(paths) as file:
            if file.digest != digest:
                raise DicomExportUnavailableError(
                    f"The filter file {self.filter_uri} has changed since this task wrote it. Another "
                    "process writes to the same object; nothing was submitted."
                )
            yield PreparedFilter(digest, is_written=True, volume=file.volume)


def store_volume(hook: DicomStoreHook, store: DicomStoreName, log: Log) -> Volume:
    """
    Return how much a DICOM store holds, by its metrics, which lag behind; unknown if they cannot be had.

    :param hook: the hook.
    :param store: the DICOM store.
    :param log: the task's log.
    """
    try:
        metrics = hook.get_dicom_store_metrics(store, num_retries=0)
        instances = int(metrics.get("instanceCount", 0))
        return Volume(None, instances, int(metrics.get("blobStorageSizeBytes", 0)))
    except (DicomExportError, ValueError) as error:
        # The export does not need the metrics.
        log.info("How much %s holds is not known before the export: %s", store, error)
        return Volume()
