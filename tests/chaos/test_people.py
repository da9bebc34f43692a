"""Actions of users on a running task: mark it failed or succeeded, clear it, fail the run; and timeouts."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from rig.cluster import TRIGGERERS
from tests.support.chaos_scene import Scene

if TYPE_CHECKING:
    from tests.support.chaos_scene import Stage

ACTIONS = {
    "marked-failed": lambda scene: scene.set_state("failed"),
    "marked-success": lambda scene: scene.set_state("success"),
    "run-failed": lambda scene: scene.fail_run(),
}
ENDS = {"marked-failed": "failed", "marked-success": "success"}
MODES = {"export": "deferred", "on_worker": "on-worker"}


@pytest.fixture(scope="module")
def scenes(stage: Stage) -> dict[str, Scene]:
    """The scenes of all tests, whose DAG runs begin together."""
    scenes = {
        f"{action}-{mode}": Scene(stage, f"{action}-{mode}", dag_id)
        for dag_id, mode in MODES.items()
        for action in (*ACTIONS, "cleared")
    }
    for action in (*ACTIONS, "cleared"):
        scenes[f"{action}-mapped"] = Scene(stage, f"{action}-mapped", "mapped", count=2)
    for dag_id in ("timed", "timed_on_worker"):
        scenes[dag_id] = Scene(stage, dag_id.replace("_", "-"), dag_id)
    return scenes


@pytest.mark.scenario("the execution_timeout passes", "cancelled; failed, and the error holds the counters")
@pytest.mark.parametrize("dag_id", ["timed", "timed_on_worker"])
def test_execution_timeout_cancels_the_export(scenes: dict[str, Scene], dag_id: str) -> None:
    scene = scenes[dag_id]
    scene.wait_for_state("failed")
    (name,) = scene.accepted()
    scene.wait_for_remote(name, "CANCELLED")
    log = scene.log()
    assert "DicomExportTimeoutError" in log or "AirflowTaskTimeout" in log
    assert "0 exported, 0 failed, 3 pending" in log
    assert f"{name} is cancelled, as the API confirms" in log
    assert scene.result() is None
    assert scene.objects() == 0


@pytest.mark.scenario("a user ends the task", "cancelled, one export, nothing written")
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("mode", MODES.values())
def test_export_of_a_task_that_a_user_ends_is_cancelled(
    scenes: dict[str, Scene], action: str, mode: str
) -> None:
    scene = scenes[f"{action}-{mode}"]
    name = scene.followed()
    ACTIONS[action](scene)
    scene.wait_for_remote(name, "CANCELLED")
    scene.wait_for_state(ENDS.get(action, "failed"), *(("skipped",) if action == "run-failed" else ()))
    said = f"{name} is cancelled, as the API confirms"
    scene.wait_until("the log to report the cancellation", lambda: said in scene.logs())
    assert scene.accepted() == [name]
    assert scene.result() is None
    assert scene.objects() == 0


@pytest.mark.scenario("a user ends one of two mapped tasks", "that one is cancelled, its sibling succeeds")
@pytest.mark.parametrize("action", ["marked-failed", "marked-success"])
def test_export_of_one_of_two_mapped_tasks_is_cancelled(scenes: dict[str, Scene], action: str) -> None:
    scene = scenes[f"{action}-mapped"]
    ended, sibling = scene.followed(0), scene.followed(1)
    scene.set_state(action.removeprefix("marked-"), map_index=0)
    scene.wait_for_remote(ended, "CANCELLED")
    assert scene.remote_state(sibling) == "RUNNING"
    scene.finish(1)
    scene.assert_one_export(sibling, 1)
    assert scene.state(0) == ENDS[action]
    assert scene.objects("0/") == 0


@pytest.mark.scenario("a user fails a run of two mapped tasks", "both are cancelled")
def test_exports_of_a_run_that_a_user_fails_are_cancelled(scenes: dict[str, Scene]) -> None:
    scene = scenes["run-failed-mapped"]
    names = [scene.followed(index) for index in (0, 1)]
    scene.fail_run()
    for name in names:
        scene.wait_for_remote(name, "CANCELLED")
    assert sorted(scene.accepted()) == sorted(names)
    assert scene.objects() == 0


@pytest.mark.scenario(
    "a user clears the task", "one export is the task's result; an abandoned one is cancelled"
)
@pytest.mark.parametrize(("mode", "index"), [("deferred", -1), ("on-worker", -1), ("mapped", 0)])
def test_cleared_task_ends_with_one_export(
    scenes: dict[str, Scene], stage: Stage, mode: str, index: int
) -> None:
    scene = scenes[f"cleared-{mode}"]
    first = scene.followed(index)
    sibling = scene.followed(1) if mode == "mapped" else None
    scene.clear(index)
    scene.wait_for_try(2, index)
    if not stage.keeps_task_state:
        scene.wait_for_remote(first, "CANCELLED")
        scene.finish(index)
        scene.assert_submitted_again(first, "CANCELLED", index)
        _finish_sibling(scene, sibling)
        return
    # The new try and the kill of the old one race: either the new try re-attaches to the running export, or
    # that export is cancelled and a second one submitted. In both cases, one export runs to its end.
    scene.finish(index)
    name, *more = scene.accepted("/0/" if mode == "mapped" else "")
    assert name == first
    assert len(more) <= 1
    followed = more[0] if more else first
    assert [scene.remote_state(each) for each in (first, *more)] == ["CANCELLED"] * len(more) + ["SUCCEEDED"]
    scene.assert_succeeded(name=followed, map_index=index)
    _finish_sibling(scene, sibling)


def _finish_sibling(scene: Scene, sibling: str | None) -> None:
    if sibling is not None:
        scene.finish(1)
        scene.assert_one_export(sibling, 1)


@pytest.mark.scenario(
    "marked failed after the deferral, before the trigger starts",
    "the export continues: Airflow drops the trigger without notice (a limit of Airflow)",
)
def test_export_of_a_task_failed_before_its_trigger_starts_continues(stage: Stage) -> None:
    for triggerer in TRIGGERERS:
        stage.cluster[triggerer].signal(signal.SIGSTOP)
    try:
        scene = Scene(stage, "unfollowed")
        scene.wait_for_state("deferred")
        name = str(scene.operation_name())
        scene.set_state("failed")
    finally:
        for triggerer in TRIGGERERS:
            stage.cluster[triggerer].signal(signal.SIGCONT)
    stage.cluster.wait_until_healthy()
    assert scene.state() == "failed"
    assert scene.remote_state(name) == "RUNNING"
    scene.step(name)
    assert scene.accepted() == [name]
