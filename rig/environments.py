"""The environments of the support matrix: a version of Airflow, of Python, and of all dependencies."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rig.servers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CONSTRAINTS = ROOT / "rig" / "constraints"
#: The environment with the oldest versions that pyproject.toml admits.
LOWEST = "lowest"
#: An Airflow that is not as old, with the oldest Google provider.
OLD_GOOGLE = "3.1-old-google"


class EnvironmentMissing(Exception):  # noqa: N818 - reads as what happened
    """An environment cannot be created on this machine."""


@dataclass(frozen=True)
class Environment:
    """One Airflow on one Python, in a virtual environment of its own.

    :param airflow: the name of a file in ``rig/constraints``, such as ``3.1`` or ``lowest``.
    :param python: the version of Python, such as ``3.12``.
    """

    airflow: str
    python: str

    @classmethod
    def named(cls, name: str) -> Environment:
        """Return the environment with a name such as ``3.1-python3.12``.

        :raises EnvironmentMissing: no environment of the matrix has that name.
        """
        found = {str(environment): environment for environment in MATRIX}
        if name not in found:
            raise EnvironmentMissing(f"{name!r} is none of {', '.join(found)}")
        return found[name]

    def __str__(self) -> str:
        return f"{self.airflow}-python{self.python}"

    @property
    def folder(self) -> Path:
        """The folder of the virtual environment."""
        return ROOT / f".venv-airflow-{self}"

    @property
    def interpreter(self) -> Path:
        """The Python interpreter of the environment."""
        return self.folder / "bin" / "python"

    @property
    def constraints(self) -> Path:
        """The constraints file, with the versions of all packages."""
        return CONSTRAINTS / f"{self.airflow}.txt"

    @property
    def airflow_version(self) -> str:
        """The full version of Airflow, such as ``3.1.8``."""
        (version,) = re.findall(r"^apache-airflow==(\S+)", self.constraints.read_text(), re.MULTILINE)
        return str(version)

    def install(self) -> None:
        """Create the environment, unless it exists and is up to date.

        :raises EnvironmentMissing: the Python version is not installed on this machine.
        """
        # The module with the version is an input because the installed metadata has the version, too.
        inputs = (self.constraints, ROOT / "pyproject.toml", ROOT / "airflow_provider_dicom" / "__init__.py")
        wanted = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
        stamp = self.folder / ".installed"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        _uv("venv", "--clear", "--python", self._base_python(), self.folder)
        _uv(
            *("pip", "install", "--compile-bytecode", "--python", self.folder),
            *("--constraint", self.constraints, "--group", "dev", "--group", "chaos", "--group", "fab"),
            *("--editable", ".[emulator,openlineage]"),
        )
        stamp.write_text(wanted)

    def _base_python(self) -> str:
        asked = ["sh", "rig/find_python.sh", self.python]
        found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode:
            raise EnvironmentMissing(f"Python {self.python} is not on this machine")
        return str(found.stdout).strip()


def _uv(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "uv", "--quiet", *map(str, arguments)], cwd=ROOT, check=True)


_PYTHONS = {
    "2.11": ("3.11", "3.12"),
    "3.1": ("3.11", "3.12", "3.13"),
    OLD_GOOGLE: ("3.12",),
    "3.2": ("3.11", "3.12", "3.13", "3.14"),
    "3.3": ("3.11", "3.12", "3.13", "3.14"),
    LOWEST: ("3.11",),
}
MATRIX = [Environment(airflow, python) for airflow, pythons in _PYTHONS.items() for python in pythons]

if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"Installing Airflow and the test tools into .venv-airflow-{name}, unless they are there")
        Environment.named(name).install()
