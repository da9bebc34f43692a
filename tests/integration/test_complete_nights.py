"""Nights of the chain export, check, export what is missing, check: of the guide and of the example DAG."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_provider_dicom.exceptions import (
    DicomExportError,
    DicomExportIncompleteError,
    DicomExportTooManyFailuresError,
)
from rig.dicom_files import Uids, upload_copies
from rig.servers import ROOT
from tests.integration.test_documentation import BLOCKS
from tests.support.provider_fixtures import *  # noqa: F403
from tests.support.rendering import render
from tests.support.task_runs import TaskRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow_provider_dicom.api.resource_names import DicomStoreName
    from rig.control import Control
    from rig.servers import HealthcareEmulator, StorageEmulator
    from tests.support.provider_fixtures import Connect

pytestmark = pytest.mark.usefixtures("quick")
CHAIN = ["export", "check", "export_missing", "check_missing"]
NIGHT = "2026-03-29"


class Night:
    """
    One run of a chain of tasks, each after the one before it.

    :param dag: the DAG.
    """

    def __init__(self, dag: Any) -> None:
        self._dag = dag
        self.outcomes: dict[str, Any] = {}

    def run(self, *task_ids: str) -> dict[str, Any]:
        """
        Run tasks as Airflow does, and return what each returned or raised; None if it was not run.

        :param task_ids: the tasks, in their order.
        """
        for task_id in task_ids:
            task = self._dag.get_task(task_id)
            if all(isinstance(self.outcomes[one], dict) for one in task.upstream_task_ids):
                self.outcomes[task_id] = self._run_task(task)
            else:
                self.outcomes[task_id] = None
        return self.outcomes

    def _run_task(self, task: Any) -> Any:
        params = self._dag.params.dump()
        results = {name: one for name, one in self.outcomes.items() if isinstance(one, dict)}
        try:
            return TaskRun(task_id=task.task_id).run(render(task, xcoms=results, ds=NIGHT, params=params))
        except (AirflowSkipException, DicomExportError) as error:
            return error


@pytest.fixture
def uids(store: DicomStoreName, healthcare: HealthcareEmulator) -> list[Uids]:
    """Twenty instances in the night's DICOM store."""
    uids = [Uids("1.2.3", "1.2.3.4", f"1.2.3.4.{number}") for number in range(100, 120)]
    upload_copies(healthcare.url, str(store), uids)
    return uids


@pytest.fixture(
    params=[
        pytest.param("guide", marks=pytest.mark.airflow("3.0", "the guide imports airflow.sdk")),
        "example",
    ]
)
def night(
    request: pytest.FixtureRequest,
    store: DicomStoreName,
    healthcare: HealthcareEmulator,
    bucket: str,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[[], Night]:
    """Begins a night of the chain in the guide, or of the example DAG, as they are written."""
    connect("google_cloud_default", is_anonymous=True, project="test-project")
    monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", healthcare.url.removeprefix("http://"))
    if request.param == "example":
        monkeypatch.setenv("DICOM_STORE", store.dicom_store_id)
        monkeypatch.setenv("DICOM_BUCKET", bucket)
        path = ROOT / "example_dags" / "dicom_nightly_complete.py"
    else:
        *_, block = (one for one in BLOCKS if one.page.name == "failures.md" and one.language == "python")
        code = block.code.replace('"pacs"', f'"{store.dicom_store_id}"').replace("my-dicom-exports", bucket)
        path = tmp_path / "guide.py"
        path.write_text(code)
    return lambda: Night(runpy.run_path(str(path))["export"].dag)


def exported(storage: StorageEmulator, bucket: str) -> dict[str, str]:
    """Return the generations of the night's files, by name."""
    names = storage.generations(bucket)
    return {name: generation for name, generation in names.items() if name.endswith(".dcm")}


def test_night_in_which_instances_fail_at_first_is_completed_and_writes_nothing_twice(
    night: Callable[[], Night], uids: list[Uids], control: Control, bucket: str, storage: StorageEmulator
) -> None:
    lost = uids[3:5]
    control.settings(failing_instances=[one.instance for one in lost])
    tonight = night()
    tonight.run("export", "check")
    assert tonight.outcomes["export"]["failure"] == 2
    assert tonight.outcomes["check"]["missing_paths"] == [one.path for one in lost]
    before = exported(storage, bucket)
    control.settings(failing_instances=[])
    outcomes = tonight.run("export_missing", "check_missing")
    assert outcomes["export"]["success"] + outcomes["export_missing"]["success"] == len(uids)
    assert (outcomes["check_missing"]["expected"], outcomes["check_missing"]["missing"]) == (2, 0)
    after = exported(storage, bucket)
    assert len(after) == len(uids)
    assert before.items() <= after.items()


def test_night_in_which_nothing_is_missing_costs_one_search(
    night: Callable[[], Night], uids: list[Uids], control: Control
) -> None:
    control.reset_requests()
    outcomes = night().run(*CHAIN)
    assert outcomes["check"]["missing"] == 0
    assert isinstance(outcomes["export_missing"], AirflowSkipException)
    assert outcomes["check_missing"] is None
    requests = control.requests()
    searches = [one["query"] for one in requests["recent"] if one["route"] == "search"]
    # A search has a page more than its matches need.
    assert [query for query in searches if query.endswith("offset=0")] == searches[:1]
    assert requests["counts"]["export"] == 1
    assert outcomes["export"]["success"] == len(uids)


def test_night_in_which_instances_fail_again_ends_with_their_names(
    night: Callable[[], Night], uids: list[Uids], control: Control
) -> None:
    control.settings(failing_instances=[uids[0].instance])
    outcomes = night().run(*CHAIN)
    assert (outcomes["export_missing"]["success"], outcomes["export_missing"]["failure"]) == (0, 1)
    assert isinstance(outcomes["check_missing"], DicomExportIncompleteError)
    assert uids[0].path in str(outcomes["check_missing"])


def test_night_in_which_too_many_instances_fail_exports_nothing_again(
    night: Callable[[], Night], uids: list[Uids], control: Control
) -> None:
    control.settings(failing_instances=[one.instance for one in uids[:3]])
    outcomes = night().run(*CHAIN)
    assert isinstance(outcomes["export"], DicomExportTooManyFailuresError)
    assert [outcomes[task_id] for task_id in CHAIN[1:]] == [None, None, None]
