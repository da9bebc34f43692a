"""The connection type of this provider: Google's fields, and a DICOM store with its endpoint."""

from __future__ import annotations

from dataclasses import dataclass

CONN_TYPE = "google_cloud_dicom_store"
HOOK_NAME = "Google Cloud Healthcare DICOM store"


@dataclass(frozen=True)
class ConnectionField:
    """
    A field that the form has on top of Google's.

    :param label: the field's name in the form.
    :param placeholder: what an empty field shows.
    :param description: what the field is for.
    """

    label: str
    placeholder: str
    description: str


#: By the name in the connection's extra, which is that of the parameter. The default project is Google's.
FIELDS = {
    "location": ConnectionField(
        "Location", "europe-west3", "Where the dataset is; the default of the hook, and used by Test."
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
}
HIDDEN_FIELDS = ("host", "schema", "login", "password", "port", "extra")
PLACEHOLDERS = {name: field.placeholder for name, field in FIELDS.items()}
