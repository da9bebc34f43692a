"""The distributions: built from this tree, and installed beside Airflow in a clean environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

import airflow_provider_dicom
from rig.environments import MATRIX
from rig.servers import ROOT

if TYPE_CHECKING:
    from email.message import Message
    from pathlib import Path


def run(*command: str | Path, **env: str) -> str:
    """Run a program, and return its output."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("released")
    run(sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(released: Path) -> Path:
    """The path of the wheel."""
    (path,) = released.glob("*.whl")
    return path


def files_of(folder: str) -> set[str]:
    """The files in a folder of this tree, without compiled ones."""
    paths = (ROOT / folder).rglob("*")
    return {str(p.relative_to(ROOT)) for p in paths if p.is_file() and "__pycache__" not in p.parts}


def test_source_distribution_holds_package_examples_and_pages_and_nothing_else(released: Path) -> None:
    (path,) = released.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    pages = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"}
    # hatchling adds these two files.
    added = {"PKG-INFO", ".gitignore"}
    assert names == files_of("airflow_provider_dicom") | files_of("example_dags") | pages | added


@pytest.mark.airflow("3.3", "the newest tools; the distributions are the same for all")
def test_distributions_pass_the_check_of_the_package_index(released: Path) -> None:
    checked = run(
        sys.executable,
        "-m",
        "twine",
        "--no-color",
        "check",
        "--strict",
        *released.glob("airflow_provider_dicom-*"),
    )
    assert checked.count("PASSED") == 2


def test_version_is_written_in_one_file() -> None:
    version = re.escape(airflow_provider_dicom.__version__)
    places = {
        name
        for name in (*files_of("airflow_provider_dicom"), "pyproject.toml")
        if re.search(rf"[\"']{version}[\"']", (ROOT / name).read_text(errors="replace"))
    }
    assert places == {"airflow_provider_dicom/__init__.py"}


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == files_of("airflow_provider_dicom")
    assert "airflow_provider_dicom/py.typed" in names


def fields_of(wheel: Path) -> Message:
    """The wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(metadata).decode())


def test_wheel_declares_name_version_and_licence(wheel: Path) -> None:
    fields = fields_of(wheel)
    assert fields["Name"] == "airflow-provider-dicom"
    assert fields["Version"] == airflow_provider_dicom.__version__
    assert fields["License-Expression"] == "Apache-2.0"


def test_long_description_has_no_relative_links(wheel: Path) -> None:
    fields = fields_of(wheel)
    assert fields["Description-Content-Type"] == "text/markdown"
    description = fields.get_payload()
    assert isinstance(description, str)
    targets = re.findall(r"\]\(([^)]*)\)", description)
    assert targets
    assert all(target.startswith("https://") for target in targets)
    # A relative link of the README becomes its text, because it has no target in a package index.
    assert "docs/troubleshooting.md" in description


def test_wheel_requires_four_packages_and_has_two_extras(wheel: Path) -> None:
    needed = [Requirement(line) for line in fields_of(wheel).get_all("Requires-Dist", [])]
    assert {str(r.marker) for r in needed if r.marker} == {'extra == "emulator"', 'extra == "openlineage"'}
    assert {requirement.name for requirement in needed if not requirement.marker} == {
        "apache-airflow",
        "apache-airflow-providers-google",
        "apache-airflow-providers-common-compat",
        "google-auth",
    }


@pytest.fixture(scope="module")
def beside_airflow(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with Airflow and the Google provider, into which plain pip has installed the wheel."""
    clean = tmp_path_factory.mktemp("clean") / "venv"
    uv = (sys.executable, "-m", "uv", "--quiet")
    run(*uv, "venv", "--seed", "--python", sys.executable, clean)
    there = ["apache-airflow", "apache-airflow-providers-google", "apache-airflow-providers-common-compat"]
    installed = {f"{name}=={version(name)}" for name in there}
    constraints = next(
        e.constraints for e in MATRIX if installed <= set(e.constraints.read_text().splitlines())
    )
    run(*uv, "pip", "install", "--python", clean, "--constraint", constraints, *there)
    pip = (clean / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    before = set(run(*pip, "freeze", PYTHONPATH="").splitlines())
    run(*pip, "install", "--quiet", wheel, PYTHONPATH="")
    after = set(run(*pip, "freeze", PYTHONPATH="").splitlines())
    assert before <= after, "an installed package has changed"
    assert {line.partition(" @")[0] for line in after - before} == {"airflow-provider-dicom"}
    return clean


def test_wheel_installed_beside_airflow_breaks_no_requirement(beside_airflow: Path) -> None:
    python = beside_airflow / "bin" / "python"
    assert "No broken requirements" in run(python, "-m", "pip", "check", PYTHONPATH="")


def test_airflow_lists_the_installed_wheel(beside_airflow: Path, tmp_path: Path) -> None:
    clean = beside_airflow
    airflow = {"AIRFLOW_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    providers = run(clean / "bin" / "airflow", "providers", "list", "--output", "plain", **airflow)
    (ours,) = [line for line in providers.splitlines() if line.startswith("airflow-provider-dicom ")]
    assert airflow_provider_dicom.__version__ in ours
