"""Notifications of changes, through Google's client to the Pub/Sub emulator at ``PUBSUB_EMULATOR_HOST``."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from google.cloud.pubsub_v1 import PublisherClient  # type: ignore[import-untyped]

_TOPIC = re.compile(r"projects/[^/]+/topics/[^/]+")
#: The limit is short, because the other side is an emulator on the same machine.
_TIMEOUT_SECONDS = 10.0


class Message(NamedTuple):
    """A message.

    :param topic: ``projects/P/topics/T``.
    :param instance: the UID of the instance.
    :param data: the resource name of the instance.
    :param attributes: the attributes of the message.
    """

    topic: str
    instance: str
    data: str
    attributes: dict[str, str]


def check_topic(topic: str) -> None:
    """Check the name of a topic; an empty one means no notifications.

    :raises ApiError: it is not ``projects/P/topics/T``.
    """
    if topic and not _TOPIC.fullmatch(topic):
        raise ApiError.invalid_argument(
            f"Invalid Pub/Sub topic: {topic!r} is not of the form projects/{{project}}/topics/{{topic}}."
        )


class Publisher:
    """Publishes messages; the client is created for the first one, because its import takes a second."""

    def __init__(self) -> None:
        self._client: PublisherClient | None = None

    def publish(self, message: Message) -> None:
        """Publish a message, and return when the emulator has it.

        :raises ApiError: ``PUBSUB_EMULATOR_HOST`` is not set.
        """
        # Never the real service: without the variable, the client library would use Google's.
        if not os.environ.get("PUBSUB_EMULATOR_HOST"):
            raise ApiError.failed_precondition(
                "The local Healthcare API uses Pub/Sub through an emulator only: "
                "start it with PUBSUB_EMULATOR_HOST set."
            )
        from google.api_core.retry import Retry
        from google.cloud.pubsub_v1 import PublisherClient

        if self._client is None:
            self._client = PublisherClient()
        published = self._client.publish(
            message.topic,
            message.data.encode(),
            retry=Retry(timeout=_TIMEOUT_SECONDS),
            timeout=_TIMEOUT_SECONDS,
            **message.attributes,
        )
        published.result(timeout=2 * _TIMEOUT_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.stop()
            self._client = None
