"""What the operators that select instances share: the filter file that they write, and their result."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.api.destinations import parse_gcs_uri
from airflow_provider_dicom.api.dicomweb import SearchLevel
from airflow_provider_dicom.operators._base import ConnectedOperator
from airflow_provider_dicom.selection.filter_file import FilterFile
from airflow_provider_dicom.validation import parse_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_provider_dicom.results import DicomSelection


class SelectionOperator(ConnectedOperator):
    """Writes resource paths to a filter file, and skips the task if there are none."""

    filter_uri: str
    level: SearchLevel

    def selection_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        """
        Yield the validation errors of the parameters that every selection has.

        :param unrendered: the names of the parameters that are still templates.
        """
        if "level" not in unrendered and self.level not in get_args(SearchLevel):
            yield f"level={self.level!r} is not accepted; accepted: {', '.join(get_args(SearchLevel))}."
        if "filter_uri" not in unrendered:
            yield from parse_errors(parse_gcs_uri, self.filter_uri, "filter_uri", is_object=True)
        yield from self.connection_errors(unrendered)

    def write_selection(self, paths: Iterable[str], *, if_empty: str) -> int:
        """
        Write the filter file, and return the number of its paths.

        :param paths: the resource paths; memory does not grow with their number.
        :param if_empty: the reason for the skip if there are no paths.
        :raises AirflowSkipException: if there are no paths: an empty filter must never export the whole
            store.
        """
        with FilterFile.of(paths) as file:
            if not file.count:
                raise AirflowSkipException(f"{if_empty}: there is nothing to export.")
            file.upload(
                self.filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain
            )
        self.log.info("Wrote the paths of %d %s to %s.", file.count, self.level, self.filter_uri)
        return file.count

    def selection(
        self,
        count: int,
        *,
        dicom_store: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> DicomSelection:
        """
        Return the result of a selection that was written.

        :param count: the number of paths.
        :param dicom_store: the full name of the DICOM store, if it is known.
        :param since: the beginning of the selection, exclusive, as an RFC 3339 time.
        :param until: the end of the selection, inclusive, as an RFC 3339 time.
        """
        return {
            "dicom_store": dicom_store,
            "filter_uri": self.filter_uri,
            "filter_uris": [self.filter_uri],
            "count": count,
            "since": since,
            "until": until,
        }
