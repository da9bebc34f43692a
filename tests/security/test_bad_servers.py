"""A bad server costs a request, never the process: answers have bounds, and garbage is garbage."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from google.auth.credentials import AnonymousCredentials

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.api.endpoint import Endpoint
from airflow_provider_dicom.api.methods import MIB
from airflow_provider_dicom.api.transport import Access
from airflow_provider_dicom.api.transport_sync import SyncTransport
from airflow_provider_dicom.hooks.dicom_store import DicomStoreAsyncHook
from tests.support.raw_server import PATIENCE, Connection, RawServer, answer, responder
from tests.support.wire import DATASET, KINDS, LIST, POLL, SEARCH, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_dicom.api.methods import ApiRequest

IMPATIENT = replace(POLL, max_seconds=0.3)
GOOD = b'{"name": "projects/p/locations/l/datasets/d/operations/77"}'


def silent(connection: Connection) -> None:
    connection.read_head()
    connection.stay_silent()


def dripping_headers(connection: Connection) -> None:
    connection.read_head()
    connection.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 300)


def dripping_body(connection: Connection) -> None:
    connection.read_head()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n")
    connection.drip(b" " * 300)


def dripping_chunks(connection: Connection) -> None:
    connection.read_head()
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.drip(b"1\r\n \r\n" * 60)


def dripping_body_without_a_length(connection: Connection) -> None:
    connection.read_head()
    connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + GOOD)
    connection.drip(b" " * 300)


SLOW = [silent, dripping_headers, dripping_body, dripping_chunks, dripping_body_without_a_length]


@pytest.mark.parametrize("serve", SLOW, ids=lambda serve: serve.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_answer_that_does_not_end_is_given_up(kind: str, serve: Callable[[Connection], None]) -> None:
    with RawServer(serve) as server:
        begun = time.monotonic()
        with pytest.raises(exceptions.DicomExportUnavailableError) as error:
            send(kind, IMPATIENT, server.url)
        assert time.monotonic() - begun < PATIENCE / 2
    assert not error.value.safe_to_resend, "the server has got the request"
    assert "no response" in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_tls_handshake_that_does_not_end_is_given_up(kind: str) -> None:
    with RawServer(Connection.stay_silent) as server:
        begun = time.monotonic()
        with pytest.raises(exceptions.DicomExportUnavailableError):
            send(kind, IMPATIENT, f"https://{server.address}")
        assert time.monotonic() - begun < PATIENCE / 2


def test_worker_knows_that_a_request_was_not_sent_before_the_tls_handshake() -> None:
    with (
        RawServer(Connection.stay_silent) as server,
        pytest.raises(exceptions.DicomExportUnavailableError) as error,
    ):
        send("sync", IMPATIENT, f"https://{server.address}")
    assert error.value.safe_to_resend


@pytest.mark.parametrize("kind", KINDS)
def test_request_whose_connection_breaks_is_not_safe_to_resend(kind: str) -> None:
    with (
        RawServer(lambda connection: connection.read_head()) as server,
        pytest.raises(exceptions.DicomExportUnavailableError) as error,
    ):
        send(kind, POLL, server.url)
    assert not error.value.safe_to_resend


def test_kept_connection_that_breaks_is_not_safe_to_resend() -> None:
    def serve(connection: Connection) -> None:
        connection.read_head()
        connection.send(answer(GOOD))
        connection.read_head()

    with RawServer(serve) as server:
        access = Access.in_environment(Endpoint(server.url), AnonymousCredentials(), None)
        with closing(SyncTransport(access)) as transport:
            transport.send(POLL, 0)
            with pytest.raises(exceptions.DicomExportUnavailableError) as error:
                transport.send(POLL, 0)
    assert not error.value.safe_to_resend
    assert server.connections == 1


@pytest.mark.parametrize("kind", KINDS)
def test_small_gzip_of_a_gigabyte_takes_little_memory(kind: str) -> None:
    member = gzip.compress(bytes(64 * MIB), 9)
    with RawServer(responder(answer(member * 16, "Content-Encoding: gzip"))) as server:
        tracemalloc.start()
        try:
            with pytest.raises(exceptions.DicomExportUnavailableError, match="more than 33,554,432 bytes"):
                send(kind, POLL, server.url)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 150 * MIB


@pytest.mark.parametrize("kind", KINDS)
def test_endless_body_is_given_up_at_its_bound(kind: str) -> None:
    def serve(connection: Connection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            connection.send(b" " * 65536)

    with (
        RawServer(serve) as server,
        pytest.raises(exceptions.DicomExportUnavailableError, match="more than 1,048,576 bytes"),
    ):
        send(kind, replace(POLL, max_bytes=MIB), server.url)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body",
    [gzip.compress(GOOD), gzip.compress(GOOD[:9]) + gzip.compress(GOOD[9:])],
    ids=["one member", "two members"],
)
def test_compressed_answer_is_read(kind: str, body: bytes) -> None:
    with RawServer(responder(answer(body, "Content-Encoding: gzip"))) as server:
        assert send(kind, POLL, server.url) == json.loads(GOOD)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("body", "coding"),
    [(GOOD, "gzip"), (gzip.compress(GOOD)[:-9], "gzip"), (GOOD, "br"), (GOOD, "gzip, gzip")],
    ids=["no gzip", "cut", "not asked for", "twice"],
)
def test_answer_that_cannot_be_decoded_is_garbage(kind: str, body: bytes, coding: str) -> None:
    with (
        RawServer(responder(answer(body, f"Content-Encoding: {coding}"))) as server,
        pytest.raises(exceptions.DicomExportUnavailableError, match="is not the expected JSON"),
    ):
        send(kind, POLL, server.url)


DEEP = b"[" * 100_000 + b"]" * 100_000
GARBAGE: list[tuple[ApiRequest, bytes]] = [
    (POLL, DEEP),
    (POLL, b'{"name": "x", "response": %s}' % (b'{"a":' * 100 + b"1" + b"}" * 100)),
    (POLL, b'{"name": "x", "metadata": {"counter": {"success": 1e999}}}'),
    (POLL, b'{"name": "x", "metadata": {"counter": {"success": Infinity}}}'),
    (POLL, b'{"name": "x", "metadata": {"counter": {"success": NaN}}}'),
    (POLL, b'{"name": "x", "metadata": {"counter": {"success": %s}}}' % (b"9" * 10_000)),
    (POLL, b'{"name": "x", "metadata": {"counter": [1]}}'),
    (POLL, b'{"name": "x", "metadata": {"logsUrl": 7}}'),
    (POLL, b'{"name": "x", "metadata": "soon"}'),
    (POLL, b'{"name": "x", "error": "x", "done": true}'),
    (POLL, b'{"name": "x", "error": {"code": "5"}, "done": true}'),
    (POLL, b'{"name": "x", "error": {"code": 5, "message": ["a"]}, "done": true}'),
    (POLL, b'{"name": "x", "error": null, "done": true}'),
    (POLL, b'{"name": "x", "done": "yes"}'),
    (POLL, b'{"done": true, "response": {}}'),
    (POLL, b'{"name": "", "done": true, "response": {}}'),
    (POLL, b'{"name": 7}'),
    (LIST, b'{"operations": %s}' % DEEP),
    (LIST, b'{"operations": [1]}'),
    (LIST, b'{"operations": null}'),
    (LIST, b'{"operations": {"a": 1}}'),
    (LIST, b'{"operations": [{"done": true}]}'),
    (LIST, b'{"operations": [{"name": "x", "error": "x"}]}'),
    (LIST, b'{"operations": [], "nextPageToken": ["a"]}'),
    (SEARCH, b"[1]"),
    (SEARCH, b'[{"0020000D": "1.2"}]'),
    (SEARCH, b'{"0020000D": {}}'),
    (SEARCH, DEEP),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("request_", "body"), GARBAGE, ids=[f"{request.action[:6]}-{body[:60]!r}" for request, body in GARBAGE]
)
def test_garbage_is_an_unavailable_api_however_it_was_made(
    kind: str, request_: ApiRequest, body: bytes
) -> None:
    with RawServer(responder(answer(body))) as server, pytest.raises(exceptions.DicomExportError) as error:
        send(kind, request_, server.url)
    assert type(error.value) is exceptions.DicomExportUnavailableError
    assert "is not the expected JSON" in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [DEEP, b'{"error": %s}' % DEEP, b'{"error": {"message": [1e999]}}'])
def test_garbage_in_an_error_is_an_error_of_its_status(kind: str, body: bytes) -> None:
    with (
        RawServer(responder(answer(body, status="503 Nope"))) as server,
        pytest.raises(exceptions.DicomExportUnavailableError, match="503"),
    ):
        send(kind, POLL, server.url)


HOSTILE = "ok\r\n[2026-01-01] INFO - Task succeeded\x1b[2J\u202e\u2028" + "A" * 2_000_000


def is_one_short_line(text: str) -> bool:
    return text.isprintable() and len(text) <= 3000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [json.dumps({"error": {"message": HOSTILE}}).encode(), HOSTILE.encode()])
def test_message_of_an_error_is_one_printable_line(kind: str, body: bytes) -> None:
    with (
        RawServer(responder(answer(body, status="403 Forbidden"))) as server,
        pytest.raises(exceptions.DicomExportError) as error,
    ):
        send(kind, POLL, server.url)
    assert is_one_short_line(str(error.value))


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_a_good_answer_are_printable_lines(kind: str) -> None:
    operation = {
        "name": "x",
        "done": True,
        "error": {"code": 3, "message": HOSTILE, "details": [{"a\nb": HOSTILE}]},
        "metadata": {"logsUrl": HOSTILE, "unknown": {HOSTILE: [HOSTILE]}},
    }
    token = "t" * 5000
    with RawServer(
        responder(answer(json.dumps({"operations": [operation], "nextPageToken": token}).encode()))
    ) as server:
        page = send(kind, LIST, server.url)
    assert isinstance(page, dict)
    assert page["nextPageToken"] == token, "it must come back to the API as it was"

    def lines(value: object) -> list[str]:
        if isinstance(value, dict):
            return [line for pair in value.items() for one in pair for line in lines(one)]
        if isinstance(value, list):
            return [line for one in value for line in lines(one)]
        return [value] if isinstance(value, str) else []

    texts = lines(page["operations"])
    assert len(texts) > 10
    assert all(text.isprintable() and len(text) <= 2000 for text in texts)


@pytest.mark.parametrize("tokens", [["a", "a"], ["a", "b", "a"]])
async def test_list_whose_pages_lead_back_ends_with_an_error(
    tokens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = iter([*tokens, *tokens * 20])

    def serve(connection: Connection) -> None:
        while connection.read_head():
            token = next(pages, "")
            connection.send(answer(json.dumps({"operations": [], "nextPageToken": token}).encode()))

    with RawServer(serve) as server:
        access = Access.in_environment(Endpoint(server.url), AnonymousCredentials(), None)
        with (
            closing(SyncTransport(access)) as transport,
            pytest.raises(exceptions.DicomExportUnavailableError, match="does not end"),
        ):
            list(transport.pages(LIST, "operations", 0))
        pages = iter([*tokens, *tokens * 20])
        monkeypatch.setenv("HEALTHCARE_EMULATOR_HOST", server.address)
        monkeypatch.setenv("AIRFLOW_CONN_BAD_SERVER", "google-cloud-platform://")
        async with DicomStoreAsyncHook("bad_server") as hook:
            with pytest.raises(exceptions.DicomExportUnavailableError, match="does not end"):
                [operation async for operation in hook.list_operations(DATASET)]
