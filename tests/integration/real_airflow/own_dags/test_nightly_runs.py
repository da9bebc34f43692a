"""Three nights of the incremental example DAGs in a real Airflow: what comes late, and a night that fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.api.dicomweb import is_resource_path
from rig.control import Control
from rig.dicom_files import create_store
from rig.servers import wait_for
from tests.support.nightly_runs import (
    BUCKET,
    BY_ARRIVAL,
    BY_STUDY_DATE,
    DATASET,
    FOLDERS,
    MARK,
    NIGHTS,
    STORES,
    TABLE,
    Nights,
    fail_night,
)

if TYPE_CHECKING:
    from rig.airflow import AirflowStandalone
    from rig.dicom_files import Uids
    from rig.servers import BigQueryEmulator, HealthcareEmulator, StorageEmulator

CONSUMER = "dicom_night_consumer"
#: The name of the patient in all files.
PATIENT = "Citizen"


@pytest.fixture(scope="module")
def nights(
    airflow: AirflowStandalone,
    storage: StorageEmulator,
    bigquery: BigQueryEmulator,
    healthcare: HealthcareEmulator,
) -> Nights:
    """Three nights; in the second one no export to Cloud Storage is accepted."""
    storage.create_bucket(BUCKET)
    bigquery.create_dataset(*TABLE.split(".")[:2])
    for store in STORES.values():
        create_store(healthcare.url, f"{DATASET}/dicomStores/{store}")
    nights = Nights(airflow, storage, healthcare, Control(healthcare.url))
    first, second, third = NIGHTS
    nights.arrive("first", 3, first)
    nights.start(first)
    nights.finish(first)
    nights.arrive("late", 1, first)
    nights.arrive("second", 2, second)
    fail_night(nights, second)
    nights.arrive("third", 2, third)
    nights.start(third)
    nights.finish(third)
    return nights


def paths_of(uids: list[Uids]) -> list[str]:
    return sorted(one.path for one in uids)


@pytest.mark.parametrize("dag_id", STORES)
def test_only_the_night_with_refused_exports_fails(nights: Nights, dag_id: str) -> None:
    states = nights.states[dag_id]
    explained = "\n".join(nights.explain(dag_id, night) for night in NIGHTS)
    assert [states[night] for night in NIGHTS] == ["success", "failed", "success"], explained


@pytest.mark.parametrize("dag_id", STORES)
def test_each_instance_is_exported_in_exactly_one_night(nights: Nights, dag_id: str) -> None:
    arrived = nights.arrived
    assert nights.exported(dag_id, NIGHTS[0]) == paths_of(arrived["first"])
    assert nights.exported(dag_id, NIGHTS[1]) == []
    made_up_for = [*arrived["late"], *arrived["second"], *arrived["third"]]
    assert nights.exported(dag_id, NIGHTS[2]) == paths_of(made_up_for)


def test_high_water_mark_moves_only_after_a_successful_night(nights: Nights) -> None:
    after_first, after_second, after_third = nights.marks
    assert after_first is not None
    assert after_second == after_first
    assert after_third is not None
    assert after_third > after_first


def test_incremental_runs_keep_no_patient_name(nights: Nights) -> None:
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


def test_failed_night_run_again_is_skipped_once_the_next_night_has_exported_it(nights: Nights) -> None:
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


def test_consumer_runs_for_each_night_and_a_night_run_again_replaces_only_lost_objects(
    nights: Nights,
) -> None:
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
