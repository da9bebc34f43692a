"""Operator that compares the destination of an export with the DICOM store or the filter file."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from airflow_provider_dicom.api.destinations import parse_destination, parse_gcs_uri
from airflow_provider_dicom.api.dicomweb import number_of_frames, path_of_match, uids_of
from airflow_provider_dicom.exceptions import DicomExportIncompleteError
from airflow_provider_dicom.operators._base import (
    CONNECTION_PARAMETERS,
    STORE_PARAMETERS,
    ConnectedOperator,
)
from airflow_provider_dicom.selection.disk_set import DiskMap
from airflow_provider_dicom.selection.filter_file import FilterFile, read_filter
from airflow_provider_dicom.selection.inventory import Inventory
from airflow_provider_dicom.validation import Kind, parse_errors, raise_if_invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
    from airflow_provider_dicom.results import DicomExportCheckResult

OnMissing = Literal["fail", "warn"]

#: The largest number of missing instances in the result and in messages.
MAX_MISSING_PATHS = 10
#: Matches of a search in memory at a time.
PAGE_SIZE = 5_000
#: Stands for the number of frames of a path that comes from the filter file.
_UNKNOWN = 0


class DicomStoreExportCheckOperator(ConnectedOperator):
    """
    Compares the instances at an export's destination with the expected ones, and names those that are
    missing.

    Expected are the instances of the DICOM store, or of the filter file, at the time of the check. An
    instance has arrived if an object has its name, whatever the content, or if objects have the names of all
    its frames, or if the table has a row for it. A study or series of the filter file that the DICOM store
    does not hold counts as one instance.

    :param location: the location of the dataset, such as ``us-central1`` (templated).
    :param dataset_id: the dataset's id (templated).
    :param dicom_store_id: the DICOM store's id (templated).
    :param destination: ``gs://bucket/prefix`` or ``bq://project.dataset.table`` of the export (templated).
    :param filter_uri: ``gs://bucket/object`` of the export's filter file; the whole DICOM store is expected
        if not given (templated).
    :param on_missing: ``"fail"`` fails the task if instances are missing, ``"warn"`` reports them in the log
        and in the result only (templated).
    :param missing_uri: ``gs://bucket/object`` to which the paths of the missing instances are written, as the
        filter file of an export; nothing is written if no instance is missing (templated).
    :param project_id: the DICOM store's project, which also pays for the query of a table; the connection's
        if not given (templated).
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
        "destination",
        "filter_uri",
        "on_missing",
        "missing_uri",
        "project_id",
        "gcp_conn_id",
        "impersonation_chain",
        "api_endpoint",
    )
    PARAMETERS: ClassVar[Mapping[str, Kind]] = {
        **STORE_PARAMETERS,
        "destination": Kind.REQUIRED,
        "filter_uri": Kind.RESTRICTION,
        "on_missing": Kind.REQUIRED,
        "missing_uri": Kind.RESTRICTION,
        **CONNECTION_PARAMETERS,
    }
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        location: str,
        dataset_id: str,
        dicom_store_id: str,
        destination: str,
        filter_uri: str | None = None,
        on_missing: OnMissing = "fail",
        missing_uri: str | None = None,
        project_id: str | None = None,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        # Other tasks take the values of the result by their names.
        super().__init__(**{"multiple_outputs": True, **kwargs})
        self.location = location
        self.dataset_id = dataset_id
        self.dicom_store_id = dicom_store_id
        self.destination = destination
        self.filter_uri = filter_uri
        self.on_missing = on_missing
        self.missing_uri = missing_uri
        self.project_id = project_id
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
        self.api_endpoint = api_endpoint
        self.validate_when_parsed()

    def execute(self, context: Context) -> DicomExportCheckResult:
        """
        Compare the destination with the expectation, and return the counts.

        :param context: the task's context.
        :raises DicomExportIncompleteError: if instances are missing and ``on_missing`` is ``"fail"``.
        :raises DicomExportError: if the DICOM store or the destination cannot be read.
        """
        self.skip_if_nothing_is_missing(self.filter_uri)
        raise_if_invalid(self._validation_errors(frozenset()))
        with self.hook() as hook:
            store = hook.dicom_store_name(
                self.location, self.dataset_id, self.dicom_store_id, self.project_id
            )
            # The destination is read last: an instance that arrives meanwhile does not count as missing.
            with DiskMap(self._expected(hook, store)) as expected, self._arrived() as arrived:
                arrived.warn_of_ignored(self.log)
                with FilterFile.of(self._missing(hook, store, expected, arrived)) as missing:
                    return self._report(
                        {
                            "destination": self.destination,
                            "expected": len(expected),
                            "arrived": len(arrived),
                            "missing": missing.count,
                            "missing_paths": missing.first(MAX_MISSING_PATHS),
                            "missing_uri": self._write(missing),
                        }
                    )

    def _write(self, missing: FilterFile) -> str | None:
        if self.missing_uri is None or not missing.count:
            return None
        missing.upload(
            self.missing_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain
        )
        self.log.info("Wrote the paths of %d missing instances to %s.", missing.count, self.missing_uri)
        return self.missing_uri

    def _report(self, result: DicomExportCheckResult) -> DicomExportCheckResult:
        summary = (
            f"{result['expected']} instances are expected in {self.destination}, and {result['missing']} of "
            f"them are missing; {result['arrived']} are there"
        )
        if not result["missing"]:
            self.log.info("%s.", summary)
            return result
        error = DicomExportIncompleteError(f"{summary}. Missing: {_list_missing(result)}", result=result)
        if self.on_missing == "fail":
            raise error
        self.log.warning("%s", error)
        return result

    def _arrived(self) -> Inventory:
        return Inventory(
            self.destination,
            project_id=self.project_id,
            gcp_conn_id=self.gcp_conn_id,
            impersonation_chain=self.impersonation_chain,
        )

    def _expected(self, hook: DicomStoreHook, store: DicomStoreName) -> Iterator[tuple[str, int]]:
        # Resource paths with their numbers of frames.
        if self.filter_uri is None:
            yield from _instances_below(hook, store, [])
            return
        for path in read_filter(
            self.filter_uri, gcp_conn_id=self.gcp_conn_id, impersonation_chain=self.impersonation_chain
        ):
            uids = uids_of(path)
            instances = iter(()) if len(uids) == 3 else _instances_below(hook, store, uids)
            # What the filter file names is expected even if the DICOM store does not hold it any more.
            yield next(instances, (path, _UNKNOWN))
            yield from instances

    def _missing(
        self, hook: DicomStoreHook, store: DicomStoreName, expected: DiskMap, arrived: Inventory
    ) -> Iterator[str]:
        # Instances of one series follow each other.
        @lru_cache(maxsize=1)
        def frames_in(series: str) -> dict[str, int]:
            return dict(_instances_below(hook, store, uids_of(series)))

        not_in_store = 0
        for path, known_frames in expected.items():
            if arrived.holds(path, known_frames):
                continue
            if known_frames != _UNKNOWN or not arrived.holds_part(path):
                yield path
                continue
            is_instance = len(uids_of(path)) == 3
            frames = frames_in(path.partition("/instances/")[0]).get(path) if is_instance else None
            if frames is None:
                not_in_store += 1
            elif not arrived.holds(path, frames):
                yield path
        if not_in_store:
            self.log.warning(
                "%d paths of the filter file are not in the DICOM store any more. Something of each is in "
                "%s, but whether all of it is cannot be checked.",
                not_in_store,
                self.destination,
            )

    def _validation_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        sentences, unrendered = self.kind_errors(unrendered)
        yield from sentences
        yield from self.store_errors(unrendered)
        if "destination" not in unrendered:
            yield from parse_errors(parse_destination, self.destination)
        if "filter_uri" not in unrendered and self.filter_uri is not None:
            yield from parse_errors(parse_gcs_uri, self.filter_uri, "filter_uri", is_object=True)
        if "missing_uri" not in unrendered and self.missing_uri is not None:
            yield from parse_errors(parse_gcs_uri, self.missing_uri, "missing_uri", is_object=True)
        if "on_missing" not in unrendered and self.on_missing not in get_args(OnMissing):
            yield f"on_missing={self.on_missing!r} is not accepted; accepted: fail, warn."
        yield from self.connection_errors(unrendered)


def _instances_below(
    hook: DicomStoreHook, store: DicomStoreName, uids: Sequence[str]
) -> Iterator[tuple[str, int]]:
    study_uid, series_uid, *_ = [*uids, None, None]
    matches = hook.search(
        store,
        "instances",
        study_uid=study_uid,
        series_uid=series_uid,
        include_fields=["NumberOfFrames"],
        page_size=PAGE_SIZE,
    )
    for match in matches:
        yield path_of_match(match, "instances", below=uids), number_of_frames(match)


def _list_missing(result: DicomExportCheckResult) -> str:
    more = result["missing"] - len(result["missing_paths"])
    return ", ".join(result["missing_paths"]) + (f", and {more} more." if more else ".")
