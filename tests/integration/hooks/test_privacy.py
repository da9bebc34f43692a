"""Patient data, keys and tokens appear in no error message, traceback or log line."""

from __future__ import annotations

import json
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook, DicomStoreHook
from rig.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import HealthcareEmulator
    from tests.support.provider_fixtures import Connect
    from tests.support.token_server import TokenServer

pytestmark = pytest.mark.usefixtures("quick")
FILTERS = {"PatientName": "Doe^Jane", "PatientID": "4711-geheim"}
SECRETS = ("Doe", "4711", "geheim", "PatientName", "PatientID", "token-", "PRIVATE KEY", "assertion=", "eyJ")


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Returns all log lines from INFO on; Airflow's own loggers write to standard output."""
    caplog.set_level(logging.INFO)
    return lambda: caplog.text + "".join(capsys.readouterr())


def leaks(error: BaseException, log: str) -> list[str]:
    """Return the secrets that appear in an error, its traceback or the log."""
    shown = "".join(traceback.format_exception(error)) + repr(error) + log
    # A traceback quotes this file's lines of code.
    shown = "\n".join(
        line for line in shown.splitlines() if "FILTERS" not in line and "hook.search" not in line
    )
    return [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize(
    "fault",
    [
        {"reset": "before"},
        {"reset": "after"},
        {"status": 503},
        {"status": 500},
        {"status": 403},
        {"status": 401},
        {"status": 404},
        {"status": 429},
    ],
    ids=str,
)
def test_failed_search_shows_neither_search_values_nor_tokens(
    fault: dict[str, Any],
    keyfile: str,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
    logged: Callable[[], str],
) -> None:
    control.fault("search", **fault)
    with (
        DicomStoreHook(keyfile, api_endpoint=healthcare.url) as hook,
        pytest.raises(exceptions.DicomExportError) as error,
    ):
        list(hook.search(store, "studies", filters=FILTERS))
    assert leaks(error.value, logged()) == []
    assert str(store) in str(error.value)


def test_unreachable_search_shows_neither_search_values_nor_tokens(
    keyfile: str, store: DicomStoreName, logged: Callable[[], str]
) -> None:
    with (
        DicomStoreHook(keyfile, api_endpoint=f"http://127.0.0.1:{free_port()}") as hook,
        pytest.raises(exceptions.DicomExportUnavailableError) as error,
    ):
        list(hook.search(store, "studies", filters=FILTERS))
    assert leaks(error.value, logged()) == []


@pytest.mark.parametrize("status", [400, 401, 403, 503])
async def test_failed_request_shows_neither_tokens_nor_keys(
    status: int,
    keyfile: str,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
    logged: Callable[[], str],
) -> None:
    control.fault("*", status=status)
    with (
        DicomStoreHook(keyfile, api_endpoint=healthcare.url) as hook,
        pytest.raises(exceptions.DicomExportError) as sync_error,
    ):
        hook.get_dicom_store(store)
    async with DicomStoreAsyncHook(keyfile, api_endpoint=healthcare.url) as async_hook:
        with pytest.raises(exceptions.DicomExportError) as async_error:
            await async_hook.get_operation(f"{store.dataset}/operations/1")
    assert token_server.tokens
    log = logged()
    assert leaks(sync_error.value, log) == []
    assert leaks(async_error.value, log) == []


def test_error_of_a_broken_key_does_not_show_the_key(
    connect: Connect, token_server: TokenServer, store: DicomStoreName, logged: Callable[[], str]
) -> None:
    key = token_server.keyfile()
    broken = key | {"private_key": key["private_key"].replace("A", "!")}
    with (
        DicomStoreHook(connect(keyfile_dict=json.dumps(broken)), api_endpoint="http://127.0.0.1:1") as hook,
        pytest.raises(Exception) as error,  # noqa: PT011 - no error of any class may show the key
    ):
        hook.get_dicom_store(store)
    body = key["private_key"].splitlines()[2]
    shown = "".join(traceback.format_exception(error.value)) + logged()
    assert body[:20] not in shown
    assert body.replace("A", "!")[:20] not in shown
