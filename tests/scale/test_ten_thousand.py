"""Search, export, check and incremental export of 10,000 instances.

Times are reported and not judged. Memory is: each task's peak may not grow with the number of instances.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, TypedDict

import pytest

from rig.control import Control
from rig.dicom_files import Uids, create_store, upload_copies
from rig.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import HealthcareEmulator, StorageEmulator

BUCKET = "ten-thousand"
DATASET = "projects/test-project/locations/europe-west3/datasets/radiology"
STORE = "ten-thousand"
#: At least one full page of every paged list, so that the peak grows only with data that has no bound.
HALF, ALL, NEW = 5_000, 10_000, 100
INSTANCES_OF_A_STUDY = 100
MOST_GROWTH_MIB = 12
STEP = ROOT / "tests" / "support" / "scale_step.py"
DIAGNOSIS = ROOT / "tests" / "support" / "diagnosis_step.py"
#: Failed instances, for as many reasons; and so few that the memory for them does not matter.
FAILED, FEW = 300, 4
REASONS = [
    "transfer syntax not supported",
    "pixel data of {} is broken",
    "frame of {size} bytes is too large",
    "no pixel data",
]
SELECTION, EXPORT, CHECK = (
    "airflow_provider_dicom.operators.selection:DicomStoreSearchOperator",
    "airflow_provider_dicom.operators.dicom_store:DicomStoreExportOperator",
    "airflow_provider_dicom.operators.check:DicomStoreExportCheckOperator",
)


class Step(TypedDict):
    """The result, the duration and the processor time of a task, and the peak memory of its process."""

    result: Any
    seconds: float
    cpu_seconds: float
    peak_mib: float


def uids(numbers: range) -> Iterator[Uids]:
    for number in numbers:
        study = f"1.2.826.0.1.{number // INSTANCES_OF_A_STUDY}"
        yield Uids(study, f"{study}.1", f"{study}.1.{number}")


def store_instances(healthcare: HealthcareEmulator, numbers: range) -> None:
    upload_copies(healthcare.url, f"{DATASET}/dicomStores/{STORE}", uids(numbers), study_date="20260329")


def run_step(
    healthcare: HealthcareEmulator, storage: StorageEmulator, operator: str, **arguments: Any
) -> Step:
    wanted = {
        "operator": operator,
        "arguments": {
            "location": "europe-west3",
            "dataset_id": "radiology",
            "dicom_store_id": STORE,
            **arguments,
        },
    }
    step: Step = run_script(healthcare, storage, STEP, json.dumps(wanted))
    return step


def run_script(healthcare: HealthcareEmulator, storage: StorageEmulator, script: Path, argument: str) -> Any:
    connection = {
        "conn_type": "google_cloud_platform",
        "extra": {"is_anonymous": True, "project": "test-project"},
    }
    env = os.environ | {
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(connection),
        "HEALTHCARE_EMULATOR_HOST": healthcare.url,
        "STORAGE_EMULATOR_HOST": storage.url,
    }
    command = [sys.executable, str(script), argument]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def steps(healthcare: HealthcareEmulator, storage: StorageEmulator) -> dict[tuple[str, int], Step]:
    """Every task's step, by its name and the number of instances in the store."""

    def run(operator: str, **arguments: Any) -> Step:
        return run_step(healthcare, storage, operator, **arguments)

    def night(folder: str, size: int, name: str = "") -> dict[tuple[str, int], Step]:
        filter_uri = f"gs://{BUCKET}/filters/{folder}-{size}{name}.txt"
        archive, destination = f"gs://{BUCKET}/{folder}/", f"gs://{BUCKET}/{folder}/"
        common = {"filter_uri": filter_uri}
        return {
            (f"{name}search", size): run(
                SELECTION,
                level="instances",
                exclude_exported_to=archive,
                filters={"StudyDate": "20260329"},
                **common,
            ),
            (f"{name}export", size): run(
                EXPORT, destination=destination, deferrable=False, poll_interval=1.0, **common
            ),
            (f"{name}check", size): run(CHECK, destination=destination),
        }

    storage.create_bucket(BUCKET)
    create_store(healthcare.url, f"{DATASET}/dicomStores/{STORE}")
    store_instances(healthcare, range(HALF))
    steps = night("half", HALF)
    store_instances(healthcare, range(HALF, ALL))
    steps |= night("all", ALL)
    store_instances(healthcare, range(ALL, ALL + NEW))
    steps |= night("all", ALL + NEW, "incremental ")
    print("\n\n| task | instances in the store | seconds | peak MiB |\n| --- | ---: | ---: | ---: |")
    for (name, size), step in steps.items():
        print(f"| {name} | {size:,} | {step['seconds']:.1f} | {step['peak_mib']:.0f} |")
    return steps


def test_every_instance_of_a_large_store_is_exported(steps: dict[tuple[str, int], Step]) -> None:
    for size in (HALF, ALL):
        assert steps["search", size]["result"]["count"] == size
        assert steps["export", size]["result"]["success"] == size
        found = steps["check", size]["result"]
        assert (found["expected"], found["arrived"], found["missing"]) == (size, size, 0)


def test_incremental_export_contains_new_instances_only(steps: dict[tuple[str, int], Step]) -> None:
    size = ALL + NEW
    assert steps["incremental search", size]["result"]["count"] == NEW
    assert steps["incremental export", size]["result"]["success"] == NEW
    assert steps["incremental check", size]["result"]["missing"] == 0


@pytest.mark.parametrize("name", ["search", "export", "check"])
def test_memory_of_a_task_does_not_grow_with_the_number_of_instances(
    steps: dict[tuple[str, int], Step], name: str
) -> None:
    assert steps[name, ALL]["peak_mib"] - steps[name, HALF]["peak_mib"] < MOST_GROWTH_MIB


@pytest.fixture(scope="module")
def diagnoses(
    steps: dict[tuple[str, int], Step], healthcare: HealthcareEmulator, storage: StorageEmulator
) -> dict[int, Any]:
    """What it takes to list the failed instances of an export, by their number."""
    assert steps
    control, found = Control(healthcare.url), {}
    for count in (FEW, FAILED):
        failing = {
            one.instance: REASONS[number % 4].format(one.instance, size=200_000_000 + number)
            for number, one in enumerate(uids(range(0, ALL, ALL // count)))
        }
        control.settings(failing_instances=dict([*failing.items()][:count]))
        export = run_step(
            healthcare,
            storage,
            EXPORT,
            destination=f"gs://{BUCKET}/failing-{count}/",
            max_failures=count,
            list_failures=False,
            deferrable=False,
            poll_interval=1.0,
        )
        assert export["result"]["failure"] == count
        found[count] = run_script(healthcare, storage, DIAGNOSIS, export["result"]["operation_name"])
    control.settings(failing_instances=[])
    print("\n\n| failed instances of 10,000 | seconds | MiB |\n| ---: | ---: | ---: |")
    for count, one in found.items():
        print(f"| {count} | {one['seconds']:.1f} | {one['grown_mib']:.0f} |")
    return found


def test_failed_instances_of_a_large_export_are_listed_by_cause(diagnoses: dict[int, Any]) -> None:
    found = diagnoses[FAILED]["failures"]
    assert (found["failure"], found["known"], found["more_causes"]) == (FAILED, FAILED, 0)
    assert {cause["message"]: cause["count"] for cause in found["causes"]} == {
        "transfer syntax not supported": FAILED // 4,
        "pixel data of ... is broken": FAILED // 4,
        "frame of ... bytes is too large": FAILED // 4,
        "no pixel data": FAILED // 4,
    }


def test_memory_for_failed_instances_hardly_grows_with_their_number(diagnoses: dict[int, Any]) -> None:
    assert diagnoses[FAILED]["grown_mib"] - diagnoses[FEW]["grown_mib"] < MOST_GROWTH_MIB
