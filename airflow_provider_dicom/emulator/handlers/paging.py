"""Pages of the API's lists: ``pageSize``, ``pageToken`` and ``nextPageToken``."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, cast

from airflow_provider_dicom.emulator.errors import ApiError

if TYPE_CHECKING:
    from airflow_provider_dicom.emulator.messages import JsonObject

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


def page_size(query: JsonObject) -> int:
    """Return the maximum number of items on a page.

    :raises ApiError: ``pageSize`` is negative.
    """
    size = cast("int", query.get("pageSize", 0))
    if size < 0:
        raise ApiError.invalid_argument(f"invalid page_size {size}: it must not be negative")
    return min(size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def page_token(last: str) -> str:
    """Return the token of the next page.

    :param last: the name or id of the last item on this page.
    """
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def previous_item(query: JsonObject) -> str:
    """Return the name or id of the last item on the previous page; empty for the first page.

    :raises ApiError: ``pageToken`` is not a token of this server.
    """
    token = cast("str", query.get("pageToken", ""))
    try:
        previous = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise ApiError.invalid_argument(f"invalid page_token {token!r}") from error
    if token and not previous:
        raise ApiError.invalid_argument(f"invalid page_token {token!r}")
    return previous


def page(field: str, found: list[JsonObject], size: int) -> JsonObject:
    """Return a page of resources in the form of the API's responses.

    :param field: the field of the list, such as ``dicomStores``.
    :param found: up to one resource more than fits on the page, which shows that there is a next page.
    :param size: the maximum number of items on the page.
    """
    body: JsonObject = {}
    if found:
        body[field] = list(found[:size])
    if len(found) > size:
        body["nextPageToken"] = page_token(str(found[size - 1]["name"]))
    return body
