"""The request of an export: its options and MIME types validated, and its body built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from airflow_provider_dicom.api.destinations import GcsUri, parse_destination, parse_gcs_uri
from airflow_provider_dicom.validation import parse_errors, raise_if_invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

WriteDisposition = Literal["WRITE_EMPTY", "WRITE_TRUNCATE", "WRITE_APPEND"]
BigQuerySchema = Literal["flattened", "json"]

_MIME_NAME = r"[A-Za-z0-9!#$&^_.+*-]+"
_MIME_TYPE = re.compile(
    rf"{_MIME_NAME}/{_MIME_NAME}([ \t]*;[ \t]*{_MIME_NAME}=({_MIME_NAME}|\"[^\"\s;]+\"))*"
)

_DICOM_TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.4.111",
    "1.2.840.10008.1.2.4.112",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.8.1",
    "*",
)

#: The MIME types that the API's documentation lists.
DOCUMENTED_MIME_TYPES = (
    *(f"application/dicom; transfer-syntax={uid}" for uid in _DICOM_TRANSFER_SYNTAXES),
    "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1",
    "application/octet-stream; transfer-syntax=*",
    "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50",
    "image/png",
)
#: MIME types without a transfer syntax, which the API accepts as well.
BARE_MIME_TYPES = ("application/dicom", "application/octet-stream", "image/jpeg")

_KNOWN_MIME_TYPES = frozenset(form.replace(" ", "") for form in DOCUMENTED_MIME_TYPES + BARE_MIME_TYPES)

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
    The options of an export.

    https://cloud.google.com/healthcare-api/docs/reference/rest/v1/projects.locations.datasets.dicomStores/export

    :param destination: ``gs://bucket/prefix`` or ``bq://project.dataset.table``.
    :param mime_type: Cloud Storage only: the format of the files; as uploaded if not given. The API
        transcodes only files up to 1 GB, and frames up to 150 MB.
    :param write_disposition: BigQuery only: ``WRITE_EMPTY``, ``WRITE_TRUNCATE`` or ``WRITE_APPEND``.
    :param bigquery_schema: BigQuery only: ``"flattened"`` or ``"json"``; the API's default if not given.
    :param include_source_store: BigQuery only: add a column with the DICOM store's name.
    :param filter_uri: ``gs://bucket/object`` of a file with the resource paths to export; all
        instances if not given.
    """

    destination: str
    mime_type: str | None = None
    write_disposition: str | None = None
    bigquery_schema: str | None = None
    include_source_store: bool | None = None
    filter_uri: str | None = None

    @classmethod
    def of_body(cls, body: ExportBody) -> ExportRequest:
        """
        Read the options from the body of a request.

        :param body: the body.
        """
        gcs, table = body.get("gcsDestination", {}), body.get("bigqueryDestination", {})
        is_flattened, is_json = "schemaFlattened" in table, "schemaJson" in table
        return cls(
            destination=gcs.get("uriPrefix") or table.get("tableUri") or "",
            mime_type=gcs.get("mimeType"),
            write_disposition=table.get("writeDisposition"),
            bigquery_schema="flattened" if is_flattened else "json" if is_json else None,
            include_source_store=table.get("includeSourceStore"),
            filter_uri=body["filterConfig"]["resourcePathsGcsUri"] if "filterConfig" in body else None,
        )

    def validation_errors(self, unrendered: frozenset[str] = frozenset()) -> Iterator[str]:
        """
        Yield one sentence for each validation error.

        :param unrendered: parameters that are still templates; of a template only a literal scheme is
            validated.
        """
        if "destination" not in unrendered:
            yield from parse_errors(parse_destination, self.destination, "destination")
        yield from self._misplaced(unrendered)
        if "mime_type" not in unrendered and not self._has_valid_mime_type():
            yield (
                f"mime_type={self.mime_type!r} is not a MIME type; "
                "accepted: a MIME type such as 'application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90'."
            )
        for name, accepted in _CHOICES.items():
            value = getattr(self, name)
            if name not in unrendered and value is not None and not _is_one_of(value, accepted):
                yield f"{name}={value!r} is not accepted; accepted: {', '.join(map(str, accepted))}."
        if "filter_uri" not in unrendered and self.filter_uri is not None:
            yield from parse_errors(parse_gcs_uri, self.filter_uri, "filter_uri", is_object=True)

    def _has_valid_mime_type(self) -> bool:
        if self.mime_type is None:
            return True
        return isinstance(self.mime_type, str) and is_mime_type(self.mime_type)

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
        """Return a sentence for each option that is valid but unusual."""
        if self.mime_type is None or is_known_mime_type(self.mime_type):
            return []
        sentence = f"mime_type={self.mime_type!r} is not among the MIME types that this provider knows"
        return [f"{sentence}; it is sent unchanged, and the API decides."]

    @property
    def duplicate_risk(self) -> str | None:
        """The damage that a second submission of the same export could do; None if it does none."""
        if self.write_disposition != "WRITE_APPEND":
            return None
        return f"{self.write_disposition} could then write the same rows to {self.destination} twice"

    @property
    def overwrites(self) -> bool:
        """Whether a later export replaces what an earlier one wrote."""
        return self.destination.startswith("gs://") or self.write_disposition == "WRITE_TRUNCATE"

    def body(self) -> ExportBody:
        """
        Build the body of the API request.

        :raises DicomExportInvalidRequestError: if the request is invalid.
        """
        raise_if_invalid(self.validation_errors())
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


def is_mime_type(mime_type: str) -> bool:
    """
    Tell whether a text has the form ``type/subtype[; name=value]``.

    :param mime_type: the text.
    """
    return _MIME_TYPE.fullmatch(mime_type) is not None


def is_known_mime_type(mime_type: str) -> bool:
    """
    Tell whether the API's documentation lists a MIME type; spaces do not matter.

    :param mime_type: a well-formed MIME type.
    """
    return re.sub(r"[ \t]", "", mime_type) in _KNOWN_MIME_TYPES


def is_one_file_per_instance(mime_type: str | None) -> bool:
    """
    Tell whether an export writes one file for each instance; image formats have one for each frame.

    :param mime_type: a well-formed MIME type; None stands for the format as uploaded.
    """
    return mime_type is None or mime_type.partition(";")[0].strip() == "application/dicom"


def transcodes(mime_type: str | None) -> bool:
    """
    Tell whether an export transcodes the pixel data of instances, for which the API has limits.

    :param mime_type: a well-formed MIME type; None stands for the format as uploaded.
    """
    if mime_type is None:
        return False
    media_type, *parameters = mime_type.lower().split(";")
    pairs = [parameter.strip().partition("=") for parameter in parameters]
    syntaxes = [value.strip('"') for name, _, value in pairs if name == "transfer-syntax"]
    return media_type.startswith("image/") or any(syntax != "*" for syntax in syntaxes)


def _is_one_of(value: object, accepted: tuple[object, ...]) -> bool:
    # 1 == True, but JSON would send it as a number.
    return any(value == choice and type(value) is type(choice) for choice in accepted)
