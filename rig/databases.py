"""PostgreSQL and Redis for one cluster: each in a folder and on a port that no other program uses."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from rig.ports import LOOPBACK, free_port
from rig.servers import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    import requests

_DEBIAN = "/usr/lib/postgresql"
_USER = "postgres"


class PostgreSQL(Server):
    """PostgreSQL with one database, ``airflow``; as root it runs as the user ``postgres``.

    :param folder: folder of the data; the first start creates it.
    """

    def __init__(self, folder: Path, log_dir: Path) -> None:
        port = free_port()
        self._data = folder
        # The machine keeps running: the page cache holds the writes of a killed process.
        settings = ("fsync=off", "max_connections=200", f"listen_addresses={LOOPBACK}", "shared_buffers=64MB")
        options = [option for setting in settings for option in ("-c", setting)]
        program = ["postgres", "-D", str(folder), "-p", str(port), "-k", str(folder), *options]
        super().__init__(
            "PostgreSQL", _as_owner(program), port=port, health_path="", log_dir=log_dir, start_timeout=60.0
        )

    @property
    def address(self) -> str:
        """User, host, port and database, as in a URL."""
        return f"{_USER}@{LOOPBACK}:{self.port}/airflow"

    def launch(self) -> None:
        """Start PostgreSQL without waiting for it; the first start creates its files."""
        self._data.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            # At each start: every run of pytest revokes access to the folder that all runs share.
            _let_through(self._data)
        if not (self._data / "PG_VERSION").exists():
            if os.geteuid() == 0:
                shutil.chown(self._data, _USER)
            made = [
                "initdb",
                "--pgdata",
                str(self._data),
                "--username",
                _USER,
                "--auth",
                "trust",
                "--no-sync",
            ]
            subprocess.run(_as_owner(made), check=True, capture_output=True, cwd="/")
        super().launch()

    def create_database(self) -> None:
        """Create the database."""
        made = ["createdb", "--host", LOOPBACK, "--port", str(self.port), "--username", _USER, "airflow"]
        subprocess.run(_as_owner(made), check=True, capture_output=True, cwd="/")

    def ask(self, sql: str) -> str:
        """Return the single value of a query's result."""
        options = ["--no-align", "--tuples-only", "--dbname", f"postgresql://{self.address}"]
        asked = [_program("psql"), *options, "--command", sql]
        return subprocess.run(asked, check=True, capture_output=True, text=True, cwd="/").stdout.strip()

    def processes(self) -> list[psutil.Process]:
        """Return the server and its living children; each child is in a session of its own."""
        found = super().processes()
        for process in list(found):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += process.children(recursive=True)
        return found

    def terminate(self) -> None:
        """Send SIGINT, the fast shutdown: the smart shutdown, SIGTERM, waits until all clients have left."""
        for process in super().processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGINT)

    def _healthy(self, session: requests.Session) -> bool:
        asked = ["pg_isready", "--quiet", "--host", LOOPBACK, "--port", str(self.port)]
        return subprocess.run(_as_owner(asked), check=False, cwd="/").returncode == 0


class Redis(Server):
    """Redis, which keeps its data over a restart (append-only file).

    :param folder: folder of the append-only file.
    """

    def __init__(self, folder: Path, log_dir: Path) -> None:
        port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--bind", LOOPBACK, "--port", str(port), "--dir", str(folder), "--save", ""]
        super().__init__(
            "Redis",
            ["redis-server", *options, "--appendonly", "yes", "--appendfsync", "always"],
            port=port,
            health_path="",
            log_dir=log_dir,
        )

    @property
    def address(self) -> str:
        """Its URL."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def _healthy(self, session: requests.Session) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _as_owner(command: Sequence[str]) -> list[str]:
    program = [_program(command[0]), *command[1:]]
    if os.geteuid() != 0:
        return program
    owner = pwd.getpwnam(_USER)
    return [
        "setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups", *program,
    ]  # fmt: skip


def _program(name: str) -> str:
    found = shutil.which(name) or max((str(path) for path in Path(_DEBIAN).glob(f"*/bin/{name}")), default="")
    if not found:
        raise FileNotFoundError(f"{name} is not installed; see rig/install_databases.sh")
    return found


def _let_through(folder: Path) -> None:
    """Permit other users to reach a folder; pytest's folders permit only their owner."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)
