"""Waiting in an event loop for events in another task or process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


#: The longest time to wait, in seconds.
MAX_WAIT = 60.0


async def wait_until(condition: Callable[[], object]) -> None:
    """
    Wait until a condition is true.

    :param condition: the condition.
    :raises TimeoutError: if the condition stays false for ``MAX_WAIT``.
    """
    async with asyncio.timeout(MAX_WAIT):
        while not condition():  # noqa: ASYNC110 - another process makes the condition true
            await asyncio.sleep(0.02)
