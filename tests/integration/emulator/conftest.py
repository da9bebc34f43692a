"""Clients of the local Healthcare API that hold every answer against Google's discovery document."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import httplib2
import pytest
from googleapiclient.discovery import build_from_document

from rig.servers import loopback_session, wait_for
from tests.support.discovery_check import Json, discovery_document, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests
    from googleapiclient.discovery import Resource

    from rig.control import Control
    from rig.servers import HealthcareEmulator, StorageEmulator

BOUND_SECONDS = 60
_bucket_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def google(healthcare: HealthcareEmulator) -> Iterator[Resource]:
    """``projects().locations().datasets()`` of Google's own client, made from the discovery document."""
    service = build_from_document(
        discovery_document(), http=httplib2.Http(), client_options={"api_endpoint": healthcare.url}
    )
    yield service.projects().locations().datasets()
    service.close()


@pytest.fixture(scope="session")
def http() -> Iterator[requests.Session]:
    with loopback_session() as session:
        yield session


@pytest.fixture
def bucket(storage: StorageEmulator) -> str:
    """An empty bucket of the test's own."""
    name = f"emulator-tests-{next(_bucket_numbers)}"
    storage.create_bucket(name)
    return name


@pytest.fixture
def export(google: Resource, bucket: str) -> Callable[[str], str]:
    """Start an export to the test's bucket, and return the operation's name."""

    def start(store: str, **destination: str) -> str:
        body = {"gcsDestination": {"uriPrefix": f"gs://{bucket}/out", **destination}}
        return str(execute(google.dicomStores().export(name=store, body=body))["name"])

    return start


@pytest.fixture
def operation(google: Resource) -> Callable[[str], Json]:
    """Get an operation."""

    def get(name: str) -> Json:
        return execute(google.operations().get(name=name))

    return get


@pytest.fixture
def finished(operation: Callable[[str], Json]) -> Callable[[str], Json]:
    """Wait until an operation is done, and return it."""

    def wait(name: str) -> Json:
        def done() -> Json | None:
            current = operation(name)
            return current if current.get("done") else None

        answer: Json = wait_for(f"{name} is done", done, timeout=BOUND_SECONDS, pause=0.05)
        return answer

    return wait


@pytest.fixture
def manual(control: Control) -> Control:
    """Exports that stand still until stepped."""
    control.settings(advance="manual")
    return control
