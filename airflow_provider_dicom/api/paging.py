"""The pages of a list: which request gets the next page, for both transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dicom.exceptions import DicomExportUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_dicom.api.methods import ApiRequest


class Pages:
    """
    The requests for the pages of one list.

    :param request: the request for the first page.
    """

    def __init__(self, request: ApiRequest) -> None:
        #: The request for the next page; None after the last page.
        self.request: ApiRequest | None = request
        self._first = request
        self._tokens: set[str] = set()

    def advance(self, page: Mapping[str, object]) -> None:
        """
        Go on to the page after this one.

        :param page: the page.
        :raises DicomExportUnavailableError: if this page leads back to an earlier one.
        """
        token = page.get("nextPageToken")
        if not token:
            self.request = None
            return
        token = str(token)
        if token in self._tokens:
            raise DicomExportUnavailableError(
                f"Could not {self._first.action}: the list does not end, because page "
                f"{len(self._tokens) + 1} leads back to an earlier page."
            )
        self._tokens.add(token)
        self.request = self._first.page(token)
