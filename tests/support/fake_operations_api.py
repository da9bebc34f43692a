"""The API's Operations in virtual time, behind an asynchronous hook whose ``send_once`` is the edge."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import parse_qs, unquote, urlsplit

from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook
from airflow_provider_dicom.longrunning.polling import OperationWatch
from airflow_provider_dicom.triggers._shared_poller import SharedPoller
from tests.support.recorded_log import RecordedLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

    from airflow_provider_dicom.api.methods import ApiRequest
    from airflow_provider_dicom.api_types import Operation
    from airflow_provider_dicom.triggers._followed import Followed


@dataclass(frozen=True)
class SentRequest:
    """
    A request that a hook has sent.

    :param time: the time of the event loop at which it was sent, in seconds.
    :param kind: ``get`` or ``list``.
    :param resource: the name of the Operation, or of the dataset that was listed.
    :param query: the query parameters.
    """

    time: float
    kind: str
    resource: str
    query: dict[str, str] = field(default_factory=dict)


class FakeOperationsApi:
    """
    Operations that end at planned times, and the requests about them.

    :param page_size: the number of Operations on a page of a list, whatever the request asks for.
    """

    def __init__(self, page_size: int = 1000) -> None:
        self.page_size = page_size
        #: The time from a request to its response, in seconds.
        self.latency = 0.01
        #: Decides which requests take longer, in seconds.
        self.extra_latency: Callable[[SentRequest], float] = lambda request: 0.0
        #: The end of each Operation in seconds of the event loop; infinite for a running one.
        self.ends: dict[str, float] = {}
        #: Returns the exported and the pending instances of an Operation, from the time and its end.
        self.progress: Callable[[float, float], tuple[int, int]] | None = None
        #: Operations that lists leave out.
        self.unlisted: set[str] = set()
        #: Decides which requests fail, and how.
        self.error: Callable[[SentRequest], Exception | None] = lambda request: None
        #: Called with each request when it is sent.
        self.on_request: Callable[[SentRequest], object] = lambda request: None
        self.requests: list[SentRequest] = []
        self.in_flight = 0
        self.most_in_flight = 0

    def of_kind(self, kind: str) -> list[SentRequest]:
        """Return the requests of a kind."""
        return [request for request in self.requests if request.kind == kind]

    async def respond(self, request: ApiRequest) -> object:
        """Answer a request after the latency."""
        path = unquote(urlsplit(request.target).path).removeprefix("/v1/")
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.target).query).items()}
        kind = "list" if path.endswith("/operations") else "get"
        sent = SentRequest(asyncio.get_running_loop().time(), kind, path.removesuffix("/operations"), query)
        self.requests.append(sent)
        self.on_request(sent)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency + self.extra_latency(sent))
        finally:
            self.in_flight -= 1
        if (error := self.error(sent)) is not None:
            raise error
        return self._operation(path) if kind == "get" else self._page(sent)

    def _operation(self, name: str) -> Operation:
        time, end = asyncio.get_running_loop().time(), self.ends[name]
        if time >= end:
            return {"name": name, "done": True}
        if self.progress is None:
            return {"name": name}
        success, pending = self.progress(time, end)
        return {"name": name, "metadata": {"counter": {"success": success, "pending": pending}}}

    def _page(self, sent: SentRequest) -> dict[str, object]:
        names = [
            name
            for name in self.ends
            if name.startswith(f"{sent.resource}/operations/") and name not in self.unlisted
        ]
        start = int(sent.query.get("pageToken", "0"))
        page: dict[str, object] = {
            "operations": [self._operation(name) for name in names[start : start + self.page_size]]
        }
        if start + self.page_size < len(names):
            page["nextPageToken"] = str(start + self.page_size)
        return page


class FakeHook(DicomStoreAsyncHook):
    """
    A hook that sends its requests to a fake API.

    :param api: the fake API.
    """

    def __init__(
        self,
        api: FakeOperationsApi,
        gcp_conn_id: str = "google_cloud_default",
        impersonation_chain: str | Sequence[str] | None = None,
        api_endpoint: str | None = None,
        *,
        max_connections: int = 10,
    ) -> None:
        super().__init__(gcp_conn_id, impersonation_chain, api_endpoint, max_connections=max_connections)
        self.api = api
        self.connection = (gcp_conn_id, impersonation_chain, api_endpoint)
        self.max_connections = max_connections
        #: The time that closing takes, in seconds.
        self.close_seconds = 0.0
        self.closed = 0
        #: The number of requests in flight when the hook was closed.
        self.in_flight_at_close = 0

    async def send_once(self, request: ApiRequest) -> object:
        """Send a request."""
        return await self.api.respond(request)

    async def close(self) -> None:
        """Count how often the hook is closed."""
        self.in_flight_at_close = self.api.in_flight
        await asyncio.sleep(self.close_seconds)
        self.closed += 1


class WatchOptions(TypedDict, total=False):
    """Options of the watch of an Operation."""

    poll_interval: float
    timeout: float
    on_progress: Callable[[Operation], object]


class PolledDatasets:
    """A poller and the API that it polls; must be made within an event loop."""

    def __init__(self, page_size: int = 1000) -> None:
        self.api = FakeOperationsApi(page_size)
        self.hook = FakeHook(self.api)
        self.poller = SharedPoller(self.hook)
        self.log = RecordedLog()
        self.loop = asyncio.get_running_loop()

    def follow(
        self, number: int, *, dataset: str = "d", end: float = math.inf, **options: Unpack[WatchOptions]
    ) -> Followed:
        """
        Start an Operation, and follow it; by default, its first pause is ten seconds without jitter.

        :param number: the number at the end of the Operation's name.
        :param dataset: the id of the Operation's dataset.
        :param end: the time at which the Operation ends, in seconds of the event loop.
        """
        name = f"projects/p/locations/l/datasets/{dataset}/operations/{number}"
        self.api.ends[name] = end
        timeout = options.get("timeout")
        watch = OperationWatch(
            name,
            poll_interval=options.get("poll_interval", 10.0),
            deadline=None if timeout is None else self.loop.time() + timeout,
            log=self.log,
            on_progress=options.get("on_progress"),
            now=self.loop.time,
        )
        return self.poller.follow(watch)

    def requests_about(self, dataset: str) -> list[SentRequest]:
        """Return the requests about one dataset or its Operations."""
        name = f"projects/p/locations/l/datasets/{dataset}"
        return [request for request in self.api.requests if f"{request.resource}/".startswith(f"{name}/")]

    async def until(self, time: float) -> None:
        """Let the time of the event loop pass."""
        await asyncio.sleep(time - self.loop.time())
