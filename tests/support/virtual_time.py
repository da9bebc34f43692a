"""
An event loop with virtual time: no pause takes any time, and every run is the same.

Time stands still while a thread of the provider runs, unless the thread says that it hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
import threading
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

_P = ParamSpec("_P")


class _VirtualSelector(selectors.DefaultSelector):
    """Advances a clock by the time for which it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.hanging = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        while not ready and timeout != 0 and self._is_thread_busy():
            ready = super().select(0.001)
        # A thread that has ended in between has woken the selector before.
        ready = ready or super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("Every task of the event loop waits, and no timer is set.")
            self.now += timeout
        return ready

    def _is_thread_busy(self) -> bool:
        threads = sum(thread.name.startswith("dicom-export") for thread in threading.enumerate())
        return threads > self.hanging


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 and advances only while every task waits for a timer."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)
        #: The exceptions of callbacks, and of tasks that nobody awaits, which an event loop only logs.
        self.unseen_errors: list[object] = []
        self.set_exception_handler(self._record)

    def _record(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "handle" in context or isinstance(context.get("future"), asyncio.Task):
            self.unseen_errors.append(context["exception"])
        else:
            self.default_exception_handler(context)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual.now

    def advance(self, seconds: float) -> None:
        """
        Let time pass in a thread.

        :param seconds: the time, in seconds.
        """
        self._virtual.now += seconds

    @contextlib.contextmanager
    def hang(self) -> Iterator[None]:
        """Let time go on while this thread waits."""
        self._virtual.hanging += 1
        try:
            yield
        finally:
            self._virtual.hanging -= 1


def in_virtual_time(
    test: Callable[_P, Coroutine[object, object, None]],
) -> Callable[_P, None]:
    """
    Turn an asynchronous test into one that runs to its end in virtual time.

    :param test: the test.
    """

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        loop = VirtualTimeLoop()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(test(*args, **kwargs))
        assert loop.unseen_errors == []

    return run
