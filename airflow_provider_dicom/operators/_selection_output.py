"""
The output of a selection, over whose filter files tasks can be mapped.

Airflow maps over the return value of a task only, and over as many indexes as the return value is long. A
selection is a dictionary; what is mapped over is its list ``filter_uris``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from airflow_provider_dicom.compat import PlainXComArg

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from airflow_provider_dicom.results import DicomSelection

RETURN_KEY = "return_value"
FILTER_URIS: Literal["filter_uris"] = "filter_uris"


class _MappableSelection(dict[str, object]):
    """A selection that is as long as its list of filter files."""

    def __len__(self) -> int:
        return len(cast("DicomSelection", self)[FILTER_URIS])


def mappable(selection: DicomSelection) -> DicomSelection:
    """
    Return a selection over whose filter files Airflow can map.

    :param selection: the selection.
    """
    return cast("DicomSelection", _MappableSelection(selection))


class SelectionOutput(PlainXComArg):
    """The output of a selection: ``output["filter_uris"]`` can be given to ``expand``."""

    def __getitem__(self, item: str) -> Any:  # what a parameter takes, when the task runs
        """
        Return a part of the output.

        :param item: the key.
        """
        kind = _FilterUris if item == FILTER_URIS else PlainXComArg
        return kind(operator=self.operator, key=item)


class _FilterUris(PlainXComArg):
    def iter_references(self) -> Iterator[tuple[Any, str]]:
        # The number of indexes comes with the return value.
        yield self.operator, RETURN_KEY
