"""What is sent again, how often, and what is not; a submission only when nobody accepted it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.export_request import ExportRequest
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook, DicomStoreHook
from rig.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import HealthcareEmulator

pytestmark = pytest.mark.usefixtures("quick")
RETRYABLE = [408, 425, 429, 500, 502, 503, 504]
NOT_RETRYABLE = [400, 401, 403, 404, 405, 409, 412, 499, 501, 505]


@pytest.fixture
def hook(anonymous: str, healthcare: HealthcareEmulator) -> Iterator[DicomStoreHook]:
    with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
        yield hook


def sent(control: Control, route: str) -> int:
    return int(control.requests()["counts"].get(route, 0))


def accepted(control: Control, store: DicomStoreName) -> int:
    return sum(o["dicomStore"] == str(store) for o in control.exports()["operations"])


def submit(hook: DicomStoreHook, store: DicomStoreName, bucket: str) -> Any:
    return hook.export(store, ExportRequest(destination=f"gs://{bucket}/out"))


@pytest.mark.parametrize("status", RETRYABLE)
async def test_passing_faults_are_sent_again(
    status: int, hook: DicomStoreHook, store: DicomStoreName, control: Control
) -> None:
    control.fault("stores.get", status=status, count=3)
    assert hook.get_dicom_store(store)["name"] == str(store)
    assert sent(control, "stores.get") == 4
    control.fault("operations.list", status=status, count=3)
    async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
        _ = [operation async for operation in async_hook.list_operations(store.dataset, page_size=1000)]
    assert sent(control, "operations.list") >= 4


@pytest.mark.parametrize("status", NOT_RETRYABLE)
async def test_all_others_are_not(
    status: int, hook: DicomStoreHook, store: DicomStoreName, control: Control
) -> None:
    control.fault("*", status=status)
    with pytest.raises(exceptions.DicomExportError):
        hook.get_dicom_store(store)
    assert sent(control, "stores.get") == 1
    async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
        with pytest.raises(exceptions.DicomExportError):
            await async_hook.get_operation(f"{store.dataset}/operations/1")
    assert sent(control, "operations.get") == 1


@pytest.mark.parametrize("num_retries", [0, 1, 2])
async def test_num_retries_of_the_connection(
    num_retries: int, connect: Any, store: DicomStoreName, control: Control, healthcare: HealthcareEmulator
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
    assert sent(control, "stores.get") == sent(control, "operations.get") == num_retries + 1


@pytest.mark.parametrize(
    "fault",
    [{"reset": "before"}, {"reset": "after"}, {"body": "truncated"}, {"body": "html"}, {"body": "empty"}],
)
async def test_lost_and_broken_answers_are_asked_for_again(
    fault: dict[str, str], hook: DicomStoreHook, store: DicomStoreName, control: Control, bucket: str
) -> None:
    name = submit(hook, store, bucket)["name"]
    control.fault("operations.get", count=2, **fault)
    assert hook.get_operation(name)["name"] == name
    control.fault("operations.get", count=2, **fault)
    async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
        assert (await async_hook.get_operation(name))["name"] == name
    assert sent(control, "operations.get") == 6


@pytest.mark.parametrize("kind", ["seconds", "date"])
async def test_retry_after_is_honoured(
    kind: str, hook: DicomStoreHook, store: DicomStoreName, control: Control
) -> None:
    # A date has no fractions of a second: two seconds away may be little more than one.
    soon = datetime.now(UTC) + timedelta(seconds=3)
    retry_after: int | str = 1 if kind == "seconds" else format_datetime(soon, usegmt=True)
    control.fault("stores.get", status=503, retry_after=retry_after, count=1)
    control.fault("operations.get", status=429, retry_after=1, count=1)
    start = time.monotonic()
    hook.get_dicom_store(store)
    assert time.monotonic() - start >= 0.99
    start = time.monotonic()
    async with DicomStoreAsyncHook(hook.gcp_conn_id, api_endpoint=hook.api_endpoint) as async_hook:
        with pytest.raises(exceptions.DicomExportNotFoundError):
            await async_hook.get_operation(f"{store.dataset}/operations/1")
    assert time.monotonic() - start >= 0.99


async def test_nobody_there_is_told_with_what_was_wanted(anonymous: str, store: DicomStoreName) -> None:
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
def test_a_submission_that_was_not_accepted_is_sent_again(
    status: int, hook: DicomStoreHook, store: DicomStoreName, control: Control, bucket: str
) -> None:
    control.fault("export", status=status, count=3)
    assert submit(hook, store, bucket)["name"]
    assert sent(control, "export") == 4
    assert accepted(control, store) == 1


def test_a_used_up_quota_stays_one(
    hook: DicomStoreHook, store: DicomStoreName, control: Control, bucket: str
) -> None:
    control.fault("export", status=429)
    with pytest.raises(exceptions.DicomExportQuotaExhaustedError, match="pool"):
        submit(hook, store, bucket)
    assert accepted(control, store) == 0


def test_a_refused_connection_is_tried_again(
    anonymous: str, store: DicomStoreName, bucket: str, logged: Any
) -> None:
    with (
        DicomStoreHook(anonymous, api_endpoint=f"http://127.0.0.1:{free_port()}") as hook,
        pytest.raises(exceptions.DicomExportUnavailableError) as error,
    ):
        submit(hook, store, bucket)
    assert error.value.safe_to_resend
    assert logged.text.count("Trying again") == 3


@pytest.mark.parametrize(
    ("fault", "ran"),
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
def test_a_submission_that_may_have_been_accepted_is_not(
    fault: dict[str, Any],
    ran: int,
    hook: DicomStoreHook,
    store: DicomStoreName,
    control: Control,
    bucket: str,
) -> None:
    control.fault("export", **fault)
    with pytest.raises(exceptions.DicomExportSubmissionUnknownError) as error:
        submit(hook, store, bucket)
    assert sent(control, "export") == 1
    assert accepted(control, store) == ran
    assert "may or may not have accepted" in str(error.value)
    assert "gcloud healthcare operations list --dataset=radiology" in str(error.value)
    assert str(store) in str(error.value)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 501])
def test_a_refused_submission_is_not(
    status: int, hook: DicomStoreHook, store: DicomStoreName, control: Control, bucket: str
) -> None:
    control.fault("export", status=status)
    with pytest.raises(exceptions.DicomExportError) as error:
        submit(hook, store, bucket)
    assert not isinstance(error.value, exceptions.DicomExportSubmissionUnknownError)
    assert sent(control, "export") == 1
