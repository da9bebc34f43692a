"""What is installed with the package, as far as it can be judged without asking anybody."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: Under terms that ask something of those who only use them; "LGPL" and "MPL" don't.
_COPYLEFT = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)


def brought_in(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """The names of all distributions that one needs, its own included."""
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
    """What a distribution says about its licence."""
    fields = distribution(name).metadata
    classifiers = [line for line in fields.get_all("Classifier", []) if line.startswith("License ::")]
    stated = fields.get("License-Expression") or " ".join(classifiers) or fields.get("License", "")
    return str(stated)[:300]


def test_nothing_is_brought_in_under_a_strong_copyleft() -> None:
    names = brought_in("airflow-provider-dicom", frozenset({"emulator", "openlineage"}))
    assert {"pydicom", "google-auth", "apache-airflow"} <= names
    licences = {name: licence_of(name) for name in names}
    # Those that offer a choice of licences are fine.
    strong = {
        name: licence
        for name, licence in licences.items()
        if _COPYLEFT.search(licence) and not re.search(r"\bOR\b|MIT|BSD|Apache|Artistic|LGPL|Lesser", licence)
    }
    assert strong == {}


def test_the_versions_fit_together() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "check", "--python", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
