"""Requests of web pages are refused."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.server.origin import check_origin


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8085", "127.0.0.1:80", "127.1.2.3", "[::1]:8085", "a.localhost"]
)
def test_requests_to_this_machine_are_accepted(host: str) -> None:
    check_origin(Headers({"host": host}))
    check_origin(Headers({"host": host, "origin": f"http://{host}"}))
    check_origin(Headers({}))


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "localhost.example.com:8085",
        "10.0.0.1",
        "0.0.0.0:8085",
        "[::]",
        "",
        "localhost@x",
        "[x",
    ],
)
def test_other_hosts_are_refused(host: str) -> None:
    with pytest.raises(ApiError, match="The header Host names another machine"):
        check_origin(Headers({"host": host}))


@pytest.mark.parametrize(
    "origin", ["https://example.com", "null", "http://localhost.evil", "file://", "http://10.0.0.1"]
)
def test_other_origins_are_refused(origin: str) -> None:
    with pytest.raises(ApiError, match="The header Origin names another machine") as caught:
        check_origin(Headers({"host": "localhost", "origin": origin}))
    assert caught.value.http_status == 403
