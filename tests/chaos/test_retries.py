"""Later tries of a task whose earlier try has submitted an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rig.servers import wait_for
from tests.support.chaos_scene import INSTANCES, Scene

if TYPE_CHECKING:
    from rig.servers import BigQueryEmulator
    from tests.support.chaos_scene import Stage


@pytest.fixture(scope="module")
def scenes(stage: Stage, bigquery: BigQueryEmulator) -> dict[str, Scene]:
    """The scenes of all tests, whose DAG runs begin together."""
    bigquery.create_dataset("test-project", "retries")
    scenes = {
        name: Scene(stage, name, dag_id)
        for name, dag_id in {
            "cleared-after-success": "once",
            "failed-first": "export",
            "changed-request": "by_variable",
        }.items()
    }
    tables = {"append-failed-first": "append", "append-forgotten": "append", "empty-cleared": "empty"}
    for name, dag_id in tables.items():
        table = f"bq://test-project.retries.{name.replace('-', '_')}"
        scenes[name] = Scene(stage, name, dag_id, destination=table)
    scenes["empty-lost"] = Scene(
        stage,
        "empty-lost",
        "empty",
        destination="bq://test-project.retries.empty_lost",
        prepare=lambda scene: scene.fault("export", reset="after", count=1),
    )
    return scenes


def _run_and_clear(scene: Scene) -> str:
    """Let a task end, clear it, and return the name of its export."""
    name = scene.followed()
    scene.finish()
    # What is cleared between the end of the task and that of its run, Airflow may never start again.
    scene.wait_until("the end of the run", scene.run_ended)
    scene.clear()
    scene.wait_for_try(2)
    return name


@pytest.mark.scenario("cleared after success: Cloud Storage", "exported again")
def test_task_that_is_cleared_after_success_exports_again(scenes: dict[str, Scene]) -> None:
    scene = scenes["cleared-after-success"]
    name = _run_and_clear(scene)
    scene.wait_until("the second submission", lambda: len(scene.accepted()) == 2)
    scene.finish()
    scene.assert_submitted_again(name, "SUCCEEDED")


@pytest.mark.scenario(
    "cleared after success: WRITE_EMPTY", "the earlier result with a warning, no new export"
)
def test_task_that_is_cleared_after_success_into_an_empty_table_returns_its_result(
    scenes: dict[str, Scene], stage: Stage
) -> None:
    scene = scenes["empty-cleared"]
    name = _run_and_clear(scene)
    if not stage.keeps_task_state:
        scene.wait_until("the second submission", lambda: len(scene.accepted()) == 2)
        scene.finish()
        assert "Already Exists" in scene.log(2)
        return
    scene.wait_for_state("success", "failed")
    scene.assert_one_export(name)
    assert "To export again on purpose" in scene.log(2)


@pytest.mark.scenario(
    "WRITE_EMPTY: the reply to the submission is lost", "failed; the error says how to check"
)
def test_lost_reply_of_an_export_into_an_empty_table_says_how_to_check(scenes: dict[str, Scene]) -> None:
    scene = scenes["empty-lost"]
    lost = scene.wait_until("the submission", scene.accepted)[0]
    scene.wait_until("the task to wait for it", lambda: scene.waits_for(lost))
    scene.step(lost)
    scene.wait_until("the second submission", lambda: len(scene.accepted()) == 2)
    scene.finish()
    assert scene.state() == "failed"
    assert "DicomExportDestinationNotEmptyError" in scene.logs()
    assert "DicomStoreExportCheckOperator" in scene.logs()
    assert len(scene.accepted()) == 2
    assert scene.result() is None


@pytest.mark.scenario("WRITE_APPEND: Airflow forgets the task's state, and a user clears", "refused")
def test_append_export_is_refused_after_airflow_has_forgotten_the_first_try(
    scenes: dict[str, Scene], stage: Stage
) -> None:
    scene = scenes["append-forgotten"]
    name = scene.followed()
    scene.finish()
    scene.wait_until("the end of the run", scene.run_ended)
    if stage.keeps_task_state:
        scene.forget_task_state()
    scene.clear()
    scene.wait_for_try(2)
    scene.wait_for_state("failed")
    assert scene.accepted() == [name]
    assert "DicomExportDuplicateRiskError" in scene.log(2)


@pytest.mark.scenario("cleared with a changed request", "the old export is cancelled, the new one submitted")
def test_changed_request_cancels_the_old_export_and_submits_the_new_one(
    scenes: dict[str, Scene], stage: Stage
) -> None:
    scene = scenes["changed-request"]
    old = scene.followed()
    stage.rest.call("POST", "variables", json={"key": "mime_type", "value": "application/dicom"})
    scene.clear()
    scene.wait_for_try(2)
    wait_for("the second export", lambda: len(scene.accepted()) == 2, timeout=150)
    scene.wait_for_remote(old, "CANCELLED")
    scene.finish()
    assert scene.state() == "success", scene.logs()
    _, new = scene.accepted()
    assert scene.result()["operation_name"] == new
    assert scene.remote_state(new) == "SUCCEEDED"
    assert scene.objects() == INSTANCES
    if stage.keeps_task_state:
        assert "The request has changed since an earlier try" in scene.log(2)


@pytest.mark.scenario("the export of the first attempt failed", "the second attempt submits again")
def test_failed_export_is_resubmitted(scenes: dict[str, Scene]) -> None:
    scene = scenes["failed-first"]
    first = scene.followed()
    scene.step_into_error(first, "the disk is full")
    scene.wait_for_try(2)
    scene.finish()
    accepted = scene.accepted()
    assert (len(accepted), accepted[0]) == (2, first)
    scene.assert_succeeded(name=accepted[1])


@pytest.mark.scenario("WRITE_APPEND: the export of the first attempt failed", "refused on the second attempt")
def test_failed_append_export_is_not_resubmitted(scenes: dict[str, Scene]) -> None:
    scene = scenes["append-failed-first"]
    first = scene.followed()
    scene.step_into_error(first, "the disk is full")
    scene.wait_for_state("failed")
    assert scene.accepted() == [first]
    assert "DicomExportDuplicateRiskError" in scene.logs()
    assert scene.result() is None
