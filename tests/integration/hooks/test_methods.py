"""Every method of both hooks against the local Healthcare API."""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.api.transport import USER_AGENT
from airflow_provider_dicom.exceptions import (
    DicomExportInvalidRequestError,
    DicomExportNotFoundError,
    DicomExportPermissionError,
)
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook, DicomStoreHook
from rig.dicom_files import create_store
from rig.servers import wait_for
from tests.support.healthcare_requests import accepted_exports

if TYPE_CHECKING:
    from pathlib import Path

    from rig.control import Control
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator, StorageEmulator
    from tests.support.provider_fixtures import Connect


def export(hook: DicomStoreHook, store: DicomStoreName, bucket: str, mime_type: str | None = None) -> str:
    """Submit an export, and return the Operation's name."""
    request = ExportRequest(destination=f"gs://{bucket}/out", mime_type=mime_type)
    return hook.export(store, request)["name"]


def test_export_writes_one_object_per_instance(
    hook: DicomStoreHook, store: DicomStoreName, instances: list[Uids], bucket: str, storage: StorageEmulator
) -> None:
    name = export(hook, store, bucket, mime_type="application/dicom; transfer-syntax=*")
    assert name.startswith(f"{store.dataset}/operations/")
    wait_for("the export's end", lambda: hook.get_operation(name).get("done"), timeout=60, pause=0.02)
    operation = hook.get_operation(name)
    assert operation["metadata"]["counter"] == {"success": "3"}
    expected = {f"out/{uids.study}/{uids.series}/{uids.instance}.dcm" for uids in instances}
    assert set(storage.objects(bucket)) == expected


def test_cancelled_operation_ends_with_error_code_1(
    hook: DicomStoreHook, store: DicomStoreName, instances: list[Uids], bucket: str, control: Control
) -> None:
    control.settings(advance="manual")
    name = export(hook, store, bucket)
    assert not hook.get_operation(name).get("done")
    hook.cancel_operation(name)
    wait_for("the cancellation", lambda: hook.get_operation(name).get("done"), timeout=60, pause=0.02)
    assert hook.get_operation(name)["error"]["code"] == 1


def test_stores_and_operations_are_listed_with_all_pages(
    hook: DicomStoreHook, healthcare: HealthcareEmulator, bucket: str, control: Control
) -> None:
    dataset = DatasetName("test-project", "europe-west3", "sammlung-für-listen")
    names = {str(DicomStoreName(dataset, f"röntgen-{number}")) for number in range(5)}
    for name in names:
        create_store(healthcare.url, name)
    control.reset_requests()
    assert {store["name"] for store in hook.list_dicom_stores(dataset, page_size=2)} == names
    assert control.requests()["counts"]["stores.list"] == 3
    store = DicomStoreName(dataset, "röntgen-1")
    operations = {export(hook, store, bucket) for _ in range(5)}
    listed = [operation["name"] for operation in hook.list_operations(dataset, page_size=2)]
    # The first one is of the dataset's creation.
    assert {*listed[:5]} == operations
    assert len(listed) == 6
    assert control.requests()["counts"]["operations.list"] == 3


async def test_async_hook_lists_gets_and_cancels_operations(
    hook: DicomStoreHook, store: DicomStoreName, instances: list[Uids], bucket: str, control: Control
) -> None:
    control.settings(advance="manual")
    names = {export(hook, store, bucket) for _ in range(3)}
    control.reset_requests()
    async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
        listed = async_hook.list_operations(store.dataset, page_size=2)
        assert names <= {operation["name"] async for operation in listed}
        name = min(names)
        assert "done" not in await async_hook.get_operation(name)
        await async_hook.cancel_operation(name)
        wait_for("the cancellation", lambda: hook.get_operation(name).get("done"), timeout=60, pause=0.02)
        assert (await async_hook.get_operation(name))["error"]["code"] == 1
    control.step()


def test_store_metrics_and_permissions_are_read(
    hook: DicomStoreHook, store: DicomStoreName, instances: list[Uids]
) -> None:
    assert hook.get_dicom_store(store)["name"] == str(store)
    metrics = hook.get_dicom_store_metrics(store)
    assert metrics["instanceCount"] == "3"
    for wanted in (
        ["healthcare.dicomStores.export", "healthcare.operations.get"],
        ["healthcare.operations.get"],
    ):
        assert hook.test_iam_permissions(store, wanted) == wanted


def test_search_returns_the_matches_of_all_pages(
    hook: DicomStoreHook, store: DicomStoreName, instances: list[Uids], control: Control
) -> None:
    found: list[Any] = list(hook.search(store, "instances", page_size=1))
    assert {match["00080018"]["Value"][0] for match in found} == {uids.instance for uids in instances}
    requests = [parse_qs(r["query"]) for r in control.requests()["recent"] if r["route"] == "search"]
    # The API's smallest pages that can overlap: each begins with the last match of the page before.
    assert requests == [{"limit": ["2"], "offset": [offset]} for offset in ("0", "1", "2")]
    assert list(hook.search(store, "instances")) == found
    study, series, instance = instances[0]
    (match,) = hook.search(
        store, "instances", study_uid=study, series_uid=series, filters={"SOPInstanceUID": instance}
    )
    assert match["00080018"]["Value"] == [instance]
    (match,) = hook.search(store, "studies", filters=[("StudyInstanceUID", study)])
    assert match["0020000D"]["Value"] == [study]


@pytest.mark.parametrize("name", ["Müller^Jürgen", "山田^太郎", "a&limit=0#?%2F"])
def test_search_value_is_sent_as_it_is(
    name: str, hook: DicomStoreHook, store: DicomStoreName, instances: list[Uids], control: Control
) -> None:
    assert list(hook.search(store, "studies", filters={"PatientName": name}, include_fields=["all"])) == []
    (query,) = [request["query"] for request in control.requests()["recent"] if request["route"] == "search"]
    assert parse_qs(query)["PatientName"] == [name]
    assert parse_qs(query)["includefield"] == ["all"]


def test_resource_names_may_have_non_ascii_letters(
    hook: DicomStoreHook, healthcare: HealthcareEmulator
) -> None:
    store = DicomStoreName(DatasetName("test-project", "europe-west3", "放射線科"), "Röntgen.2_-é")
    create_store(healthcare.url, str(store))
    assert hook.get_dicom_store(store)["name"] == str(store)
    assert hook.get_dicom_store_metrics(store).get("instanceCount", "0") == "0"


def test_project_of_the_connection_is_the_default_project(hook: DicomStoreHook) -> None:
    assert (
        str(hook.dicom_store_name("l", "d", "s"))
        == "projects/test-project/locations/l/datasets/d/dicomStores/s"
    )
    assert hook.dataset_name("l", "d", "other").project_id == "other"


def test_missing_project_is_an_invalid_request(connect: Connect, healthcare: HealthcareEmulator) -> None:
    with (
        DicomStoreHook(connect(is_anonymous=True), api_endpoint=healthcare.url) as hook,
        pytest.raises(DicomExportInvalidRequestError, match=r"project_id=None.*accepted: a project id"),
    ):
        hook.dicom_store_name("l", "d", "s")


def test_emulator_host_needs_no_credentials(
    connect: Connect, healthcare: HealthcareEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", f"127.0.0.1:{healthcare.port}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with DicomStoreHook(connect(project="test-project")) as hook:
        store = hook.dicom_store_name("europe-west3", "radiology", "nowhere")
        with pytest.raises(DicomExportNotFoundError):
            hook.get_dicom_store(store)


def test_errors_name_the_missing_resource_or_role(
    hook: DicomStoreHook, store: DicomStoreName, bucket: str, control: Control
) -> None:
    missing = DicomStoreName(store.dataset, "nowhere")
    with pytest.raises(DicomExportNotFoundError, match=f"export {missing}"):
        export(hook, missing, bucket)
    with pytest.raises(DicomExportNotFoundError, match="about 30 days"):
        hook.get_operation(f"{store.dataset}/operations/1")
    control.fault("operations.list", status=403)
    with pytest.raises(DicomExportPermissionError, match=r"roles/healthcare\.datasetAdmin"):
        list(hook.list_operations(store.dataset))
    control.fault("export", status=403)
    with pytest.raises(
        DicomExportPermissionError, match=r"roles/healthcare\.dicomViewer.*dicom-stores add-iam"
    ):
        export(hook, store, bucket)
    assert accepted_exports(control, store) == []


async def test_hook_uses_one_session_and_one_user_agent_and_leaves_nothing_open(
    hook: DicomStoreHook, store: DicomStoreName, control: Control, bucket: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        name = export(hook, store, bucket)
        control.reset_requests()
        for _ in range(5):
            hook.get_operation(name)
        hook.close()
        async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
            for _ in range(5):
                await async_hook.get_operation(name)
        del async_hook
        gc.collect()
    seen = control.requests()
    assert seen["counts"] == {"operations.get": 10}
    assert seen["connections"] <= 3
    assert {request["user_agent"] for request in seen["recent"]} == {USER_AGENT}
    assert {request["authorization"] for request in seen["recent"]} == {"none"}
