"""The connection type of this provider: Google's fields, plus a DICOM store and an endpoint."""

from __future__ import annotations

from dataclasses import dataclass

CONN_TYPE = "google_cloud_dicom_store"
HOOK_NAME = "Google Cloud Healthcare DICOM store"


@dataclass(frozen=True)
class ConnectionField:
    """
    A field of the form in addition to Google's.

    :param label: the field's name in the form.
    :param placeholder: the text in the empty field.
    :param description: the purpose of the field.
    """

    label: str
    placeholder: str
    description: str


#: The keys are the names in the connection's extra, which are the names of the parameters. The default
#: project is Google's field.
ALLOWED_ENDPOINTS = "allowed_api_endpoints"
FIELDS = {
    "location": ConnectionField(
        "Location", "europe-west3", "The location of the dataset; the default of the hook, and used by Test."
    ),
    "dataset_id": ConnectionField(
        "Dataset", "radiology", "The Healthcare dataset; the default of the hook, and used by Test."
    ),
    "dicom_store_id": ConnectionField(
        "DICOM store", "pacs", "The DICOM store; the default of the hook, and used by Test."
    ),
    "api_endpoint": ConnectionField(
        "Endpoint",
        "https://healthcare.googleapis.com",
        "Another endpoint than Google's: https://host[:port], or http:// for a loopback host.",
    ),
    ALLOWED_ENDPOINTS: ConnectionField(
        "Endpoints for templates",
        "https://healthcare.europe-west3.rep.googleapis.com",
        "Endpoints, separated by commas, to which the token may be sent if a template chooses them.",
    ),
    "maximum_bytes_billed": ConnectionField(
        "Limit of a query",
        "1000000000000",
        "Bytes of metadata tables that a query may read; a query that would read more is refused.",
    ),
}
HIDDEN_FIELDS = ("host", "schema", "login", "password", "port", "extra")
PLACEHOLDERS = {name: field.placeholder for name, field in FIELDS.items()}
