"""How a hook reads Cloud Logging: with the connection's token, within bounds, and nowhere else."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from google.cloud.logging_v2 import logger as google_logger

from airflow_provider_dicom import exceptions
from airflow_provider_dicom.hooks import _cloud_logging as module
from airflow_provider_dicom.hooks.dicom_store import DicomStoreHook
from airflow_provider_dicom.longrunning import failures as failures_module
from tests.support.raw_server import Connection, RawServer, answer, responder

if TYPE_CHECKING:
    from tests.support.token_server import TokenServer

PATH = "/studies/1.2/series/3.4/instances/5.6"
OPERATION: Any = {
    "name": "projects/p/locations/l/datasets/d/operations/7",
    "done": True,
    "metadata": {"counter": {"success": "3", "failure": "1"}},
}


def entry(number: int) -> dict[str, Any]:
    return {
        "logName": f"projects/p/logs/log-{number}",
        "insertId": str(number),
        "jsonPayload": {"resourceName": f"{PATH}.{number}", "error": {"code": 3, "message": "no"}},
    }


PAGE = answer(json.dumps({"entries": [entry(1)]}).encode())


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read again at once."""
    monkeypatch.setattr(failures_module, "PAUSE_INITIAL", 0.01)


class Heads:
    """A server's function that keeps the heads of requests, and answers each in its own way."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = [*answers]
        self.heads: list[str] = []

    def __call__(self, connection: Connection) -> None:
        """Answer all requests of a connection; the last answer is repeated."""
        while head := connection.read_head():
            self.heads.append(head.decode())
            connection.send(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])


def list_failures(conn_id: str, url: str, **options: Any) -> Any:
    with DicomStoreHook(conn_id, api_endpoint=url) as hook:
        return hook.list_failures(OPERATION, **options)


def test_request_carries_the_token_of_the_connection(keyfile: str, token_server: TokenServer) -> None:
    serve = Heads(PAGE)
    with RawServer(serve) as server:
        assert list_failures(keyfile, server.url)["known"] == 1
    (head,) = serve.heads
    assert head.startswith("POST /v2/entries:list?")
    assert f"bearer {token_server.tokens[-1]}" in head.lower()


def test_anonymous_request_carries_no_token(anonymous: str) -> None:
    serve = Heads(PAGE)
    with RawServer(serve) as server:
        assert list_failures(anonymous, server.url)["known"] == 1
    assert "authorization" not in serve.heads[0].lower()


def test_token_that_is_not_accepted_is_replaced_once(keyfile: str, token_server: TokenServer) -> None:
    refusal = answer(b'{"error": {"code": 401, "status": "UNAUTHENTICATED"}}', status="401 Unauthorized")
    serve = Heads(refusal, PAGE)
    with RawServer(serve) as server:
        assert list_failures(keyfile, server.url)["known"] == 1
    sent = zip(token_server.tokens, serve.heads, strict=True)
    assert [f"bearer {token}" in head.lower() for token, head in sent] == [True, True]
    with RawServer(responder(refusal)) as server, pytest.raises(exceptions.DicomExportAuthenticationError):
        list_failures(keyfile, server.url)


def test_redirect_is_not_followed(keyfile: str) -> None:
    with RawServer(responder(PAGE)) as other:
        redirect = answer(b"", f"Location: {other.url}/v2/entries:list", status="307 Temporary Redirect")
        with RawServer(responder(redirect)) as server, pytest.raises(exceptions.DicomExportError):
            list_failures(keyfile, server.url)
        assert other.connections == 0


@pytest.mark.parametrize("behaviour", ["silent", "dripping"])
def test_server_that_does_not_come_to_an_end_is_given_up(
    behaviour: str, anonymous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(connection: Connection) -> None:
        connection.read_head()
        connection.stay_silent() if behaviour == "silent" else connection.drip(PAGE * 100)

    monkeypatch.setattr(module, "_READ_SECONDS", 1.0)
    monkeypatch.setattr(failures_module, "MAX_CONSECUTIVE_ERRORS", 1)
    started = time.monotonic()
    with RawServer(serve) as server, pytest.raises(exceptions.DicomExportUnavailableError):
        list_failures(anonymous, server.url)
    assert time.monotonic() - started < 15


def test_answer_beyond_the_bound_is_given_up(anonymous: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE_BYTES", 50)
    monkeypatch.setattr(failures_module, "MAX_CONSECUTIVE_ERRORS", 1)
    with RawServer(responder(PAGE)) as server, pytest.raises(exceptions.DicomExportUnavailableError):
        list_failures(anonymous, server.url)


def test_nobody_is_asked_where_the_reader_itself_runs(
    anonymous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("Google's client asks the metadata server for its own resource")

    monkeypatch.setattr(google_logger, "detect_resource", asked)
    with RawServer(responder(PAGE)) as server:
        assert list_failures(anonymous, server.url)["known"] == 1


def test_pages_are_read_up_to_the_number_of_instances_that_are_looked_at(
    anonymous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures_module, "MAX_INSTANCES", 2)
    pages = [
        answer(json.dumps({"entries": [entry(number)], "nextPageToken": str(number)}).encode())
        for number in range(9)
    ]
    serve = Heads(*pages)
    with RawServer(serve) as server:
        assert list_failures(anonymous, server.url)["known"] == 2
    assert len(serve.heads) == 2


@pytest.mark.parametrize("status", [403, 429, 500])
def test_refusal_is_an_error_of_this_provider(status: int, anonymous: str) -> None:
    kinds = {
        403: exceptions.DicomExportPermissionError,
        429: exceptions.DicomExportQuotaExhaustedError,
        500: exceptions.DicomExportUnavailableError,
    }
    body = json.dumps({"error": {"code": status, "message": "no"}}).encode()
    refusal = responder(answer(body, status=f"{status} No"))
    with RawServer(refusal) as server, pytest.raises(kinds[status]) as error:
        list_failures(anonymous, server.url)
    assert "Could not read the log entries of the project p" in str(error.value)
