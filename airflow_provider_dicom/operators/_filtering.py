"""The filter of an export: checked, digested and written before the submission."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.exceptions import DicomExportPermissionError, DicomExportUnavailableError
from airflow_provider_dicom.operators._long_running import LongRunningOperator
from airflow_provider_dicom.selection.filter_file import (
    FilterFile,
    read_filter,
    resource_path_errors,
    stored_filter,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from airflow_provider_dicom.api.export_request import ExportRequest
    from airflow_provider_dicom.operators._submission_types import Decision


class PreparedFilter(NamedTuple):
    """
    The filter of an export.

    :param digest: a digest of the filter file's content; None without a filter.
    :param is_written: the task itself writes the file.
    :param prepare: has to be called before the submission.
    """

    digest: str | None = None
    is_written: bool = False
    prepare: Callable[[], None] = lambda: None


class FilteringOperator(LongRunningOperator):
    """An operator that exports what a filter file lists."""

    filter_uri: str | None
    resource_paths: Sequence[str] | None

    @property
    def export_request(self) -> ExportRequest:
        """The options of the export."""
        raise NotImplementedError

    def _filter_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        if self.resource_paths is None:
            return
        if self.filter_uri is None:
            yield (
                "resource_paths without filter_uri; accepted: a filter_uri='gs://bucket/object' to which the "
                "operator writes the paths, and from which the Healthcare API reads them."
            )
        if "resource_paths" not in unrendered:
            yield from resource_path_errors(self.resource_paths)

    @contextmanager
    def _filter(self, filter_uri: str | None) -> Iterator[PreparedFilter]:
        """Prepare the filter, and skip the task if the filter selects nothing."""
        if filter_uri is None:
            yield PreparedFilter()
        elif self.resource_paths is None:
            yield PreparedFilter(self._digest_of_stored_filter(filter_uri))
        else:
            with FilterFile.of(self.resource_paths) as file:
                yield PreparedFilter(file.digest, True, partial(self._upload, file, filter_uri))

    @contextmanager
    def _decided_filter(self, decision: Decision) -> Iterator[PreparedFilter]:
        """Return to the filter that the first rendering of the templates decided."""
        filter_uri, digest = self.export_request.filter_uri, decision["filter_digest"]
        if filter_uri is None:
            yield PreparedFilter()
        elif not decision["is_filter_written"]:
            yield PreparedFilter(self._digest_of_stored_filter(filter_uri) or digest)
        else:
            # The paths may render to others by now: what counts is the file written of the first ones.
            paths = read_filter(
                filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain
            )
            with FilterFile.of(paths) as file:
                if file.digest != digest:
                    raise DicomExportUnavailableError(
                        f"The filter file {filter_uri} has changed since this task wrote it. Another process "
                        "writes to the same object; nothing was submitted."
                    )
                yield PreparedFilter(digest, is_written=True)

    def _upload(self, file: FilterFile, filter_uri: str) -> None:
        file.upload(filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain)
        self.log.info("Wrote %d resource paths to %s.", file.count, filter_uri)

    def _digest_of_stored_filter(self, filter_uri: str) -> str | None:
        try:
            stored = stored_filter(
                filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain
            )
        except DicomExportPermissionError as error:
            # Only the Healthcare Service Agent needs to read the file.
            self.log.warning("%s. Submitting without a look at the filter file.", error)
            return None
        if stored.is_empty:
            raise AirflowSkipException(f"The filter file {filter_uri} is empty: there is nothing to export.")
        return stored.digest
