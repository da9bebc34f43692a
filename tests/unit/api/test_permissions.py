"""Missing IAM roles: the message names role, holder and resource, with a command that grants the role."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dicom.api import permissions
from airflow_provider_dicom.api.permissions import explain_caller, explain_service_agent
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName, id_error

DATASET = DatasetName("my-project", "us-central1", "radiology")
STORE = DicomStoreName(DATASET, "ct")
KNOWN_MESSAGE = (
    "Healthcare API doesn't have required Cloud Storage permission. See https://cloud.google.com/healthcare/"
    "docs/how-tos/permissions-healthcare-api-gcp-products for more information"
)
AGENT = "service-PROJECT_NUMBER@gcp-sa-healthcare.iam.gserviceaccount.com"
CALLER = "airflow@my-project.iam.gserviceaccount.com"


def commands(text: str) -> list[dict[str, str]]:
    """Return the flags of each gcloud command in a text, with the words before the flags under ''."""
    found = []
    # The shell replaces the inner command by the number of the agent's project.
    text = re.sub(
        r"\$\(gcloud projects describe ([^\s]+) --format='value\(projectNumber\)'\)", r"NUMBER-OF-\1", text
    )
    for command in re.findall(r"gcloud [^;]*?--role=roles/\w+\.\w+", text):
        words = shlex.split(command)
        flags = {word.partition("=")[0]: word.partition("=")[2] for word in words if word.startswith("--")}
        found.append({"": " ".join(word for word in words if not word.startswith("--")), **flags})
    return found


@pytest.mark.parametrize(
    ("needed", "permission", "role", "on_dataset"),
    [
        (permissions.EXPORT, "healthcare.dicomStores.export", "roles/healthcare.dicomViewer", False),
        (permissions.GET_OPERATION, "healthcare.operations.get", "roles/healthcare.dicomViewer", True),
        (permissions.CANCEL_OPERATION, "healthcare.operations.cancel", "roles/healthcare.dicomEditor", True),
        (permissions.LIST_OPERATIONS, "healthcare.operations.list", "roles/healthcare.datasetAdmin", True),
        (permissions.LIST_STORES, "healthcare.dicomStores.list", "roles/healthcare.dicomViewer", True),
        (permissions.GET_STORE, "healthcare.dicomStores.get", "roles/healthcare.dicomViewer", False),
        (permissions.SEARCH, "healthcare.dicomStores.dicomWebRead", "roles/healthcare.dicomViewer", False),
    ],
)
@pytest.mark.parametrize("caller", [CALLER, "somebody@example.org", None])
def test_missing_permission_of_the_caller_names_role_resource_and_command(
    needed: permissions.CallerPermission, permission: str, role: str, on_dataset: bool, caller: str | None
) -> None:
    text = explain_caller(needed, DATASET, STORE, caller)
    assert f"{role} (it has {permission})" in text
    assert "the caller" in text
    (command,) = commands(text)
    assert command["--role"] == role
    assert command["--project"] == "my-project"
    assert command["--location"] == "us-central1"
    if caller == CALLER:
        assert f"the caller {CALLER}" in text
        assert command["--member"] == f"serviceAccount:{CALLER}"
    elif caller:
        assert command["--member"] == f"user:{caller}"
    if on_dataset:
        assert f"on the dataset {DATASET} (a grant on a DICOM store alone is not enough)" in text
        assert command[""] == "gcloud healthcare datasets add-iam-policy-binding radiology"
    else:
        assert f"on the DICOM store {STORE}" in text
        assert command[""] == "gcloud healthcare dicom-stores add-iam-policy-binding ct"
        assert command["--dataset"] == "radiology"


IDS = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=10)


@given(
    IDS.filter(lambda i: id_error("project_id", i) is None),
    IDS.filter(lambda i: id_error("location", i) is None),
)
def test_ids_are_quoted_in_the_command_that_grants_a_role(project: str, location: str) -> None:
    dataset = DatasetName(project, location, "放射線科")
    text = explain_caller(
        permissions.EXPORT, dataset, DicomStoreName(dataset, "Röntgen"), "o'hara@example.org"
    )
    words = shlex.split(text.partition("Grant it with: ")[2])
    assert f"--project={project}" in words
    assert f"--location={location}" in words
    assert "--member=user:o'hara@example.org" in words


AGENT_123 = "service-123@gcp-sa-healthcare.iam.gserviceaccount.com"
DENIED_IN_STORAGE = [
    KNOWN_MESSAGE,
    f"{AGENT_123} does not have storage.objects.create access to the Google Cloud Storage object.",
    "permission denied: storage.objects.create on gs://exports/nightly",
]
DENIED_IN_BIGQUERY = [
    "Healthcare API doesn't have required BigQuery permission.",
    "Access Denied: Dataset warehouse:imaging: Permission bigquery.tables.create denied on dataset imaging.",
    f"Access Denied: {AGENT_123} lacks bigquery.jobs.create permission in project warehouse.",
]


@pytest.mark.parametrize("message", DENIED_IN_STORAGE)
def test_service_agent_needs_object_admin_to_write_to_the_bucket(message: str) -> None:
    text = explain_service_agent(message, str(STORE), destination="gs://exports/nightly") or ""
    assert AGENT in text
    assert "roles/storage.objectAdmin on the bucket exports" in text
    (command,) = commands(text)
    assert command == {
        "": "gcloud storage buckets add-iam-policy-binding gs://exports",
        "--member": "serviceAccount:service-NUMBER-OF-my-project@gcp-sa-healthcare.iam.gserviceaccount.com",
        "--role": "roles/storage.objectAdmin",
    }


@pytest.mark.parametrize("message", DENIED_IN_STORAGE[:2])
@pytest.mark.parametrize("destination", ["gs://exports/nightly", "bq://warehouse.imaging.instances"])
def test_service_agent_needs_object_viewer_to_read_the_filter_file(message: str, destination: str) -> None:
    text = (
        explain_service_agent(message, str(STORE), destination=destination, source="gs://filters/f.txt") or ""
    )
    grants = {(command["--role"], command[""].rsplit(" ", 1)[1]) for command in commands(text)}
    expected = {("roles/storage.objectViewer", "gs://filters")}
    if destination.startswith("gs://"):
        expected.add(("roles/storage.objectAdmin", "gs://exports"))
    assert grants == expected


@pytest.mark.parametrize("message", DENIED_IN_BIGQUERY)
def test_service_agent_needs_data_editor_and_job_user_to_write_to_bigquery(message: str) -> None:
    text = explain_service_agent(message, str(STORE), destination="bq://warehouse.imaging.instances") or ""
    assert AGENT in text
    assert {command["--role"] for command in commands(text)} == {
        "roles/bigquery.dataEditor",
        "roles/bigquery.jobUser",
    }
    assert all(
        command[""] == "gcloud projects add-iam-policy-binding warehouse" for command in commands(text)
    )


@pytest.mark.parametrize("message", DENIED_IN_STORAGE[1:])
def test_bucket_with_bigquery_in_its_name_needs_a_storage_role(message: str) -> None:
    message = message.replace("gs://exports", "gs://my-bigquery-exports")
    text = explain_service_agent(message, str(STORE), destination="gs://my-bigquery-exports/nightly") or ""
    assert [command["--role"] for command in commands(text)] == ["roles/storage.objectAdmin"]


@pytest.mark.parametrize("dataset", ["bigquery-exports", "cloud-storage", "my-bucket"])
@pytest.mark.parametrize("destination", ["gs://exports/nightly", "bq://warehouse.imaging.instances"])
def test_missing_permission_of_the_caller_is_not_one_of_the_service_agent(
    dataset: str, destination: str
) -> None:
    message = (
        "Permission 'healthcare.dicomStores.export' denied on resource '//healthcare.googleapis.com/"
        f"projects/p/locations/us-central1/datasets/{dataset}/dicomStores/my-bucket' (or it may not exist)."
    )
    assert explain_service_agent(message, "projects/p/x", destination=destination) is None


@pytest.mark.parametrize(
    "message",
    [
        "The specified bucket does not exist.",
        "Not found: Dataset warehouse:imaging",
        "Invalid value for field bigquery_destination.table_uri",
        "internal error",
        "",
    ],
)
def test_errors_about_other_causes_name_no_role_of_the_service_agent(message: str) -> None:
    assert explain_service_agent(message, str(STORE), destination="gs://exports/nightly") is None
