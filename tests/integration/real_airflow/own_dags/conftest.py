"""One Airflow for the tests' own DAGs, with OpenLineage, in which assets start DAGs."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from rig.airflow import AirflowStandalone
from rig.servers import ROOT, HealthcareEmulator
from tests.support import nightly_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import BigQueryEmulator, StorageEmulator

DAGS = ROOT / "tests" / "integration" / "real_airflow" / "dags"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for all that this Airflow reads and writes, its own ``AIRFLOW_HOME`` in it."""
    return tmp_path_factory.mktemp("own-dags")


@pytest.fixture(scope="session")
def openlineage_events(home: Path) -> Path:
    """The file that OpenLineage's provider writes its events to, one JSON object a line."""
    path = home / "openlineage" / "events.jsonl"
    path.parent.mkdir()
    return path


@pytest.fixture(scope="session")
def healthcare(
    server_logs: Path, storage: StorageEmulator, bigquery: BigQueryEmulator
) -> Iterator[HealthcareEmulator]:
    """The local Healthcare API that this Airflow calls by default."""
    env = {"STORAGE_EMULATOR_HOST": storage.url, "BIGQUERY_EMULATOR_HOST": bigquery.url}
    with HealthcareEmulator(server_logs / "own-dags", env=env) as server:
        yield server


@pytest.fixture(scope="session")
def searched_patient() -> str:
    """The name that a DAG searches for; in no parameter of its runs, which Airflow would keep."""
    return "Canary^Quetzal"


@pytest.fixture(scope="session")
def airflow(
    home: Path,
    searched_patient: str,
    openlineage_events: Path,
    storage: StorageEmulator,
    bigquery: BigQueryEmulator,
    healthcare: HealthcareEmulator,
) -> Iterator[AirflowStandalone]:
    """Airflow for all modules of this folder: its start costs more than the tests of any of them."""
    dags = home / "dags"
    dags.mkdir()
    for name in ("lineage", "recovery", "secrets"):
        shutil.copy(DAGS / f"{name}.py", dags)
    nightly_runs.copy_incremental_examples(dags)
    transport = {"type": "file", "log_file_path": str(openlineage_events), "append": True}
    settings = {
        "HEALTHCARE_EMULATOR_HOST": healthcare.url,
        "STORAGE_EMULATOR_HOST": storage.url,
        "BIGQUERY_EMULATOR_HOST": bigquery.url,
        "DICOM_BUCKET": nightly_runs.BUCKET,
        "SEARCHED_PATIENT": searched_patient,
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        # Assets start DAGs only then.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",
    }
    with AirflowStandalone(home / "home", dags, settings) as server:
        yield server
