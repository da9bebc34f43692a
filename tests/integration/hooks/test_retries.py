"""Which requests the hooks repeat, how often, and after which pause."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook, DicomStoreHook
from rig.ports import free_port
from tests.support.healthcare_requests import accepted_exports, request_count

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from airflow_provider_dicom.api_types import Operation
    from rig.control import Control
    from rig.servers import HealthcareEmulator
    from tests.support.provider_fixtures import Connect

pytestmark = pytest.mark.usefixtures("quick")
RETRYABLE = [408, 425, 429, 500, 502, 503, 504]
NOT_RETRYABLE = [400, 401, 403, 404, 405, 409, 412, 499, 501, 505]


def submit(hook: DicomStoreHook, store: DicomStoreName, bucket: str) -> Operation:
    """Submit an export."""
    return hook.export(store, ExportRequest(destination=f"gs://{bucket}/out"))


@pytest.mark.parametrize("status", RETRYABLE)
async def test_request_is_repeated_after_a_transient_status(
    status: int, hook: DicomStoreHook, store: DicomStoreName, control: Control
) -> None:
    control.fault("stores.get", status=status, count=3)
    assert hook.get_dicom_store(store)["name"] == str(store)
    assert request_count(control, "stores.get") == 4
    control.fault("operations.list", status=status, count=3)
    async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
        _ = [operation async for operation in async_hook.list_operations(store.dataset, page_size=1000)]
    assert request_count(control, "operations.list") >= 4


@pytest.mark.parametrize("status", NOT_RETRYABLE)
async def test_request_is_not_repeated_after_a_permanent_status(
    status: int, hook: DicomStoreHook, store: DicomStoreName, control: Control
) -> None:
    control.fault("*", status=status)
    with pytest.raises(exceptions.DicomExportError):
        hook.get_dicom_store(store)
    assert request_count(control, "stores.get") == 1
    async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
        with pytest.raises(exceptions.DicomExportError):
            await async_hook.get_operation(f"{store.dataset}/operations/1")
    assert request_count(control, "operations.get") == 1


@pytest.mark.parametrize("num_retries", [0, 1, 2])
async def test_num_retries_of_the_connection_limits_repetitions(
    num_retries: int,
    connect: Connect,
    store: DicomStoreName,
    control: Control,
    healthcare: HealthcareEmulator,
) -> None:
    conn_id = connect(is_anonymous=True, num_retries=num_retries)
    control.fault("*", status=503)
    with (
        DicomStoreHook(conn_id, api_endpoint=healthcare.url) as hook,
        pytest.raises(exceptions.DicomExportUnavailableError),
    ):
        hook.get_dicom_store(store)
    async with DicomStoreAsyncHook(conn_id, api_endpoint=healthcare.url) as async_hook:
        with pytest.raises(exceptions.DicomExportUnavailableError):
            await async_hook.get_operation(f"{store.dataset}/operations/1")
    assert request_count(control, "stores.get") == request_count(control, "operations.get") == num_retries + 1


@pytest.mark.parametrize(
    "fault",
    [{"reset": "before"}, {"reset": "after"}, {"body": "truncated"}, {"body": "html"}, {"body": "empty"}],
)
async def test_get_is_repeated_after_a_lost_or_malformed_response(
    fault: dict[str, str], hook: DicomStoreHook, store: DicomStoreName, control: Control, bucket: str
) -> None:
    name = submit(hook, store, bucket)["name"]
    control.fault("operations.get", count=2, **fault)
    assert hook.get_operation(name)["name"] == name
    control.fault("operations.get", count=2, **fault)
    async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
        assert (await async_hook.get_operation(name))["name"] == name
    assert request_count(control, "operations.get") == 6


@pytest.mark.parametrize("kind", ["seconds", "date"])
async def test_pause_is_not_shorter_than_retry_after(
    kind: str, hook: DicomStoreHook, store: DicomStoreName, control: Control
) -> None:
    start = datetime.now(UTC)
    if kind == "seconds":
        end = start + timedelta(seconds=1)
        retry_after: int | str = 1
    else:
        # A date has no fractions of a second.
        end = (start + timedelta(seconds=2)).replace(microsecond=0)
        retry_after = format_datetime(end, usegmt=True)
    control.fault("stores.get", status=503, retry_after=retry_after, count=1)
    control.fault("operations.get", status=429, retry_after=retry_after, count=1)

    async def end_of_async_call() -> datetime:
        async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
            with pytest.raises(exceptions.DicomExportNotFoundError):
                await async_hook.get_operation(f"{store.dataset}/operations/1")
        return datetime.now(UTC)

    def end_of_sync_call() -> datetime:
        hook.get_dicom_store(store)
        return datetime.now(UTC)

    ends = await asyncio.gather(end_of_async_call(), asyncio.to_thread(end_of_sync_call))
    assert min(ends) >= end - timedelta(milliseconds=10)


async def test_refused_connection_error_names_the_operation(anonymous: str, store: DicomStoreName) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    name = f"{store.dataset}/operations/1"
    with (
        DicomStoreHook(anonymous, api_endpoint=url) as hook,
        pytest.raises(exceptions.DicomExportUnavailableError) as error,
    ):
        hook.get_operation(name, num_retries=0)
    assert name in str(error.value)
    assert error.value.safe_to_resend
    assert error.value.operation_name == name
    async with DicomStoreAsyncHook(anonymous, api_endpoint=url) as async_hook:
        with pytest.raises(exceptions.DicomExportUnavailableError) as error:
            await async_hook.get_operation(name, num_retries=0)
    assert name in str(error.value)
    assert error.value.safe_to_resend


@pytest.mark.parametrize("status", [408, 425, 429])
def test_submission_is_repeated_after_a_status_that_rules_out_acceptance(
    status: int, hook: DicomStoreHook, store: DicomStoreName, control: Control, bucket: str
) -> None:
    control.fault("export", status=status, count=3)
    assert submit(hook, store, bucket)["name"]
    assert request_count(control, "export") == 4
    assert len(accepted_exports(control, store)) == 1


def test_exhausted_quota_of_a_submission_is_reported_as_such(
    hook: DicomStoreHook, store: DicomStoreName, control: Control, bucket: str
) -> None:
    control.fault("export", status=429)
    with pytest.raises(exceptions.DicomExportQuotaExhaustedError, match="pool"):
        submit(hook, store, bucket)
    assert accepted_exports(control, store) == []


def test_submission_is_repeated_after_a_refused_connection(
    anonymous: str, store: DicomStoreName, bucket: str, logged: pytest.LogCaptureFixture
) -> None:
    with (
        DicomStoreHook(anonymous, api_endpoint=f"http://127.0.0.1:{free_port()}") as hook,
        pytest.raises(exceptions.DicomExportUnavailableError) as error,
    ):
        submit(hook, store, bucket)
    assert error.value.safe_to_resend
    assert logged.text.count("Trying again") == 3


@pytest.mark.parametrize(
    ("fault", "accepted"),
    [
        ({"status": 500}, 0),
        ({"status": 502}, 0),
        ({"status": 503}, 0),
        ({"status": 504}, 0),
        ({"reset": "before"}, 0),
        ({"reset": "after"}, 1),
        ({"body": "truncated"}, 1),
        ({"body": "html"}, 1),
        ({"body": "empty"}, 1),
    ],
    ids=str,
)
def test_submission_that_may_have_been_accepted_is_not_repeated(
    fault: dict[str, Any],
    accepted: int,
    hook: DicomStoreHook,
    store: DicomStoreName,
    control: Control,
    bucket: str,
) -> None:
    control.fault("export", **fault)
    with pytest.raises(exceptions.DicomExportSubmissionUnknownError) as error:
        submit(hook, store, bucket)
    assert request_count(control, "export") == 1
    assert len(accepted_exports(control, store)) == accepted
    assert "may or may not have accepted" in str(error.value)
    assert "gcloud healthcare operations list --dataset=radiology" in str(error.value)
    assert str(store) in str(error.value)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 501])
def test_refused_submission_is_not_repeated(
    status: int, hook: DicomStoreHook, store: DicomStoreName, control: Control, bucket: str
) -> None:
    control.fault("export", status=status)
    with pytest.raises(exceptions.DicomExportError) as error:
        submit(hook, store, bucket)
    assert not isinstance(error.value, exceptions.DicomExportSubmissionUnknownError)
    assert request_count(control, "export") == 1
