"""An export with a filter: what the filter selects, and what is said and refused before the submission."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportDuplicateRiskError
from airflow_provider_dicom.operators._export_filter import ExportFilter, PreparedFilter, store_volume
from airflow_provider_dicom.operators._long_running import LongRunningOperator
from airflow_provider_dicom.selection.filter_file import resource_path_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_provider_dicom.api.export_request import ExportRequest
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook


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
            return
        decision = self._decision
        file = ExportFilter(
            filter_uri=filter_uri,
            gcp_conn_id=self.gcp_conn_id,
            impersonation_chain=self.impersonation_chain,
            log=self.log,
        )
        if decision is not None and decision["is_filter_written"]:
            with file.written_before(decision["filter_digest"]) as filter_:
                yield filter_
        elif decision is not None:
            filter_ = file.stored()
            yield filter_._replace(digest=filter_.digest or decision["filter_digest"])
        elif self.resource_paths is None:
            yield file.stored()
        else:
            with file.written(self.resource_paths) as filter_:
                yield filter_

    def _prepare(self, hook: DicomStoreHook, store: DicomStoreName, filter_: PreparedFilter) -> None:
        risk = self.export_request.duplicate_risk
        if filter_.is_split_anew and risk is not None and self.durable:
            raise DicomExportDuplicateRiskError(
                f"The filter file {self.export_request.filter_uri} is a part of a selection that an earlier "
                "try of its task had split in another way. The earlier parts may have been exported to the "
                f"same table. Nothing was submitted, because {risk}. Check the table; remove the rows of the "
                "earlier parts; then run the task with durable=False, or in a new run."
            )
        filter_.prepare()
        if self._is_resumed or self._volume is not None:
            return
        volume = filter_.volume
        if self.export_request.filter_uri is None:
            volume = store_volume(hook, store, self.log)
        self._volume = volume
        if volume:
            self.log.info("Exporting %s of %s.", volume.describe(), store)
