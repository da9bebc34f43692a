"""The stage that all scenarios share, and the table of their outcomes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from rig.cluster import Cluster
from rig.releases import chosen_release
from rig.servers import ROOT, HealthcareEmulator
from tests.support.chaos_scene import BUCKET, Stage
from tests.support.chaos_table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import BigQueryEmulator, StorageEmulator


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that describes a scenario, and register the table of scenarios."""
    config.addinivalue_line("markers", "scenario(failure, expected): injected failure, expected outcome")
    config.pluginmanager.register(Table(config))


@pytest.fixture(scope="session")
def healthcare(
    tmp_path_factory: pytest.TempPathFactory,
    server_logs: Path,
    storage: StorageEmulator,
    bigquery: BigQueryEmulator,
) -> Iterator[HealthcareEmulator]:
    """The local Healthcare API, with its state on disk, so that the state survives a kill."""
    env = {"STORAGE_EMULATOR_HOST": storage.url, "BIGQUERY_EMULATOR_HOST": bigquery.url}
    data = tmp_path_factory.mktemp("healthcare")
    with HealthcareEmulator(server_logs, data=data, env=env) as server:
        yield server


@pytest.fixture(scope="session")
def stage(
    tmp_path_factory: pytest.TempPathFactory, healthcare: HealthcareEmulator, storage: StorageEmulator
) -> Iterator[Stage]:
    """A running cluster, Healthcare API and Cloud Storage; exports advance only when a test steps them."""
    home = tmp_path_factory.mktemp("cluster")
    shutil.copytree(ROOT / "tests" / "chaos" / "dags", home / "dags")
    storage.create_bucket(BUCKET)
    env = {"STORAGE_EMULATOR_HOST": storage.url, "HEALTHCARE_EMULATOR_HOST": healthcare.url}
    with Cluster(home, home / "dags", env, chosen_release()) as cluster:
        stage = Stage(cluster, healthcare, storage)
        stage.hold_exports()
        yield stage
