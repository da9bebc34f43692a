"""A browser for the pages of the web interface, and the Airflow that a test plays to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.browser import launched_browser
from tests.support.played_airflow import PlayedAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser."""
    with launched_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page without a history."""
    with browser.new_context(viewport={"width": 1360, "height": 860}) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: pytest.fail(f"the page raised {error}"))
        yield page


@pytest.fixture
def airflow() -> PlayedAirflow:
    """An Airflow without exports."""
    return PlayedAirflow()
