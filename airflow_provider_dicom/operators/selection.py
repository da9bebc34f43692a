"""Operators that select instances for an export: the matches of a query become a filter file."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, ClassVar, cast

from airflow_provider_dicom.api.destinations import parse_destination
from airflow_provider_dicom.api.dicomweb import SearchLevel, number_of_frames, path_of_match
from airflow_provider_dicom.operators._arrivals import DicomHighWaterMarkOperator, DicomMetadataQueryOperator
from airflow_provider_dicom.operators._base import CONNECTION_PARAMETERS, STORE_PARAMETERS
from airflow_provider_dicom.operators._parameters import reveal
from airflow_provider_dicom.operators._selection import SelectionOperator
from airflow_provider_dicom.operators._selection_output import mappable
from airflow_provider_dicom.selection.inventory import Inventory
from airflow_provider_dicom.selection.search_filters import search_filter_errors, search_queries
from airflow_provider_dicom.validation import Kind, is_count, parse_errors, raise_if_invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date
    from typing import Any

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api_types import DicomJson
    from airflow_provider_dicom.results import DicomSelection

__all__ = ["DicomHighWaterMarkOperator", "DicomMetadataQueryOperator", "DicomStoreSearchOperator"]


class DicomStoreSearchOperator(SelectionOperator):
    """
    Searches a DICOM store with QIDO-RS, and writes the resource paths of the matches to a filter file.

    Only the UIDs of a match are kept. A search without matches skips the task.

    https://cloud.google.com/healthcare-api/docs/dicom#search_transaction

    :param location: the location of the dataset, such as ``us-central1`` (templated).
    :param dataset_id: the dataset's id (templated).
    :param dicom_store_id: the DICOM store's id (templated).
    :param filter_uri: ``gs://bucket/object`` of the filter file, which becomes the export's ``filter_uri``
        (templated).
    :param filters: attributes and the values that they must have, such as ``{"StudyDate": "{{ ds_nodash
        }}"}``: a text, a whole number, a date, a list of UIDs, or ``*`` for all. Airflow stores and shows the
        attributes only, because the values may name a patient (templated).
    :param level: the level of the matches: ``"studies"``, ``"series"`` or ``"instances"`` (templated).
    :param exclude_exported_to: ``gs://bucket/prefix`` or ``bq://project.dataset.table``: instances that are
        there already, as a whole or with all their frames, are left out, folders below the prefix included,
        such as one for each night; only with the level ``"instances"`` (templated).
    :param project_id: the project's id; the connection's if not given (templated).
    :param page_size: matches on a page, all of them in memory at a time.
    :param max_paths_per_file: the largest number of paths in a file of ``filter_uris``, each of which becomes
        an export of its own; one file if not given.
    :param gcp_conn_id: the Airflow connection (templated).
    :param impersonation_chain: a service account to impersonate, or a chain of them (templated).
    :param api_endpoint: another endpoint than Google's, such as a local Healthcare API (templated).
    :raises DicomExportInvalidRequestError: if a parameter is invalid; at parse time if its value is known
        then.
    """

    template_fields: Sequence[str] = (
        "location",
        "dataset_id",
        "dicom_store_id",
        "filter_uri",
        "filters",
        "level",
        "exclude_exported_to",
        "project_id",
        "gcp_conn_id",
        "impersonation_chain",
        "api_endpoint",
    )
    PRIVATE: ClassVar[frozenset[str]] = frozenset({"filters"})
    PARAMETERS: ClassVar[Mapping[str, Kind]] = {
        **STORE_PARAMETERS,
        "filter_uri": Kind.REQUIRED,
        "filters": Kind.RESTRICTION,
        "level": Kind.REQUIRED,
        "exclude_exported_to": Kind.RESTRICTION,
        "page_size": Kind.NUMBER,
        "max_paths_per_file": Kind.OPTIONAL_NUMBER,
        **CONNECTION_PARAMETERS,
    }
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        location: str,
        dataset_id: str,
        dicom_store_id: str,
        filter_uri: str,
        filters: Mapping[str, str | int | date | Sequence[str]] | None = None,
        level: SearchLevel = "studies",
        exclude_exported_to: str | None = None,
        project_id: str | None = None,
        page_size: int = 5_000,
        max_paths_per_file: int | None = None,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        # `search.output["filter_uri"]` is what an export takes.
        super().__init__(**{"multiple_outputs": True, **kwargs})
        self.location = location
        self.dataset_id = dataset_id
        self.dicom_store_id = dicom_store_id
        self.filter_uri = filter_uri
        self.filters = filters
        self.level = level
        self.exclude_exported_to = exclude_exported_to
        self.project_id = project_id
        self.page_size = page_size
        self.max_paths_per_file = max_paths_per_file
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
        self.api_endpoint = api_endpoint
        self.validate_when_parsed()

    def execute(self, context: Context) -> DicomSelection:
        """
        Search, and write the filter file.

        :param context: the task's context.
        :raises AirflowSkipException: if nothing matches.
        :raises DicomExportError: if the API refuses, or the file cannot be written.
        """
        raise_if_invalid(self._validation_errors(frozenset()))
        queries = list(search_queries(cast("Mapping[str, object] | None", reveal(self.filters))))
        with self.hook() as hook:
            store = hook.dicom_store_name(
                self.location, self.dataset_id, self.dicom_store_id, self.project_id
            )
            matches = chain.from_iterable(
                hook.search(
                    store,
                    self.level,
                    filters=query,
                    include_fields=() if self.exclude_exported_to is None else ("NumberOfFrames",),
                    page_size=self.page_size,
                )
                for query in queries
            )
            written = self.write_selection(
                self._not_exported(matches),
                context,
                if_empty=(
                    "The search matches nothing"
                    if self.exclude_exported_to is None
                    else f"The search matches nothing that is not in {self.exclude_exported_to} already"
                ),
            )
        return mappable({**written, "dicom_store": str(store)})

    def _not_exported(self, matches: Iterator[DicomJson]) -> Iterator[str]:
        if self.exclude_exported_to is None:
            yield from (path_of_match(match, self.level) for match in matches)
            return
        with Inventory(
            self.exclude_exported_to,
            in_folders=True,
            project_id=self.project_id,
            gcp_conn_id=self.gcp_conn_id,
            impersonation_chain=self.impersonation_chain,
            log=self.log,
        ) as exported:
            self.log.info("%d instances are in %s already.", len(exported), self.exclude_exported_to)
            exported.warn_of_ignored(self.log)
            for match in matches:
                path = path_of_match(match, self.level)
                if not exported.holds(path, number_of_frames(match)):
                    yield path

    def _validation_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        sentences, settled = self.kind_errors(unrendered - {"filters"})
        yield from sentences
        if "filters" not in settled:
            yield from search_filter_errors(reveal(self.filters), is_rendered="filters" not in unrendered)
        unrendered = settled
        yield from self.store_errors(unrendered)
        yield from self.selection_errors(unrendered)
        if not is_count(self.page_size):
            yield f"page_size={self.page_size!r} is not accepted; accepted: a count from 1."
        if "exclude_exported_to" in unrendered or self.exclude_exported_to is None:
            return
        yield from parse_errors(parse_destination, self.exclude_exported_to, "exclude_exported_to")
        if "level" not in unrendered and self.level != "instances":
            yield f"exclude_exported_to with level={self.level!r}; accepted: level='instances'."
