"""Google's Pub/Sub emulator, where it is installed: no registry of packages has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rig.ports import LOOPBACK, free_port
from rig.servers import Server

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAM = Path("/usr/lib/google-cloud-sdk/platform/pubsub-emulator/bin/cloud-pubsub-emulator")


class PubSubEmulator(Server):
    """Pub/Sub (Google's ``google-cloud-cli-pubsub-emulator``, which needs Java)."""

    def __init__(self, log_dir: Path) -> None:
        port = free_port()
        super().__init__(
            "Pub Sub emulator",
            [str(PROGRAM), f"--host={LOOPBACK}", f"--port={port}"],
            port=port,
            health_path="/",
            log_dir=log_dir,
        )

    @property
    def address(self) -> str:
        """The value of ``PUBSUB_EMULATOR_HOST``."""
        return f"{LOOPBACK}:{self.port}"


def publish(topic: str, messages: Mapping[str, str]) -> None:
    """Publish notifications of a DICOM store to the emulator that the environment names.

    :param messages: what happened to each instance, by the instance's full name.
    """
    from google.cloud.pubsub_v1 import PublisherClient  # type: ignore[import-untyped]

    publisher = PublisherClient()
    for name, action in messages.items():
        publisher.publish(topic, name.encode(), action=action).result(timeout=60)
    publisher.stop()
