"""Retries, kills, clears and timeouts in a real Airflow, with exports that stand still until stepped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rig.airflow import is_exit_known
from rig.control import Control
from rig.dicom_files import create_store, sample_files, upload
from rig.servers import HealthcareEmulator, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig.airflow import AirflowStandalone
    from rig.servers import StorageEmulator

BUCKET, TASK = "airflow-recovery", "export"
STORE = "projects/test-project/locations/europe-west3/datasets/radiology/dicomStores/recovery"
DAGS = ("retried", "marked_failed", "cleared", "timed_out")
BOUND = 180


class HeldExports:
    """A run of every DAG, whose exports stand still until they are stepped."""

    def __init__(self, airflow: AirflowStandalone, healthcare: HealthcareEmulator) -> None:
        self.rest = airflow.rest
        self._scheduler_log = airflow.log_path
        self.control = Control(healthcare.url)
        conf = {"store": "recovery", "bucket": BUCKET, "endpoint": healthcare.url}
        self.runs = {dag_id: self.rest.trigger(dag_id, conf) for dag_id in DAGS}
        self.first = {dag_id: self.wait_until_submitted(dag_id) for dag_id in DAGS}

    def state(self, dag_id: str) -> str | None:
        return self.rest.task(dag_id, self.runs[dag_id], TASK)["state"]

    def wait_for_state(self, dag_id: str, *states: str) -> None:
        wait_for(f"{dag_id} to be {states}", lambda: self.state(dag_id) in states, timeout=BOUND)

    def wait_until_submitted(self, dag_id: str) -> str:
        """Wait until a run's task is deferred, or over already, and return its Operation's name."""
        self.wait_for_state(dag_id, "deferred", "failed")
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
def held(airflow: AirflowStandalone, server_logs: Path, storage: StorageEmulator) -> Iterator[HeldExports]:
    """All runs at once, with a Healthcare API of their own, because theirs stands still."""
    storage.create_bucket(BUCKET)
    env = {"STORAGE_EMULATOR_HOST": storage.url}
    with HealthcareEmulator(server_logs / "recovery", env=env) as healthcare:
        create_store(healthcare.url, STORE)
        upload(healthcare.url, STORE, sample_files()[:3])
        Control(healthcare.url).settings(advance="manual", max_running_exports=10)
        yield HeldExports(airflow, healthcare)


def test_marking_a_deferred_task_failed_cancels_its_export(held: HeldExports) -> None:
    # Before its trigger has started, Airflow would tell nobody.
    wait_for("the first poll", lambda: "Export running for" in held.log("marked_failed"), timeout=BOUND)
    held.rest.set_task_state("marked_failed", held.runs["marked_failed"], TASK, "failed")
    held.wait_for_operation(held.first["marked_failed"], "CANCELLED")
    assert held.state("marked_failed") == "failed"


def test_cleared_task_succeeds_with_one_completed_export(held: HeldExports, storage: StorageEmulator) -> None:
    held.rest.clear("cleared", held.runs["cleared"], TASK)
    held.wait_for_deferral("cleared", 2)

    # The new try and the kill of the old one race: either the new try takes the running export over, or
    # that one is cancelled and a second one submitted. In both cases, one export runs and is followed.
    def succeeded() -> bool:
        name = held.operation_name("cleared")
        if held.control.operation_state(name) == "RUNNING":
            held.control.step(name)
        state = held.rest.run_state("cleared", held.runs["cleared"])
        assert state != "failed", held.logs("cleared")
        return state == "success"

    try:
        wait_for("the cleared run to succeed", succeeded, timeout=BOUND)
    except TimeoutError as error:
        operations = {name: held.control.operation_state(name) for name in held.submitted("cleared")}
        raise TimeoutError(
            f"{error}: {held.state('cleared')}, {operations}\n{held.logs('cleared')}"
        ) from None
    followed = held.rest.xcom("cleared", held.runs["cleared"], TASK)["operation_name"]
    first, *more = held.submitted("cleared")
    assert (first, followed) == (held.first["cleared"], more[0] if more else first)
    states = [held.control.operation_state(name) for name in (first, *more)]
    assert states == ["CANCELLED"] * len(more) + ["SUCCEEDED"]
    assert len(storage.objects(BUCKET, "cleared/")) == 3


def test_deferred_export_is_cancelled_at_the_execution_timeout(held: HeldExports) -> None:
    # Its time has run while the other tests did. The test after this one lets polls fail.
    held.wait_for_state("timed_out", "failed")
    held.wait_for_operation(held.first["timed_out"], "CANCELLED")
    log = held.log("timed_out")
    assert "DicomExportTimeoutError" in log
    assert "0 exported, 0 failed, 3 pending" in log
    assert held.submitted("timed_out") == [held.first["timed_out"]]


def test_retry_reattaches_to_the_export_of_the_first_try(held: HeldExports, storage: StorageEmulator) -> None:
    name = held.first["retried"]
    for route in ("operations.get", "operations.list"):
        held.control.fault(route, status=403)
    wait_for(
        "the first try to give up",
        lambda: held.rest.task("retried", held.runs["retried"], TASK)["try_number"] == 2,
        timeout=BOUND,
    )
    held.control.clear_faults()
    held.wait_for_deferral("retried", 2)
    held.control.step(name)
    assert held.rest.wait("retried", held.runs["retried"], timeout=BOUND) == "success"
    assert held.submitted("retried") == [name]
    assert held.rest.xcom("retried", held.runs["retried"], TASK)["operation_name"] == name
    assert "The export itself goes on" in held.log("retried", 1)
    assert "Re-attached" in held.log("retried", 2)
    assert len(storage.objects(BUCKET, "retried/")) == 3
