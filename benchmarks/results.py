"""The figures of one run, as ``results.json`` holds them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import BY_KEY, FLOOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Row = dict[str, Any]


@dataclass
class Results:
    """
    One run.

    :param interval: seconds between polls.
    :param duration: seconds until the last operation of a contest ended.
    :param machine: what it ran on.
    :param versions: versions of the packages that took part.
    :param contests: one row per contestant and size, as ``benchmarks.contest.Result`` has it.
    :param imports: seconds that importing an operator module takes over ``airflow.sdk``, by label.
    :param tasks: CPU and wall seconds of one task from its operator's import to its deferral, by label.
    :param triggerers: one row per contestant and size in a real triggerer, as
        ``benchmarks.triggerer.TriggererResult`` has it.
    :param triggerer_interval: seconds between polls in the real triggerer.
    :param triggerer_duration: seconds until the last operation of a contest in the real triggerer ended.
    """

    interval: int
    duration: float
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    contests: list[Row] = field(default_factory=list)
    imports: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    triggerers: list[Row] = field(default_factory=list)
    triggerer_interval: int = 0
    triggerer_duration: float = 0.0

    def row(self, contestant: str, size: int) -> Row | None:
        """Return the row of a contestant at a size; None if it was not measured."""
        return _row(self.contests, contestant, size)

    def triggerer(self, contestant: str, size: int) -> Row | None:
        """Return the row of a contestant at a size in a real triggerer; None if it was not measured."""
        return _row(self.triggerers, contestant, size)

    def ours(self) -> Iterator[Row]:
        """Return the rows of this provider's trigger."""
        return (row for row in self.contests if BY_KEY[row["contestant"]].ours)

    def sizes(self) -> list[int]:
        """Return the sizes measured."""
        return sorted({row["size"] for row in self.contests})

    def failures(self) -> list[str]:
        """Return the missing and wrong events of this provider and of the floor, which make a run invalid."""
        return [
            f"{BY_KEY[row['contestant']].label}, {row['size']:,}: {mistake}"
            for row in (*self.contests, *self.triggerers)
            if BY_KEY[row["contestant"]].ours or row["contestant"] == FLOOR
            for mistake in row["mistakes"]
        ]

    def write(self, path: Path) -> None:
        """Write the run to a file."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a run from a file."""
        return cls(**json.loads(path.read_text()))


def _row(rows: Sequence[Row], contestant: str, size: int) -> Row | None:
    found = (row for row in rows if (row["contestant"], row["size"]) == (contestant, size))
    return next(found, None)
