"""The example DAG exports 50 DICOM stores in a real Airflow, at most 5 at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rig.airflow import AirflowStandalone
from rig.control import Control
from rig.dicom_files import Uids, create_store, upload_copies
from rig.servers import ROOT, HealthcareEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import StorageEmulator

BUCKET, DAG_ID, POOL = "every-store", "dicom_every_store", "dicom_exports"
DATASET = "projects/test-project/locations/europe-west3/datasets/every-store"
STORES = [f"store-{number:02}" for number in range(50)]
AT_ONCE = 5
NIGHT = "2026-03-29"


@pytest.fixture(scope="module")
def stores(server_logs: Path, storage: StorageEmulator) -> Iterator[HealthcareEmulator]:
    """A Healthcare API with a quota, one instance in each store, and exports that take seconds."""
    env = {"STORAGE_EMULATOR_HOST": storage.url}
    with HealthcareEmulator(server_logs / "every-store", env=env) as server:
        for number, store in enumerate(STORES, start=1):
            name = f"{DATASET}/dicomStores/{store}"
            create_store(server.url, name)
            upload_copies(server.url, name, [Uids(f"1.2.{number}", f"1.2.{number}.1", f"1.2.{number}.1.1")])
        Control(server.url).settings(
            export_quota=AT_ONCE, max_running_exports=len(STORES), start_delay_seconds=2.0
        )
        yield server


def test_no_more_exports_run_at_once_than_the_pool_has_slots(
    tmp_path: Path, storage: StorageEmulator, stores: HealthcareEmulator
) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    text = (ROOT / "example_dags" / f"{DAG_ID}.py").read_text()
    text = text.replace("execution_timeout=", "poll_interval=10.0, execution_timeout=")
    text = text.replace("timedelta(minutes=5)", "timedelta(seconds=1)")
    (dags / f"{DAG_ID}.py").write_text(text)
    storage.create_bucket(BUCKET)
    env = {
        "HEALTHCARE_EMULATOR_HOST": stores.url,
        "STORAGE_EMULATOR_HOST": storage.url,
        # More slots than the pool has, so that the pool limits the exports.
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "50",
    }
    with AirflowStandalone(tmp_path / "home", dags, env) as airflow:
        rest = airflow.rest
        rest.create_pool(POOL, AT_ONCE, include_deferred=True)
        run_id = rest.trigger(
            DAG_ID, {"dataset": "every-store", "bucket": BUCKET}, logical_date=f"{NIGHT}T01:00:00Z"
        )
        state = rest.wait(DAG_ID, run_id, timeout=900)
        exports = [task for task in rest.tasks(DAG_ID, run_id) if task["task_id"] == "export"]
        log = rest.log(DAG_ID, run_id, "export", map_index=0)
        assert state == "success", log
        assert {task["rendered_map_index"] for task in exports} == set(STORES)
        assert all(task["state"] == "success" for task in exports)
        report = rest.xcom(DAG_ID, run_id, "report")
    seen = Control(stores.url).exports()
    refused = Control(stores.url).requests()["counts"]
    print(f"\nhighest number of unfinished exports: {seen['highest_unfinished']}; requests: {refused}")
    assert report == f"{len(STORES)} instances of {len(STORES)} DICOM stores are exported"
    assert seen["accepted"] == len(STORES)
    # All slots of the pool were used, and no more.
    assert seen["highest_unfinished"] == AT_ONCE
    folders = {name.split("/")[2] for name in storage.objects(BUCKET, f"every_store/{NIGHT}/")}
    assert folders == set(STORES)
