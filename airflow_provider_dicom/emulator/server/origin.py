"""Keeps web pages that somebody has open away from a server that listens on loopback.

A browser lets any page send requests to this machine: across origins as ``text/plain``, or, after the page's
own host name was pointed at 127.0.0.1, as if to that host. Both name the page's host in a header.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from starlette.datastructures import Headers


def check_origin(headers: Headers) -> None:
    """Check that a request was sent to this machine, and by no web page of another.

    :raises ApiError: the header ``Host`` or ``Origin`` names another machine.
    """
    for name, value in (("Host", f"//{headers.get('host', 'localhost')}"), ("Origin", headers.get("origin"))):
        if value is not None and not _is_loopback(value):
            raise ApiError.permission_denied(
                f"The header {name} names another machine: {value.removeprefix('//')!r}. "
                "The local Healthcare API listens on loopback, and serves only this machine. "
                "To serve others, start it with --host, such as --host 0.0.0.0."
            )


def check_json(headers: Headers) -> None:
    """Check that a body is declared as JSON, which a web page cannot do across origins.

    :raises ApiError: it is declared as something else, or not at all.
    """
    kind, _, _ = headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise ApiError.invalid_argument(f"The Content-Type of the body is {kind!r}, not 'application/json'.")


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
