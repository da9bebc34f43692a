"""The test rig on a machine that others use too: its database, and what it installs."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rig.databases import PostgreSQL
from rig.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSTALLED = shutil.which("postgres") or any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    if not _INSTALLED:
        pytest.skip("PostgreSQL is not installed: sh rig/install_databases.sh")
    server = PostgreSQL(tmp_path_factory.mktemp("logs"))
    try:
        server.start()
        server.create_database()
        yield server
    finally:
        server.stop()
        server.remove()


def as_user(name: str, address: str) -> subprocess.CompletedProcess[str]:
    user = pwd.getpwnam(name)
    identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    asked = ["psql", "--dbname", f"postgresql://{address}", "--command", "SELECT 1"]
    return subprocess.run(
        ["setpriv", *identity, *asked], check=False, capture_output=True, text=True, cwd="/"
    )


def test_database_of_the_rig_answers_its_owner(database: PostgreSQL) -> None:
    assert database.ask("SELECT current_database()") == "airflow"


def test_database_of_the_rig_listens_on_no_network(database: PostgreSQL) -> None:
    assert database.ask("SHOW listen_addresses") == ""
    assert not [
        connection
        for process in database.processes()
        for connection in process.net_connections(kind="inet")
        if connection.status == "LISTEN"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("way", ["closed folder", "open folder"])
def test_database_of_the_rig_refuses_other_users(database: PostgreSQL, way: str) -> None:
    folder = Path(database.address.partition("host=")[2])
    assert folder.stat().st_mode & 0o077 == 0
    if way == "open folder":
        folder.chmod(0o755)
    try:
        refused = as_user("nobody", database.address)
    finally:
        folder.chmod(0o700)
    reason = (
        "Permission denied" if way == "closed folder" else 'Peer authentication failed for user "postgres"'
    )
    assert (refused.returncode, reason in refused.stderr) == (2, True), refused.stderr


def test_packages_of_other_peoples_clients_are_pinned() -> None:
    assert "--constraint rig/constraints/outsiders.txt" in (ROOT / "Makefile").read_text()
    pins = (ROOT / "rig/constraints/outsiders.txt").read_text()
    wanted = (ROOT / "rig/outsiders-requirements.txt").read_text()
    names = re.findall(r"^([a-z-]+)>=", wanted, re.MULTILINE)
    assert names
    assert [name for name in names if f"{name}==" not in pins] == []


def test_packages_of_the_bigquery_emulator_are_pinned() -> None:
    assert "--constraint rig/constraints/bigquery.txt" in (ROOT / "Makefile").read_text()
    pins = (ROOT / "rig/constraints/bigquery.txt").read_text()
    python = ROOT / ".venv-bigquery/bin/python"
    listing = [str(ROOT / ".venv/bin/uv"), "pip", "freeze", "--python", str(python)]
    installed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    assert installed
    assert [package for package in installed if package not in pins] == []


def test_uv_is_pinned() -> None:
    makefile = (ROOT / "Makefile").read_text()
    installations = re.findall(r"-m pip install .*", makefile)
    assert installations
    assert all("--constraint rig/constraints/3.3.txt uv" in line for line in installations)
    assert re.search(r"^uv==[\d.]+$", (ROOT / "rig/constraints/3.3.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "rig").glob("install_*.sh")))
def test_installation_with_the_rights_of_root_is_announced_and_can_be_refused(
    script: str, tmp_path: Path
) -> None:
    # A path without the program that is to be installed, with an apt-get that notes its calls.
    for name, text in {
        "apt-get": f'echo "$@" >> {tmp_path}/calls',
        "id": "echo 0",
        "ls": "exit 1",
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    for name in ("chmod", "rm"):
        (tmp_path / name).symlink_to(f"/bin/{name}")
    run = {"PATH": str(tmp_path)}
    refused = subprocess.run(
        ["/bin/sh", str(ROOT / "rig" / script)],
        env={**run, "NO_INSTALL": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert not (tmp_path / "calls").exists()
    assert "not installed" in refused.stdout or "needs" in refused.stderr
    announced = subprocess.run(
        ["/bin/sh", str(ROOT / "rig" / script)], env=run, check=False, capture_output=True, text=True
    )
    assert "install" in (tmp_path / "calls").read_text()
    assert re.search(r"^Installing .* with apt-get, as root \(NO_INSTALL=1 prevents it\)", announced.stdout)
