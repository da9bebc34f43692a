"""The wheel, built from this tree and installed beside Airflow in a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from typing import TYPE_CHECKING

import pytest

import airflow_provider_dicom
from rig.servers import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def run(*command: str | Path, **env: str) -> str:
    """Run a program, and return what it prints."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", folder)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "airflow_provider_dicom").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "airflow_provider_dicom/py.typed" in names


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        fields = Parser().parsestr(archive.read(metadata).decode())
    assert fields["Name"] == "airflow-provider-dicom"
    assert fields["Version"] == airflow_provider_dicom.__version__
    assert fields["License-Expression"] == "Apache-2.0"


def test_airflow_lists_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    clean = tmp_path / "venv"
    uv = (sys.executable, "-m", "uv")
    run(*uv, "venv", "--quiet", "--python", sys.executable, clean)
    constraints = ROOT / "rig" / "constraints" / "3.3.txt"
    run(*uv, "pip", "install", "--quiet", "--python", clean, "--constraint", constraints, wheel)
    airflow = {"AIRFLOW_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    providers = run(clean / "bin" / "airflow", "providers", "list", "--output", "plain", **airflow)
    (ours,) = [line for line in providers.splitlines() if line.startswith("airflow-provider-dicom ")]
    assert airflow_provider_dicom.__version__ in ours
