"""Kills and evictions of a task on its worker, each at a moment that a held response of the API prolongs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.chaos_scene import Scene

if TYPE_CHECKING:
    from tests.support.chaos_scene import Stage

#: Text of the log line about a signal, if nobody has ended the task.
STOPPING = "so its worker is stopping"
#: Text of the log line about a submission whose reply has not come.
MAY_RUN = "The API may have accepted the request to export"


@pytest.fixture(scope="module")
def scenes(stage: Stage) -> dict[str, Scene]:
    """The scenes of the tests in which a task polls, whose DAG runs begin together."""
    names = ("killed-polling", "killed-looking-up", "evicted-polling")
    return {name: Scene(stage, name, "on_worker") for name in names}


def _submitting(stage: Stage, name: str, *more_routes: str) -> tuple[Scene, str]:
    """Start a run, and return it with its export, as soon as the API has accepted that and holds the reply.

    No other test shares it: after a minute the task takes the reply for lost.
    """

    def hold(scene: Scene) -> None:
        for route in ("export", *more_routes):
            scene.hold(route)

    scene = Scene(stage, name, "on_worker", prepare=hold)
    (export,) = scene.wait_until("the submission", scene.accepted)
    return scene, str(export)


def _assert_cancelled(scene: Scene, name: str) -> None:
    """Assert that the task was marked failed, and its only export cancelled."""
    scene.wait_for_remote(name, "CANCELLED")
    said = f"{name} is cancelled, as the API confirms"
    scene.wait_until("the log to report the cancellation", lambda: said in scene.logs())
    scene.wait_for_exit()
    assert scene.state() == "failed"
    assert scene.accepted() == [name]
    assert scene.objects() == 0


def _assert_log_says_what_may_run(scene: Scene, name: str, said: str) -> None:
    """Assert that the task was marked failed, and its log says that its only export may run on."""
    scene.wait_until("the log to say what may run", lambda: said in scene.logs())
    assert f"gcloud healthcare operations list --dataset={scene.name}" in scene.logs()
    scene.wait_for_exit()
    assert scene.state() == "failed"
    assert scene.accepted() == [name]
    assert scene.remote_state(name) == "RUNNING"
    scene.step(name)


@pytest.mark.scenario(
    "marked failed while the reply to the submission is held; it arrives in time", "cancelled, one export"
)
def test_export_of_a_task_that_is_killed_during_its_submission_is_cancelled(stage: Stage) -> None:
    scene, name = _submitting(stage, "killed-answered")
    scene.set_state("failed")
    scene.wait_until("the signal", lambda: "shouldn't be running anymore" in scene.log())
    scene.release("export")
    _assert_cancelled(scene, name)


@pytest.mark.scenario(
    "marked failed while the reply to the submission is held; it never arrives",
    "the log says that the export may run on, and how to find it",
)
def test_log_of_a_task_that_is_killed_during_its_submission_says_what_may_run(stage: Stage) -> None:
    scene, name = _submitting(stage, "killed-unanswered")
    scene.set_state("failed")
    _assert_log_says_what_may_run(scene, name, MAY_RUN)


@pytest.mark.scenario("marked failed while a poll on the worker is held", "cancelled, one export")
def test_export_of_a_task_that_is_killed_during_a_poll_is_cancelled(scenes: dict[str, Scene]) -> None:
    scene = scenes["killed-polling"]
    name = scene.followed()
    scene.hold("operations.get")
    scene.wait_until_held("operations.get")
    scene.set_state("failed")
    scene.wait_for_remote(name, "CANCELLED")
    scene.release("operations.get")
    _assert_cancelled(scene, name)


@pytest.mark.scenario("marked failed while a retry looks at the earlier operation", "cancelled, one export")
def test_earlier_export_of_a_task_that_is_killed_while_it_looks_at_it_is_cancelled(
    scenes: dict[str, Scene],
) -> None:
    scene = scenes["killed-looking-up"]
    name = scene.followed()
    process = scene.process()
    assert process is not None
    # What is held is a request of the retry, and none of the first try.
    process.suspend()
    scene.hold("operations.get")
    process.kill()
    scene.wait_until_held("operations.get")
    assert scene.task()["try_number"] == 2
    scene.set_state("failed")
    scene.wait_for_remote(name, "CANCELLED")
    scene.release("operations.get")
    _assert_cancelled(scene, name)


@pytest.mark.scenario(
    "marked failed while a retry looks for the export of a lost submission",
    "nothing is submitted; the log says that the export may run on, and how to find it",
)
def test_log_of_a_task_that_is_killed_while_it_looks_for_a_lost_export_says_what_may_run(
    stage: Stage,
) -> None:
    scene, name = _submitting(stage, "killed-searching", "operations.list")
    scene.kill_process()
    scene.wait_until_held("operations.list")
    scene.set_state("failed")
    _assert_log_says_what_may_run(scene, name, "whose reply was lost may run on")


@pytest.mark.scenario(
    "SIGTERM of a task that polls on its worker, as at the end of a pod, then SIGKILL",
    "the export is kept, the retry re-attaches: one export",
)
def test_export_of_a_task_that_is_evicted_is_kept(scenes: dict[str, Scene]) -> None:
    scene = scenes["evicted-polling"]
    name = scene.followed()
    scene.evict()
    scene.wait_until("the signal", lambda: f"{STOPPING}. {name} goes on" in scene.log(1))
    _assert_retry_reattaches(scene, name)


@pytest.mark.scenario(
    "SIGTERM while the reply to the submission is held; it arrives in time; then SIGKILL",
    "the export is kept, the retry re-attaches: one export",
)
def test_export_of_a_task_that_is_evicted_during_its_submission_is_kept(stage: Stage) -> None:
    scene, name = _submitting(stage, "evicted-answered")
    scene.evict()
    scene.wait_until("the signal", lambda: STOPPING in scene.log(1))
    scene.release("export")
    scene.wait_until("the name", scene.operation_name)
    _assert_retry_reattaches(scene, name)


def _assert_retry_reattaches(scene: Scene, name: str) -> None:
    """End the eviction, and assert that the retry succeeds with the only export."""
    scene.kill_process()
    scene.wait_for_try(2)
    scene.wait_until("the retry to re-attach", lambda: f"Re-attached to {name}" in scene.log(2))
    assert scene.remote_state(name) == "RUNNING"
    scene.finish()
    scene.assert_one_export(name)


@pytest.mark.scenario(
    "SIGTERM while the reply to the submission is held; it never arrives; then SIGKILL",
    "the export is kept; the retry waits for its end, and submits again",
)
def test_retry_of_a_task_that_is_evicted_during_its_submission_waits_for_the_lost_export(
    stage: Stage,
) -> None:
    scene, name = _submitting(stage, "evicted-unanswered")
    scene.evict()
    scene.wait_until("the signal", lambda: f"{STOPPING}. No export is cancelled" in scene.log(1))
    scene.kill_process()
    scene.wait_until("the retry to wait for the first export", lambda: scene.waits_for(name))
    assert scene.accepted() == [name]
    scene.step(name)
    scene.wait_until("the second submission", lambda: len(scene.accepted()) == 2)
    scene.finish()
    scene.assert_submitted_again(name, "SUCCEEDED")
