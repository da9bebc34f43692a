"""IAM roles: who needs which role on which resource, and the command that grants it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airflow_provider_dicom.api.destinations import GcsUri, parse_destination
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError

if TYPE_CHECKING:
    from airflow_provider_dicom.api.destinations import Destination
    from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName

HOW_TO = "https://cloud.google.com/healthcare-api/docs/permissions-healthcare-api-gcp-products"

_OF_THE_CALLER = re.compile(r"(?<![\w.@/-])healthcare\.(dicomStores|datasets|operations|locations)\.\w+")
#: Resource names are ignored in messages: a bucket may well be called "bigquery".
_NAMES = re.compile(r"\b(?:gs://|bq://|projects/)\S+")
_CLOUD_STORAGE = re.compile(r"cloud storage|storage\.(objects|buckets)\.|\bbucket\b", re.IGNORECASE)
_BIGQUERY = re.compile(r"bigquery", re.IGNORECASE)
_DENIED = re.compile(r"permission|forbidden|denied|access|403|not authorized", re.IGNORECASE)


@dataclass(frozen=True)
class CallerPermission:
    """
    An IAM permission that the caller of the API needs.

    :param permission: the IAM permission.
    :param role: the predefined role that the error message advises.
    :param on: the resource on which the role has to be granted.
    """

    permission: str
    role: str
    on: Literal["store", "dataset"]


EXPORT = CallerPermission("healthcare.dicomStores.export", "roles/healthcare.dicomViewer", "store")
GET_STORE = CallerPermission("healthcare.dicomStores.get", "roles/healthcare.dicomViewer", "store")
LIST_STORES = CallerPermission("healthcare.dicomStores.list", "roles/healthcare.dicomViewer", "dataset")
SEARCH = CallerPermission("healthcare.dicomStores.dicomWebRead", "roles/healthcare.dicomViewer", "store")
GET_OPERATION = CallerPermission("healthcare.operations.get", "roles/healthcare.dicomViewer", "dataset")
LIST_OPERATIONS = CallerPermission("healthcare.operations.list", "roles/healthcare.datasetAdmin", "dataset")
CANCEL_OPERATION = CallerPermission("healthcare.operations.cancel", "roles/healthcare.dicomEditor", "dataset")


def explain_caller(
    needed: CallerPermission, dataset: DatasetName, store: DicomStoreName | None, caller: str | None
) -> str:
    """
    Name the role that the caller lacks, and the command that grants it.

    :param needed: the permission that was refused.
    :param dataset: the dataset of the refused request.
    :param store: the DICOM store of the refused request, if it has one.
    :param caller: the e-mail address of the caller's account, if it is known.
    """
    holder = f"the caller {caller}" if caller else "the caller (the account of the Airflow connection)"
    member = _member(caller)
    place = f"--location={shlex.quote(dataset.location)} --project={shlex.quote(dataset.project_id)}"
    if needed.on == "store" and store is not None:
        resource = f"the DICOM store {store}"
        target = (
            f"dicom-stores add-iam-policy-binding {shlex.quote(store.dicom_store_id)} "
            f"--dataset={shlex.quote(dataset.dataset_id)}"
        )
    else:
        resource = f"the dataset {dataset} (a grant on a DICOM store alone is not enough)"
        target = f"datasets add-iam-policy-binding {shlex.quote(dataset.dataset_id)}"
    return (
        f"Needed: {needed.role} (it has {needed.permission}) for {holder} on {resource}. "
        f"Grant it with: gcloud healthcare {target} {place} --member={member} --role={needed.role}"
    )


def _member(caller: str | None) -> str:
    if caller is None:
        return "serviceAccount:CALLER_EMAIL"
    return shlex.quote(
        f"serviceAccount:{caller}" if caller.endswith("gserviceaccount.com") else f"user:{caller}"
    )


def explain_service_agent(
    message: str, name: str, *, destination: str | None, source: str | None = None
) -> str | None:
    """
    Name the role that the Healthcare Service Agent lacks; None if a message is about something else.

    :param message: the API's message.
    :param name: the full name of a resource in the DICOM store's project.
    :param destination: the URI that the agent writes to, if it is known.
    :param source: the URI that the agent reads, such as the filter file, if there is one.
    """
    words = _NAMES.sub("", message)
    target = _parsed(destination)
    about_storage = bool(_CLOUD_STORAGE.search(words)) or "gs://" in message
    about_bigquery = not isinstance(target, GcsUri) and (bool(_BIGQUERY.search(words)) or "bq://" in message)
    if _OF_THE_CALLER.search(words) or not _DENIED.search(words) or not (about_storage or about_bigquery):
        return None
    project = shlex.quote(name.split("/")[1])
    agent = (
        f"serviceAccount:service-$(gcloud projects describe {project} --format='value(projectNumber)')"
        "@gcp-sa-healthcare.iam.gserviceaccount.com"
    )
    grants = (
        _bigquery_grants(target, agent) if about_bigquery else _storage_grants(target, source, agent, message)
    )
    return (
        "Needed by the Healthcare Service Agent of the DICOM store's project "
        "(service-PROJECT_NUMBER@gcp-sa-healthcare.iam.gserviceaccount.com): "
        + "; ".join(grants)
        + f". See {HOW_TO}"
    )


def _parsed(destination: str | None) -> Destination | None:
    try:
        return parse_destination(destination)
    except DicomExportInvalidRequestError:
        return None


def _storage_grants(
    destination: Destination | None, source: str | None, agent: str, message: str
) -> list[str]:
    buckets: list[tuple[str, str, str]] = []
    if source is not None:
        buckets.append((source.split("/")[2], "roles/storage.objectViewer", "to read the filter file"))
    if not (source and source in message):
        bucket = getattr(destination, "bucket", None)
        # A BigQuery export may use Cloud Storage for its filter file only.
        if bucket or not buckets:
            # objectCreator is not enough: it cannot overwrite.
            buckets.append((bucket or "BUCKET", "roles/storage.objectAdmin", "to write the exported files"))
    return [
        f"{role} on the bucket {bucket} {purpose}: gcloud storage buckets add-iam-policy-binding "
        f'gs://{bucket} --member="{agent}" --role={role}'
        for bucket, role, purpose in buckets
    ]


def _bigquery_grants(destination: Destination | None, agent: str) -> list[str]:
    project = shlex.quote(getattr(destination, "project_id", None) or "PROJECT")
    return [
        f"{role} on the project {project}: gcloud projects add-iam-policy-binding {project} "
        f'--member="{agent}" --role={role}'
        for role in ("roles/bigquery.dataEditor", "roles/bigquery.jobUser")
    ]
