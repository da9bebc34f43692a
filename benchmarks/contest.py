"""One contest: a number of triggers of one kind in one event loop, in a fresh process.

``python -m benchmarks.contest`` reads a :class:`Contest` as JSON from standard input and writes the
:class:`Result` as JSON in the last line of standard output.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
import resource
import selectors
import statistics
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.contestants import BY_KEY, OLDER_OPERATIONS, Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.triggers.base import BaseTrigger

    from benchmarks.contestants import Contestant
    from benchmarks.server import Sabotage

PROBE_PAUSE = 0.1
_MOST_MISTAKES_SHOWN = 5
_SEED = 20260102


@dataclass(frozen=True)
class Contest:
    """
    What is measured.

    :param contestant: the contestant's key.
    :param size: how many triggers.
    :param url: the server.
    :param interval: seconds between polls.
    :param duration: seconds until the last operation ends; the first ends after half of it.
    :param grace: seconds that events may come late before they count as lost.
    :param sabotage: break one operation, to see the benchmark fail.
    """

    contestant: str
    size: int
    url: str
    interval: int
    duration: float
    grace: float
    sabotage: Sabotage | None = None


@dataclass(frozen=True)
class Result:
    """
    What it cost.

    :param cpu: CPU seconds of the process, all threads, from the first trigger to the last event.
    :param wall: seconds from the first trigger to the last event.
    :param requests: requests to the API.
    :param connections: connections to the server, those for tokens included.
    :param tokens: token fetches.
    :param stall: the longest time for which the event loop did not get to anything else, in seconds; without
        the interpreter's garbage collections.
    :param collection: the longest garbage collection, in seconds: it grows with all that the process holds,
        the imported modules first of all.
    :param delay_median: seconds from the end of an operation to its event.
    :param delay_max: the longest of them.
    :param memory: bytes by which the process grew, at its largest, per trigger.
    :param lost: how many events are missing or wrong.
    :param mistakes: the first of them.
    """

    contestant: str
    size: int
    cpu: float
    wall: float
    requests: int
    connections: int
    tokens: int
    stall: float
    collection: float
    delay_median: float | None
    delay_max: float | None
    memory: float
    lost: int = 0
    routes: dict[str, int] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)


class CollectionClock:
    """Measures garbage collections."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.total = 0.0
        self._since = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._since = time.monotonic()
            return
        length = time.monotonic() - self._since
        self.longest = max(self.longest, length)
        self.total += length


class Stopwatch:
    """Measures time without the garbage collections in it."""

    def __init__(self, collections: CollectionClock) -> None:
        self._collections = collections
        self.restart()

    def restart(self) -> None:
        """Start again from zero."""
        self._start, self._collected = time.monotonic(), self._collections.total

    def read(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._start - (self._collections.total - self._collected)


class TurnClock(selectors.DefaultSelector):
    """A selector that measures how long the event loop is busy between two calls."""

    def __init__(self, collections: CollectionClock) -> None:
        super().__init__()
        self.longest = 0.0
        self._turn = Stopwatch(collections)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events: the event loop is idle until this method returns."""
        self.longest = max(self.longest, self._turn.read())
        events = super().select(timeout)
        self._turn.restart()
        return events


class Probe:
    """Wakes ten times a second; measures delays that other threads cause, and the peak of memory."""

    def __init__(self, collections: CollectionClock) -> None:
        self.latest = 0.0
        self.peak = 0
        self._process = psutil.Process()
        self._collections = collections

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            pause = Stopwatch(self._collections)
            await asyncio.sleep(PROBE_PAUSE)
            self.latest = max(self.latest, pause.read() - PROBE_PAUSE)
            self.peak = max(self.peak, self.resident())

    def resident(self) -> int:
        """Return the memory of the process in bytes."""
        return int(self._process.memory_info().rss)


class Referee:
    """Collects the events of all triggers with their times, and compares them with the expected ones."""

    def __init__(self, contestant: Contestant, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.delays: list[float] = []
        self.wrong: list[str] = []
        self._contestant = contestant
        self._answered: set[int] = set()

    async def follow(self, job: Job, trigger: BaseTrigger) -> None:
        """Run one trigger to its end, as a triggerer does."""
        try:
            async for event in trigger.run():
                self._take(job, event.payload)
        except Exception as error:  # whatever a trigger may raise: it is the trigger's failure
            self._answered.add(job.number)
            self.wrong.append(f"operation {job.number}: no event but {error!r}")

    def _take(self, job: Job, payload: object) -> None:
        delay = time.monotonic() - job.end
        if job.number in self._answered:
            self.wrong.append(f"operation {job.number}: a second event {payload!r}")
            return
        self._answered.add(job.number)
        if mistake := self._contestant.mistake(job, payload):
            self.wrong.append(mistake)
        elif delay < 0:
            self.wrong.append(f"operation {job.number}: event {-delay:.3f} s before its end")
        else:
            self.delays.append(delay)

    def mistakes(self) -> list[str]:
        """Return one sentence for each wrong or missing event."""
        lost = [f"operation {job.number}: no event" for job in self.jobs if job.number not in self._answered]
        return lost + self.wrong


def control(url: str, path: str, content: object = None) -> dict[str, Any]:
    """
    Give the server a plan, or ask for its counts.

    :param url: the server.
    :param path: ``plan`` or ``counts``.
    :param content: the plan.
    """
    request = urllib.request.Request(
        f"{url}/_benchmark/{path}", data=None if content is None else json.dumps(content).encode()
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def planned_jobs(contest: Contest, start: float) -> list[Job]:
    """Plan the ends of the operations: evenly over the second half, in a shuffled order."""
    half = contest.duration / 2
    ends = [start + half + half * (place + 1) / contest.size for place in range(contest.size)]
    random.Random(_SEED).shuffle(ends)
    return [Job(number, end, contest.interval, contest.url) for number, end in enumerate(ends, start=1)]


async def _run_all(referee: Referee, contestant: Contestant, patience: float) -> None:
    followers: list[asyncio.Task[None]] = []
    for job in referee.jobs:
        # A triggerer also creates one trigger per iteration of its event loop.
        await asyncio.sleep(0)
        followers.append(asyncio.create_task(referee.follow(job, contestant.make(job))))
    _, late = await asyncio.wait(followers, timeout=patience)
    for follower in late:
        follower.cancel()
    await asyncio.gather(*late, return_exceptions=True)


async def _warm_up(contest: Contest, contestant: Contestant) -> None:
    """Run one trigger, so that imports and set-up that a triggerer does only once are not measured."""
    now = time.monotonic()
    control(contest.url, "plan", {"ends": [now], "may_list": contestant.may_list})
    referee = Referee(contestant, [Job(1, now, 1, contest.url)])
    await _run_all(referee, contestant, patience=60.0)
    if mistakes := referee.mistakes():
        raise SystemExit(f"The warm-up of {contestant.label} failed: {mistakes[0]}")


def announced_jobs(contest: Contest, start: float) -> list[Job]:
    """Return the operations of a contest, after telling the server when they end."""
    jobs = planned_jobs(contest, start)
    plan = {
        "start": start,
        "ends": [job.end for job in jobs],
        "may_list": BY_KEY[contest.contestant].may_list,
        "older": OLDER_OPERATIONS,
        "sabotage": contest.sabotage,
    }
    control(contest.url, "plan", plan)
    return jobs


async def _measure(contest: Contest, turns: TurnClock, collections: CollectionClock) -> Result:
    contestant = BY_KEY[contest.contestant]
    if contestant.redirect is not None:
        contestant.redirect(contest.url)
    await _warm_up(contest, contestant)
    gc.collect()
    start = time.monotonic()
    jobs = announced_jobs(contest, start)
    referee, probe = Referee(contestant, jobs), Probe(collections)
    probing = asyncio.create_task(probe.run())
    before = probe.resident()
    cpu, wall = time.process_time(), time.monotonic()
    turns.longest = collections.longest = 0.0
    await _run_all(referee, contestant, contest.duration + contest.grace)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    probing.cancel()
    counts = control(contest.url, "counts")
    mistakes = referee.mistakes()
    return Result(
        contestant=contest.contestant,
        size=contest.size,
        cpu=cpu,
        wall=wall,
        stall=max(turns.longest, probe.latest),
        collection=collections.longest,
        delay_median=statistics.median(referee.delays) if referee.delays else None,
        delay_max=max(referee.delays, default=None),
        memory=max(0, probe.peak - before) / contest.size,
        lost=len(mistakes),
        mistakes=mistakes[:_MOST_MISTAKES_SHOWN],
        **counts,
    )


def main() -> None:
    """Run the contest that standard input describes."""
    contest = Contest(**json.load(sys.stdin))
    # Standard output carries only the result; other output goes to standard error.
    output, sys.stdout = sys.stdout, sys.stderr
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Log lines are off, so that only polling is measured.
    logging.disable(logging.INFO)
    collections = CollectionClock()
    turns = TurnClock(collections)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(turns)) as runner:
        result = runner.run(_measure(contest, turns, collections))
    print(json.dumps(asdict(result)), file=output)


if __name__ == "__main__":
    main()
