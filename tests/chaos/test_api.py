"""Failures of the API during an export: errors, exhausted quota, lost replies, lost Operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_dicom.longrunning.polling import MAX_CONSECUTIVE_ERRORS
from tests.support.chaos_scene import INSTANCES, Scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from rig.servers import BigQueryEmulator
    from tests.support.chaos_scene import Stage

#: The number of polls in ten minutes with the longest pause, 30 s.
TEN_MINUTES = 20
#: Faults of polls that must not fail a task.
POLLS: dict[str, dict[str, Any]] = {
    "unavailable": {"status": 503, "count": TEN_MINUTES},
    "quota": {"status": 429, "retry_after": 1, "count": 3},
    "poll-reset": {"reset": "before", "count": 3},
    "reply-lost": {"reset": "after", "count": 3},
    "html": {"body": "html", "count": 3},
    "truncated": {"body": "truncated", "count": 3},
    "empty": {"body": "empty", "count": 3},
    "token-expired": {"status": 401, "count": 1},
    "permission-back": {"status": 403, "count": 2},
}
#: Faults of the submission that must not fail a task, each with the number of accepted exports.
SUBMISSIONS: dict[str, tuple[dict[str, Any], int]] = {
    "submit-unavailable": ({"status": 503, "count": 2}, 1),
    "submit-quota": ({"status": 429, "retry_after": 1, "count": 2}, 1),
    "submit-reset-before": ({"reset": "before", "count": 1}, 1),
    "submit-reset-after": ({"reset": "after", "count": 1}, 2),
    "submit-garbage": ({"body": "html", "count": 1}, 2),
}


def _prepare_submission(fault: dict[str, Any]) -> Callable[[Scene], object]:
    return lambda scene: scene.fault("export", **fault)


@pytest.fixture(scope="module")
def scenes(stage: Stage, bigquery: BigQueryEmulator) -> dict[str, Scene]:
    """The scenes of all tests, whose DAG runs begin together."""
    bigquery.create_dataset("test-project", "chaos")
    scenes = {name: Scene(stage, name) for name in POLLS}
    for name, (fault, _) in SUBMISSIONS.items():
        scenes[name] = Scene(stage, name, prepare=_prepare_submission(fault))
    for name in ("vanished", "done-with-error", "failures-above", "cancelled-elsewhere"):
        scenes[name] = Scene(stage, name, "once")
    scenes["permission-revoked"] = Scene(stage, "permission-revoked")
    scenes["failures-below"] = Scene(stage, "failures-below", "lenient")
    scenes["append-lost"] = Scene(
        stage,
        "append-lost",
        "append",
        destination="bq://test-project.chaos.lost",
        prepare=_prepare_submission({"reset": "after", "count": 1}),
    )
    return scenes


@pytest.mark.scenario("polls fail for a while", "the same export continues to success")
@pytest.mark.parametrize("name", POLLS)
def test_export_survives_failed_polls(scenes: dict[str, Scene], name: str) -> None:
    scene = scenes[name]
    export = scene.followed()
    faults = [scene.fault(route, **POLLS[name]) for route in ("operations.get", "operations.list")]
    wanted = POLLS[name]["count"]
    scene.wait_until("the faults to have come", lambda: scene.fired(*faults) >= wanted)
    scene.remove(*faults)
    assert scene.state() in ("deferred", "running")
    scene.finish()
    scene.assert_one_export(export)


@pytest.mark.scenario(
    "the permission to poll is revoked until the attempt has failed, then granted again",
    "the next attempt re-attaches; the same export continues to success",
)
def test_next_try_reattaches_after_the_permission_to_poll_was_revoked(scenes: dict[str, Scene]) -> None:
    scene = scenes["permission-revoked"]
    export = scene.followed()
    # The third refusal ends the trigger; the worker polls once more.
    refused = scene.fault("operations.get", status=403, count=MAX_CONSECUTIVE_ERRORS + 1)
    scene.wait_for_try(2)
    assert scene.fired(refused) == MAX_CONSECUTIVE_ERRORS + 1
    assert "DicomExportPermissionError" in scene.log(1)
    assert scene.remote_state(export) == "RUNNING"
    scene.finish()
    scene.assert_one_export(export)


@pytest.mark.scenario("the submission is refused, or its reply lost", "one complete result")
@pytest.mark.parametrize("name", SUBMISSIONS)
def test_export_survives_a_refused_submission_or_a_lost_reply(scenes: dict[str, Scene], name: str) -> None:
    scene = scenes[name]
    followed = scene.followed()
    accepted = scene.accepted()
    assert len(accepted) == SUBMISSIONS[name][1], scene.logs()
    assert followed == accepted[-1]
    for export in accepted:
        scene.step(export)
    scene.finish()
    scene.assert_succeeded(name=followed)
    assert [scene.remote_state(export) for export in accepted] == ["SUCCEEDED"] * len(accepted)


@pytest.mark.scenario(
    "WRITE_APPEND: the reply to the submission is lost", "refused, also on retries; no duplicate rows"
)
def test_append_export_with_a_lost_reply_is_refused(
    scenes: dict[str, Scene], bigquery: BigQueryEmulator
) -> None:
    scene = scenes["append-lost"]
    scene.wait_for_state("failed")
    (export,) = scene.accepted()
    assert "DicomExportDuplicateRiskError" in scene.logs()
    scene.step(export)
    scene.wait_for_remote(export, "SUCCEEDED")
    assert bigquery.query("test-project", "SELECT COUNT(*) FROM chaos.lost") == [[str(INSTANCES)]]
    assert scene.result() is None


@pytest.mark.scenario("the API forgets the operation", "failed, with the operation's name")
def test_vanished_operation_fails_the_task(scenes: dict[str, Scene]) -> None:
    scene = scenes["vanished"]
    export = scene.followed()
    scene.fault("operations.get", vanish=True, count=1)
    scene.fault("operations.list", status=403)
    scene.wait_for_state("failed")
    assert scene.accepted() == [export]
    assert export in scene.log()
    assert "DicomExportNotFoundError" in scene.log()


@pytest.mark.scenario("the operation ends in an error", "failed, with the API's message")
def test_error_of_the_operation_fails_the_task(scenes: dict[str, Scene]) -> None:
    scene = scenes["done-with-error"]
    export = scene.followed()
    scene.step_into_error(export, "the disk is full")
    scene.wait_for_state("failed")
    assert "the disk is full" in scene.log()
    assert scene.accepted() == [export]


@pytest.mark.scenario("one instance fails", "failed above max_failures, PARTIAL below")
@pytest.mark.parametrize("name", ["failures-above", "failures-below"])
def test_failed_instance_counts_against_max_failures(scenes: dict[str, Scene], name: str) -> None:
    scene = scenes[name]
    export = scene.followed()
    scene.control.settings(failing_instances=[scene.uids[0].instance])
    try:
        scene.step(export)
    finally:
        scene.control.settings(failing_instances=[])
    assert scene.accepted() == [export]
    if name == "failures-above":
        scene.wait_for_state("failed")
        assert "DicomExportTooManyFailuresError" in scene.log()
        assert scene.result() is None
    else:
        scene.wait_for_state("success")
        scene.assert_succeeded(name=export, state="PARTIAL")
        assert scene.result()["failure"] == 1
    assert scene.objects() == INSTANCES - 1


@pytest.mark.scenario("another client cancels the operation", "failed with that reason; no second submission")
def test_operation_that_another_client_cancels_fails_the_task(scenes: dict[str, Scene]) -> None:
    scene = scenes["cancelled-elsewhere"]
    export = scene.followed()
    scene.cancel(export)
    scene.wait_for_state("failed")
    assert "DicomExportCancelledError" in scene.log()
    assert scene.accepted() == [export]
    assert scene.remote_state(export) == "CANCELLED"
