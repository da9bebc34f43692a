"""Headless Chromium."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@contextmanager
def launched_browser() -> Iterator[Browser]:
    """Launch the Chromium of the machine, and close it at the end."""
    # Modules of tests are skipped where Chromium is missing, before they import the library.
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        # Chromium's own sandbox does not work for root, and only our own pages are opened.
        playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        ) as browser,
    ):
        yield browser
