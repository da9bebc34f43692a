"""Pages of the API's lists."""

from __future__ import annotations

import pytest

from airflow_provider_dicom.emulator.errors import ApiError
from airflow_provider_dicom.emulator.handlers.paging import (
    MAX_PAGE_SIZE,
    page_size,
    page_token,
    previous_item,
)


def test_page_tokens_are_decoded_to_the_item_they_were_made_from() -> None:
    for name in ("projects/p/locations/l/datasets/ä", "17", "a?"):
        assert previous_item({"pageToken": page_token(name)}) == name
    assert previous_item({}) == ""
    for bad in ("%", "====", page_token("é")[:-1] + "*"):
        with pytest.raises(ApiError, match="page_token"):
            previous_item({"pageToken": bad})


def test_page_size_has_a_default_and_a_maximum() -> None:
    assert page_size({}) == page_size({"pageSize": 0}) == 100
    assert page_size({"pageSize": 7}) == 7
    assert page_size({"pageSize": MAX_PAGE_SIZE + 1}) == MAX_PAGE_SIZE
    with pytest.raises(ApiError, match="page_size"):
        page_size({"pageSize": -1})
