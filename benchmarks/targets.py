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
    judges = (_cpu, _requests, _without_lists, _stall, _memory, _import, _delay, _triggerer)
    for judge in judges:
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
    if row := results.row("one_dataset", 1000):
        yield Verdict("1,000 pending in one dataset: requests", row["requests"], 20)
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


def triggerer_cpu(row: Row) -> float:
    """
    Return the CPU seconds of a contest in a real triggerer: supervisor, runner and database.

    :param row: the contest.
    """
    return float(row["supervisor"] + row["runner"] + row["database"])


def _triggerer(results: Results) -> Iterator[Verdict]:
    """Judge 1,000 exports in a real triggerer."""
    size = 1000
    if (floor := results.triggerer(FLOOR, size)) is None:
        return
    for key, of_floor in (("one_dataset", 2.0), ("list_forbidden", 2.5)):
        if (row := results.triggerer(key, size)) is None:
            continue
        what = f"1,000 in a triggerer, {BY_KEY[key].label.removeprefix('DICOM, ')}"
        ratio = triggerer_cpu(row) / triggerer_cpu(floor)
        yield Verdict(f"{what}: CPU in all, of the sleeping floor's", ratio, of_floor)
        ratio = row["supervisor"] / floor["supervisor"]
        yield Verdict(f"{what}: supervisor's CPU, of the sleeping floor's", ratio, 2.0)
        if row["delay_max"] is not None and floor["delay_max"] is not None:
            limit = results.triggerer_interval + floor["delay_max"] + 1
            yield Verdict(f"{what}: delay until scheduled, slowest", row["delay_max"], limit, " s")
        log = (row["log"] - floor["log"]) / KIB**2
        yield Verdict(f"{what}: log lines beside the sleeping floor's", log, 1.0, " MiB")
    peer, refused = results.triggerer("databricks", size), results.triggerer("list_forbidden", size)
    # A peer that lost events did not do all of its work.
    if peer and refused and not peer["mistakes"]:
        ratio = triggerer_cpu(refused) / triggerer_cpu(peer)
        yield Verdict("1,000 in a triggerer, list forbidden: CPU in all, of Databricks'", ratio, 0.6)
