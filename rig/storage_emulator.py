"""``gcp_storage_emulator`` in memory, with pages in its lists of objects, as in Cloud Storage.

A program for itself: run it with ``-P``, because its neighbours have the names of packages.
"""

from __future__ import annotations

import runpy
from typing import Any

from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.storage import Storage

#: The largest number of objects on a page of Cloud Storage.
_MOST = 1000
_list_all = objects.ls


class _Caught:
    """Stands in for a response, and keeps its JSON instead of sending it."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.answer: dict[str, Any] | None = None

    def json(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "status":
            self._response.status = value
        super().__setattr__(name, value)


def list_a_page(request: Any, response: Any, storage: Any, *args: Any, **kwargs: Any) -> None:
    """Respond with a page of objects: those after the one that ``pageToken`` names."""
    caught = _Caught(response)
    _list_all(request, caught, storage, *args, **kwargs)
    if caught.answer is None:
        return
    after = request.query.get("pageToken", [""])[0]
    size = min(int(request.query.get("maxResults", [_MOST])[0]), _MOST)
    items = sorted((i for i in caught.answer["items"] if i["name"] > after), key=lambda i: str(i["name"]))
    answer = {**caught.answer, "items": items[:size]}
    if len(items) > size:
        answer["nextPageToken"] = items[size - 1]["name"]
    response.json(answer)


if __name__ == "__main__":
    # Replaced before the server's module puts the handler into its table.
    objects.ls = list_a_page
    # The emulator would write a list of all objects, which nobody reads, with every change.
    Storage._write_config_to_file = lambda _: None
    runpy.run_module("gcp_storage_emulator", run_name="__main__", alter_sys=True)
