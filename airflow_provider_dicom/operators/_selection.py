"""What the operators that select instances share: the filter file that they write, and their result."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.api.destinations import parse_gcs_uri
from airflow_provider_dicom.api.dicomweb import SearchLevel
from airflow_provider_dicom.operators._base import ConnectedOperator
from airflow_provider_dicom.operators._selection_output import SelectionOutput
from airflow_provider_dicom.selection.filter_file import FilterFile
from airflow_provider_dicom.selection.filter_parts import upload_parts
from airflow_provider_dicom.validation import optional_count_error, parse_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.results import DicomSelection
    from airflow_provider_dicom.selection.filter_lines import SelectedPath


class SelectionOperator(ConnectedOperator):
    """Writes resource paths to a filter file, and skips the task if there are none."""

    filter_uri: str
    level: SearchLevel
    max_paths_per_file: int | None

    @property
    def output(self) -> SelectionOutput:
        """The output of the task, for the parameters of other tasks."""
        return SelectionOutput(operator=self)

    def selection_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Yield the validation errors of the parameters that every selection has.

        :param unrendered: the names of the parameters that are still templates.
        """
        if "level" not in unrendered and self.level not in get_args(SearchLevel):
            yield f"level={self.level!r} is not accepted; accepted: {', '.join(get_args(SearchLevel))}."
        if "filter_uri" not in unrendered:
            yield from parse_errors(parse_gcs_uri, self.filter_uri, "filter_uri", is_object=True)
        if error := optional_count_error("max_paths_per_file", self.max_paths_per_file):
            yield error
        yield from self.connection_errors(unrendered)

    def write_selection(
        self, paths: Iterable[str | SelectedPath], context: Context, *, if_empty: str
    ) -> DicomSelection:
        """
        Write the filter file and its parts, and return the selection, without its DICOM store and its times.

        :param paths: the resource paths; memory does not grow with their number.
        :param context: the task's context.
        :param if_empty: the reason for the skip if there are no paths.
        :raises AirflowSkipException: if there are no paths: an empty filter must never export the whole
            store.
        """
        with FilterFile.of(paths, max_paths_per_part=self.max_paths_per_file) as file:
            if not file.count:
                raise AirflowSkipException(f"{if_empty}: there is nothing to export.")
            filter_uris = [self.filter_uri]
            if file.parts:
                filter_uris = upload_parts(
                    file,
                    self.filter_uri,
                    try_number=context["ti"].try_number,
                    gcp_conn_id=self.gcp_conn_id,
                    impersonation_chain=self.impersonation_chain,
                    log=self.log,
                )
            file.upload(
                self.filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain
            )
        self.log.info("Wrote the paths of %d %s to %s.", file.count, self.level, self.filter_uri)
        if file.volume.instances is not None:
            self.log.info("They stand for %s.", file.volume.describe())
        return {
            "dicom_store": None,
            "filter_uri": self.filter_uri,
            "filter_uris": filter_uris,
            "count": file.count,
            "since": None,
            "until": None,
        }
