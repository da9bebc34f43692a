"""The request of an export: its options checked against each other, and its body built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from airflow_provider_dicom.api import mime_types
from airflow_provider_dicom.api.destinations import GcsUri, parse_destination, parse_gcs_uri
from airflow_provider_dicom.api.resource_names import raise_on, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

WriteDisposition = Literal["WRITE_EMPTY", "WRITE_TRUNCATE", "WRITE_APPEND"]
BigQuerySchema = Literal["flattened", "json"]

_CHOICES: dict[str, tuple[object, ...]] = {
    "write_disposition": get_args(WriteDisposition),
    "bigquery_schema": get_args(BigQuerySchema),
    "include_source_store": (True, False),
}
_ONLY_WITH = {
    "gs://": ("mime_type",),
    "bq://": ("write_disposition", "bigquery_schema", "include_source_store"),
}


class GcsDestinationBody(TypedDict, total=False):
    """``GoogleCloudHealthcareV1DicomGcsDestination`` of the API."""

    uriPrefix: str
    mimeType: str


class BigQueryDestinationBody(TypedDict, total=False):
    """``GoogleCloudHealthcareV1DicomBigQueryDestination`` of the API."""

    tableUri: str
    writeDisposition: str
    schemaFlattened: dict[str, object]
    schemaJson: dict[str, object]
    includeSourceStore: bool


class FilterConfigBody(TypedDict):
    """``DicomFilterConfig`` of the API."""

    resourcePathsGcsUri: str


class ExportBody(TypedDict, total=False):
    """``ExportDicomDataRequest`` of the API."""

    gcsDestination: GcsDestinationBody
    bigqueryDestination: BigQueryDestinationBody
    filterConfig: FilterConfigBody


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """
    What to export to where.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/export

    :param destination: ``gs://bucket/prefix`` or ``bq://project.dataset.table``.
    :param mime_type: Cloud Storage only: the form of the files; as uploaded if not given.
    :param write_disposition: BigQuery only: ``WRITE_EMPTY``, ``WRITE_TRUNCATE`` or ``WRITE_APPEND``.
    :param bigquery_schema: BigQuery only: ``"flattened"`` or ``"json"``; the API's default if not given.
    :param include_source_store: BigQuery only: add a column with the DICOM store's name.
    :param filter_uri: ``gs://bucket/object`` of a file with the resource paths to export; all if not given.
    """

    destination: str
    mime_type: str | None = None
    write_disposition: str | None = None
    bigquery_schema: str | None = None
    include_source_store: bool | None = None
    filter_uri: str | None = None

    def mistakes(self, unrendered: frozenset[str] = frozenset()) -> list[str]:
        """
        Say what is wrong with the request, one sentence for each mistake.

        :param unrendered: parameters that are templates still, of which only a literal scheme is known.
        """
        return list(self._mistakes(unrendered))

    def _mistakes(self, unrendered: frozenset[str]) -> Iterator[str]:
        if "destination" not in unrendered:
            yield from refusal(parse_destination, self.destination, "destination")
        yield from self._misplaced(unrendered)
        if "mime_type" not in unrendered and not self._has_sound_mime_type():
            yield (
                f"mime_type={self.mime_type!r} is not a MIME type; "
                "accepted: a form such as 'application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90'."
            )
        for name, accepted in _CHOICES.items():
            value = getattr(self, name)
            if name not in unrendered and value is not None and not _is_one_of(value, accepted):
                yield f"{name}={value!r} is not accepted; accepted: {', '.join(map(str, accepted))}."
        if "filter_uri" not in unrendered and self.filter_uri is not None:
            yield from refusal(parse_gcs_uri, self.filter_uri, "filter_uri", is_object=True)

    def _has_sound_mime_type(self) -> bool:
        if self.mime_type is None:
            return True
        return isinstance(self.mime_type, str) and mime_types.is_well_formed(self.mime_type)

    def _misplaced(self, unrendered: frozenset[str]) -> Iterator[str]:
        for scheme, names in _ONLY_WITH.items():
            if not isinstance(self.destination, str) or self.destination.startswith(scheme):
                continue
            if not self.destination.startswith(tuple(_ONLY_WITH)):
                continue
            for name in names:
                if name not in unrendered and (value := getattr(self, name)) is not None:
                    yield (
                        f"{name}={value!r} does not fit destination={self.destination!r}; "
                        f"accepted: {name} with a {scheme!r} destination only."
                    )

    def warnings(self) -> list[str]:
        """Say what is unusual, but not wrong, about a request without mistakes."""
        if self.mime_type is None or mime_types.is_known(self.mime_type):
            return []
        sentence = f"mime_type={self.mime_type!r} is not among the forms that this provider knows"
        return [f"{sentence}; it is sent as it is, and the API decides."]

    @property
    def harmless_to_repeat(self) -> bool:
        """Whether submitting the same export twice leaves the same data as submitting it once."""
        return self.write_disposition != "WRITE_APPEND"

    def body(self) -> ExportBody:
        """
        Build the body of the API request.

        :raises DicomExportInvalidRequestError: if the request has mistakes.
        """
        raise_on(self.mistakes())
        body: ExportBody = {}
        if isinstance(parse_destination(self.destination), GcsUri):
            body["gcsDestination"] = {"uriPrefix": self.destination}
            if self.mime_type is not None:
                body["gcsDestination"]["mimeType"] = self.mime_type
        else:
            body["bigqueryDestination"] = self._bigquery_body()
        if self.filter_uri is not None:
            body["filterConfig"] = {"resourcePathsGcsUri": self.filter_uri}
        return body

    def _bigquery_body(self) -> BigQueryDestinationBody:
        body: BigQueryDestinationBody = {"tableUri": self.destination}
        if self.write_disposition is not None:
            body["writeDisposition"] = self.write_disposition
        if self.bigquery_schema == "flattened":
            body["schemaFlattened"] = {}
        elif self.bigquery_schema == "json":
            body["schemaJson"] = {}
        if self.include_source_store is not None:
            body["includeSourceStore"] = self.include_source_store
        return body


def _is_one_of(value: object, accepted: tuple[object, ...]) -> bool:
    # 1 == True, but JSON would send it as a number.
    return any(value == choice and type(value) is type(choice) for choice in accepted)
