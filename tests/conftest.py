"""Real servers for the tests, one of each per run, and the marker of tests that need a newer Airflow."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from rig.control import Control
from rig.dicom_files import create_store
from rig.releases import chosen_release
from rig.servers import BigQueryEmulator, HealthcareEmulator, StorageEmulator
from tests.support import distribution

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATASET = "projects/test-project/locations/europe-west3/datasets/radiology"
_store_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of tests that need a newer Airflow, and separate workers from each other."""
    config.addinivalue_line("markers", "airflow(since, why): the oldest version of Airflow that can pass")
    if (worker := distribution.worker_id(config)) is not None:
        distribution.use_own_airflow_home(worker)
    elif config.option.numprocesses:
        distribution.adopt_orphans()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the processes that workers have left running."""
    if distribution.worker_id(config) is None and config.option.numprocesses:
        distribution.end_orphans()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test of a feature that the installed Airflow lacks; the reason names the feature."""
    for mark in item.iter_markers("airflow"):
        since, why = mark.args
        if chosen_release().line < tuple(map(int, since.split("."))):
            pytest.skip(f"Airflow {since} and newer: {why}")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers for ``-n auto``."""
    return distribution.number_of_workers(config)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> distribution.LongestFirst:
    """Return the scheduler, which decides which tests stay on one worker."""
    config.option.loadscopereorder = False
    return distribution.LongestFirst(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the longest modules begin first, if tests run side by side."""
    if distribution.worker_id(config) is not None:
        distribution.sort_longest_first(items)


@pytest.fixture(scope="session")
def server_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for the servers' logs."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def storage(server_logs: Path) -> Iterator[StorageEmulator]:
    """The Cloud Storage emulator."""
    with StorageEmulator(server_logs) as server:
        yield server


@pytest.fixture(scope="session")
def _bigquery_not_started(server_logs: Path) -> BigQueryEmulator:
    """The BigQuery emulator before its start: the Healthcare API needs its address, few tests the server."""
    return BigQueryEmulator(server_logs)


@pytest.fixture(scope="session")
def bigquery(_bigquery_not_started: BigQueryEmulator) -> Iterator[BigQueryEmulator]:
    """The BigQuery emulator, running."""
    with _bigquery_not_started as server:
        yield server


@pytest.fixture(scope="session")
def healthcare(
    server_logs: Path, storage: StorageEmulator, _bigquery_not_started: BigQueryEmulator
) -> Iterator[HealthcareEmulator]:
    """The local Healthcare API, exporting to ``storage`` and ``bigquery``."""
    env = {"STORAGE_EMULATOR_HOST": storage.url, "BIGQUERY_EMULATOR_HOST": _bigquery_not_started.url}
    with HealthcareEmulator(server_logs, env=env) as server:
        yield server


@pytest.fixture
def control(healthcare: HealthcareEmulator) -> Iterator[Control]:
    """Control of the local Healthcare API; the end of a test undoes its faults and settings."""
    control = Control(healthcare.url)
    settings = control.settings()
    control.reset_requests()
    yield control
    control.clear_faults()
    control.tokens(None)
    control.settings(**settings)


@pytest.fixture
def dicom_store(healthcare: HealthcareEmulator) -> str:
    """An empty DICOM store of the test's own, by its full name."""
    name = f"{DATASET}/dicomStores/store-{next(_store_numbers)}"
    create_store(healthcare.url, name)
    return name
