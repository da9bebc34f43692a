"""``python -m airflow_provider_dicom.emulator.storage``: a Cloud Storage emulator with its objects in memory.

It is ``gcp_storage_emulator`` (PyPI: gcp-storage-emulator) with two changes: lists of objects have pages, as
in Cloud Storage, and no list of all objects is written, which nobody reads, with every change.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from contextlib import suppress
from functools import partial
from http.server import HTTPServer
from typing import Any

from gcp_storage_emulator.handlers import buckets, objects
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


def main(arguments: list[str] | None = None) -> None:
    """Run the emulator until SIGTERM or Ctrl-C; the first line on stdout is its address.

    :param arguments: the command line; None: of this process.
    """
    options = _options(arguments)
    # The emulator logs every request with its body.
    logging.basicConfig(level=logging.CRITICAL)
    # Replaced before the server's module puts the handler into its table.
    objects.ls = list_a_page
    Storage._write_config_to_file = lambda _: None
    from gcp_storage_emulator.server import RequestHandler

    storage = Storage(use_memory_fs=True)
    for name in options.bucket:
        buckets.create_bucket(name, storage)
    try:
        server = HTTPServer((options.host, options.port), partial(RequestHandler, storage))
    except OSError as error:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {error}")
    if options.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    sys.stdout.write(f"Cloud Storage on http://{options.host}:{server.server_port}\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt), server:
        server.serve_forever()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_dicom.emulator.storage",
        description="A Cloud Storage emulator with its objects in memory, for tests and demos.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=9023, help="port to listen on; 0: a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--bucket", action="append", default=[], metavar="NAME", help="create a bucket; repeatable"
    )
    parser.add_argument(
        "--end-with-stdin", action="store_true", help="end as soon as standard input is closed"
    )
    return parser.parse_args(arguments)


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
