"""Lineage and assets in a real Airflow: OpenLineage's own provider, writing its events to a file."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from rig.airflow import AirflowStandalone
from rig.dicom_files import create_store, sample_files, upload
from rig.servers import ROOT, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import BigQueryEmulator, HealthcareEmulator, StorageEmulator

BUCKET, TABLE = "lineage-run", "test-project.lineage_run.dicom_metadata"
STORE = "projects/test-project/locations/europe-west3/datasets/radiology/dicomStores/lineage-run"
INSTANCES = 3
#: The destination of each DAG's run.
RUNS = {
    "lineage_deferred": f"gs://{BUCKET}/deferred/",
    "lineage_on_worker": f"bq://{TABLE}",
    "lineage_no_wait": f"gs://{BUCKET}/no_wait",
    "lineage_failing": "gs://lineage-run-no-such-bucket/x",
    "lineage_by_hook": f"gs://{BUCKET}/by_hook",
}
STORE_DATASET = ("healthcare.googleapis.com", STORE)
Json = dict[str, Any]


class LineageScene:
    """An Airflow in which every run has ended, and what OpenLineage wrote."""

    def __init__(self, airflow: AirflowStandalone, events: Path) -> None:
        self.rest = airflow.rest
        self._events = events
        self.runs = {
            dag_id: self.rest.trigger(dag_id, {"store": "lineage-run", "destination": destination})
            for dag_id, destination in RUNS.items()
        }
        self.states = {dag_id: self.rest.wait(dag_id, run_id) for dag_id, run_id in self.runs.items()}

    def result(self, dag_id: str, key: str = "return_value") -> Any:
        """Return an XCom value of a DAG's export."""
        return self.rest.xcom(dag_id, self.runs[dag_id], "export", key)

    def events(self, dag_id: str, task_id: str = "export") -> list[Json]:
        """Return a task's events in their order; the last one may come after the end of the run."""

        def read() -> list[Json]:
            lines = self._events.read_text().splitlines() if self._events.exists() else []
            events = [json.loads(line) for line in lines]
            return [event for event in events if event.get("job", {}).get("name") == f"{dag_id}.{task_id}"]

        def ended() -> bool:
            return any(event["eventType"] in ("COMPLETE", "FAIL") for event in read())

        wait_for(f"OpenLineage's last event of {dag_id}", ended, timeout=60)
        return read()


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory,
    storage: StorageEmulator,
    bigquery: BigQueryEmulator,
    healthcare: HealthcareEmulator,
) -> Iterator[LineageScene]:
    """All runs at once in one Airflow, for the time that it takes to start."""
    folder = tmp_path_factory.mktemp("lineage")
    (folder / "dags").mkdir()
    shutil.copy(ROOT / "tests" / "integration" / "real_airflow" / "dags" / "lineage.py", folder / "dags")
    storage.create_bucket(BUCKET)
    bigquery.create_dataset(*TABLE.split(".")[:2])
    create_store(healthcare.url, STORE)
    smallest = sorted(sample_files(), key=lambda path: (path.stat().st_size, path.name))[:INSTANCES]
    upload(healthcare.url, STORE, smallest)
    events = folder / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(events), "append": True}
    settings = {
        "HEALTHCARE_EMULATOR_HOST": healthcare.url,
        "STORAGE_EMULATOR_HOST": storage.url,
        "BIGQUERY_EMULATOR_HOST": bigquery.url,
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        # Without it, no run is created for an asset's event either.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",
    }
    with AirflowStandalone(folder / "home", folder / "dags", settings) as airflow:
        airflow.rest.wait_for_dag("lineage_after_export")
        yield LineageScene(airflow, events)


def datasets(event: Json, key: str) -> list[tuple[str, str]]:
    return [(dataset["namespace"], dataset["name"]) for dataset in event[key]]


def test_a_deferred_export(scene: LineageScene) -> None:
    assert scene.states["lineage_deferred"] == "success"
    events = scene.events("lineage_deferred")
    # Airflow begins anew when the deferral is over.
    assert [event["eventType"] for event in events] == ["START", "START", "COMPLETE"]
    assert len({event["run"]["runId"] for event in events}) == 1
    for event in events:
        assert datasets(event, "inputs") == [STORE_DATASET]
        assert datasets(event, "outputs") == [(f"gs://{BUCKET}", "deferred")]
    (output,) = events[-1]["outputs"]
    assert output["outputFacets"]["outputStatistics"]["fileCount"] == INSTANCES
    facet = events[-1]["run"]["facets"]["dicom_export"]
    assert facet["operationName"] == scene.result("lineage_deferred")["operation_name"]
    assert (facet["done"], facet["success"], facet["failure"], facet["pending"]) == (True, INSTANCES, 0, 0)


def test_an_export_to_bigquery_on_the_worker(scene: LineageScene) -> None:
    assert scene.states["lineage_on_worker"] == "success"
    start, complete = scene.events("lineage_on_worker")
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    for event in (start, complete):
        assert datasets(event, "inputs") == [STORE_DATASET]
        assert datasets(event, "outputs") == [("bigquery", TABLE)]
    (output,) = complete["outputs"]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == INSTANCES


def test_an_export_that_is_not_waited_for(scene: LineageScene) -> None:
    complete = scene.events("lineage_no_wait")[-1]
    assert complete["eventType"] == "COMPLETE"
    assert datasets(complete, "inputs") == [STORE_DATASET]
    assert datasets(complete, "outputs") == [(f"gs://{BUCKET}", "no_wait")]
    facet = complete["run"]["facets"]["dicom_export"]
    assert facet["operationName"] == scene.result("lineage_no_wait")
    assert not facet["done"]


def test_a_failed_export(scene: LineageScene) -> None:
    assert scene.states["lineage_failing"] == "failed"
    events = scene.events("lineage_failing")
    assert events[-1]["eventType"] == "FAIL"
    assert datasets(events[-1], "inputs") == [STORE_DATASET]
    assert datasets(events[-1], "outputs") == [("gs://lineage-run-no-such-bucket", "x")]
    facet = events[-1]["run"]["facets"]["dicom_export"]
    assert facet["operationName"] == scene.result("lineage_failing", "operation_name")
    assert facet["errorCode"]


def test_an_export_by_the_hook_alone(scene: LineageScene) -> None:
    assert scene.states["lineage_by_hook"] == "success"
    complete = scene.events("lineage_by_hook")[-1]
    assert datasets(complete, "inputs") == [STORE_DATASET]
    assert datasets(complete, "outputs") == [(f"gs://{BUCKET}", "by_hook")]


def test_an_asset_carries_the_result_to_the_dag_that_waits_for_it(scene: LineageScene) -> None:
    def finished() -> Json | None:
        runs = scene.rest.get("dags/lineage_after_export/dagRuns")["dag_runs"]
        return next((run for run in runs if run["state"] == "success"), None)

    run = wait_for("the DAG that waits for the asset", finished, timeout=120)
    extras = scene.rest.xcom("lineage_after_export", run["dag_run_id"], "read")
    assert extras == [scene.result("lineage_deferred")]
    assert extras[0]["success"] == INSTANCES


def test_the_asset_of_an_export_that_is_not_waited_for_carries_its_name(scene: LineageScene) -> None:
    (event,) = [
        event
        for event in scene.rest.get("assets/events")["asset_events"]
        if event["source_dag_id"] == "lineage_no_wait"
    ]
    assert event["extra"] == {"operation_name": scene.result("lineage_no_wait")}


def test_the_connection_form_and_its_test_button(scene: LineageScene) -> None:
    rest = scene.rest
    extra = {
        "is_anonymous": True,
        "project": "test-project",
        "location": "europe-west3",
        "dataset_id": "radiology",
        "dicom_store_id": "lineage-run",
    }
    body = {"connection_id": "dicom", "conn_type": "google_cloud_dicom_store"}
    good = rest.call("POST", "connections/test", json=body | {"extra": json.dumps(extra)})
    assert good["status"], good["message"]
    assert good["message"].startswith(f"Read {STORE}.")
    extra["dicom_store_id"] = "elsewhere"
    bad = rest.call("POST", "connections/test", json=body | {"extra": json.dumps(extra)})
    assert not bad["status"]
    assert "dicomStores/elsewhere" in bad["message"]
