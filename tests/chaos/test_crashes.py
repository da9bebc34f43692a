"""kill -9 of everything around an export: none of it is a reason to lose the export, or to start another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scene import Scene

from rig.cluster import TRIGGERERS, WORKERS

if TYPE_CHECKING:
    from scene import Stage


def test_a_triggerer_is_killed(stage: Stage) -> None:
    scene = Scene(stage, "triggerer-killed")
    name = scene.deferred()
    stage.cluster["triggerer-1"].kill()
    scene.finish()
    stage.cluster.restart("triggerer-1")
    scene.assert_one_export(name)


def test_a_worker_is_killed_after_persisting(stage: Stage) -> None:
    scene = Scene(stage, "worker-killed", "on_worker")
    scene.wait_for_state("running")
    scene.wait_until("the submission", scene.accepted)
    scene.wait_until("the name", lambda: scene.operation_name() != "None")
    for worker in WORKERS:
        stage.cluster[worker].kill()
    for worker in WORKERS:
        stage.cluster[worker].launch()
    stage.cluster.wait_until_healthy()
    scene.wait_for_try(2)
    scene.finish()
    scene.assert_one_export(scene.operation_name())
    assert "Re-attached" in scene.log(2)
