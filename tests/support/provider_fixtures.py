"""Connections, tokens and short pauses for the tests of hooks, operators, triggers and sensors."""

from __future__ import annotations

import itertools
import json
import logging
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import google.auth._exponential_backoff
import pytest
import tenacity

from airflow_provider_dicom.api import retry
from airflow_provider_dicom.api.resource_names import DatasetName, DicomStoreName
from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from airflow_provider_dicom.longrunning import poll_schedule, polling
from airflow_provider_dicom.operators.dicom_store import DicomStoreExportOperator
from airflow_provider_dicom.sensors import dicom_store as sensor
from rig.dicom_files import sample_files, upload
from tests.support.token_server import TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator, StorageEmulator

_bucket_numbers = itertools.count(1)


class Connect(Protocol):
    """Makes a Google connection known to Airflow."""

    def __call__(self, conn_id: str = ..., **extra: Any) -> str:
        """Set ``AIRFLOW_CONN_...`` and return the connection's id."""


class ExportOperatorFactory(Protocol):
    """Builds operators that export the test's DICOM store."""

    def __call__(self, **changes: object) -> DicomStoreExportOperator:
        """Build an operator; ``changes`` are its parameters other than the defaults."""


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Makes Google connections known to Airflow, by environment variables."""

    def define(conn_id: str = "google_for_tests", **extra: Any) -> str:
        extra = {"num_retries": 3, **extra}
        value = json.dumps({"conn_type": "google_cloud_platform", "extra": extra})
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", value)
        return conn_id

    return define


@pytest.fixture
def anonymous(connect: Connect) -> str:
    """A connection without credentials."""
    return connect("anonymous", is_anonymous=True, project="test-project")


@pytest.fixture(scope="session")
def shared_token_server() -> Iterator[TokenServer]:
    """
    The token server of all tests.

    Airflow masks the keys of all connections with one regular expression, which it compiles again, and more
    slowly, for every new key. The server's address is a part of the key, so it must not change.
    """
    with TokenServer() as server:
        yield server


@pytest.fixture
def token_server(shared_token_server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> TokenServer:
    """Google's token endpoint and IAM Credentials API on loopback, without requests so far."""
    # Newer versions of google-auth request the regions of an account from Google itself.
    if find_spec("google.auth._regional_access_boundary_utils"):
        refresh = "_regional_access_boundary_utils._RegionalAccessBoundaryManager.maybe_start_refresh"
        monkeypatch.setattr(f"google.auth.{refresh}", lambda *_: None)
    # google-auth pauses for seconds between two attempts to get a token.
    monkeypatch.setattr(google.auth._exponential_backoff, "time", SimpleNamespace(sleep=lambda _: None))
    shared_token_server.reset()
    return shared_token_server


@pytest.fixture
def keyfile(connect: Connect, token_server: TokenServer) -> str:
    """A connection with a service account's key, whose tokens come from ``token_server``."""
    return connect("keyfile", keyfile_dict=json.dumps(token_server.keyfile()))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds between polls and repetitions."""
    monkeypatch.setattr(retry, "BACKOFF_INITIAL", 0.01)
    monkeypatch.setattr(polling, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(sensor._repeating_refusals, "wait", tenacity.wait_fixed(0.02))
    monkeypatch.setattr(poll_schedule, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(poll_schedule, "BACKOFF_INITIAL", 0.02)
    monkeypatch.setattr(poll_schedule, "BACKOFF_MAX", 0.1)


@pytest.fixture
def bucket(storage: StorageEmulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of the test's own; Google's client reaches it by the environment."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
    name = f"provider-tests-{next(_bucket_numbers)}"
    storage.create_bucket(name)
    return name


@pytest.fixture
def store(dicom_store: str) -> DicomStoreName:
    """An empty DICOM store of the test's own."""
    _, project, _, location, _, dataset, _, name = dicom_store.split("/")
    return DicomStoreName(DatasetName(project, location, dataset), name)


@pytest.fixture
def instances(store: DicomStoreName, healthcare: HealthcareEmulator) -> list[Uids]:
    """Three small instances in ``store``."""
    smallest = sorted(sample_files(), key=lambda path: (path.stat().st_size, path.name))[:3]
    return upload(healthcare.url, str(store), smallest)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All lines from INFO on."""
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def hook(anonymous: str, healthcare: HealthcareEmulator) -> Iterator[DicomStoreHook]:
    """A hook with a connection without credentials."""
    with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
        yield hook


@pytest.fixture
def where(anonymous: str, healthcare: HealthcareEmulator, store: DicomStoreName) -> dict[str, Any]:
    """The parameters of all operators that name ``store`` and how to reach it."""
    return {
        "location": store.dataset.location,
        "dataset_id": store.dataset.dataset_id,
        "dicom_store_id": store.dicom_store_id,
        "gcp_conn_id": anonymous,
        "api_endpoint": healthcare.url,
    }


@pytest.fixture
def operator(where: dict[str, Any], bucket: str) -> ExportOperatorFactory:
    """Builds operators that export ``store`` to ``bucket``."""

    def build(**changes: object) -> DicomStoreExportOperator:
        arguments: dict[str, Any] = {
            "task_id": "export",
            "destination": f"gs://{bucket}/nightly",
            "poll_interval": 0.05,
        }
        return DicomStoreExportOperator(**(where | arguments | changes))

    return build
