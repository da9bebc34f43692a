"""Nights of the incremental example DAGs in a real Airflow: what arrives, what runs, what is exported."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_dicom.selection.inventory import path_of_object
from rig.dicom_files import Uids, upload_copies
from rig.servers import ROOT, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from rig.airflow import AirflowStandalone
    from rig.control import Control
    from rig.servers import HealthcareEmulator, StorageEmulator

BUCKET, TABLE = "nightly-runs", "test-project.nightly_runs.dicom_metadata"
DATASET = "projects/test-project/locations/europe-west3/datasets/radiology"
BY_ARRIVAL, BY_STUDY_DATE = "dicom_incremental_by_arrival", "dicom_incremental_by_study_date"
STORES = {BY_ARRIVAL: "by-arrival", BY_STUDY_DATE: "by-study-date"}
NIGHTS = ("2026-03-28", "2026-03-29", "2026-03-30")
FOLDERS = {BY_ARRIVAL: "by_arrival", BY_STUDY_DATE: "by_study_date"}
MARK = f"dicom_exported_until_{STORES[BY_ARRIVAL]}"
_numbers = itertools.count(1)


@dataclass
class Nights:
    """Both DAGs, night after night, and what there was after each.

    :param runs: run ids by DAG and night.
    :param states: how the runs ended.
    :param exported: the resource paths of what is in each night's folder at the end, by DAG and night.
    :param marks: the high-water mark after each night.
    """

    airflow: AirflowStandalone
    storage: StorageEmulator
    healthcare: HealthcareEmulator
    control: Control
    arrived: dict[str, list[Uids]] = field(default_factory=dict)
    runs: dict[str, dict[str, str]] = field(default_factory=lambda: {BY_ARRIVAL: {}, BY_STUDY_DATE: {}})
    states: dict[str, dict[str, str]] = field(default_factory=lambda: {BY_ARRIVAL: {}, BY_STUDY_DATE: {}})
    marks: list[str | None] = field(default_factory=list)

    def arrive(self, what: str, count: int, day: str) -> None:
        """Store instances of a day in both DICOM stores."""
        study = next(_numbers)
        uids = [Uids(f"1.2.{study}", f"1.2.{study}.1", f"1.2.{study}.1.{n}") for n in range(1, count + 1)]
        for store in STORES.values():
            name = f"{DATASET}/dicomStores/{store}"
            upload_copies(self.healthcare.url, name, uids, study_date=day.replace("-", ""))
        self.arrived[what] = uids

    def start(self, night: str) -> None:
        """Trigger both DAGs for a night."""
        rest = self.airflow.rest
        common = {"bucket": BUCKET, "table": TABLE}
        self.runs[BY_ARRIVAL][night] = rest.trigger(
            BY_ARRIVAL, {"store": STORES[BY_ARRIVAL], **common}, logical_date=f"{night}T03:00:00Z"
        )
        self.runs[BY_STUDY_DATE][night] = rest.trigger(
            BY_STUDY_DATE, {"store": STORES[BY_STUDY_DATE]}, partition_key=night
        )

    def finish(self, night: str) -> None:
        """Wait for the end of a night."""
        for dag_id, runs in self.runs.items():
            self.states[dag_id][night] = self.airflow.rest.wait(dag_id, runs[night], timeout=240)
        self.marks.append(self.airflow.rest.variable(MARK))

    def exported(self, dag_id: str, night: str) -> list[str]:
        """Return the resource paths of what is in a night's folder."""
        folder = f"{FOLDERS[dag_id]}/{night}/"
        return sorted(
            str(path_of_object(name.removeprefix(folder))) for name in self.storage.objects(BUCKET, folder)
        )

    def explain(self, dag_id: str, night: str) -> str:
        """Return the logs of a night's tasks."""
        rest, run_id = self.airflow.rest, self.runs[dag_id][night]
        ran = [task for task in rest.tasks(dag_id, run_id) if task["try_number"]]
        return "\n".join(
            f"== {task['task_id']}: {task['state']}\n{rest.log(dag_id, run_id, task['task_id'])}"
            for task in ran
        )


def copy_incremental_examples(folder: Path) -> None:
    """Copy the DAGs as they are, but for their clocks: these runs are triggered, and polled often."""
    for dag_id in STORES:
        text = (ROOT / "example_dags" / f"{dag_id}.py").read_text()
        text = text.replace('schedule="0 3 * * *"', "schedule=None").replace('"0 2 * * *"', '"0 2 29 2 *"')
        text = text.replace("execution_timeout=", "poll_interval=1.0, execution_timeout=")
        text = text.replace("timedelta(minutes=5)", "timedelta(seconds=1)")
        (folder / f"{dag_id}.py").write_text(text)


def fail_night(nights: Nights, night: str) -> None:
    """Let a night's exports to Cloud Storage fail: the export to the table is held until that is set up."""
    by_study_date = nights.control.fault("export", resource=STORES[BY_STUDY_DATE], status=404)
    nights.control.settings(advance="manual")
    before = nights.control.exports()["accepted"]
    nights.start(night)
    wait_for(
        "the export to the table",
        lambda: nights.control.exports()["accepted"] > before,
        timeout=180,
    )
    by_arrival = nights.control.fault("export", resource=STORES[BY_ARRIVAL], status=404)
    nights.control.step()
    nights.control.settings(advance="time")
    nights.finish(night)
    for fault in (by_study_date, by_arrival):
        nights.control.remove_fault(fault)
