"""``python -m airflow_provider_dicom.emulator``: runs the local Healthcare API."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.exports.emulators import environment_mistakes
from airflow_provider_dicom.emulator.names import check_store_name
from airflow_provider_dicom.emulator.server import filling
from airflow_provider_dicom.emulator.server.app import create_app
from airflow_provider_dicom.emulator.server.connections import ConnectionProtocol
from airflow_provider_dicom.emulator.server.state import MIB, Limits, ServerState

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Connections that wait to be accepted; Uvicorn's default.
_BACKLOG = 2048
#: Seconds that requests under way have to end, after SIGTERM.
_SHUTDOWN_SECONDS = 5
#: Files that were not loaded, of which the reasons are printed.
_MAX_SKIPPED = 10
#: Seconds that Google's front ends keep idle connections open.
_KEEP_ALIVE_SECONDS = 240


def main(arguments: list[str] | None = None) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    :param arguments: the command line; None: of this process.
    """
    options = _options(arguments)
    if mistakes := environment_mistakes(os.environ):
        sys.exit("\n".join(mistakes))
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    # The data directory holds patients' data, if only made-up ones: it is for nobody else.
    os.umask(0o077)
    with ExitStack() as stack:
        stack.enter_context(suppress(KeyboardInterrupt))
        listening = stack.enter_context(_listen(options.host, options.port))
        directory = options.data or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="healthcare-"))
        )
        try:
            state = ServerState.open(directory, Limits(upload=options.max_upload_mb * MIB))
        except RuntimeError as error:
            sys.exit(str(error))
        if options.lenient:
            state.settings.widen()
        _fill(state, options)
        if options.storage_port is not None:
            stack.enter_context(_storage(options.host, options.storage_port, options.bucket))
        config = uvicorn.Config(
            create_app(state, loopback_only=_is_loopback(listening)),
            http=ConnectionProtocol,
            ws="none",
            lifespan="on",
            access_log=options.verbose,
            log_config=None,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        _announce(listening)
        if options.storage_port is not None:
            sys.stdout.write(f"Cloud Storage on {os.environ['STORAGE_EMULATOR_HOST']}\n")
            sys.stdout.flush()
        # Uvicorn raises the signal again after its shutdown. It must not kill the process then, because the
        # temporary directory still has to be removed.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        uvicorn.Server(config).run(sockets=[listening])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_dicom.emulator",
        description="A local server of the DICOM part of the Cloud Healthcare API, for tests and demos.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8085, help="port to listen on; 0: a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--data", type=Path, help="directory for all data, which survives restarts (default: a temporary one)"
    )
    parser.add_argument(
        "--max-upload-mb", type=int, default=1024, help="largest upload in MiB (default: %(default)s)"
    )
    parser.add_argument(
        "--storage-port",
        type=int,
        metavar="PORT",
        help="also start a Cloud Storage emulator on this port; 0: a free one",
    )
    parser.add_argument(
        "--bucket", action="append", default=[], metavar="NAME", help="create a bucket in it; repeatable"
    )
    parser.add_argument(
        "--store",
        action="append",
        default=[],
        type=_store_name,
        metavar="NAME",
        help="create a DICOM store, projects/P/locations/L/datasets/D/dicomStores/S, if missing; repeatable",
    )
    parser.add_argument(
        "--load",
        type=Path,
        metavar="FOLDER",
        help="store all DICOM files of a folder, and of the folders in it, in the DICOM store of --store",
    )
    parser.add_argument(
        "--lenient",
        action="store_true",
        help="be less strict than Google's API: creating a DICOM store creates its dataset, a missing "
        "dataset is a 404, searches take all attributes and wildcards",
    )
    parser.add_argument("--verbose", action="store_true", help="log every request")
    options = parser.parse_args(arguments)
    if options.bucket and options.storage_port is None:
        parser.error("--bucket needs --storage-port")
    if options.storage_port is not None and "STORAGE_EMULATOR_HOST" in os.environ:
        parser.error(
            "--storage-port starts a Cloud Storage emulator, but STORAGE_EMULATOR_HOST names another"
        )
    if options.load is not None and len(options.store) != 1:
        parser.error("--load needs one --store")
    if options.load is not None and not options.load.is_dir():
        parser.error(f"--load: {options.load} is not a folder")
    return options


def _store_name(value: str) -> str:
    try:
        return check_store_name(value)
    except ApiError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _fill(state: ServerState, options: argparse.Namespace) -> None:
    filling.create_stores(state, options.store)
    if options.load is None:
        return
    (store,) = options.store
    stored, skipped = asyncio.run(filling.load(state, store, filling.files_in(options.load)))
    sys.stderr.write(
        f"Loaded {stored} DICOM files from {options.load} into {store}; skipped {len(skipped)}\n"
    )
    for path, reason in skipped[:_MAX_SKIPPED]:
        sys.stderr.write(f"  {path}: {reason}\n")
    if len(skipped) > _MAX_SKIPPED:
        sys.stderr.write("  ...\n")


@contextmanager
def _storage(host: str, port: int, buckets: list[str]) -> Iterator[None]:
    """Run the Cloud Storage emulator, which uses the other core; it ends with this process at the latest."""
    command = [sys.executable, "-m", "airflow_provider_dicom.emulator.storage", "--end-with-stdin"]
    options = ["--host", host, "--port", str(port), *(f"--bucket={name}" for name in buckets)]
    with subprocess.Popen(  # noqa: S603 - the program is this package's own
        [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a pipe is missing")
        line = process.stdout.readline()
        if not line:
            sys.exit("the Cloud Storage emulator did not start")
        os.environ["STORAGE_EMULATOR_HOST"] = line.split()[-1]
        try:
            yield
        finally:
            process.stdin.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        sys.exit(f"cannot listen on {host}:{port}: {error}")


def _is_loopback(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def _announce(listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"Local Healthcare API on http://{shown}:{port}\n")
    sys.stdout.flush()
    if not _is_loopback(listening):
        sys.stderr.write(
            f"WARNING: listening on {host}, which other machines may reach. This server has no "
            "authentication: everybody who reaches it can read, change and export all data in it. "
            "Never put patients' data here.\n"
        )


if __name__ == "__main__":
    main()
