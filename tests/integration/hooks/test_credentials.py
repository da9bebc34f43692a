"""Tokens: fetched with a real key, once per hook, refreshed when they expire, and off the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import google.auth.iam
import pytest

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook, DicomStoreHook
from airflow_provider_dicom.triggers.dicom_store import DicomStoreExportTrigger
from tests.support.healthcare_requests import request_count
from tests.support.loop_probe import LoopProbe
from tests.support.trigger_runs import run_trigger
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import HealthcareEmulator
    from tests.support.provider_fixtures import Connect
    from tests.support.token_server import TokenServer

pytestmark = pytest.mark.usefixtures("quick")
CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
CLOUD_HEALTHCARE = "https://www.googleapis.com/auth/cloud-healthcare"


def authorizations(control: Control) -> set[str]:
    return {request["authorization"] for request in control.requests()["recent"]}


@pytest.mark.parametrize("scope", [None, CLOUD_PLATFORM, CLOUD_HEALTHCARE])
async def test_one_token_serves_all_calls_of_a_hook(
    scope: str | None,
    connect: Connect,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
) -> None:
    extra = {} if scope is None else {"scope": scope}
    conn_id = connect(keyfile_dict=json.dumps(token_server.keyfile()), **extra)
    control.tokens(["token-1", "token-2"])
    with DicomStoreHook(conn_id, api_endpoint=healthcare.url) as hook:
        for _ in range(4):
            hook.get_dicom_store(store)
    assert token_server.tokens == ["token-1"]
    async with DicomStoreAsyncHook(conn_id, api_endpoint=healthcare.url) as async_hook:
        name = f"{store.dataset}/operations/1"
        answers = await asyncio.gather(
            *(async_hook.get_operation(name) for _ in range(8)), return_exceptions=True
        )
    assert {type(answer) for answer in answers} == {exceptions.DicomExportNotFoundError}
    assert token_server.tokens == ["token-1", "token-2"]
    assert {request["claims"]["scope"] for request in token_server.requests} == {scope or CLOUD_PLATFORM}
    assert authorizations(control) == {"bearer"}


async def test_rejected_token_is_refreshed_once(
    keyfile: str,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
) -> None:
    control.tokens(["token-1", "token-2"])
    name = f"{store.dataset}/operations/1"
    with DicomStoreHook(keyfile, api_endpoint=healthcare.url) as hook:
        async with DicomStoreAsyncHook(keyfile, api_endpoint=healthcare.url) as async_hook:
            hook.get_dicom_store(store)
            with pytest.raises(exceptions.DicomExportNotFoundError):
                await async_hook.get_operation(name)
            control.tokens(["token-3", "token-4"])
            hook.get_dicom_store(store)
            answers = await asyncio.gather(
                *(async_hook.get_operation(name) for _ in range(8)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {exceptions.DicomExportNotFoundError}
            assert len(token_server.tokens) == 4
            control.tokens([])
            with pytest.raises(exceptions.DicomExportAuthenticationError, match="new token did not help"):
                hook.get_dicom_store(store)
            assert len(token_server.tokens) == 5
            with pytest.raises(exceptions.DicomExportAuthenticationError, match="new token did not help"):
                await async_hook.get_operation(name)
            assert len(token_server.tokens) == 6


async def test_late_401_reuses_a_token_that_was_refreshed_meanwhile(
    keyfile: str,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
) -> None:
    name = f"{store.dataset}/operations/1"
    async with DicomStoreAsyncHook(keyfile, api_endpoint=healthcare.url) as hook:
        control.fault("operations.get", status=401, latency_seconds=2.0, count=1)
        late = asyncio.create_task(hook.get_operation(name))
        await wait_until(lambda: request_count(control, "operations.get"))
        control.fault("operations.get", status=401, count=1)
        with pytest.raises(exceptions.DicomExportNotFoundError):
            await hook.get_operation(name)
        assert token_server.tokens == ["token-1", "token-2"]
        assert not late.done()
        with pytest.raises(exceptions.DicomExportNotFoundError):
            await late
    assert token_server.tokens == ["token-1", "token-2"]


async def test_token_is_refreshed_before_it_expires(
    keyfile: str,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
) -> None:
    # google-auth regards a token as stale some minutes before it expires.
    token_server.expires_in = 60
    name = f"{store.dataset}/operations/1"
    async with DicomStoreAsyncHook(keyfile, api_endpoint=healthcare.url) as hook:
        for _ in range(3):
            with pytest.raises(exceptions.DicomExportNotFoundError):
                await hook.get_operation(name)
    assert len(token_server.tokens) == 3
    statuses = [r["status"] for r in control.requests()["recent"] if r["route"] == "operations.get"]
    assert statuses == [404] * 3, "no request was sent with a token that the API refused"


async def test_event_loop_is_not_blocked_while_a_token_is_fetched(
    keyfile: str, token_server: TokenServer, healthcare: HealthcareEmulator, store: DicomStoreName
) -> None:
    token_server.gate.clear()
    async with LoopProbe() as probe, DicomStoreAsyncHook(keyfile, api_endpoint=healthcare.url) as hook:
        call = asyncio.create_task(hook.get_operation(f"{store.dataset}/operations/1"))
        await wait_until(token_server.received.is_set)
        # The loop goes on while the token endpoint holds its response back.
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert not call.done()
        token_server.gate.set()
        with pytest.raises(exceptions.DicomExportNotFoundError):
            await call
    assert probe.longest < 1.0


@pytest.mark.parametrize("status", [500, 503])
async def test_token_endpoint_5xx_is_a_transient_error(
    status: int,
    keyfile: str,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
) -> None:
    token_server.faults = [(status, {"error": "internal_failure"})] * 20
    with (
        DicomStoreHook(keyfile, api_endpoint=healthcare.url) as hook,
        pytest.raises(exceptions.DicomExportUnavailableError) as error,
    ):
        hook.get_operation(f"{store.dataset}/operations/1", num_retries=0)
    assert error.value.safe_to_resend
    assert "no access token" in str(error.value)


async def test_revoked_key_is_an_authentication_error(
    keyfile: str,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
) -> None:
    token_server.faults = [
        (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
    ] * 20
    with (
        DicomStoreHook(keyfile, api_endpoint=healthcare.url) as hook,
        pytest.raises(exceptions.DicomExportAuthenticationError, match="Invalid JWT Signature"),
    ):
        hook.get_dicom_store(store)
    async with DicomStoreAsyncHook(keyfile, api_endpoint=healthcare.url) as async_hook:
        with pytest.raises(exceptions.DicomExportAuthenticationError, match="Invalid JWT Signature"):
            await async_hook.get_operation(f"{store.dataset}/operations/1")
    assert "stores.get" not in control.requests()["counts"]


@pytest.mark.parametrize(
    "chain",
    ["last@p.iam.gserviceaccount.com", ["first@p.iam.gserviceaccount.com", "last@p.iam.gserviceaccount.com"]],
)
async def test_impersonation_chain_yields_a_token_of_its_last_account(
    chain: str | list[str],
    keyfile: str,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"{token_server.url}/v1/projects/-/serviceAccounts/{{}}:generateAccessToken"
    monkeypatch.setattr(google.auth.iam, "_IAM_ENDPOINT", address)
    control.tokens(["token-2", "token-4"])
    with DicomStoreHook(keyfile, chain, healthcare.url) as hook:
        assert hook.get_dicom_store(store)["name"] == str(store)
        assert hook.caller == "last@p.iam.gserviceaccount.com"
    async with DicomStoreAsyncHook(keyfile, chain, healthcare.url) as async_hook:
        with pytest.raises(exceptions.DicomExportNotFoundError):
            await async_hook.get_operation(f"{store.dataset}/operations/1")
    impersonations = [request for request in token_server.requests if request["path"] != "/token"]
    assert len(impersonations) == 2
    for request in impersonations:
        assert request["path"].endswith("/last@p.iam.gserviceaccount.com:generateAccessToken")
        delegates = ["first@p.iam.gserviceaccount.com"] if len(chain) == 2 else []
        assert (request["body"].get("delegates") or []) == delegates
        assert request["body"]["scope"] == [CLOUD_PLATFORM]


def test_universe_domain_decides_the_endpoint(
    connect: Connect, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = token_server.keyfile(universe_domain="example-universe.goog")
    with DicomStoreHook(connect(keyfile_dict=json.dumps(key))) as hook:
        assert hook.endpoint.url == "https://healthcare.example-universe.goog"
    with DicomStoreHook(connect(keyfile_dict=json.dumps(token_server.keyfile()))) as hook:
        assert hook.endpoint.url == "https://healthcare.googleapis.com"
    monkeypatch.setenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "other.goog")
    with DicomStoreHook("google_for_tests") as hook:
        assert hook.endpoint.url == "https://healthcare.other.goog"


def test_project_of_the_key_is_the_default_project(keyfile: str) -> None:
    with DicomStoreHook(keyfile) as hook:
        assert hook.dataset_name("l", "d").project_id == "keyfile-project"


def test_emulator_host_is_sent_no_token(
    keyfile: str,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", f"127.0.0.1:{healthcare.port}")
    with DicomStoreHook(keyfile) as hook:
        hook.get_dicom_store(store)
    assert token_server.requests == []
    assert authorizations(control) == {"none"}


def test_token_is_never_sent_over_unencrypted_http(
    keyfile: str, store: DicomStoreName, token_server: TokenServer
) -> None:
    with (
        DicomStoreHook(keyfile, api_endpoint="http://healthcare.example") as hook,
        pytest.raises(exceptions.DicomExportInvalidRequestError, match="loopback host only"),
    ):
        hook.get_dicom_store(store)
    assert token_server.requests == []


@pytest.mark.parametrize(
    "extra", [{"keyfile_dict": "no json"}, {"keyfile_dict": "{}"}, {"key_path": "/nowhere/key.json"}], ids=str
)
async def test_unusable_key_error_names_the_connection(
    extra: dict[str, str], connect: Connect, healthcare: HealthcareEmulator, store: DicomStoreName
) -> None:
    async with DicomStoreAsyncHook(connect(**extra), api_endpoint=healthcare.url) as hook:
        with pytest.raises(exceptions.DicomExportAuthenticationError, match="google_for_tests"):
            await hook.get_operation(f"{store.dataset}/operations/1")


async def test_missing_connection_ends_a_trigger_in_an_error_event(
    healthcare: HealthcareEmulator, store: DicomStoreName
) -> None:
    name = f"{store.dataset}/operations/1"
    trigger = DicomStoreExportTrigger(name, "no_such_connection", None, healthcare.url, poll_interval=0.05)
    event = await run_trigger(trigger)
    assert event["status"] == "error"
    assert event["operation"]["name"] == name
    assert "no_such_connection" in event["message"]


def test_hooks_in_threads_share_neither_session_nor_token(
    keyfile: str,
    token_server: TokenServer,
    healthcare: HealthcareEmulator,
    store: DicomStoreName,
    control: Control,
) -> None:
    threads = 4
    one_at_a_time, all_have_called = threading.Lock(), threading.Barrier(threads)

    def read_store(_: int) -> str:
        with DicomStoreHook(keyfile, api_endpoint=healthcare.url) as hook:
            # One call at a time: hooks that shared a session would use one connection for all of them.
            with one_at_a_time:
                name = hook.get_dicom_store(store)["name"]
            all_have_called.wait(60)
        return name

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(read_store, range(threads))) == [str(store)] * threads
    assert control.requests()["connections"] == threads
    assert len(token_server.tokens) == threads
