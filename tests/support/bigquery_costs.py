"""BigQuery's REST API with one metadata table of any number of instances, and a cost for every query.

The emulator bills nothing, and cannot hold millions of rows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.support.loopback_server import JsonHandler, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Iterable

COLUMNS = {
    "StudyInstanceUID": "STRING",
    "SeriesInstanceUID": "STRING",
    "SOPInstanceUID": "STRING",
    "StorageClass": "STRING",
    "BlobStorageSize": "INTEGER",
    "LastUpdated": "TIMESTAMP",
    "Type": "STRING",
}
_INSTANCES_OF_A_STUDY = 500


class QueryServer(LoopbackServer):
    """
    A server on loopback; every query returns all instances.

    :param cost: the number of bytes that each query reads.
    :param instances: the number of instances in the table.
    """

    def __init__(self, *, cost: int = 0, instances: int = 0) -> None:
        #: The configurations of all jobs.
        self.jobs: list[dict[str, Any]] = []
        self._cost = cost
        self._instances = instances
        super().__init__(_Handler)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> bytes:
        """Return the response to a request."""
        if "/tables/" in path:
            fields = [{"name": name, "type": kind, "mode": "NULLABLE"} for name, kind in COLUMNS.items()]
            reference = {"projectId": "p", "datasetId": "d", "tableId": "t"}
            return _encoded({"tableReference": reference, "schema": {"fields": fields}})
        if method == "POST":
            self.jobs.append(body["configuration"])
            return _encoded(self._job(body["configuration"], body["jobReference"]))
        if "/queries/" in path:
            start = int(query.get("pageToken", ["0"])[0])
            count = int(query.get("maxResults", ["10000"])[0])
            return self._page(range(start, min(start + count, self._instances)))
        return _encoded(self._job(self.jobs[-1], {"projectId": "p", "jobId": path.rpartition("/")[2]}))

    def _job(self, configuration: dict[str, Any], reference: dict[str, str]) -> dict[str, Any]:
        statistics = {"totalBytesProcessed": str(self._cost), "statementType": "SELECT"}
        return {
            "kind": "bigquery#job",
            "jobReference": reference,
            "configuration": configuration,
            "status": {"state": "DONE"},
            "statistics": {"totalBytesProcessed": str(self._cost), "query": statistics},
        }

    def _page(self, numbers: range) -> bytes:
        sql = self.jobs[-1]["query"]["query"]
        names = [*list(COLUMNS)[:3], *(["frames"] if "AS frames" in sql else ["instances", "size", "priced"])]
        fields = [{"name": name, "type": "STRING" if "UID" in name else "INTEGER"} for name in names]
        more = ["1"] if len(names) == 4 else ["1", "524288", "0"]
        rows = ",".join(_rows(numbers, more))
        token = f'"pageToken":"{numbers.stop}",' if numbers.stop < self._instances else ""
        return (
            f'{{"jobComplete":true,"totalRows":"{self._instances}",{token}'
            f'"jobReference":{{"projectId":"p","jobId":"j"}},'
            f'"schema":{json.dumps({"fields": fields})},"rows":[{rows}]}}'
        ).encode()


def _rows(numbers: range, more: list[str]) -> Iterable[str]:
    rest = ",".join(f'{{"v":"{value}"}}' for value in more)
    for number in numbers:
        # Instances of a study are spread over the table, as those of a table in any order are.
        scattered = number * 7_919 % 10_000_019
        study = f"1.2.826.0.1.3680043.8.498.{scattered // _INSTANCES_OF_A_STUDY}"
        yield (f'{{"f":[{{"v":"{study}"}},{{"v":"{study}.1"}},{{"v":"{study}.1.{scattered}"}},{rest}]}}')


class _Handler(JsonHandler):
    owner: QueryServer
    protocol_version = "HTTP/1.1"

    def _respond(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.respond(200, self.owner.answer(self.command, parts.path, parse_qs(parts.query), body))

    do_GET = do_POST = _respond  # noqa: N815 - names of the base class


def _encoded(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode()
