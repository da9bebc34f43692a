"""The targets of the provider, as ratios within one run, and whether a run reached them."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from benchmarks.contestants import BY_KEY, FLOOR, PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.results import Results, Row

KIB = 1024


@dataclass(frozen=True)
class Verdict:
    """
    One target, and what came of it.

    :param target: what is to be reached.
    :param value: what was measured.
    :param limit: the most that is accepted.
    :param unit: what to write behind the numbers.
    """

    target: str
    value: float
    limit: float
    unit: str = ""

    @property
    def reached(self) -> bool:
        """Whether the target was reached."""
        return self.value <= self.limit


def verdicts(results: Results) -> list[Verdict]:
    """
    Judge a run; a target whose sizes were not measured is left out.

    :param results: the run.
    """
    found: list[Verdict] = []
    for judge in (_cpu, _requests, _without_lists, _stall, _memory, _import, _delay):
        found.extend(judge(results))
    return found


def _best_peer(results: Results, size: int, cost: Callable[[Row], float]) -> float | None:
    # A peer that lost events did not do all of its work.
    costs = [
        cost(row) for key in PEERS if (row := results.row(key, size)) is not None and not row["mistakes"]
    ]
    return min(costs, default=None)


def _ratio(results: Results, key: str, cost: Callable[[Row], float], size: int = 1000) -> float | None:
    row, best = results.row(key, size), _best_peer(results, size, cost)
    return cost(row) / best if row and best else None


def _cpu(results: Results) -> Iterator[Verdict]:
    ratio = _ratio(results, "one_dataset", itemgetter("cpu"))
    if ratio is not None:
        yield Verdict("1,000 pending in one dataset: CPU, of the best peer's", ratio, 1 / 10)
    row, floor = results.row("one_dataset", 1000), results.row(FLOOR, 1000)
    if row and floor:
        ratio = row["cpu"] / floor["cpu"]
        yield Verdict("1,000 pending in one dataset: CPU, of the sleeping floor's", ratio, 3.0)


def _requests(results: Results) -> Iterator[Verdict]:
    for what in ("requests", "connections"):
        ratio = _ratio(results, "one_dataset", itemgetter(what))
        if ratio is not None:
            yield Verdict(f"1,000 pending in one dataset: {what}, of the best peer's", ratio, 1 / 100)


def _without_lists(results: Results) -> Iterator[Verdict]:
    for key in ("own_datasets", "list_forbidden"):
        what = f"1,000 pending, {BY_KEY[key].label.removeprefix('DICOM, ')}"
        ratio = _ratio(results, key, itemgetter("cpu"))
        if ratio is not None:
            yield Verdict(f"{what}: CPU, of the best peer's", ratio, 2 / 3)
        if row := results.row(key, 1000):
            yield Verdict(f"{what}: connections", row["connections"], 20)


def _stall(results: Results) -> Iterator[Verdict]:
    for row in results.ours():
        if row["size"] == 10_000:
            label = BY_KEY[row["contestant"]].label
            # Without garbage collections: a full one takes an idle triggerer longer than this limit. The
            # table shows the longest one, beside the floor's.
            yield Verdict(f"10,000 pending ({label}): loop stall", row["stall"] * 1000, 100, " ms")


def _memory(results: Results) -> Iterator[Verdict]:
    # The memory of a hundred triggers is smaller than the variation of the process itself.
    rows = [row for row in results.ours() if row["size"] >= 1000]
    if rows:
        yield Verdict("memory per pending trigger", max(row["memory"] for row in rows) / KIB, 20, " KiB")


def _import(results: Results) -> Iterator[Verdict]:
    seconds = dict(results.imports)
    if "DICOM store" in seconds and len(seconds) > 1:
        ours = seconds.pop("DICOM store")
        ratio = ours / min(seconds.values())
        yield Verdict("import of the operator module, of the best peer's", ratio, 1 / 10)


def _delay(results: Results) -> Iterator[Verdict]:
    for size in results.sizes():
        delays = [row["delay_max"] for row in results.ours() if row["size"] == size and row["delay_max"]]
        if delays:
            limit = results.interval + 1
            yield Verdict(f"{size:,} pending: detection delay, slowest of all", max(delays), limit, " s")
