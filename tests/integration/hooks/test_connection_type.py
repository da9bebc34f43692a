"""The connection type of this provider: its form, the defaults it supplies, and its test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

import pytest
from airflow.models.connection import Connection
from airflow.providers_manager import ProvidersManager

from airflow_provider_dicom import connection_type
from airflow_provider_dicom.api import permissions
from airflow_provider_dicom.exceptions import DicomExportInvalidRequestError
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook, DicomStoreHook
from airflow_provider_dicom.provider_info import get_provider_info
from rig.ports import free_port
from rig.releases import chosen_release

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import HealthcareEmulator
    from tests.support.token_server import TokenServer

# Airflow's own Connection.test_connection reads a property that Airflow has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")
CALLER = "airflow@keyfile-project.iam.gserviceaccount.com"
Fields = dict[str, str]


class SaveConnection(Protocol):
    """Saves a connection of this provider's type under the id ``dicom``."""

    def __call__(self, fields: Fields) -> Connection:
        """Save a connection with these fields, and return it."""


@pytest.fixture
def fields(store: DicomStoreName, healthcare: HealthcareEmulator, token_server: TokenServer) -> Fields:
    """The fields of a connection to the test's DICOM store."""
    return {
        "project": store.dataset.project_id,
        "location": store.dataset.location,
        "dataset_id": store.dataset.dataset_id,
        "dicom_store_id": store.dicom_store_id,
        "api_endpoint": healthcare.url,
        "keyfile_dict": json.dumps(token_server.keyfile()),
    }


@pytest.fixture
def save_connection(monkeypatch: pytest.MonkeyPatch) -> SaveConnection:
    """Saves a connection of this provider's type under the id ``dicom``."""

    def save(fields: Fields) -> Connection:
        saved = Connection(conn_id="dicom", conn_type=connection_type.CONN_TYPE, extra=json.dumps(fields))
        monkeypatch.setenv("AIRFLOW_CONN_DICOM", saved.as_json())
        return saved

    return save


def test_connection_form_has_the_fields_of_google_and_of_the_dicom_store() -> None:
    widgets = ProvidersManager().connection_form_widgets
    if not widgets and chosen_release().line == (3, 1):
        pytest.skip("Airflow 3.1 without the FAB provider knows connection forms only in its API server")
    prefix, google = f"extra__{connection_type.CONN_TYPE}__", "extra__google_cloud_platform__"
    ours = {name.removeprefix(prefix) for name in widgets if name.startswith(prefix)}
    googles = {name.removeprefix(google) for name in widgets if name.startswith(google)}
    assert {"project", "keyfile_dict", "impersonation_chain"} <= googles
    assert ours == googles | set(connection_type.FIELDS)
    assert widgets[f"{prefix}keyfile_dict"].is_sensitive
    behaviour = ProvidersManager().field_behaviours[connection_type.CONN_TYPE]
    assert behaviour["placeholders"][f"{prefix}location"]


def test_connection_type_is_registered_with_its_hook_and_name() -> None:
    hook = ProvidersManager().hooks[connection_type.CONN_TYPE]
    assert hook is not None
    assert hook.hook_name == "Google Cloud Healthcare DICOM store"
    assert hook.connection_testable
    google = ProvidersManager().hooks["google_cloud_platform"]
    assert google is not None
    assert google.hook_class_name.endswith("GoogleBaseHook")


def test_hook_and_provider_info_declare_the_same_form_behaviour() -> None:
    (declared,) = get_provider_info()["connection-types"]
    behaviour = DicomStoreHook.get_ui_field_behaviour()
    assert {key.replace("_", "-"): value for key, value in behaviour.items()} == declared[
        "ui-field-behaviour"
    ]


def test_connection_supplies_the_default_dicom_store(
    fields: Fields, save_connection: SaveConnection, store: DicomStoreName
) -> None:
    save_connection(fields)
    with DicomStoreHook("dicom") as hook:
        assert hook.dicom_store_name() == store
        assert hook.dataset_name() == store.dataset
        other = hook.dicom_store_name("l", "d", "s", "p")
        assert str(other) == "projects/p/locations/l/datasets/d/dicomStores/s"


def test_values_missing_in_a_google_connection_are_named_in_the_error(anonymous: str) -> None:
    with (
        DicomStoreHook(anonymous) as hook,
        pytest.raises(DicomExportInvalidRequestError, match="location=None, dicom_store_id=None: the conn"),
    ):
        hook.dicom_store_name(dataset_id="radiology")


def test_endpoint_is_taken_from_parameter_then_environment_then_connection(
    fields: Fields, save_connection: SaveConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_connection({**fields, "api_endpoint": "https://connection.example"})
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", "127.0.0.1:8085")
    assert DicomStoreHook("dicom", None, "https://parameter.example").endpoint.url.endswith(
        "parameter.example"
    )
    assert DicomStoreHook("dicom").endpoint.url == "http://127.0.0.1:8085"
    monkeypatch.delenv("HEALTHCARE_EMULATOR_HOST")
    assert DicomStoreHook("dicom").endpoint.url == "https://connection.example"
    save_connection({**fields, "api_endpoint": "http://connection.example"})
    with pytest.raises(DicomExportInvalidRequestError, match="loopback host only"):
        _ = DicomStoreHook("dicom").endpoint


async def test_async_hook_uses_the_endpoint_of_the_connection(
    fields: Fields, save_connection: SaveConnection, healthcare: HealthcareEmulator
) -> None:
    save_connection(fields)
    async with DicomStoreAsyncHook("dicom") as hook:
        assert (await hook.get_sync_hook()).endpoint.url == healthcare.url


def test_connection_test_reads_the_dicom_store(
    fields: Fields, save_connection: SaveConnection, store: DicomStoreName, control: Control
) -> None:
    status, message = save_connection(fields).test_connection()
    assert (status, message) == (
        True,
        f"Read {store}. The connection's account may start exports and poll them, and cancel them.",
    )
    assert control.requests()["counts"]["stores.get"] == 1


@pytest.mark.parametrize("needed", [permissions.GET_STORE, permissions.EXPORT, permissions.GET_OPERATION])
def test_connection_test_names_the_missing_permission(
    needed: permissions.CallerPermission,
    fields: Fields,
    save_connection: SaveConnection,
    control: Control,
) -> None:
    control.settings(denied_permissions=[needed.permission])
    status, message = save_connection(fields).test_connection()
    assert not status
    assert message.startswith(f"Missing: {needed.permission}. Needed: {needed.role}")
    assert message.count("Missing:") == 1
    command = "datasets" if needed.on == "dataset" else "dicom-stores"
    assert f"gcloud healthcare {command} add-iam-policy-binding" in message
    assert CALLER in message


def test_connection_test_names_all_missing_permissions(
    fields: Fields, save_connection: SaveConnection, control: Control
) -> None:
    lacking = [permissions.EXPORT.permission, permissions.GET_OPERATION.permission]
    control.settings(denied_permissions=lacking)
    status, message = save_connection(fields).test_connection()
    assert not status
    assert all(f"Missing: {permission}." in message for permission in lacking)


def test_connection_test_passes_with_a_hint_if_the_account_may_not_cancel(
    fields: Fields, save_connection: SaveConnection, control: Control
) -> None:
    control.settings(denied_permissions=[permissions.CANCEL_OPERATION.permission])
    status, message = save_connection(fields).test_connection()
    assert status
    assert "but not cancel them" in message
    assert "roles/healthcare.dicomEditor" in message


def test_connection_test_reports_a_403_that_no_missing_permission_explains(
    fields: Fields, save_connection: SaveConnection, control: Control
) -> None:
    control.fault("stores.get", status=403, message="Request is prohibited by organization's policy.")
    status, message = save_connection(fields).test_connection()
    assert not status
    assert "Missing:" not in message
    assert "prohibited by organization's policy" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dicom_store_id": "elsewhere"}, "dicomStores/elsewhere"),
        (
            {"dicom_store_id": "", "location": ""},
            "location=None, dicom_store_id=None: the connection 'dicom'",
        ),
        ({"keyfile_dict": "no json"}, "Invalid key JSON"),
        ({"api_endpoint": "http://healthcare.example"}, "loopback host only"),
        ({"api_endpoint": f"http://127.0.0.1:{free_port()}"}, "refused"),
        ({"location": "a/b"}, "contains '/'"),
    ],
)
def test_connection_test_explains_an_invalid_connection(
    changes: Fields, words: str, fields: Fields, save_connection: SaveConnection
) -> None:
    status, message = save_connection(fields | changes).test_connection()
    assert not status
    assert words in message
    assert "PRIVATE KEY" not in message
