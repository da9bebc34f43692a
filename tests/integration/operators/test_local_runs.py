"""
DAGs as people run them on their own machine: ``dag.test()`` and ``airflow tasks test``, with a connection as
a URI and with a custom XCom backend.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rig.dicom_files import create_store
from rig.servers import ROOT
from tests.support import xcom_backend

if TYPE_CHECKING:
    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.dicom_files import Uids
    from rig.servers import HealthcareEmulator, StorageEmulator

DAG_FILE = Path(__file__).parent / "dags" / "local_runs.py"


class LocalAirflow(NamedTuple):
    """An Airflow without a scheduler: a folder with a database, and the environment of its commands."""

    env: dict[str, str]

    def run(self, *command: str) -> str:
        """Run a command, and return what it prints."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout


@pytest.fixture
def empty_store(store: DicomStoreName, healthcare: HealthcareEmulator) -> str:
    """The id of a DICOM store in the same dataset without any instance."""
    create_store(healthcare.url, f"{store}-empty")
    return f"{store.dicom_store_id}-empty"


@pytest.fixture
def local_airflow(
    tmp_path: Path,
    store: DicomStoreName,
    empty_store: str,
    instances: list[Uids],
    healthcare: HealthcareEmulator,
    storage: StorageEmulator,
    bucket: str,
) -> LocalAirflow:
    """An Airflow with a database of its own, whose connection is a URI and whose XComs are files."""
    (tmp_path / "xcoms").mkdir()
    env = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    airflow = LocalAirflow(
        env
        | {
            "PYTHONPATH": str(ROOT),
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAG_FILE.parent),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__XCOM_BACKEND": f"{xcom_backend.__name__}.{xcom_backend.FilesXCom.__name__}",
            xcom_backend.FOLDER: str(tmp_path / "xcoms"),
            "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": (
                "google-cloud-platform://?project=test-project&is_anonymous=True&num_retries=2"
            ),
            "STORAGE_EMULATOR_HOST": storage.url,
            "LOCAL_RUNS_BUCKET": bucket,
            "LOCAL_RUNS_ENDPOINT": healthcare.url,
            "LOCAL_RUNS_DATASET": store.dataset.dataset_id,
            "LOCAL_RUNS_STORES": f"{empty_store},{store.dicom_store_id}",
            "LOCAL_RUNS_PATHS": ",".join(uids.path for uids in instances[:2]),
        }
    )
    airflow.run(sys.executable, "-m", "airflow", "db", "migrate")
    return airflow


def names_of(instances: list[Uids]) -> set[str]:
    return {f"{uids.study}/{uids.series}/{uids.instance}.dcm" for uids in instances}


def test_dag_test_and_tasks_test_run_a_dag_to_its_end(
    local_airflow: LocalAirflow,
    store: DicomStoreName,
    instances: list[Uids],
    storage: StorageEmulator,
    bucket: str,
    tmp_path: Path,
) -> None:
    run = json.loads(local_airflow.run(sys.executable, str(DAG_FILE)).splitlines()[-1])
    assert run == {
        "run": "success",
        "tasks": {
            "alone[-1]": "success",
            "stores[-1]": "success",
            # Nothing matches in the first store: its export is skipped, and no other one.
            "part.search[0]": "skipped",
            "part.export[0]": "skipped",
            "part.check[0]": "skipped",
            "part.search[1]": "success",
            "part.export[1]": "success",
            "part.check[1]": "success",
            "between.path_of[0]": "success",
            "between.path_of[1]": "success",
            "between.prepare[-1]": "success",
            "between.listed[-1]": "success",
            "between.clean_up[-1]": "success",
        },
    }
    exported = {name for name in storage.objects(bucket) if name.endswith(".dcm")}
    assert exported == {
        *(f"alone/{name}" for name in names_of(instances)),
        *(f"part/{store.dicom_store_id}/{name}" for name in names_of(instances)),
        *(f"listed/{name}" for name in names_of(instances[:2])),
    }
    (result,) = (tmp_path / "xcoms").glob("part.export.return_value.*")
    assert json.loads(result.read_text())["success"] == 3

    for name in exported:
        storage.delete(bucket, name)
    # Deferred, and resumed in the same process.
    local_airflow.run(sys.executable, "-m", "airflow", "tasks", "test", "local_runs", "alone", "2026-01-01")
    assert storage.objects(bucket, "alone/").keys() == {f"alone/{name}" for name in names_of(instances)}
