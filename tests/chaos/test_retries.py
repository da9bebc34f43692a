"""Later tries of a task whose earlier try has submitted an export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rig.servers import wait_for
from tests.support.chaos_scene import Scene

if TYPE_CHECKING:
    from rig.servers import BigQueryEmulator
    from tests.support.chaos_scene import Stage


@pytest.fixture(scope="module")
def scenes(stage: Stage, bigquery: BigQueryEmulator) -> dict[str, Scene]:
    """The scenes of all tests, whose DAG runs begin together."""
    bigquery.create_dataset("test-project", "retries")
    scenes = {
        name: Scene(stage, name, dag_id)
        for name, dag_id in {"cleared-after-success": "once", "failed-first": "export"}.items()
    }
    for name in ("changed-request",):
        scenes[name] = Scene(stage, name, "by_variable")
    scenes["append-failed-first"] = Scene(
        stage, "append-failed-first", "append", destination="bq://test-project.retries.failed"
    )
    return scenes


@pytest.mark.scenario("cleared after success, the request unchanged", "the same result, no new export")
def test_task_cleared_after_success_returns_the_same_result(scenes: dict[str, Scene], stage: Stage) -> None:
    scene = scenes["cleared-after-success"]
    name = scene.followed()
    scene.finish()
    result = scene.result()
    # Airflow may never restart a task that is cleared between the end of the task and the end of the run.
    scene.wait_until("the end of the run", scene.run_ended)
    scene.clear()
    scene.wait_for_try(2)
    if not stage.keeps_task_state:
        scene.wait_until("the second submission", lambda: len(scene.accepted()) == 2)
        scene.finish()
        scene.assert_submitted_again(name, "SUCCEEDED")
        return
    scene.wait_for_state("success", "failed")
    scene.assert_one_export(name)
    assert scene.result() == result


@pytest.mark.scenario("cleared with a changed request", "the old export is cancelled, the new one submitted")
def test_changed_request_cancels_the_earlier_export(scenes: dict[str, Scene], stage: Stage) -> None:
    scene = scenes["changed-request"]
    old = scene.followed()
    stage.rest.call("POST", "variables", json={"key": "folder", "value": "changed"})
    scene.clear()
    scene.wait_for_try(2)
    wait_for("the second export", lambda: len(scene.accepted()) == 2, timeout=150)
    scene.wait_for_remote(old, "CANCELLED")
    scene.finish()
    assert scene.state() == "success", scene.logs()
    _, new = scene.accepted()
    assert scene.result()["operation_name"] == new
    assert scene.remote_state(new) == "SUCCEEDED"
    assert (scene.objects("changed/"), scene.objects("first/")) == (3, 0)
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
