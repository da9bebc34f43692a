"""A scene: one DAG run that exports a dataset of its own, observed through the APIs around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests

from airflow_provider_dicom.operators.dicom_store import STATE_KEY
from rig.airflow import FINISHED, is_exit_known
from rig.cluster import WORKERS
from rig.contract import RESULT_KEYS
from rig.control import Control
from rig.dicom_files import create_store, sample_files, upload
from rig.servers import loopback_session, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    import psutil

    from rig.airflow import RestClient, TaskInstance
    from rig.cluster import Cluster
    from rig.servers import HealthcareEmulator, StorageEmulator

BUCKET = "chaos"
PROJECT = "test-project"
INSTANCES = 3
#: Seconds after which a test fails if its condition has not come true; no test depends on real durations.
BOUND = 150.0
#: Text of the log line about the first response to a poll.
FOLLOWED = "Export running for"
#: Seconds for which a response is held unless a test releases it.
HELD = 600.0


class Stage:
    """The servers of all scenes: one cluster of Airflow, one Healthcare API, one Cloud Storage."""

    def __init__(self, cluster: Cluster, healthcare: HealthcareEmulator, storage: StorageEmulator) -> None:
        self.cluster = cluster
        self.healthcare = healthcare
        self.storage = storage
        self.control = Control(healthcare.url)

    @property
    def rest(self) -> RestClient:
        """The cluster's REST API."""
        return self.cluster.rest

    @property
    def keeps_task_state(self) -> bool:
        """Whether Airflow keeps values between the tries of a task (Airflow 3.3+)."""
        return self.cluster.release.keeps_task_state

    def hold_exports(self) -> None:
        """Let exports advance only when a test steps them."""
        self.control.settings(advance="manual", max_running_exports=500)


class Scene:
    """One run of one DAG.

    :param name: the id of the dataset to export, of the DAG run, and of the destination's folder.
    :param dag_id: a DAG of ``dags/exports.py``.
    :param count: the number of mapped exports, for the DAG ``mapped``.
    :param destination: a destination other than the folder in Cloud Storage.
    :param prepare: called before the DAG run is triggered, to inject faults.
    """

    def __init__(
        self,
        stage: Stage,
        name: str,
        dag_id: str = "export",
        *,
        count: int = 0,
        destination: str = "",
        prepare: Callable[[Scene], object] | None = None,
    ) -> None:
        self.stage, self.name, self.dag_id = stage, name, dag_id
        self.rest, self.control = stage.rest, stage.control
        self.dataset = f"projects/{PROJECT}/locations/europe-west3/datasets/{name}"
        self.store = f"{self.dataset}/dicomStores/store"
        self.destination = destination or f"gs://{BUCKET}/{name}/"
        self._holds: dict[str, str] = {}
        create_store(stage.healthcare.url, self.store)
        files = sorted(sample_files(), key=lambda path: path.stat().st_size)[:INSTANCES]
        self.uids = upload(stage.healthcare.url, self.store, files)
        if prepare is not None:
            prepare(self)
        conf = {"dataset": name, "destination": self.destination, "count": count}
        self.run_id = self.rest.trigger(dag_id, conf, run_id=name)

    # -- Airflow

    def run_ended(self) -> bool:
        """Whether the DAG run has ended."""
        return self.rest.run_state(self.dag_id, self.run_id) in FINISHED

    def tasks(self) -> list[TaskInstance]:
        """All task instances of the run."""
        return self.rest.tasks(self.dag_id, self.run_id)

    def task(self, map_index: int = -1) -> Any:
        """The task instance; None until Airflow has created the map index."""
        try:
            return self.rest.task(self.dag_id, self.run_id, "export", map_index)
        except requests.HTTPError as error:
            if error.response.status_code == requests.codes.not_found:
                return None
            raise

    def state(self, map_index: int = -1) -> str | None:
        """The task's state; None also until Airflow has created the map index."""
        task = self.task(map_index)
        state: str | None = None if task is None else task["state"]
        return state

    def wait_for_state(self, *states: str, map_index: int = -1, timeout: float = BOUND) -> str:
        """Wait until the task is in one of these states."""

        def reached() -> str | None:
            state = self.state(map_index)
            return state if state in states else None

        try:
            return str(wait_for(f"{self.name} to be {states}", reached, timeout=timeout))
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {self.state(map_index)}\n{self.logs(map_index)}") from None

    def wait_for_try(self, number: int, map_index: int = -1) -> None:
        """Wait until the given try has begun."""
        self.wait_until(
            f"try {number}", lambda: self.task(map_index)["try_number"] >= number, map_index=map_index
        )

    def wait_until(self, what: str, check: Callable[[], Any], *, map_index: int = -1) -> Any:
        """Wait for a condition; the error contains the task's state and logs."""
        try:
            return wait_for(f"{self.name}: {what}", check, timeout=BOUND)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {self.state(map_index)}\n{self.logs(map_index)}") from None

    def followed(self, map_index: int = -1) -> str:
        """Wait until a triggerer or a worker polls the export, and return the Operation's name."""
        self.wait_until(
            "a triggerer or a worker to poll",
            lambda: self.may_end(map_index) and FOLLOWED in self.log(map_index=map_index),
            map_index=map_index,
        )
        return str(self.operation_name(map_index))

    def waits_for(self, name: str, map_index: int = -1) -> bool:
        """Whether the task waits for the end of an Operation before it submits."""
        is_said = f"Waiting for the end of {name}" in self.logs(map_index)
        return is_said and self.may_end(map_index)

    def may_end(self, map_index: int = -1) -> bool:
        """Whether the export may end: the task polls on a worker, or the scheduler knows of its deferral."""
        task = self.task(map_index)
        if task is None:
            return False
        return task["state"] == "running" or (
            task["state"] == "deferred"
            and is_exit_known(
                self.stage.cluster["scheduler"].log_path,
                self.dag_id,
                self.run_id,
                "export",
                task["try_number"],
                map_index,
            )
        )

    def trigger_logs(self, job: str = "*") -> int:
        """The number of starts of this scene's triggers, in all triggerers or in one."""
        logs = self.stage.cluster.home / "logs"
        return len(list(logs.glob(f"**/run_id={self.run_id}/**/*.trigger.{job}.log")))

    def wait_until_followed_by_the_other(self) -> None:
        """Wait until one of the two triggerers counts as dead, and the other one polls all exports."""

        def followed() -> bool:
            living = self.stage.cluster.living_triggerers()
            if len(living) != 1:
                return False
            jobs = [task["triggerer_job"] for task in self.tasks() if task["task_id"] == "export"]
            return all(job is not None and job["id"] in living for job in jobs) and self.trigger_logs(
                str(*living)
            ) == len(jobs)

        self.wait_until("the other triggerer to poll all exports", followed)

    def operation_name(self, map_index: int = -1) -> str | None:
        """The Operation's name in the task's XCom; None while there is none."""
        name: str | None = self.rest.xcom(self.dag_id, self.run_id, "export", "operation_name", map_index)
        return name

    def result(self, map_index: int = -1) -> Any:
        """The task's result."""
        return self.rest.xcom(self.dag_id, self.run_id, "export", map_index=map_index)

    def log(self, try_number: int = 1, map_index: int = -1) -> str:
        """The log of one try."""
        return self.rest.log(self.dag_id, self.run_id, "export", try_number, map_index)

    def logs(self, map_index: int = -1) -> str:
        """The logs of all tries."""
        task = self.task(map_index)
        if task is None:
            return "The task instance does not exist."
        tries = max(1, task["try_number"])
        return "\n".join(f"[try {number}]\n{self.log(number, map_index)}" for number in range(1, tries + 1))

    def set_state(self, state: str, map_index: int = -1) -> None:
        """Mark the task as a user does."""
        self.rest.set_task_state(self.dag_id, self.run_id, "export", state, map_index)

    def fail_run(self) -> None:
        """Mark the whole run as failed like a user."""
        self.rest.set_run_state(self.dag_id, self.run_id, "failed")

    def clear(self, map_index: int = -1) -> None:
        """Clear the task as a user does."""
        self.stage.cluster.clear(self.dag_id, self.run_id, "export", map_index)

    def forget_task_state(self) -> None:
        """Delete what Airflow keeps between the tries of the task, as a clean-up does."""
        task = f"dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/export"
        self.rest.call("DELETE", f"{task}/state-store/{STATE_KEY}", params={"map_index": -1})

    def process(self) -> psutil.Process | None:
        """The process that runs the task on one of the workers; None if it has ended."""
        pid = self.task()["pid"]
        living = (process for worker in WORKERS for process in self.stage.cluster[worker].processes())
        return next((process for process in living if process.pid == pid), None)

    def kill_process(self) -> None:
        """End the process that runs the task with SIGKILL; its supervisor tells Airflow at once."""
        if (process := self.process()) is not None:
            process.kill()

    def evict(self) -> None:
        """Send the signal that the end of a pod begins with to the process that runs the task."""
        process = self.process()
        assert process is not None
        process.terminate()

    def wait_for_exit(self) -> None:
        """Wait until no process runs the task any more."""
        self.wait_until("the end of the process", lambda: self.process() is None)

    # -- the Healthcare API

    def accepted(self, ending: str = "") -> list[str]:
        """The names of the Operations that the API accepted from this scene, in order.

        :param ending: the end of the destination, to choose one of the mapped exports.
        """
        return [
            operation["name"]
            for operation in self.control.exports()["operations"]
            if operation["dicomStore"] == self.store and _target(operation["request"]).endswith(ending)
        ]

    def accepted_by_index(self) -> dict[int, list[str]]:
        """The names of the accepted Operations of a mapped task, by map index."""
        found: dict[int, list[str]] = {}
        for operation in self.control.exports()["operations"]:
            if operation["dicomStore"] == self.store:
                index = int(_target(operation["request"]).rstrip("/").rpartition("/")[2])
                found.setdefault(index, []).append(operation["name"])
        return found

    def remote_state(self, name: str) -> str:
        """The state of an export in the API."""
        return self.control.operation_state(name)

    def wait_for_remote(self, name: str, state: str) -> None:
        """Wait until an export is in the given state in the API."""
        self.wait_until(f"{name} to be {state}", lambda: self.remote_state(name) == state)

    def step(self, name: str | None = None, instances: int | None = None) -> None:
        """Let an export advance; without a name, all running exports of this scene."""
        for each in [name] if name else self.accepted():
            if self.remote_state(each) == "RUNNING":
                self.control.step(each, instances)

    def step_into_error(self, name: str, message: str) -> None:
        """Let an export end in an error."""
        self.control.settings(operation_error={"code": 13, "message": message})
        try:
            self.step(name)
            self.wait_for_remote(name, "FAILED")
        finally:
            self.control.settings(operation_error=None)

    def cancel(self, name: str) -> None:
        """Cancel an export like another client of the API."""
        with loopback_session() as session:
            session.post(f"{self.control.url}/v1/{name}:cancel", json={}, timeout=30).raise_for_status()

    def fault(self, route: str, **fault: Any) -> str:
        """Inject a fault into the requests about this scene's dataset."""
        return self.control.fault(route, resource=f"datasets/{self.name}/", **fault)

    def hold(self, route: str) -> None:
        """Hold the next response of a route, whose request is carried out, until it is released."""
        self._holds[route] = self.fault(route, hold_seconds=HELD, count=1)

    def wait_until_held(self, route: str) -> None:
        """Wait until a response is held."""
        self.wait_until(f"{route} to be held", lambda: self.fired(self._holds[route]))

    def release(self, route: str) -> None:
        """Let a response that is held go."""
        self.remove(self._holds[route])

    def fired(self, *identifiers: str) -> int:
        """The number of times that some faults have fired."""
        return sum(
            fault["fired"] for fault in self.control.faults()["faults"] if str(fault["id"]) in identifiers
        )

    def remove(self, *identifiers: str) -> None:
        """Remove some faults."""
        for identifier in identifiers:
            self.control.remove_fault(identifier)

    # -- Cloud Storage

    def objects(self, folder: str = "") -> int:
        """The number of objects at the destination."""
        return len(self.stage.storage.objects(BUCKET, f"{self.name}/{folder}"))

    # -- assertions

    def assert_succeeded(self, *, name: str, state: str = "SUCCEEDED", map_index: int = -1) -> None:
        """Assert that the task has succeeded with the complete result of an export."""
        assert self.state(map_index) == "success", self.logs(map_index)
        folder = f"{map_index}/" if map_index >= 0 else ""
        result = self.result(map_index)
        assert set(result) == RESULT_KEYS
        assert (result["operation_name"], result["state"]) == (name, state)
        assert (result["dicom_store"], result["destination"]) == (self.store, f"{self.destination}{folder}")
        assert (result["success"] + result["failure"], result["pending"]) == (INSTANCES, 0)
        assert self.remote_state(name) == "SUCCEEDED"
        if self.destination.startswith("gs://"):
            assert self.objects(folder) == result["success"]

    def assert_one_export(self, name: str, map_index: int = -1) -> None:
        """Assert that the task has succeeded with the only accepted export."""
        assert self.accepted(f"/{map_index}/" if map_index >= 0 else "") == [name]
        self.assert_succeeded(name=name, map_index=map_index)

    def assert_submitted_again(self, first: str, ended: str, map_index: int = -1) -> None:
        """Assert that a later try, without task state, has submitted a second export and succeeded."""
        name, *more = self.accepted(f"/{map_index}/" if map_index >= 0 else "")
        assert (name, len(more)) == (first, 1), self.logs(map_index)
        assert self.remote_state(first) == ended
        self.assert_succeeded(name=more[0], map_index=map_index)

    def finish(self, map_index: int = -1) -> None:
        """Let the export end, and wait for the end of the task."""

        def ended() -> bool:
            # The XCom of a cleared task is empty until the new try begins, and may then hold another name.
            if self.may_end(map_index) and (name := self.operation_name(map_index)) is not None:
                self.step(name)
            return self.state(map_index) in ("success", "failed")

        self.wait_until("the end", ended, map_index=map_index)


def _target(request: dict[str, Any]) -> str:
    if "gcsDestination" in request:
        return str(request["gcsDestination"]["uriPrefix"])
    return str(request["bigqueryDestination"]["tableUri"])
