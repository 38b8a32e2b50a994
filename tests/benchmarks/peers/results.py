"""What the rounds found, for the report: the cases, what each server is and costs, and the aims against peers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measuring import ratio
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.rounds import Found
from benchmarks.report import Report

__all__ = ["Bound", "report_cases", "report_cold_starts", "report_servers"]

MIB = 1 << 20
COLUMNS = ("server", "version", "asked by", "processes", "RSS MiB (shared pages once)", "cold start s", "how it runs")


@dataclass(frozen=True, slots=True)
class Bound:
    """An aim of the project that a peer is needed for: a quotient of two servers' figures in one case, at most so much.

    Args:
        case: its name.
        figure: of `Measured`.
        above, below: names of servers.
        limit: of above / below.
    """

    case: str
    figure: str
    above: str
    below: str
    limit: float


def report_cases(report: Report, found: Mapping[Peer, Found], bounds: Sequence[Bound]) -> None:
    """Case by case, those that have figures of all rounds; then the bounds between those that have."""
    measured = {peer.name: each.cases for peer, each in found.items()}
    for case in dict.fromkeys(name for cases in measured.values() for name in cases):
        report.case(case, {name: cases[case] for name, cases in measured.items() if case in cases})
    for bound in bounds:
        above, below = (measured.get(name, {}).get(bound.case) for name in (bound.above, bound.below))
        if above and below:
            text = f"{bound.case}: {'throughput' if bound.figure == 'rate' else 'CPU'}, {bound.above} / {bound.below}"
            report.aim(text, bound.limit, ratio(getattr(above, bound.figure), getattr(below, bound.figure)))


def report_cold_starts(report: Report, found: Mapping[Peer, Found], ours: str, limit: float) -> None:
    """Ours against its limit in seconds, and against the fastest of all others."""
    medians = {peer.name: statistics.median(each.cold_starts) for peer, each in found.items() if each.cold_starts}
    if ours not in medians:
        return
    report.aim(f"cold start, {ours}", limit, medians[ours], "s")
    others = {peer.name: medians[peer.name] for peer in found if peer.foreign and peer.name in medians}
    if others:
        fastest = min(others, key=others.__getitem__)
        report.aim(f"cold start, {ours} / the fastest peer's ({fastest})", 1.0, medians[ours] / others[fastest])


def report_servers(
    report: Report, title: str, found: Mapping[Peer, Found], versions: Mapping[Peer, str], absent: Mapping[Peer, str]
) -> None:
    """A table of what was measured and how, and a list of what could not be."""
    rows = [_row(peer, each, versions[peer]) for peer, each in found.items() if each.cold_starts]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    report.note(f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    reasons = [f"- {peer.name}: {reason}" for peer, reason in absent.items()]
    reasons += [f"- {peer.name}: {what}: {why}" for peer, each in found.items() for what, why in each.failures.items()]
    if reasons:
        report.note("Not measured:\n\n" + "\n".join(reasons))


def _row(peer: Peer, found: Found, version: str) -> Sequence[str]:
    resident, starts = found.resident, found.cold_starts
    memory = f"{resident.rss / MIB:,.0f} ({resident.pss / MIB:,.0f})" if resident else ""
    processes = str(resident.processes) if resident else ""
    cold = f"{statistics.median(starts):.2f} ({min(starts):.2f}–{max(starts):.2f})"
    return (peer.name, version, peer.form.said, processes, memory, cold, peer.note)
