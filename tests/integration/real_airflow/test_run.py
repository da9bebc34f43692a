"""DAGs run by a real scheduler, triggerer and API server, against the local Healthcare API."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from rig.airflow import AirflowStandalone
from rig.cluster import Cluster
from rig.contract import RESULT_KEYS
from rig.control import Control
from rig.dicom_files import as_uploaded, create_store, sample_files, uids_of, upload
from rig.releases import chosen_release
from rig.servers import ROOT, HealthcareEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import BigQueryEmulator, StorageEmulator

BUCKET, TABLE = "airflow-run", "test-project.airflow_run.dicom_metadata"
NIGHT, PARTITION = "2026-03-29", "2026-03-30"
DATASET = "projects/test-project/locations/europe-west3/datasets/radiology"
STORE = f"{DATASET}/dicomStores/airflow-run"
TASK = "export"


@dataclass(frozen=True)
class Run:
    """One finished DAG run."""

    airflow: AirflowStandalone | Cluster
    dag_id: str
    run_id: str
    state: str

    @property
    def states(self) -> list[str]:
        """The states that the export's task went through; known from Airflow 3.3 on."""
        return [state for state, _ in self.airflow.rest.history(self.dag_id, self.run_id, TASK)]

    @property
    def was_deferred(self) -> bool:
        """Whether the export's task left its worker; older Airflows don't keep the states it went through."""
        return "Pausing task as DEFERRED" in self.log

    @property
    def links(self) -> dict[str, str | None]:
        """The extra links of the export's task."""
        return self.airflow.rest.links(self.dag_id, self.run_id, TASK)

    @property
    def log(self) -> str:
        """The log of the export's task."""
        return self.airflow.rest.log(self.dag_id, self.run_id, TASK)

    def xcom(self, key: str = "return_value", task_id: str = TASK) -> Any:
        """Return an XCom value of a task."""
        return self.airflow.rest.xcom(self.dag_id, self.run_id, task_id, key)


@pytest.fixture(scope="module")
def failing(server_logs: Path, storage: StorageEmulator) -> Iterator[HealthcareEmulator]:
    """A Healthcare API of its own, so that its failing exports disturb no other."""
    env = {"STORAGE_EMULATOR_HOST": storage.url}
    with HealthcareEmulator(server_logs / "failing", env=env) as server:
        create_store(server.url, STORE)
        upload(server.url, STORE, sample_files()[:3])
        Control(server.url).settings(operation_error={"code": 13, "message": "The bucket has gone away."})
        yield server


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    storage: StorageEmulator,
    bigquery: BigQueryEmulator,
    healthcare: HealthcareEmulator,
    failing: HealthcareEmulator,
) -> Iterator[dict[str, Run]]:
    """Every DAG's run: all at once in one Airflow, for the time that it takes to start."""
    folder = tmp_path_factory.mktemp("airflow")
    shutil.copytree(ROOT / "example_dags", folder / "dags" / "examples")
    shutil.copytree(ROOT / "tests" / "integration" / "real_airflow" / "dags", folder / "dags" / "tests")
    storage.create_bucket(BUCKET)
    bigquery.create_dataset(*TABLE.split(".")[:2])
    create_store(healthcare.url, STORE)
    upload(healthcare.url, STORE, sample_files())
    hosts = {
        "HEALTHCARE_EMULATOR_HOST": healthcare.url,
        "STORAGE_EMULATOR_HOST": storage.url,
        "BIGQUERY_EMULATOR_HOST": bigquery.url,
        # The examples offer what the deployment lists.
        "DICOM_STORE": "airflow-run",
        "DICOM_BUCKET": BUCKET,
        "DICOM_TABLE": TABLE,
    }
    parameters = {
        "dicom_nightly_to_gcs": {"store": "airflow-run", "bucket": BUCKET},
        "dicom_nightly_to_bigquery": {"store": "airflow-run", "table": TABLE},
        "on_worker": {"store": "airflow-run", "bucket": BUCKET},
        "no_wait": {"store": "airflow-run", "bucket": BUCKET},
        "own_endpoint": {"store": "airflow-run", "bucket": BUCKET, "endpoint": failing.url},
    }
    with real_airflow(folder, hosts) as airflow:
        rest = airflow.rest
        night = f"{NIGHT}T02:00:00Z"
        started = {
            dag_id: rest.trigger(dag_id, conf, logical_date=night) for dag_id, conf in parameters.items()
        }
        if chosen_release().line >= (3, 3):
            # What Airflow itself does every night, for another night.
            nightly = "dicom_nightly_to_gcs"
            partition = rest.trigger(nightly, parameters[nightly], partition_key=PARTITION)
        runs = {
            dag_id: Run(airflow, dag_id, run_id, state_at_the_end(airflow, dag_id, run_id))
            for dag_id, run_id in started.items()
        }
        if chosen_release().line >= (3, 3):
            runs["partition"] = Run(
                airflow, nightly, partition, state_at_the_end(airflow, nightly, partition)
            )
        yield runs


def real_airflow(folder: Path, hosts: dict[str, str]) -> AirflowStandalone | Cluster:
    """The installed Airflow; the second one on PostgreSQL: it does not run tasks side by side on SQLite."""
    release = chosen_release()
    if release.is_second:
        return Cluster(folder / "home", folder / "dags", hosts, release)
    return AirflowStandalone(folder / "home", folder / "dags", hosts)


def state_at_the_end(airflow: AirflowStandalone | Cluster, dag_id: str, run_id: str) -> str:
    """Return a run's final state, or the one that it is stuck in: its own test then shows the log."""
    try:
        return airflow.rest.wait(dag_id, run_id, timeout=180)
    except TimeoutError:
        return airflow.rest.run_state(dag_id, run_id)


def assert_states(run: Run, *expected: str) -> None:
    """The export's task went through these states, as far as Airflow can tell."""
    assert run.was_deferred == ("deferred" in expected)
    if chosen_release().line >= (3, 3):
        assert run.states == list(expected)


def assert_exported(storage: StorageEmulator, prefix: str) -> None:
    """Every uploaded instance is under the prefix, byte for byte, and nothing else is."""
    expected = {}
    for path in sample_files():
        uids = uids_of(path)
        expected[f"{prefix}{uids.study}/{uids.series}/{uids.instance}.dcm"] = as_uploaded(path)
    assert storage.objects(BUCKET, prefix).keys() == expected.keys()
    differing = [name for name, content in expected.items() if storage.read(BUCKET, name) != content]
    assert differing == []


def test_nightly_export_to_cloud_storage(runs: dict[str, Run], storage: StorageEmulator) -> None:
    run = runs["dicom_nightly_to_gcs"]
    assert run.state == "success", run.log
    assert_states(run, "running", "deferred", "running", "success")
    assert_exported(storage, f"dicom/{NIGHT}/")


@pytest.mark.airflow("3.3", "partitioned runs")
def test_the_partition_of_another_night(runs: dict[str, Run], storage: StorageEmulator) -> None:
    run = runs["partition"]
    assert run.state == "success", run.log
    assert run.xcom()["destination"] == f"gs://{BUCKET}/dicom/{PARTITION}/"
    assert_exported(storage, f"dicom/{PARTITION}/")
    assert_exported(storage, f"dicom/{NIGHT}/")


def test_result_of_a_deferred_export(runs: dict[str, Run]) -> None:
    result = runs["dicom_nightly_to_gcs"].xcom()
    assert result.keys() == RESULT_KEYS
    assert result["operation_name"].startswith(f"{DATASET}/operations/")
    assert result["operation_name"] == runs["dicom_nightly_to_gcs"].xcom("operation_name")
    assert result["dicom_store"] == STORE
    assert result["destination"] == f"gs://{BUCKET}/dicom/{NIGHT}/"
    assert (result["state"], result["success"], result["failure"], result["pending"]) == (
        "SUCCEEDED",
        len(sample_files()),
        0,
        0,
    )


def test_result_reaches_the_next_task(runs: dict[str, Run]) -> None:
    report = runs["dicom_nightly_to_gcs"].xcom(task_id="report")
    assert report == f"{len(sample_files())} instances of {STORE} are in gs://{BUCKET}/dicom/{NIGHT}/"


def test_nightly_export_to_bigquery(runs: dict[str, Run], bigquery: BigQueryEmulator) -> None:
    run = runs["dicom_nightly_to_bigquery"]
    assert run.state == "success", run.log
    assert_states(run, "running", "deferred", "running", "success")
    table = f"{TABLE}_{NIGHT.replace('-', '')}"
    rows = bigquery.query("test-project", f"SELECT SOPInstanceUID FROM `{table}`")
    assert sorted(uid for (uid,) in rows) == sorted(uids_of(path).instance for path in sample_files())


def test_extra_links(runs: dict[str, Run]) -> None:
    links = runs["dicom_nightly_to_gcs"].links
    assert links.keys() == {"DICOM store", "Export logs", "Export destination"}
    assert all((link or "").startswith("https://console.cloud.google.com/") for link in links.values()), links
    assert f"{BUCKET}/dicom/{NIGHT}" in (links["Export destination"] or "")


def test_export_on_the_worker(runs: dict[str, Run], storage: StorageEmulator) -> None:
    run = runs["on_worker"]
    assert run.state == "success", run.log
    assert_states(run, "running", "success")
    assert run.xcom().keys() == RESULT_KEYS
    assert run.xcom()["success"] == len(sample_files())
    assert_exported(storage, f"on_worker/{NIGHT}/")


def test_export_that_is_not_waited_for(runs: dict[str, Run], healthcare: HealthcareEmulator) -> None:
    run = runs["no_wait"]
    assert run.state == "success", run.log
    assert_states(run, "running", "success")
    names = [operation["name"] for operation in Control(healthcare.url).exports()["operations"]]
    assert run.xcom("operation_name") in names
    assert run.xcom() == run.xcom("operation_name")


def test_failed_export_explains_itself(runs: dict[str, Run]) -> None:
    run = runs["own_endpoint"]
    assert run.state == "failed"
    assert run.airflow.rest.task(run.dag_id, run.run_id, TASK)["state"] == "failed"
    log = run.log
    assert "The bucket has gone away." in log
    assert "DicomExportOperationFailedError" in log
    assert f"Operation: {run.xcom('operation_name')}" in log


def test_nothing_can_be_reached_from_elsewhere(
    runs: dict[str, Run], storage: StorageEmulator, bigquery: BigQueryEmulator, healthcare: HealthcareEmulator
) -> None:
    servers = (runs["no_wait"].airflow, storage, bigquery, healthcare)
    listening = set()
    for process in (process for server in servers for process in server.processes()):
        with contextlib.suppress(psutil.NoSuchProcess):  # a task's, which has just ended
            listening |= {
                connection.laddr.ip.removeprefix("::ffff:")
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
    assert listening == {"127.0.0.1"}
