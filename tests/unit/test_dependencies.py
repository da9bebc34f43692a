"""The distributions that are installed with the package: their licences and their versions."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: Licences with conditions for users of the package as a whole; "LGPL" and "MPL" have none.
_COPYLEFT = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)


def dependencies_of(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """Return the names of all distributions that a distribution requires, its own name included."""
    found: set[str] = set()
    waiting = [(name, extras)]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (canonicalize_name(name), extras) in seen:
            continue
        seen.add((canonicalize_name(name), extras))
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform or Python
            continue
        found.add(canonicalize_name(name))
        for requirement in map(Requirement, requirements):
            environments = [{"extra": extra} for extra in (extras or {""})]
            if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


def licence_of(name: str) -> str:
    """Return the licence that a distribution's metadata states."""
    fields = distribution(name).metadata
    classifiers = [line for line in fields.get_all("Classifier", []) if line.startswith("License ::")]
    stated = [
        *fields.get_all("License-Expression", []),
        " ".join(classifiers),
        *fields.get_all("License", []),
    ]
    return next((text for text in stated if text), "")[:300]


def test_no_dependency_has_a_strong_copyleft_licence() -> None:
    names = dependencies_of("airflow-provider-dicom", frozenset({"emulator", "openlineage"}))
    assert {"pydicom", "google-auth", "apache-airflow"} <= names
    licences = {name: licence_of(name) for name in names}
    # A choice between licences includes one without copyleft.
    strong = {
        name: licence
        for name, licence in licences.items()
        if _COPYLEFT.search(licence) and not re.search(r"\bOR\b|MIT|BSD|Apache|Artistic|LGPL|Lesser", licence)
    }
    assert strong == {}


def test_installed_versions_are_compatible() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "check", "--python", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
