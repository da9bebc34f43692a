"""PostgreSQL and Redis for one cluster: each in a folder and on a port that no other program uses."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
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
#: PostgreSQL's usual one: it is only part of the name of the socket.
_PORT = 5432


class PostgreSQL(Server):
    """PostgreSQL with one database, ``airflow``; as root it runs as the user ``postgres``.

    It listens on a socket only, in a folder of its own, and asks the kernel who connects: no other user of
    the machine gets in.
    """

    def __init__(self, log_dir: Path) -> None:
        # A short path: the address of a socket has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self._data = self._folder / "data"
        # The machine keeps running: the page cache holds the writes of a killed process.
        settings = ("fsync=off", "max_connections=200", "listen_addresses=", "shared_buffers=64MB")
        options = [option for setting in settings for option in ("-c", setting)]
        program = ["postgres", "-D", str(self._data), "-p", str(_PORT), "-k", str(self._folder), *options]
        super().__init__(
            "PostgreSQL", _as_owner(program), port=_PORT, health_path="", log_dir=log_dir, start_timeout=60.0
        )

    @property
    def address(self) -> str:
        """User, database and socket, as in a URL."""
        return f"{_USER}@/airflow?host={self._folder}"

    def launch(self) -> None:
        """Start PostgreSQL without waiting for it; the first start creates its files."""
        if not self._data.exists():
            self._create()
        super().launch()

    def create_database(self) -> None:
        """Create the database."""
        made = ["createdb", "--host", str(self._folder), "--username", _USER, "airflow"]
        subprocess.run([_program(made[0]), *made[1:]], check=True, capture_output=True, cwd="/")

    def remove(self) -> None:
        """Delete the data of a server that has ended."""
        shutil.rmtree(self._folder, ignore_errors=True)

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
        asked = [_program("pg_isready"), "--quiet", "--host", str(self._folder)]
        return subprocess.run(asked, check=False, cwd="/").returncode == 0

    def _create(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self._folder, _USER)
        options = ["--username", _USER, "--auth-local", "peer", "--auth-host", "reject", "--no-sync"]
        made = ["initdb", "--pgdata", str(self._data), *options]
        subprocess.run(_as_owner(made), check=True, capture_output=True, cwd="/")
        # Airflow runs as the user of this process, and the server accepts that user alone.
        (self._data / "pg_hba.conf").write_text("local all all peer map=airflow\n")
        this_user = pwd.getpwuid(os.geteuid()).pw_name
        (self._data / "pg_ident.conf").write_text(f"airflow {this_user} {_USER}\n")


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
