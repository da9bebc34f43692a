"""Selections in parts in a real Airflow: three nights with a part that fails, and 200 parts and a quota."""

from __future__ import annotations

import itertools
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import requests

from airflow_provider_dicom.selection.inventory import path_of_object
from rig.airflow import AirflowStandalone
from rig.control import Control
from rig.dicom_files import Uids, create_store, upload_copies
from rig.servers import ROOT, HealthcareEmulator, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import BigQueryEmulator, StorageEmulator

BUCKET, POOL, TABLE = "in-parts", "dicom_exports", "test-project.in_parts.dicom_metadata"
STORE = "projects/test-project/locations/europe-west3/datasets/in-parts/dicomStores/pacs"
NIGHTLY, MANY = "dicom_in_parts", "many_parts"
NIGHTS = ("2026-03-28", "2026-03-29", "2026-03-30")
MARK = f"dicom_exported_until:{TABLE}:europe-west3:in-parts:pacs:{BUCKET}:in_parts"
PARTS = int(os.environ.get("SCALE_PARTS", "200"))
QUOTA = 5
#: One task more than the quota permits: one of them always waits.
SLOTS = QUOTA + 1
_studies = itertools.count(1)


class StreamedArchive:
    """A DICOM store that streams to a table, an Airflow with the DAGs, and the bucket that they fill."""

    def __init__(
        self, airflow: AirflowStandalone, healthcare: HealthcareEmulator, storage: StorageEmulator
    ) -> None:
        self.rest = airflow.rest
        self.healthcare = healthcare
        self.storage = storage
        self.control = Control(healthcare.url)

    def arrive(self, count: int) -> list[Uids]:
        """Store instances, whose rows are in the table afterwards."""
        study = f"1.2.826.0.1.7.{next(_studies)}"
        uids = [Uids(study, f"{study}.1", f"{study}.1.{number}") for number in range(count)]
        upload_copies(self.healthcare.url, STORE, uids)
        body = {"tableUri": f"bq://{TABLE}", "writeDisposition": "WRITE_TRUNCATE"}
        with requests.Session() as session:
            session.trust_env = False
            address = f"{self.healthcare.url}/v1/{STORE}:export"
            answer = session.post(address, json={"bigqueryDestination": body}, timeout=60)
        answer.raise_for_status()
        name = answer.json()["name"]
        wait_for("the table", lambda: self.control.operation_state(name) == "SUCCEEDED", timeout=120)
        return uids

    def start(self, dag_id: str, night: str) -> str:
        """Trigger a DAG for a night, and return the run's id."""
        params = {"dataset": "in-parts", "store": "pacs", "bucket": BUCKET, "table": TABLE}
        return self.rest.trigger(dag_id, params, logical_date=f"{night}T04:00:00Z")

    def exported(self, night: str) -> list[str]:
        """Return the resource paths of what is in a night's folder."""
        folder = f"in_parts/{night}/"
        names = self.storage.objects(BUCKET, folder)
        return sorted(str(path_of_object(name.removeprefix(folder))) for name in names)

    def explain(self, dag_id: str, run_id: str) -> str:
        """Return the logs of a run's tasks."""
        return "\n".join(
            f"== {task['task_id']} {task['map_index']}: {task['state']}\n"
            + self.rest.log(dag_id, run_id, task["task_id"], map_index=task["map_index"])
            for task in self.rest.tasks(dag_id, run_id)
            if task["try_number"] and task["state"] not in ("success", "skipped")
        )


@pytest.fixture(scope="module")
def archive(
    tmp_path_factory: pytest.TempPathFactory,
    server_logs: Path,
    storage: StorageEmulator,
    bigquery: BigQueryEmulator,
) -> Iterator[StreamedArchive]:
    """The archive, whose Healthcare API enforces a quota of exports."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "dags").mkdir()
    text = (ROOT / "example_dags" / f"{NIGHTLY}.py").read_text()
    text = text.replace('schedule="0 4 * * *"', "schedule=None")
    text = text.replace("execution_timeout=", "poll_interval=5.0, execution_timeout=")
    text = text.replace("timedelta(minutes=5)", "timedelta(seconds=1)")
    text = text.replace("only_arrivals=True,", "only_arrivals=True, settling_time=0.001,")
    for dag_id, paths in ((NIGHTLY, 2), (MANY, 1)):
        own = text.replace(f'"{NIGHTLY}"', f'"{dag_id}"').replace("= 100_000", f"= {paths}")
        (folder / "dags" / f"{dag_id}.py").write_text(own)
    storage.create_bucket(BUCKET)
    bigquery.create_dataset(*TABLE.split(".")[:2])
    servers = {"STORAGE_EMULATOR_HOST": storage.url, "BIGQUERY_EMULATOR_HOST": bigquery.url}
    with HealthcareEmulator(server_logs / "in-parts", env=servers) as healthcare:
        create_store(healthcare.url, STORE)
        Control(healthcare.url).settings(
            export_quota=QUOTA, max_running_exports=2 * QUOTA, start_delay_seconds=2.0
        )
        env = {
            **servers,
            "HEALTHCARE_EMULATOR_HOST": healthcare.url,
            "DICOM_DATASET": "in-parts",
            "DICOM_BUCKET": BUCKET,
            "DICOM_TABLE": TABLE,
            # More slots than the pool has, so that the pool limits the exports.
            "AIRFLOW__CORE__PARALLELISM": "12",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "50",
        }
        with AirflowStandalone(folder / "home", folder / "dags", env) as airflow:
            airflow.rest.create_pool(POOL, SLOTS, include_deferred=True)
            yield StreamedArchive(airflow, healthcare, storage)


def paths_of(uids: list[Uids]) -> list[str]:
    return sorted(one.path for one in uids)


def test_only_the_part_that_failed_is_done_again(archive: StreamedArchive) -> None:
    rest, control = archive.rest, archive.control
    first, second, third = NIGHTS
    uids = {first: archive.arrive(3)}
    run_id = archive.start(NIGHTLY, first)
    assert rest.wait(NIGHTLY, run_id, timeout=300) == "success", archive.explain(NIGHTLY, run_id)
    assert archive.exported(first) == paths_of(uids[first])
    mark = rest.variable(MARK)
    assert mark is not None

    # In the second night one instance cannot be exported: the second of three parts fails.
    uids[second] = archive.arrive(5)
    control.settings(failing_instances=[sorted(uids[second], key=lambda one: one.path)[2].instance])
    run_id = archive.start(NIGHTLY, second)
    assert rest.wait(NIGHTLY, run_id, timeout=300) == "failed"
    states = {task["map_index"]: task["state"] for task in parts(archive, NIGHTLY, run_id)}
    assert states == {0: "success", 1: "failed", 2: "success"}, archive.explain(NIGHTLY, run_id)
    assert rest.variable(MARK) == mark
    control.settings(failing_instances=[])
    before, accepted = archive.storage.generations(BUCKET, "in_parts/"), control.exports()["accepted"]
    rest.clear(NIGHTLY, run_id, "export", map_index=1, downstream=True)
    wait_for("the part", lambda: rest.run_state(NIGHTLY, run_id) != "failed", timeout=60)
    assert rest.wait(NIGHTLY, run_id, timeout=300) == "success", archive.explain(NIGHTLY, run_id)
    assert control.exports()["accepted"] == accepted + 1
    after = archive.storage.generations(BUCKET, "in_parts/")
    assert sum(after[name] != generation for name, generation in before.items()) == 1
    assert archive.exported(second) == paths_of(uids[second])
    tries = {task["map_index"]: task["try_number"] for task in parts(archive, NIGHTLY, run_id)}
    assert (tries[0], tries[2]) == (1, 1)

    uids[third] = archive.arrive(2)
    run_id = archive.start(NIGHTLY, third)
    assert rest.wait(NIGHTLY, run_id, timeout=300) == "success", archive.explain(NIGHTLY, run_id)
    assert archive.exported(third) == paths_of(uids[third])
    moved = rest.variable(MARK)
    assert moved is not None
    assert moved > mark


def test_parts_stay_within_the_quota_and_use_up_no_retry(archive: StreamedArchive) -> None:
    uids = archive.arrive(PARTS)
    control = archive.control
    control.reset_requests()
    accepted = control.exports()["accepted"]
    run_id = archive.start(MANY, "2026-03-31")
    state = archive.rest.wait(MANY, run_id, timeout=2_400)
    assert state == "success", archive.explain(MANY, run_id)
    done = parts(archive, MANY, run_id)
    seen, requested = control.exports(), control.requests()["counts"]["export"]
    begin, end = (
        choose(datetime.fromisoformat(str(task[name])) for task in done)
        for choose, name in ((min, "start_date"), (max, "end_date"))
    )
    print(
        f"\n{len(done)} parts in {(end - begin).total_seconds():.0f} s; unfinished exports at once, at most: "
        f"{seen['highest_unfinished']}; submissions refused by the quota: {requested - PARTS}"
    )
    assert len(done) == PARTS
    assert {task["try_number"] for task in done} == {1}
    assert seen["accepted"] - accepted == PARTS
    assert seen["highest_unfinished"] == QUOTA
    assert requested > PARTS
    assert archive.exported("2026-03-31") == paths_of(uids)


def parts(archive: StreamedArchive, dag_id: str, run_id: str) -> list[Any]:
    """Return the task instances of the parts."""
    return [task for task in archive.rest.tasks(dag_id, run_id) if task["task_id"] == "export"]
