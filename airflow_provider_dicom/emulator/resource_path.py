"""Where in a DICOM store something is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ResourcePath:
    """A study, a series or an instance; nothing set means everything."""

    study: str | None = None
    series: str | None = None
    instance: str | None = None

    @classmethod
    def parse(cls, path: str) -> ResourcePath:
        """Read ``studies/U[/series/U[/instances/U]]``; what follows is left alone."""
        return cls(*path.split("/")[1:6:2])

    def __str__(self) -> str:
        return "".join(
            f"/{kind}/{uid}"
            for kind, uid in (("studies", self.study), ("series", self.series), ("instances", self.instance))
            if uid is not None
        )

    def where(self) -> tuple[str, list[str]]:
        """Return the SQL condition, with its parameters, for the rows below this path."""
        given = {
            column: uid
            for column, uid in (("study", self.study), ("series", self.series), ("instance", self.instance))
            if uid is not None
        }
        return "".join(f" AND {column} = ?" for column in given), list(given.values())


EVERYTHING = ResourcePath()
