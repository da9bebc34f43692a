"""IAM roles: who needs which role on which resource, and the command that grants it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from airflow_provider_dicom.api.commands import ShellText, gcloud, service_agent
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


class _Policy(NamedTuple):
    """A cause of a 403 that no role on the resource can lift."""

    #: Values of ``ErrorInfo.reason``.
    reasons: frozenset[str]
    #: What the API's messages say of it.
    words: re.Pattern[str]
    #: What helps.
    advice: str


_POLICIES = (
    _Policy(
        frozenset({"ACCESS_TOKEN_SCOPE_INSUFFICIENT"}),
        re.compile(r"insufficient authentication scopes", re.IGNORECASE),
        "the access token lacks a scope. Give the connection (or the machine whose account it uses) "
        "the scope https://www.googleapis.com/auth/cloud-platform.",
    ),
    _Policy(
        frozenset({"SERVICE_DISABLED"}),
        re.compile(r"has not been used in project|it is disabled", re.IGNORECASE),
        "the API is disabled in the project of the credentials or of the resource. Ask the administrators of "
        "the project, or enable it: {enable}",
    ),
    _Policy(
        frozenset({"BILLING_DISABLED"}),
        re.compile(r"requires billing|billing (account|to be enabled|is disabled)", re.IGNORECASE),
        "billing is disabled. Ask the administrators of the project to link an active billing account.",
    ),
    _Policy(
        frozenset({"USER_PROJECT_DENIED", "CONSUMER_INVALID", "CONSUMER_SUSPENDED"}),
        re.compile(r"quota project|serviceusage\.services\.use", re.IGNORECASE),
        "the account may not use the quota project of its credentials. Change the quota project, "
        "or grant the account roles/serviceusage.serviceUsageConsumer on it.",
    ),
    _Policy(
        frozenset({"SECURITY_POLICY_VIOLATED", "ORG_RESTRICTION_VIOLATION", "LOCATION_POLICY_VIOLATED"}),
        re.compile(r"VPC Service Controls|organization's policy", re.IGNORECASE),
        "a policy of the organization forbids the request, such as VPC Service Controls. Ask the "
        "administrators, and give them the whole message.",
    ),
)
_KNOWN_REASONS = frozenset({"IAM_PERMISSION_DENIED"}).union(*(policy.reasons for policy in _POLICIES))


@dataclass(frozen=True)
class CallerPermission:
    """
    An IAM permission that the caller of the API needs.

    :param permission: the IAM permission.
    :param role: the predefined role that the error message advises: the narrowest one that has it.
    :param on: the resource on which the role has to be granted.
    :param note: what else to know about the role.
    """

    permission: str
    role: str
    on: Literal["store", "dataset"]
    note: str = ""


EXPORT = CallerPermission("healthcare.dicomStores.export", "roles/healthcare.dicomViewer", "store")
GET_STORE = CallerPermission("healthcare.dicomStores.get", "roles/healthcare.dicomStoreViewer", "store")
LIST_STORES = CallerPermission("healthcare.dicomStores.list", "roles/healthcare.dicomStoreViewer", "dataset")
SEARCH = CallerPermission("healthcare.dicomStores.dicomWebRead", "roles/healthcare.dicomViewer", "store")
GET_OPERATION = CallerPermission("healthcare.operations.get", "roles/healthcare.datasetViewer", "dataset")
LIST_OPERATIONS = CallerPermission("healthcare.operations.list", "roles/healthcare.datasetAdmin", "dataset")
CANCEL_OPERATION = CallerPermission(
    "healthcare.operations.cancel",
    "roles/healthcare.dicomEditor",
    "dataset",
    " roles/healthcare.dicomStoreAdmin and roles/healthcare.datasetAdmin have it, too; all three are broad, "
    "and a custom role that has only this permission is narrower.",
)


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
    options = {"location": dataset.location, "project": dataset.project_id}
    if needed.on == "store" and store is not None:
        resource = f"the DICOM store {store}"
        words = ("dicom-stores", "add-iam-policy-binding", store.dicom_store_id)
        options = {"dataset": dataset.dataset_id, **options}
    else:
        resource = f"the dataset {dataset} (a grant on a DICOM store alone is not enough)"
        words = ("datasets", "add-iam-policy-binding", dataset.dataset_id)
    grant = gcloud("healthcare", *words, **options, member=iam_member(caller), role=needed.role)
    return (
        f"Needed: {needed.role} (it has {needed.permission}) for {holder} on {resource}.{needed.note} "
        f"Grant it with: {grant}"
    )


def iam_member(caller: str | None) -> str:
    """
    Build the member that is an account, for commands.

    :param caller: the account's e-mail address, if it is known.
    """
    if caller is None:
        return "serviceAccount:CALLER_EMAIL"
    return f"serviceAccount:{caller}" if caller.endswith("gserviceaccount.com") else f"user:{caller}"


def explain_policy(reason: str | None, message: str, project_id: str) -> str | None:
    """
    Say what helps against a 403 that no role on the resource can lift; None for any other.

    :param reason: ``google.rpc.ErrorInfo.reason``, which is more reliable than the message, if it is known.
    :param message: the API's message.
    :param project_id: the project of the request.
    """
    for policy in _POLICIES:
        match = policy.words.search(message)
        if reason in policy.reasons or (reason not in _KNOWN_REASONS and match is not None):
            cause = reason if match is None else match.group()
            enable = gcloud("services", "enable", "healthcare.googleapis.com", project=project_id)
            return f"This is not about a role ({cause}): {policy.advice.replace('{enable}', enable)}"
    return None


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
    agent = service_agent(name.split("/")[1])
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
    destination: Destination | None, source: str | None, agent: ShellText, message: str
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
        f"{role} on the bucket {bucket} {purpose}: {grant_on_bucket(bucket, agent, role)}"
        for bucket, role, purpose in buckets
    ]


def grant_on_bucket(bucket: str, member: str, role: str) -> str:
    """
    Build the command that grants a role on a bucket.

    :param bucket: the bucket's name.
    :param member: the member that gets the role.
    :param role: the role.
    """
    return gcloud("storage", "buckets", "add-iam-policy-binding", f"gs://{bucket}", member=member, role=role)


def grant_on_project(project_id: str, member: str, role: str) -> str:
    """
    Build the command that grants a role on a project.

    :param project_id: the project's id.
    :param member: the member that gets the role.
    :param role: the role.
    """
    return gcloud("projects", "add-iam-policy-binding", project_id, member=member, role=role)


def _bigquery_grants(destination: Destination | None, agent: ShellText) -> list[str]:
    project = getattr(destination, "project_id", None) or "PROJECT"
    return [
        f"{role} on the project {project}: {grant_on_project(project, agent, role)}"
        for role in ("roles/bigquery.dataEditor", "roles/bigquery.jobUser")
    ]
