"""Retries, kills, clears and timeouts in a real Airflow, with exports that stand still until stepped."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from rig.airflow import AirflowStandalone, is_exit_known
from rig.control import Control
from rig.dicom_files import create_store, sample_files, upload
from rig.servers import ROOT, HealthcareEmulator, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.servers import StorageEmulator

BUCKET, TASK = "airflow-recovery", "export"
STORE = "projects/test-project/locations/europe-west3/datasets/radiology/dicomStores/recovery"
DAGS = ("retried", "marked_failed", "cleared", "timed_out")
BOUND = 180


class Rig:
    """One Airflow and one Healthcare API, with a run of every DAG that has come to its deferral."""

    def __init__(self, airflow: AirflowStandalone, healthcare: HealthcareEmulator) -> None:
        self.rest = airflow.rest
        self._scheduler_log = airflow.log_path
        self.control = Control(healthcare.url)
        conf = {"store": "recovery", "bucket": BUCKET}
        self.runs = {dag_id: self.rest.trigger(dag_id, conf) for dag_id in DAGS}
        self.first = {dag_id: self.wait_until_deferred(dag_id) for dag_id in DAGS}

    def state(self, dag_id: str) -> str | None:
        return self.rest.task(dag_id, self.runs[dag_id], TASK)["state"]

    def wait_for_state(self, dag_id: str, *states: str) -> None:
        wait_for(f"{dag_id} to be {states}", lambda: self.state(dag_id) in states, timeout=BOUND)

    def wait_until_deferred(self, dag_id: str) -> str:
        self.wait_for_state(dag_id, "deferred")
        return self.operation_name(dag_id)

    def wait_for_deferral(self, dag_id: str, try_number: int) -> None:
        """Wait until a try is deferred, and until its deferral may end without harm."""

        def is_deferred() -> bool:
            task = self.rest.task(dag_id, self.runs[dag_id], TASK)
            return task["try_number"] == try_number and task["state"] == "deferred"

        def may_end() -> bool:
            return is_exit_known(self._scheduler_log, dag_id, self.runs[dag_id], TASK, try_number)

        wait_for(f"try {try_number} of {dag_id} to be deferred", is_deferred, timeout=BOUND)
        wait_for(f"the scheduler to know that {dag_id} left its worker", may_end, timeout=BOUND)

    def operation_name(self, dag_id: str) -> str:
        return str(self.rest.xcom(dag_id, self.runs[dag_id], TASK, "operation_name"))

    def wait_for_operation(self, name: str, state: str) -> None:
        current = self.control.operation_state
        try:
            wait_for(f"{name} to be {state}", lambda: current(name) == state, timeout=BOUND)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {current(name)}") from None

    def submitted(self, dag_id: str) -> list[str]:
        """Return the operations that were accepted for a DAG's destination."""
        return [
            operation["name"]
            for operation in self.control.exports()["operations"]
            if f"/{dag_id}/" in operation["request"]["gcsDestination"]["uriPrefix"]
        ]

    def logs(self, dag_id: str) -> str:
        """Return the logs of all tries."""
        tries = self.rest.task(dag_id, self.runs[dag_id], TASK)["try_number"]
        return "\n".join(self.log(dag_id, number) for number in range(1, tries + 1))

    def log(self, dag_id: str, try_number: int = 1) -> str:
        return self.rest.log(dag_id, self.runs[dag_id], TASK, try_number)


@pytest.fixture(scope="module")
def rig(
    tmp_path_factory: pytest.TempPathFactory, server_logs: Path, storage: StorageEmulator
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("recovery")
    shutil.copytree(ROOT / "tests" / "integration" / "real_airflow" / "dags", folder / "dags")
    storage.create_bucket(BUCKET)
    hosts = {"STORAGE_EMULATOR_HOST": storage.url}
    with HealthcareEmulator(server_logs / "recovery", env=hosts) as healthcare:
        create_store(healthcare.url, STORE)
        upload(healthcare.url, STORE, sample_files()[:3])
        Control(healthcare.url).settings(advance="manual", max_running_exports=10)
        hosts["HEALTHCARE_EMULATOR_HOST"] = healthcare.url
        with AirflowStandalone(folder / "home", folder / "dags", hosts) as airflow:
            yield Rig(airflow, healthcare)


def test_an_execution_timeout_holds_while_deferred(rig: Rig) -> None:
    rig.wait_for_state("timed_out", "failed")
    rig.wait_for_operation(rig.first["timed_out"], "CANCELLED")
    log = rig.log("timed_out")
    assert "DicomExportTimeoutError" in log
    assert "0 exported, 0 failed, 3 pending" in log
    assert rig.submitted("timed_out") == [rig.first["timed_out"]]


def test_a_killed_task_cancels_its_export(rig: Rig) -> None:
    rig.rest.set_task_state("marked_failed", rig.runs["marked_failed"], TASK, "failed")
    rig.wait_for_operation(rig.first["marked_failed"], "CANCELLED")
    assert rig.state("marked_failed") == "failed"


def test_a_cleared_task_ends_with_one_export(rig: Rig, storage: StorageEmulator) -> None:
    rig.rest.clear("cleared", rig.runs["cleared"], TASK)
    rig.wait_for_deferral("cleared", 2)

    # The new try and the kill of the old one race: either the new try takes the running export over, or
    # that one is cancelled and a second one submitted. In both cases, one export runs and is followed.
    def succeeded() -> bool:
        name = rig.operation_name("cleared")
        if rig.control.operation_state(name) == "RUNNING":
            rig.control.step(name)
        state = rig.rest.run_state("cleared", rig.runs["cleared"])
        assert state != "failed", rig.logs("cleared")
        return state == "success"

    try:
        wait_for("the cleared run to succeed", succeeded, timeout=BOUND)
    except TimeoutError as error:
        operations = {name: rig.control.operation_state(name) for name in rig.submitted("cleared")}
        raise TimeoutError(f"{error}: {rig.state('cleared')}, {operations}\n{rig.logs('cleared')}") from None
    followed = rig.rest.xcom("cleared", rig.runs["cleared"], TASK)["operation_name"]
    first, *more = rig.submitted("cleared")
    assert (first, followed) == (rig.first["cleared"], more[0] if more else first)
    states = [rig.control.operation_state(name) for name in (first, *more)]
    assert states == ["CANCELLED"] * len(more) + ["SUCCEEDED"]
    assert len(storage.objects(BUCKET, "cleared/")) == 3


def test_a_retry_follows_the_export_of_the_first_try(rig: Rig, storage: StorageEmulator) -> None:
    name = rig.first["retried"]
    for route in ("operations.get", "operations.list"):
        rig.control.fault(route, status=403)
    wait_for(
        "the first try to give up",
        lambda: rig.rest.task("retried", rig.runs["retried"], TASK)["try_number"] == 2,
        timeout=BOUND,
    )
    rig.control.clear_faults()
    rig.wait_for_deferral("retried", 2)
    rig.control.step(name)
    assert rig.rest.wait("retried", rig.runs["retried"], timeout=BOUND) == "success"
    assert rig.submitted("retried") == [name]
    assert rig.rest.xcom("retried", rig.runs["retried"], TASK)["operation_name"] == name
    assert "The export itself goes on" in rig.log("retried", 1)
    assert "Re-attached" in rig.log("retried", 2)
    assert len(storage.objects(BUCKET, "retried/")) == 3
