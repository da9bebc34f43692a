"""Hooks with the test's connections, and one token server for all tests."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING

import google.auth._exponential_backoff
import pytest

from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from tests.support.provider_fixtures import *  # noqa: F403
from tests.support.token_server import TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rig.servers import HealthcareEmulator


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
def hook(anonymous: str, healthcare: HealthcareEmulator) -> Iterator[DicomStoreHook]:
    """A hook without credentials."""
    with DicomStoreHook(anonymous, api_endpoint=healthcare.url) as hook:
        yield hook
