"""The addresses of the emulators that exports write to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STORAGE = "STORAGE_EMULATOR_HOST"
BIGQUERY = "BIGQUERY_EMULATOR_HOST"


def environment_mistakes(environment: Mapping[str, str]) -> Iterable[str]:
    """Return one sentence for each address without a scheme, which Google's client libraries cannot use."""
    return [
        f"{name}={address} has no scheme; set {name}=http://{address}, here and for all other clients of it."
        for name in (STORAGE, BIGQUERY)
        if (address := environment.get(name)) and "://" not in address
    ]
