"""Every kind of trouble can be had on demand, and really happens on the wire."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests

from rig.servers import loopback_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from rig.control import Control
    from rig.servers import HealthcareEmulator


@pytest.fixture
def store_url(healthcare: HealthcareEmulator, dicom_store: str) -> str:
    return f"{healthcare.url}/v1/{dicom_store}"


def _raw(server: HealthcareEmulator, path: str) -> bytes:
    """Send a request, and return all that comes back on the wire."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize(
    ("status", "name", "message"),
    [
        (400, "INVALID_ARGUMENT", "The request was refused."),
        (401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
        (403, "PERMISSION_DENIED", "Permission 'healthcare.dicomStores.get' denied on resource"),
        (404, "NOT_FOUND", "The request was refused."),
        (408, "DEADLINE_EXCEEDED", "The request was refused."),
        (429, "RESOURCE_EXHAUSTED", "Quota exceeded"),
        (500, "INTERNAL", "Internal error encountered."),
        (502, "UNAVAILABLE", "Bad Gateway"),
        (503, "UNAVAILABLE", "The service is currently unavailable."),
        (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    ],
)
def test_status_fault_gets_googles_error_once(
    control: Control, http: requests.Session, store_url: str, status: int, name: str, message: str
) -> None:
    control.fault("stores.get", status=status, count=1)
    response = http.get(store_url)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (status, status, name)
    assert error["message"].startswith(message)
    assert ("www-authenticate" in response.headers) == (status == 401)
    assert "retry-after" not in response.headers
    assert http.get(store_url).status_code == 200


def test_status_fault_sets_message_and_retry_after(
    control: Control, http: requests.Session, store_url: str
) -> None:
    for retry_after in (7, "Wed, 21 Oct 2026 07:28:00 GMT"):
        control.fault("stores.get", status=503, count=1, retry_after=retry_after, message="later")
        response = http.get(store_url)
        assert response.headers["retry-after"] == str(retry_after)
        assert response.json()["error"]["message"] == "later"


def test_fault_affects_only_its_route(control: Control, http: requests.Session, store_url: str) -> None:
    control.fault("export", status=500)
    assert http.get(store_url).status_code == 200
    assert http.post(f"{store_url}:export", json={}).status_code == 500
    control.fault("*", status=503)
    assert http.get(store_url).status_code == 503
    assert http.post(f"{store_url}:export", json={}).status_code == 500
    assert [(f["fault"]["route"], f["fired"]) for f in control.faults()["faults"]] == [
        ("export", 2),
        ("*", 1),
    ]
    control.clear_faults()
    assert http.get(store_url).status_code == 200


def test_fault_with_a_share_is_repeatable_with_its_seed(
    control: Control, http: requests.Session, store_url: str
) -> None:
    def draw() -> list[int]:
        control.clear_faults()
        control.fault("stores.get", status=503, share=0.5, seed=4)
        return [http.get(store_url).status_code for _ in range(40)]

    statuses = draw()
    assert set(statuses) == {200, 503}
    assert draw() == statuses


def test_latency_fault_delays_the_response(control: Control, http: requests.Session, store_url: str) -> None:
    control.fault("stores.get", latency_seconds=0.3, count=1)
    started = time.monotonic()
    assert http.get(store_url).status_code == 200
    assert time.monotonic() - started >= 0.3


def test_held_response_times_out_after_the_request_was_executed(
    control: Control, http: requests.Session, store_url: str, dicom_store: str
) -> None:
    elsewhere = control.fault("stores.create", resource="datasets/elsewhere/", status=503)
    held = control.fault("stores.create", resource=dicom_store.rpartition("/")[0], hold_seconds=20.0)
    dataset, _, store = store_url.rpartition("/dicomStores/")
    with pytest.raises(requests.ReadTimeout):
        http.post(f"{dataset}/dicomStores", params={"dicomStoreId": f"{store}-held"}, json={}, timeout=0.5)
    assert http.get(f"{store_url}-held").status_code == 200
    control.remove_fault(held)
    assert [str(fault["id"]) for fault in control.faults()["faults"]] == [elsewhere]


def test_reset_fault_sends_a_tcp_reset(
    control: Control, healthcare: HealthcareEmulator, dicom_store: str
) -> None:
    control.fault("stores.get", reset="before", count=1)
    with pytest.raises(ConnectionResetError):
        _raw(healthcare, f"/v1/{dicom_store}")


def test_request_reset_before_is_not_executed(
    control: Control, http: requests.Session, store_url: str
) -> None:
    control.reset_requests()
    control.fault("stores.create", reset="before", count=1)
    dataset, _, store = store_url.rpartition("/dicomStores/")
    with pytest.raises(requests.ConnectionError):
        http.post(f"{dataset}/dicomStores", params={"dicomStoreId": f"{store}-new"}, json={})
    assert http.get(f"{store_url}-new").status_code == 404
    assert control.requests()["counts"] == {"stores.create": 1, "stores.get": 1}


def test_request_reset_after_is_executed(control: Control, http: requests.Session, store_url: str) -> None:
    control.reset_requests()
    control.fault("stores.create", reset="after", count=1)
    dataset, _, store = store_url.rpartition("/dicomStores/")
    with pytest.raises(requests.ConnectionError):
        http.post(f"{dataset}/dicomStores", params={"dicomStoreId": f"{store}-new"}, json={})
    assert http.get(f"{store_url}-new").status_code == 200
    assert [request["status"] for request in control.requests()["recent"]] == [0, 200]


def test_truncated_body_fault_sends_half_of_the_body(
    control: Control, http: requests.Session, healthcare: HealthcareEmulator, dicom_store: str
) -> None:
    path = f"/v1/{dicom_store}"
    whole = http.get(healthcare.url + path).content
    control.fault("stores.get", body="truncated", count=2)
    head, _, body = _raw(healthcare, path).partition(b"\r\n\r\n")
    assert f"content-length: {len(whole)}".encode() in head
    assert body == whole[: len(whole) // 2]
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        http.get(healthcare.url + path)


def test_html_body_fault_replaces_the_json(control: Control, http: requests.Session, store_url: str) -> None:
    control.fault("stores.get", body="html", count=1)
    response = http.get(store_url)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=UTF-8")
    assert response.text.startswith("<!DOCTYPE html>")
    control.fault("stores.get", body="html", status=502, retry_after=3, count=1)
    response = http.get(store_url)
    assert (response.status_code, response.headers["retry-after"]) == (502, "3")
    assert "Error 502" in response.text


def test_empty_body_fault_keeps_status_and_content_type(
    control: Control, http: requests.Session, store_url: str
) -> None:
    control.fault("stores.get", body="empty", count=1)
    response = http.get(store_url)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("application/json")


def test_vanished_operation_is_not_found_but_completes(
    healthcare: HealthcareEmulator,
    manual: Control,
    http: requests.Session,
    dicom_store: str,
    export: Callable[[str], str],
) -> None:
    name = export(dicom_store)
    manual.fault("operations.get", vanish=True, count=1)
    for _ in range(2):
        response = http.get(f"{healthcare.url}/v1/{name}")
        assert (response.status_code, response.json()["error"]["status"]) == (404, "NOT_FOUND")
    listed = http.get(f"{healthcare.url}/v1/{name.rsplit('/', 1)[0]}").json()
    assert name not in [operation["name"] for operation in listed.get("operations", [])]
    assert http.post(f"{healthcare.url}/v1/{name}:cancel", json={}).status_code == 404
    manual.step()
    states = {report["name"]: report["state"] for report in manual.exports()["operations"]}
    assert states[name] == "DONE"
    manual.fault("operations.get", vanish=True, count=1)
    assert http.get(f"{healthcare.url}/v1/{name}").status_code == 404


def test_requests_without_a_valid_access_token_are_refused(
    control: Control, http: requests.Session, store_url: str
) -> None:
    control.tokens(["good"])
    assert http.get(store_url).status_code == 401
    assert http.get(store_url, headers={"Authorization": "Bearer expired"}).status_code == 401
    assert http.get(store_url, headers={"Authorization": "Basic good"}).status_code == 401
    assert http.get(store_url, headers={"Authorization": "Bearer good"}).status_code == 200
    control.tokens(None)
    assert http.get(store_url, headers={"Authorization": "Bearer any"}).status_code == 200
    assert http.get(store_url).status_code == 200


def test_request_log_counts_requests_and_connections(
    control: Control, healthcare: HealthcareEmulator, dicom_store: str
) -> None:
    # An answered request has been counted, so nothing needs to be waited for.
    control.reset_requests()
    agent: dict[str, Any] = {"User-Agent": "tests/1", "Authorization": "Bearer t"}
    for _ in range(2):
        with loopback_session() as session:
            session.get(f"{healthcare.url}/v1/{dicom_store}", params={"key": "k"}, headers=agent)
            session.get(f"{healthcare.url}/v1/{dicom_store}:getDICOMStoreMetrics")
    seen = control.requests()
    assert seen["counts"] == {"stores.get": 2, "metrics": 2}
    assert seen["connections"] == 2
    assert seen["recent"][0] == {
        "route": "stores.get",
        "method": "GET",
        "path": f"/v1/{dicom_store}",
        "query": "key=k",
        "status": 200,
        "authorization": "bearer",
        "user_agent": "tests/1",
    }
    assert seen["recent"][1]["authorization"] == "none"
    control.reset_requests()
    assert control.requests() == {"counts": {}, "connections": 0, "recent": []}
