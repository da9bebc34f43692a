"""One local server for all contestants: the APIs that they poll, and a token endpoint.

It runs in a process of its own (``python -m benchmarks.server``), plays one plan at a time, and counts what
the contestant costs it. The moments at which operations end are in the clock of ``time.monotonic``, which
all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = tuple[int, bytes]
Sabotage = Literal["lost", "wrong"]

PROJECT = "benchmark"
LOCATION = "us-central1"
#: The one dataset; where each export has its own, the dataset is named after the operation.
DATASET = "one"
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
INSTANCES = 1000
#: Every tenth operation ends in an error, so that events can be wrong.
FAILING = 10

_METHOD = "google.cloud.healthcare.v1.dicom.DicomService"
_METADATA = "type.googleapis.com/google.cloud.healthcare.v1.OperationMetadata"
_LOGS = "https://console.cloud.google.com/logs/query;query=resource.type%3D%22healthcare_dicom_store%22"
_CREATED = "2026-01-02T02:00:00.000000Z"
_ENDED = "2026-01-02T03:00:00.000000Z"


def fails(number: int) -> bool:
    """Tell whether an operation is planned to end in an error."""
    return number % FAILING == 0


def operation_name(number: int, dataset: str = DATASET) -> str:
    """Return the full name of an Operation of the Healthcare API."""
    return f"projects/{PROJECT}/locations/{LOCATION}/datasets/{dataset}/operations/{number}"


@dataclass
class Plan:
    """
    What the server plays for one contestant.

    :param start: the moment the contest starts.
    :param ends: the moments at which operations 1, 2, ... end.
    :param may_list: whether ``operations.list`` is permitted.
    :param older: operations of earlier days, which have long ended and are listed too.
    :param sabotage: break one operation, to see the benchmark fail.
    """

    start: float = 0.0
    ends: list[float] = field(default_factory=list)
    may_list: bool = True
    older: int = 0
    sabotage: Sabotage | None = None

    def __post_init__(self) -> None:
        if self.sabotage == "lost":
            self.ends[0] = float("inf")

    def has_ended(self, number: int) -> bool:
        """Tell whether an operation has ended."""
        return time.monotonic() >= self.ends[number - 1]

    def has_failed(self, number: int) -> bool:
        """Tell whether an operation ended in an error."""
        return fails(number) != (self.sabotage == "wrong" and number == 1)

    def done(self, number: int) -> int:
        """Return how many instances an operation has worked on."""
        length = self.ends[number - 1] - self.start
        share = (time.monotonic() - self.start) / length if length > 0 else 1.0
        return max(0, min(INSTANCES, int(share * INSTANCES)))


class Counts:
    """The requests and connections of one contestant."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.connections: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self.opened = 0

    def note(self, route: str, transport: asyncio.Transport | None) -> None:
        """Count a request, and its connection if it is new."""
        self.requests[route] += 1
        if transport is not None and transport not in self.connections:
            self.connections.add(transport)
            self.opened += 1

    def report(self) -> dict[str, Any]:
        """Return the counts as the orchestrator reads them."""
        return {
            "requests": sum(count for route, count in self.requests.items() if route != "token"),
            "tokens": self.requests["token"],
            "connections": self.opened,
            "routes": dict(self.requests),
        }


class Apis:
    """The answers of all APIs under one plan."""

    def __init__(self) -> None:
        self.plan = Plan()
        self.counts = Counts()
        handlers: dict[str, tuple[str, Callable[[web.BaseRequest, re.Match[str], bytes], Answer]]] = {
            "operations.get": (r"GET /v1/(?P<dataset>.+)/operations/(?P<number>\d+)", self._get_operation),
            "operations.list": (r"GET /v1/(?P<dataset>.+)/operations", self._list_operations),
            "export": (r"POST /v1/.+:export", self._export),
            "databricks": (r"GET /api/2\.\d/jobs/runs/get", self._databricks_run),
            "bigquery": (r"GET /bigquery/v2/projects/[^/]+/jobs/(?P<number>\d+)", self._bigquery_job),
            "cloud_sql": (r"GET /sql/v1beta4/projects/[^/]+/operations/(?P<number>\d+)", self._cloud_sql),
            "cloud_sql.export": (r"POST /sql/v1beta4/.+/export", self._cloud_sql_export),
        }
        self._handlers = [
            (route, re.compile(pattern), handle) for route, (pattern, handle) in handlers.items()
        ]

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer a request."""
        body = await request.read()
        if request.path.startswith("/_benchmark/"):
            return self._control(request.path, body)
        if request.path == "/token":
            self.counts.note("token", request.transport)
            return web.json_response({"access_token": "local", "expires_in": 3600, "token_type": "Bearer"})
        status, content = self._api(request, body)
        return web.Response(status=status, body=content, content_type="application/json")

    def _control(self, path: str, body: bytes) -> web.Response:
        if path == "/_benchmark/plan":
            self.plan, self.counts = Plan(**json.loads(body)), Counts()
        return web.json_response(self.counts.report())

    def _api(self, request: web.BaseRequest, body: bytes) -> Answer:
        line = f"{request.method} {request.path}"
        for route, pattern, handle in self._handlers:
            if match := pattern.fullmatch(line):
                self.counts.note(route, request.transport)
                if not request.headers.get("Authorization", "").startswith("Bearer "):
                    return _google_error(401, "UNAUTHENTICATED", "no token")
                return handle(request, match, body)
        return _google_error(404, "NOT_FOUND", line)

    def _get_operation(self, _request: web.BaseRequest, match: re.Match[str], _body: bytes) -> Answer:
        number = int(match["number"])
        if number > len(self.plan.ends):
            return _google_error(404, "NOT_FOUND", f"operation {number} does not exist")
        return 200, self._operation(number, f"{match['dataset']}/operations/{number}").encode()

    def _list_operations(self, request: web.BaseRequest, match: re.Match[str], _body: bytes) -> Answer:
        if not self.plan.may_list:
            return _google_error(
                403,
                "PERMISSION_DENIED",
                f"Permission 'healthcare.operations.list' denied on resource '{match['dataset']}' (or it may "
                "not exist).",
            )
        size = min(int(request.query.get("pageSize", 0)) or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        first = int(request.query.get("pageToken", 0))
        numbers = self._listed(match["dataset"])
        page = ",".join(
            self._operation(number, f"{match['dataset']}/operations/{number}")
            for number in numbers[first : first + size]
        )
        more = f',"nextPageToken":"{first + size}"' if first + size < len(numbers) else ""
        return 200, f'{{"operations":[{page}]{more}}}'.encode()

    def _listed(self, dataset: str) -> range | list[int]:
        """The operations of a dataset, the newest first; operations of earlier days have numbers below 1."""
        name = dataset.rsplit("/", 1)[1]
        if name == DATASET:
            return range(len(self.plan.ends), -self.plan.older, -1)
        return [int(name)]

    def _operation(self, number: int, name: str) -> str:
        """Return an Operation as JSON."""
        older = number < 1
        ended = older or self.plan.has_ended(number)
        done = INSTANCES if ended else self.plan.done(number)
        counts = (("success", done), ("pending", INSTANCES - done))
        counter = ",".join(f'"{key}":"{count}"' for key, count in counts if count)
        metadata = (
            f'{{"@type":"{_METADATA}","apiMethodName":"{_METHOD}.ExportDicomData","createTime":"{_CREATED}",'
            f'"logsUrl":"{_LOGS}%0Aoperation.id%3D%22{number}%22?project={PROJECT}",'
            + (f'"endTime":"{_ENDED}",' if ended else "")
            + f'"counter":{{{counter}}}}}'
        )
        if not ended:
            return f'{{"name":"{name}","metadata":{metadata}}}'
        if not older and self.plan.has_failed(number):
            result = f'"error":{{"code":13,"message":"planned error of {number}"}}'
        else:
            result = f'"response":{{"@type":"type.googleapis.com/{_METHOD}.ExportDicomDataResponse"}}'
        return f'{{"name":"{name}","metadata":{metadata},"done":true,{result}}}'

    def _export(self, _request: web.BaseRequest, _match: re.Match[str], _body: bytes) -> Answer:
        return _json({"name": operation_name(1)})

    def _databricks_run(self, request: web.BaseRequest, _match: re.Match[str], body: bytes) -> Answer:
        number = int(json.loads(body)["run_id"])
        state = {"life_cycle_state": "RUNNING", "state_message": ""}
        if self.plan.has_ended(number):
            state["life_cycle_state"] = "TERMINATED"
            state["result_state"] = "FAILED" if self.plan.has_failed(number) else "SUCCESS"
        return _json(
            {
                "job_id": 1,
                "run_id": number,
                "creator_user_name": "user@example.com",
                "number_in_job": number,
                "state": state,
                "start_time": 1767319200000,
                "setup_duration": 1000,
                "execution_duration": 0,
                "cleanup_duration": 0,
                "run_name": f"run {number}",
                "run_page_url": f"https://example.com/#job/1/run/{number}",
                "run_type": "JOB_RUN",
                "format": "MULTI_TASK",
            }
        )

    def _bigquery_job(self, _request: web.BaseRequest, match: re.Match[str], _body: bytes) -> Answer:
        number = int(match["number"])
        status: dict[str, Any] = {"state": "RUNNING"}
        if self.plan.has_ended(number):
            status["state"] = "DONE"
            if self.plan.has_failed(number):
                status["errorResult"] = {"reason": "invalid", "message": f"planned error of {number}"}
                status["errors"] = [status["errorResult"]]
        return _json(
            {
                "kind": "bigquery#job",
                "id": f"{PROJECT}:US.{number}",
                "jobReference": {"projectId": PROJECT, "jobId": str(number), "location": "US"},
                "configuration": {"jobType": "QUERY", "query": {"query": "SELECT 1", "useLegacySql": False}},
                "statistics": {"creationTime": "1767319200000", "startTime": "1767319200000"},
                "status": status,
            }
        )

    def _cloud_sql(self, _request: web.BaseRequest, match: re.Match[str], _body: bytes) -> Answer:
        number = int(match["number"])
        operation: dict[str, Any] = {
            "kind": "sql#operation",
            "name": str(number),
            "status": "RUNNING",
            "operationType": "EXPORT",
            "targetId": "instance",
            "targetProject": PROJECT,
            "user": "benchmark@example.com",
            "insertTime": _CREATED,
            "startTime": _CREATED,
        }
        if self.plan.has_ended(number):
            operation |= {"status": "DONE", "endTime": _ENDED}
            if self.plan.has_failed(number):
                operation["error"] = {"message": f"planned error of {number}"}
        return _json(operation)

    def _cloud_sql_export(self, _request: web.BaseRequest, _match: re.Match[str], _body: bytes) -> Answer:
        return _json({"kind": "sql#operation", "name": "1", "status": "PENDING"})


def _json(content: dict[str, Any]) -> Answer:
    return 200, json.dumps(content).encode()


def _google_error(status: int, name: str, message: str) -> Answer:
    return status, json.dumps({"error": {"code": status, "status": name, "message": message}}).encode()


async def serve() -> None:
    """Serve on a free port, print it, and go on until SIGTERM."""
    runner = web.ServerRunner(web.Server(Apis().answer, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
