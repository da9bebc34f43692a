"""A log that keeps its lines."""

from __future__ import annotations


class RecordedLog:
    """Keeps the lines of each level, with their arguments filled in."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str, /, *args: object) -> None:
        """Keep a line about a change."""
        self.infos.append(message % args)

    def warning(self, message: str, /, *args: object) -> None:
        """Keep a line about a problem."""
        self.warnings.append(message % args)
