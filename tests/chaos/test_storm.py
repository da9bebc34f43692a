"""All failures together: 200 mapped exports, faults of the API, and kills of triggerers and workers."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from rig.cluster import TRIGGERERS, WORKERS
from rig.servers import wait_for
from tests.support.chaos_scene import Scene

if TYPE_CHECKING:
    from tests.support.chaos_scene import Stage

COUNT = int(os.environ.get("CHAOS_STORM", "200"))
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
BOUND = 900.0
#: Seconds between two kills, and the number of kills.
PAUSE, KILLS = 20.0, 6


@pytest.mark.scenario(
    f"a storm: {COUNT} mapped exports, random API faults, kill -9 of triggerers and workers",
    "one result each; one export each, except after lost replies and lost workers",
)
def test_mapped_exports_survive_a_storm_of_faults_and_kills(stage: Stage) -> None:
    print(f"CHAOS_SEED={SEED}")  # noqa: T201 - the seed repeats the storm
    chance = random.Random(SEED)
    stage.control.settings(advance="time", seconds_per_instance=8.0)

    def trouble(scene: Scene) -> None:
        for route in ("operations.get", "operations.list", "export"):
            for share, fault in (
                (0.05, {"status": 503}),
                (0.05, {"status": 429, "retry_after": 1}),
                (0.03, {"reset": "before"}),
                (0.03, {"status": 401} if route != "export" else {"status": 502}),
            ):
                scene.fault(route, share=share, seed=chance.randrange(10**6), **fault)
        for route in ("operations.get", "operations.list"):
            scene.fault(route, share=0.03, seed=chance.randrange(10**6), body="html")
        scene.fault("export", share=0.03, seed=chance.randrange(10**6), reset="after")

    scene = Scene(stage, "storm", "mapped", count=COUNT, prepare=trouble)
    try:
        _kill_now_and_then(stage, scene, chance)
        wait_for("the end of the storm", scene.run_ended, timeout=BOUND, pause=2.0)
    finally:
        stage.control.clear_faults()
        stage.hold_exports()
    tasks = [task for task in scene.tasks() if task["task_id"] == "export"]
    assert len(tasks) == COUNT
    unhappy = {task["map_index"]: task["state"] for task in tasks if task["state"] != "success"}
    assert not unhappy, scene.logs(min(unhappy))
    accepted = scene.accepted_by_index()
    assert sorted(accepted) == list(range(COUNT))
    for index, names in accepted.items():
        if len(names) == 1:
            continue
        # An export may be submitted again only if its worker never recorded the reply; the log reports it.
        log = scene.logs(index)
        repeats = log.count("Submitting again: the data cannot be duplicated")
        repeats += log.count("The export is repeatable")
        assert 1 < len(names) <= 1 + repeats, (index, names, log)
    for index, names in accepted.items():
        scene.assert_succeeded(name=names[-1], map_index=index)


def _kill_now_and_then(stage: Stage, scene: Scene, chance: random.Random) -> None:
    for _ in range(KILLS):
        time.sleep(PAUSE)
        if scene.run_ended():
            return
        victim = stage.cluster[chance.choice(TRIGGERERS + WORKERS)]
        print(f"kill -9 {victim.name}")  # noqa: T201
        victim.kill()
        victim.launch()
    stage.cluster.wait_until_healthy()
