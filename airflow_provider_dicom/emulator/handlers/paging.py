"""Pages of lists."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, cast

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.server.discovery import JsonObject

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


def page_size(query: JsonObject) -> int:
    """Return how many items a page is to have.

    :raises ApiError: the number is negative.
    """
    size = cast("int", query.get("pageSize", 0))
    if size < 0:
        raise ApiError.invalid_argument(f"invalid page_size {size}: it must not be negative")
    return min(size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def page_token(after: str) -> str:
    """Return the token of the page after an item."""
    return base64.urlsafe_b64encode(after.encode()).decode().rstrip("=")


def position(query: JsonObject) -> str:
    """Return the item that the wanted page comes after; empty for the first page.

    :raises ApiError: the token is none of ours.
    """
    token = cast("str", query.get("pageToken", ""))
    try:
        after = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise ApiError.invalid_argument(f"invalid page_token {token!r}") from error
    if token and not after:
        raise ApiError.invalid_argument(f"invalid page_token {token!r}")
    return after
