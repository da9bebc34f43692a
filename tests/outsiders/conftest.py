"""The servers that other people's clients are run against; they run in the environment of the other tests."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from dicomweb_client import DICOMwebClient

from rig.control import Control
from rig.dicom_files import create_store, sample_files, upload
from rig.servers import ROOT, HealthcareEmulator, StorageEmulator, loopback_session
from tests.support.pubsub_stand_in import PubsubStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

    from rig.dicom_files import Uids

PYTHON = ROOT / ".venv" / "bin" / "python"
DATASET = "projects/test-project/locations/europe-west3/datasets/radiology"
BUCKET = "outsiders"
TOPIC = "projects/test-project/topics/arrivals"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def storage(logs: Path) -> Iterator[StorageEmulator]:
    with StorageEmulator(logs, python=PYTHON) as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def pubsub() -> Iterator[PubsubStandIn]:
    with PubsubStandIn(TOPIC) as server:
        yield server


@pytest.fixture(scope="session")
def healthcare(logs: Path, storage: StorageEmulator, pubsub: PubsubStandIn) -> Iterator[HealthcareEmulator]:
    env = {"STORAGE_EMULATOR_HOST": storage.url, "PUBSUB_EMULATOR_HOST": pubsub.host}
    with HealthcareEmulator(logs, env=env, python=PYTHON) as server:
        Control(server.url).settings(advance="immediate")
        yield server


@pytest.fixture(scope="session")
def http() -> Iterator[requests.Session]:
    with loopback_session() as session:
        yield session


@pytest.fixture
def dicom_store(healthcare: HealthcareEmulator) -> str:
    """An empty DICOM store of the test's own, by its full name."""
    name = f"{DATASET}/dicomStores/store-{next(_numbers)}"
    create_store(healthcare.url, name)
    return name


@pytest.fixture(scope="session")
def samples(healthcare: HealthcareEmulator) -> tuple[str, list[Uids]]:
    """A DICOM store with pydicom's files, which tests only read, and the UIDs of its instances."""
    name = f"{DATASET}/dicomStores/samples"
    create_store(healthcare.url, name)
    return name, upload(healthcare.url, name, sample_files())


@pytest.fixture
def client(healthcare: HealthcareEmulator, dicom_store: str, http: requests.Session) -> DICOMwebClient:
    """dicomweb-client for the test's own store."""
    return DICOMwebClient(f"{healthcare.url}/v1/{dicom_store}/dicomWeb", session=http)


@pytest.fixture
def reader(
    healthcare: HealthcareEmulator, samples: tuple[str, list[Uids]], http: requests.Session
) -> DICOMwebClient:
    """dicomweb-client for the store with pydicom's files."""
    return DICOMwebClient(f"{healthcare.url}/v1/{samples[0]}/dicomWeb", session=http)
