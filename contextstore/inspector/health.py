"""The view of a store's health: how much there is, what goes on, and whether it is well.

Rules of this module: it takes samples and makes plots of them; what is sampled, and how often, ``sampling`` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._display.amounts import duration_words, size_words
from .look import Answer, Inspector, Look
from .plots import Plot, Words, plot
from .sampling import SECONDS, Sample, with_sizes

_CANCELLATIONS = ("CancelledError", "Cancelled")
"""As asyncio and trio call them: a browser that leaves what it has followed makes one, and it is no fault."""


def health(look: Look) -> Answer:
    """The page: figures, plots, the last check."""
    context = health_context(look.inspector)
    data = {name: context[name] for name in ("stats", "counters", "samples", "check")}
    return Answer("health.html", context, data, {"now": "_health_now.html"})


def health_context(inspector: Inspector) -> dict[str, Any]:
    """What the templates are given, as it is now."""
    samples, counters = inspector.sampler.samples(), inspector.store.counters()
    return {
        "stats": with_sizes(inspector.sampler.stats()),
        "counters": counters,
        "errors": {name: count for name, count in counters.errors.items() if name not in _CANCELLATIONS},
        "cancelled": sum(counters.errors.get(name, 0) for name in _CANCELLATIONS),
        "samples": samples,
        "plots": _plots(samples, has_figures=inspector.figures is not None),
        "check": inspector.check_job.progress(),
    }


def _plots(samples: Sequence[Sample], *, has_figures: bool) -> list[Plot]:
    here = "by this process"
    of_commits = here if has_figures else "not measured"
    commits = [sample.commits for sample in samples]
    trips = [sample.trip_seconds for sample in samples]
    return [
        _plot(
            "outputs",
            "Outputs per second",
            _rate,
            "net, by all processes",
            [
                ("", [sample.outputs_per_second for sample in samples]),
            ],
        ),
        _plot(
            "commits",
            "Commits per second",
            _rate,
            here,
            [
                ("commits", [sample.commits_per_second for sample in samples]),
                ("writes", [sample.writes_per_second for sample in samples]),
            ],
        ),
        _plot(
            "latency",
            "Commit latency",
            _span,
            of_commits,
            [
                ("median", [one.median_seconds for one in commits]),
                ("p99", [one.slow_seconds for one in commits]),
            ],
            0.001,
        ),
        _plot("group", "Writes per commit", _few, of_commits, [("", [one.units for one in commits])]),
        _plot("cache", "Cache hits", _percent, here, [("", [_hit_rate(sample) for sample in samples])]),
        _plot("trip", "Trip to the engine", _span, "as ping() takes it", [("", trips)], 0.001),
        _plot("file", "File", _size, "", [("", [sample.file_bytes for sample in samples])], 2**20),
        _plot("wal", "Write-ahead log", _size, "", [("", [sample.wal_bytes for sample in samples])], 2**20),
    ]


def _plot(
    key: str, title: str, words: Words, note: str, lines: Sequence[tuple[str, Sequence[float | None]]], top: float = 1.0
) -> Plot:
    return plot(key, title, lines, words, points=SECONDS, note=note, least_top=top)


def _hit_rate(sample: Sample) -> float | None:
    reads = sample.hits + sample.misses
    return sample.hits / reads if reads else None


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _few(value: float) -> str:
    return f"{value:.1f}"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _size(value: float) -> str:
    return size_words(int(value))


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.00995 else duration_words(seconds)
