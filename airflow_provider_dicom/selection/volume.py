"""How much data an export reads: said before the export, and kept with its filter file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The keys of a filter file's custom metadata in Cloud Storage.
_PREFIX = "dicom-export-"
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


class Volume(NamedTuple):
    """
    An amount of data, as far as it is known.

    :param paths: the number of resource paths that are selected.
    :param instances: the number of instances.
    :param size: the size of the instances, in bytes.
    :param priced: the part of the size whose reading is priced, in bytes: COLDLINE and ARCHIVE.
    """

    paths: int | None = None
    instances: int | None = None
    size: int | None = None
    priced: int | None = None

    def __bool__(self) -> bool:
        """Tell whether anything is known."""
        return any(value is not None for value in self)

    def as_metadata(self) -> dict[str, str]:
        """Return the custom metadata of a filter file."""
        return {f"{_PREFIX}{name}": str(value) for name, value in self._asdict().items() if value is not None}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str] | None) -> Volume:
        """
        Read the custom metadata of a filter file; what others have written there is not believed.

        :param metadata: the metadata.
        """
        values = {name: (metadata or {}).get(f"{_PREFIX}{name}", "") for name in cls._fields}
        return cls(
            **{name: int(value) for name, value in values.items() if value.isascii() and value.isdecimal()}
        )

    def describe(self) -> str:
        """Return what is known, for the log."""
        parts = []
        if self.paths is not None and self.paths != self.instances:
            parts.append(f"{self.paths:,} resource paths")
        if self.instances is not None:
            parts.append(f"{self.instances:,} instances")
        if self.size is not None:
            parts.append(describe_bytes(self.size))
        if self.priced:
            parts.append(
                f"{describe_bytes(self.priced)} of it in COLDLINE or ARCHIVE, whose reading is priced"
            )
        elif self.priced is not None:
            parts.append("nothing of it in COLDLINE or ARCHIVE")
        return ", ".join(parts)


def describe_bytes(count: int) -> str:
    """
    Return a number of bytes in a unit that people can read.

    :param count: the number.
    """
    if count < 1024:
        return f"{count} bytes"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}"
