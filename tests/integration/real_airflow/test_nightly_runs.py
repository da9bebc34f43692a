"""Three nights of the incremental example DAGs in a real Airflow: what comes late, and a night that fails."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.api.dicomweb import is_resource_path
from airflow_provider_dicom.selection.inventory import path_of_object
from rig.airflow import AirflowStandalone
from rig.control import Control
from rig.dicom_files import Uids, create_store, upload_copies
from rig.servers import ROOT, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import BigQueryEmulator, HealthcareEmulator, StorageEmulator

BUCKET, TABLE = "nightly-runs", "test-project.nightly_runs.dicom_metadata"
DATASET = "projects/test-project/locations/europe-west3/datasets/radiology"
BY_ARRIVAL, BY_STUDY_DATE, CONSUMER = (
    "dicom_incremental_by_arrival",
    "dicom_incremental_by_study_date",
    "dicom_night_consumer",
)
COMPLETE = "dicom_nightly_complete"
STORES = {BY_ARRIVAL: "by-arrival", BY_STUDY_DATE: "by-study-date"}
#: The DICOM store of the chain that completes its nights.
COMPLETE_STORE = "complete"
NIGHTS = ("2026-03-28", "2026-03-29", "2026-03-30")
FOLDERS = {BY_ARRIVAL: "by_arrival", BY_STUDY_DATE: "by_study_date"}
MARK = ":".join(
    ["dicom_exported_until", *f"{DATASET}/dicomStores/{STORES[BY_ARRIVAL]}".split("/"), BUCKET, "by_arrival"]
)
#: The name of the patient in all files.
PATIENT = "Citizen"
_numbers = itertools.count(1)


def paths_of(uids: list[Uids]) -> list[str]:
    return sorted(one.path for one in uids)


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


@pytest.fixture(scope="module")
def nights(
    tmp_path_factory: pytest.TempPathFactory,
    storage: StorageEmulator,
    bigquery: BigQueryEmulator,
    healthcare: HealthcareEmulator,
) -> Iterator[Nights]:
    """Three nights; in the second one no export to Cloud Storage is accepted."""
    folder = tmp_path_factory.mktemp("nights")
    copy_examples(folder / "dags")
    storage.create_bucket(BUCKET)
    bigquery.create_dataset(*TABLE.split(".")[:2])
    for store in (*STORES.values(), COMPLETE_STORE):
        create_store(healthcare.url, f"{DATASET}/dicomStores/{store}")
    env = {
        "HEALTHCARE_EMULATOR_HOST": healthcare.url,
        "STORAGE_EMULATOR_HOST": storage.url,
        "BIGQUERY_EMULATOR_HOST": bigquery.url,
        "DICOM_STORE": ",".join((*STORES.values(), COMPLETE_STORE)),
        "DICOM_BUCKET": BUCKET,
        "DICOM_TABLE": TABLE,
        # Assets start DAGs only then.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",
    }
    with AirflowStandalone(folder / "home", folder / "dags", env) as airflow:
        nights = Nights(airflow, storage, healthcare, Control(healthcare.url))
        first, second, third = NIGHTS
        nights.arrive("first", 3, first)
        nights.start(first)
        nights.finish(first)
        nights.arrive("late", 1, first)
        nights.arrive("second", 2, second)
        failing_night(nights, second)
        nights.arrive("third", 2, third)
        nights.start(third)
        nights.finish(third)
        yield nights


def copy_examples(folder: Path) -> None:
    """Copy the DAGs as they are, but for their clocks: these runs are triggered, and polled often."""
    folder.mkdir()
    for dag_id in (*STORES, COMPLETE):
        text = (ROOT / "example_dags" / f"{dag_id}.py").read_text()
        text = text.replace('schedule="0 3 * * *"', "schedule=None").replace('"0 2 * * *"', '"0 2 29 2 *"')
        text = text.replace("execution_timeout=", "poll_interval=1.0, execution_timeout=")
        text = text.replace("timedelta(minutes=5)", "timedelta(seconds=1)")
        (folder / f"{dag_id}.py").write_text(text)


def failing_night(nights: Nights, night: str) -> None:
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


@pytest.mark.parametrize("dag_id", STORES)
def test_one_night_fails(nights: Nights, dag_id: str) -> None:
    states = nights.states[dag_id]
    explained = "\n".join(nights.explain(dag_id, night) for night in NIGHTS)
    assert [states[night] for night in NIGHTS] == ["success", "failed", "success"], explained


@pytest.mark.parametrize("dag_id", STORES)
def test_nothing_is_skipped_and_nothing_repeated(nights: Nights, dag_id: str) -> None:
    arrived = nights.arrived
    assert nights.exported(dag_id, NIGHTS[0]) == paths_of(arrived["first"])
    assert nights.exported(dag_id, NIGHTS[1]) == []
    made_up_for = [*arrived["late"], *arrived["second"], *arrived["third"]]
    assert nights.exported(dag_id, NIGHTS[2]) == paths_of(made_up_for)


def test_the_mark_moves_with_what_is_exported(nights: Nights) -> None:
    after_first, after_second, after_third = nights.marks
    assert after_first is not None
    assert after_second == after_first
    assert after_third is not None
    assert after_third > after_first


def test_only_uids_leave_the_query(nights: Nights) -> None:
    rest = nights.airflow.rest
    for dag_id, runs in nights.runs.items():
        for night, run_id in runs.items():
            assert PATIENT not in nights.explain(dag_id, night)
            for task in rest.tasks(dag_id, run_id):
                result = rest.xcom(dag_id, run_id, task["task_id"])
                assert PATIENT not in json.dumps(result)
    filters = nights.storage.objects(BUCKET, "filters/")
    assert len(filters) == 6
    lines = [line for name in filters for line in nights.storage.read(BUCKET, name).decode().splitlines()]
    assert all(is_resource_path(line) for line in lines)


def test_a_night_that_was_made_up_for_finds_nothing_to_do(nights: Nights) -> None:
    before = nights.storage.generations(BUCKET)
    rest, run_id = nights.airflow.rest, nights.runs[BY_ARRIVAL][NIGHTS[1]]
    rest.clear(BY_ARRIVAL, run_id, "select", downstream=True)
    wait_for("select", lambda: rest.task(BY_ARRIVAL, run_id, "select")["state"] == "skipped", timeout=120)
    assert rest.wait(BY_ARRIVAL, run_id) == "success"
    states = {task["task_id"]: task["state"] for task in rest.tasks(BY_ARRIVAL, run_id)}
    assert states.pop("refresh_table") == "success"
    assert set(states.values()) == {"skipped"}
    assert nights.storage.generations(BUCKET) == before
    assert rest.variable(MARK) == nights.marks[-1]


def test_the_consumer_runs_for_each_night_and_a_night_run_again_touches_only_itself(nights: Nights) -> None:
    rest, storage = nights.airflow.rest, nights.storage
    assert consumed(rest, 2) == {NIGHTS[0]: [3], NIGHTS[2]: [5]}
    before = storage.generations(BUCKET, f"{FOLDERS[BY_STUDY_DATE]}/")
    lost = min(name for name in before if NIGHTS[0] in name)
    storage.delete(BUCKET, lost)
    again = rest.trigger(BY_STUDY_DATE, {"store": STORES[BY_STUDY_DATE]}, partition_key=NIGHTS[0])
    assert rest.wait(BY_STUDY_DATE, again, timeout=240) == "success"
    after = storage.generations(BUCKET, f"{FOLDERS[BY_STUDY_DATE]}/")
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {lost}
    assert consumed(rest, 3) == {NIGHTS[0]: [3, 3], NIGHTS[2]: [5]}


def consumed(rest: Any, count: int) -> dict[str, list[int]]:
    """Return what the consumer's runs counted, by partition, once there are so many."""
    wait_for(f"{count} runs of {CONSUMER}", lambda: len(rest.run_ids(CONSUMER)) >= count, timeout=180)
    counts: dict[str, list[int]] = {}
    for run_id in rest.run_ids(CONSUMER):
        assert rest.wait(CONSUMER, run_id) == "success", rest.log(CONSUMER, run_id, "count_files")
        run = rest.get(f"dags/{CONSUMER}/dagRuns/{run_id}")
        counts.setdefault(run["partition_key"], []).append(rest.xcom(CONSUMER, run_id, "count_files"))
    return counts
