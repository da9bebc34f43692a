"""A stand-in for the Pub/Sub emulator, which no package index has: it takes what is published."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import grpc  # type: ignore[import-untyped]
from google.pubsub_v1.types import PublishRequest, PublishResponse

if TYPE_CHECKING:
    from typing import Self


class Published(NamedTuple):
    """A message that was published."""

    topic: str
    data: bytes
    attributes: dict[str, str]


class PubsubStandIn(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The method Publish of Pub/Sub, for the topics that exist.

    :param topics: the full names of the topics.
    """

    def __init__(self, *topics: str) -> None:
        self._topics = topics
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[self])
        self.host = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self.published: list[Published] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/google.pubsub.v1.Publisher/Publish":
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._publish, PublishRequest.deserialize, PublishResponse.serialize
        )

    def _publish(self, request: PublishRequest, context: grpc.ServicerContext) -> PublishResponse:
        if request.topic not in self._topics:
            context.abort(grpc.StatusCode.NOT_FOUND, "Topic not found")
        first = len(self.published)
        for message in request.messages:
            self.published.append(Published(request.topic, message.data, dict(message.attributes)))
        return PublishResponse(message_ids=[str(n) for n in range(first, len(self.published))])

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
