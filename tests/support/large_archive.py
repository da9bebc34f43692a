"""Cloud Storage and BigQuery for a selection of millions of instances, which the emulators cannot hold.

BigQuery is that of ``bigquery_costs``. Cloud Storage takes uploads, remembers their checksums and drops their
content.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

from rig.ports import LOOPBACK

if TYPE_CHECKING:
    from typing import Self

_OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/(.+)")


class CountingStorage:
    """A server on loopback that counts the bytes and the lines of uploaded objects."""

    def __init__(self) -> None:
        #: The number of lines of each object.
        self.lines: dict[str, int] = {}
        self._checksums: dict[str, list[str]] = {}
        self._uploads: dict[str, Any] = {}
        handler = type("Handler", (_StorageHandler,), {"storage": self})
        self._server = ThreadingHTTPServer((LOOPBACK, 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def begin(self, name: str) -> str:
        """Begin a resumable upload, and return its id."""
        self._uploads[name] = hashlib.md5(usedforsecurity=False), google_crc32c.Checksum()
        self.lines[name] = 0
        return name

    def receive(self, name: str, chunk: bytes) -> None:
        """Take a chunk of an object."""
        for checksum in self._uploads[name]:
            checksum.update(chunk)
        self.lines[name] += chunk.count(b"\n")

    def finish(self, name: str) -> None:
        """End an upload."""
        self._checksums[name] = [base64.b64encode(one.digest()).decode() for one in self._uploads.pop(name)]

    def describe(self, name: str) -> dict[str, str] | None:
        """Return an object's metadata; None if there is no such object."""
        if name not in self._checksums:
            return None
        md5, crc32c = self._checksums[name]
        return {"name": name, "bucket": "archive", "md5Hash": md5, "crc32c": crc32c}


class _StorageHandler(BaseHTTPRequestHandler):
    storage: CountingStorage
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if query["uploadType"] == ["resumable"]:
            name = self.storage.begin(json.loads(body)["name"])
            location = f"http://{self.headers['Host']}/resume?name={name}"
            return self._respond(200, b"{}", Location=location)
        # One part with the metadata, and one with the content.
        boundary = b"--" + body.split(b"\r\n", 1)[0].removeprefix(b"--")
        _, metadata, content, _ = body.split(boundary)
        name = self.storage.begin(json.loads(metadata.split(b"\r\n\r\n", 1)[1])["name"])
        self.storage.receive(name, content.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n"))
        self.storage.finish(name)
        return self._respond(200, json.dumps(self.storage.describe(name)).encode())

    def do_PUT(self) -> None:
        (name,) = parse_qs(urlsplit(self.path).query)["name"]
        left = int(self.headers["Content-Length"])
        while left:
            chunk = self.rfile.read(min(left, 1024 * 1024))
            self.storage.receive(name, chunk)
            left -= len(chunk)
        _, last, total = re.split(r"[-/]", self.headers["Content-Range"])
        if int(last) + 1 != int(total if total != "*" else -1):
            return self._respond(308, b"", Range=f"bytes=0-{last}")
        self.storage.finish(name)
        return self._respond(200, json.dumps(self.storage.describe(name)).encode())

    def do_GET(self) -> None:
        match = _OBJECT.fullmatch(urlsplit(self.path).path)
        found = self.storage.describe(unquote(match[2])) if match else None
        if found is None:
            return self._respond(404, b'{"error": {"code": 404, "message": "not found"}}')
        return self._respond(200, json.dumps(found).encode())

    def _respond(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class TableReader:
    """Reads the same rows as a check, and does nothing with them.

    :param table: ``project.dataset.table``.
    """

    def __init__(self, *, task_id: str, table: str) -> None:
        self._table = table

    def execute(self, context: Any) -> int:
        """Return the number of rows."""
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook

        with BigQueryHook(use_legacy_sql=False).get_client("test-project") as client:
            rows = client.query(f"SELECT 1 AS frames FROM `{self._table}`").result(page_size=5_000)
            return sum(1 for _ in rows)
