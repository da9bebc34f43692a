"""Cloud Storage and BigQuery for a selection of millions of instances, which the emulators cannot hold.

BigQuery is that of ``bigquery_costs``. Cloud Storage takes uploads, remembers their checksums and drops their
content.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

from tests.support.loopback_server import JsonHandler, LoopbackServer

_OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/(.+)")


class CountingStorage(LoopbackServer):
    """A server on loopback that counts the bytes and the lines of uploaded objects."""

    def __init__(self) -> None:
        #: The number of lines of each object.
        self.lines: dict[str, int] = {}
        self._checksums: dict[str, list[str]] = {}
        self._uploads: dict[str, Any] = {}
        super().__init__(_StorageHandler)

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


class _StorageHandler(JsonHandler):
    owner: CountingStorage
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802 - the name of the base class
        query = parse_qs(urlsplit(self.path).query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if query["uploadType"] == ["resumable"]:
            name = self.owner.begin(json.loads(body)["name"])
            location = f"http://{self.headers['Host']}/resume?name={name}"
            return self.respond(200, b"{}", Location=location)
        # One part with the metadata, and one with the content.
        boundary = b"--" + body.split(b"\r\n", 1)[0].removeprefix(b"--")
        _, metadata, content, _ = body.split(boundary)
        name = self.owner.begin(json.loads(metadata.split(b"\r\n\r\n", 1)[1])["name"])
        self.owner.receive(name, content.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n"))
        self.owner.finish(name)
        return self.respond(200, json.dumps(self.owner.describe(name)).encode())

    def do_PUT(self) -> None:  # noqa: N802 - the name of the base class
        (name,) = parse_qs(urlsplit(self.path).query)["name"]
        left = int(self.headers["Content-Length"])
        while left:
            chunk = self.rfile.read(min(left, 1024 * 1024))
            self.owner.receive(name, chunk)
            left -= len(chunk)
        _, last, total = re.split(r"[-/]", self.headers["Content-Range"])
        if int(last) + 1 != int(total if total != "*" else -1):
            return self.respond(308, b"", Range=f"bytes=0-{last}")
        self.owner.finish(name)
        return self.respond(200, json.dumps(self.owner.describe(name)).encode())

    def do_GET(self) -> None:  # noqa: N802 - the name of the base class
        match = _OBJECT.fullmatch(urlsplit(self.path).path)
        found = self.owner.describe(unquote(match[2])) if match else None
        if found is None:
            return self.respond(404, b'{"error": {"code": 404, "message": "not found"}}')
        return self.respond(200, json.dumps(found).encode())


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
