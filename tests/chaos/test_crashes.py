"""kill -9 of each program around an export: the export is neither lost nor submitted a second time."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from rig.cluster import TRIGGERERS, WORKERS
from tests.support.chaos_scene import INSTANCES, Scene

if TYPE_CHECKING:
    from rig.servers import BigQueryEmulator
    from tests.support.chaos_scene import Stage


def _kill_workers(stage: Stage) -> None:
    for worker in WORKERS:
        stage.cluster[worker].kill()


def _start_workers(stage: Stage) -> None:
    for worker in WORKERS:
        stage.cluster[worker].launch()
    stage.cluster.wait_until_healthy()


@pytest.mark.scenario("kill -9: both triggerers in turn", "the polls continue; one result")
def test_polls_continue_after_each_triggerer_was_killed(stage: Stage) -> None:
    scene = Scene(stage, "triggerers-killed")
    name = scene.followed()
    begun = scene.trigger_logs()
    # One of the two kills takes the export from its triggerer, whichever triggerer polls at first.
    for triggerer in TRIGGERERS:
        stage.cluster[triggerer].kill()
        scene.wait_until_followed_by_the_other()
        stage.cluster.restart(triggerer)
    scene.wait_until("another triggerer to take the export over", lambda: scene.trigger_logs() > begun)
    scene.finish()
    scene.assert_one_export(name)


@pytest.mark.scenario(
    "kill -9: all workers, before they note the name, after it, while resuming, and with an end meanwhile",
    "re-attached where the name is known; resubmitted only where data cannot be duplicated",
)
def test_kill_of_all_workers_duplicates_no_data(stage: Stage, bigquery: BigQueryEmulator) -> None:
    bigquery.create_dataset("test-project", "crashes")

    def hold(scene: Scene) -> None:
        # The kill of the worker comes after the API has accepted the export and before its reply.
        scene.fault("export", hold_seconds=600.0, count=1)

    unnamed = Scene(stage, "worker-unnamed", prepare=hold)
    table = "test-project.crashes.unnamed"
    append = Scene(stage, "worker-append", "append", destination=f"bq://{table}", prepare=hold)
    named = Scene(stage, "worker-named", "on_worker")
    away = Scene(stage, "worker-away")
    held = stage.cluster.home / "held" / "worker-resuming"
    held.parent.mkdir()
    held.touch()
    resuming = Scene(stage, "worker-resuming", "held_back")
    kept, ended, resumed = named.followed(), away.followed(), resuming.followed()
    lost = [scene.wait_until("the submission", scene.accepted)[0] for scene in (unnamed, append)]
    resuming.step(resumed)
    resuming.wait_until("the worker to have resumed", held.with_suffix(".begun").exists)
    _kill_workers(stage)
    held.unlink()
    # The deferral of this export ends while no worker runs; the task resumes when the workers are back.
    away.step(ended)
    _start_workers(stage)

    append.wait_for_state("failed")
    assert append.accepted() == [lost[1]]
    assert "DicomExportDuplicateRiskError" in append.logs()
    append.step(lost[1])
    append.wait_for_remote(lost[1], "SUCCEEDED")
    assert bigquery.query("test-project", f"SELECT COUNT(*) FROM `{table}`") == [[str(INSTANCES)]]

    named.wait_for_try(2)
    if stage.keeps_task_state:
        named.finish()
        named.assert_one_export(kept)
        assert "Re-attached" in named.logs()
    else:
        named.wait_until("the second submission", lambda: len(named.accepted()) == 2)
        named.finish()
        named.assert_submitted_again(kept, "RUNNING")

    unnamed.wait_for_try(2)
    unnamed.wait_until("the second submission", lambda: len(unnamed.accepted()) == 2)
    assert unnamed.accepted()[0] == lost[0]
    unnamed.finish()
    unnamed.assert_succeeded(name=unnamed.accepted()[1])
    if stage.keeps_task_state:
        assert "Submitting again: the data cannot be duplicated" in unnamed.logs()

    away.wait_for_state("success", "failed")
    away.assert_one_export(ended)

    resuming.wait_for_try(2)
    if stage.keeps_task_state:
        resuming.wait_for_state("success", "failed")
        resuming.assert_one_export(resumed)
    else:
        resuming.finish()
        resuming.assert_submitted_again(resumed, "SUCCEEDED")


@pytest.mark.scenario(
    "kill -9: both triggerers, until the execution_timeout has passed",
    "a worker cancels the export; failed, with the operation's name",
)
def test_timeout_of_a_deferral_cancels_the_export_while_no_triggerer_runs(stage: Stage) -> None:
    scene = Scene(stage, "timed-out-unfollowed", "timed")
    name = scene.followed()
    for triggerer in TRIGGERERS:
        stage.cluster[triggerer].kill()
    try:
        scene.wait_for_state("failed")
    finally:
        for triggerer in TRIGGERERS:
            stage.cluster[triggerer].launch()
        stage.cluster.wait_until_healthy()
    assert scene.accepted() == [name]
    scene.wait_for_remote(name, "CANCELLED")
    assert f"{name} is cancelled, as the API confirms" in scene.logs()
    assert scene.result() is None


@pytest.mark.scenario("kill -9 or restart: scheduler, PostgreSQL, Redis", "the polls continue; one result")
@pytest.mark.parametrize("part", ["scheduler", "PostgreSQL", "Redis"])
def test_export_survives_the_kill_of_scheduler_database_or_broker(stage: Stage, part: str) -> None:
    cluster = stage.cluster
    scene = Scene(stage, f"{part.lower()}-killed")
    name = scene.followed()
    server = {"PostgreSQL": cluster.postgres, "Redis": cluster.redis}.get(part, cluster["scheduler"])
    server.kill()
    scene.step(name)
    server.start()
    cluster.revive()
    scene.finish()
    scene.assert_one_export(name)


@pytest.mark.scenario(
    "kill -9: the Healthcare API in mid-export", "the export continues after the restart; one result"
)
def test_export_survives_the_kill_of_the_healthcare_api(stage: Stage) -> None:
    scene = Scene(stage, "api-killed")
    name = scene.followed()
    scene.step(name, 1)
    stage.healthcare.kill()
    stage.healthcare.start()
    stage.hold_exports()
    scene.finish()
    scene.assert_one_export(name)


@pytest.mark.scenario(
    "SIGSTOP and SIGCONT of both triggerers in turn, then SIGTERM of the one that polls 20 mapped exports",
    "handed over, none cancelled: 20 exports, 20 results",
)
def test_triggerers_hand_exports_over_to_each_other(stage: Stage) -> None:
    count = 20
    scene = Scene(stage, "handed-over", "mapped", count=count)
    names = [scene.followed(index) for index in range(count)]
    # At the end of the loop the first triggerer polls all exports, whichever polled at first; then it ends.
    for triggerer in TRIGGERERS:
        stage.cluster[triggerer].signal(signal.SIGSTOP)
        scene.wait_until_followed_by_the_other()
        stage.cluster[triggerer].signal(signal.SIGCONT)
        stage.cluster.wait_until_healthy()
    stage.cluster[TRIGGERERS[0]].stop()
    scene.wait_until_followed_by_the_other()
    stage.cluster.restart(TRIGGERERS[0])
    assert sorted(scene.accepted()) == sorted(names)
    assert {scene.remote_state(name) for name in names} == {"RUNNING"}
    scene.step()
    for index, name in enumerate(names):
        scene.wait_for_state("success", "failed", map_index=index)
        scene.assert_one_export(name, index)
