"""The part of a logger that is used here."""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """What loggers of all Airflow versions have in common."""

    def info(self, message: str, /, *args: object) -> None:
        """Say what changed."""

    def warning(self, message: str, /, *args: object) -> None:
        """Say what is amiss."""
