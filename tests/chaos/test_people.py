"""What users do to a task: mark it failed or succeeded, clear it, fail the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scene import Scene

if TYPE_CHECKING:
    from scene import Stage


@pytest.fixture(scope="module")
def scenes(stage: Stage) -> dict[str, Scene]:
    """All runs, begun at once."""
    return {name: Scene(stage, name) for name in ("failed", "cleared")}


def test_marked_failed(scenes: dict[str, Scene]) -> None:
    scene = scenes["failed"]
    name = scene.deferred()
    scene.set_state("failed")
    scene.wait_for_remote(name, "CANCELLED")
    assert scene.state() == "failed"
    assert scene.accepted() == [name]
    assert scene.objects() == 0


def test_cleared(scenes: dict[str, Scene]) -> None:
    scene = scenes["cleared"]
    first = scene.deferred()
    scene.clear()
    scene.wait_for_try(2)

    # The new try and the kill of the old one race: either the new try takes the running export over, or
    # that one is cancelled and a second one submitted. In both cases, one export runs and is followed.
    def ended() -> bool:
        scene.step(scene.operation_name())
        return scene.state() in ("success", "failed")

    scene.wait_until("the end", ended)
    name, *more = scene.accepted()
    assert name == first
    followed = more[0] if more else first
    assert [scene.remote_state(each) for each in (first, *more)] == ["CANCELLED"] * len(more) + ["SUCCEEDED"]
    scene.assert_succeeded(name=followed)
