"""Curves of a run as inline SVG: pure functions from numbers to text."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 420, 132  # of the drawing in its own units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 20


def chart(
    title: str,
    iterations: Sequence[int],
    series: Sequence[tuple[str, Sequence[float]]],
    total: int,
    *,
    logarithmic: bool = False,
    changes: Sequence[tuple[int, str]] = (),
    help: str = "",
) -> str:
    """A figure with one line a side over iterations 0..total, a legend with the newest values, and three grid lines.

    ``changes`` are marked where they came: (iterations done before, what was changed). ``help`` explains the numbers.

    Values that are not finite (or, on a logarithmic axis, not positive) leave a gap.
    """
    drawable = [[value for value in values if _fits(value, logarithmic)] for _, values in series]
    points = [value for values in drawable for value in values]
    low, high = _limits(points, logarithmic)
    lines = "".join(
        f'<path class="line side{index}" d="{_path(iterations, values, total, low, high, logarithmic)}"/>'
        for index, (_, values) in enumerate(series)
    )
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{short(value)}</text>'
        for value, y in _grid(low, high, logarithmic)
    )
    legend = "".join(
        f'<span class="side{index}">{html.escape(label)} <b>{short(values[-1]) if values else "–"}</b></span>'
        for index, ((label, _), values) in enumerate(zip(series, drawable, strict=True))
    )
    axis = (
        f'<text x="{LEFT}" y="{HEIGHT - 6}">0</text><text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{total:,}</text>'
    )
    marks = "".join(
        f'<g class="change"><title>{html.escape(f"{text} (iteration {iteration:,})")}</title>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/><circle cx="{x:.1f}" cy="{TOP}" r="3"/></g>'
        for iteration, text in changes
        for x in (_place(iteration, total),)
    )
    return (
        f'<figure class="chart" title="{html.escape(help)}">'
        f'<figcaption>{html.escape(title)}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)} over the iterations">'
        f"{grid}{axis}{marks}{lines}</svg></figure>"
    )


def short(value: float) -> str:
    """A number in at most five characters or so: 0.042, 7.3, 1,200, 45k, 2.1e-5."""
    size = abs(value)
    if not math.isfinite(value):
        return "–"
    if size >= 1e6 or 0 < size < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    if size >= 1e4:
        return f"{value / 1e3:.0f}k"
    return f"{value:,.0f}" if size >= 100 else f"{value:.2g}" if size < 1 else f"{value:.3g}"


def _fits(value: float, logarithmic: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not logarithmic)


def _limits(points: list[float], logarithmic: bool) -> tuple[float, float]:
    if not points:
        return (0.1, 1.0) if logarithmic else (0.0, 1.0)
    low, high = min(points), max(points)
    if logarithmic:
        return low / 1.15, high * 1.15
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return max(low - margin, 0.0 if low >= 0 else low - margin), high + margin


def _place(iteration: int, total: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(iteration / max(total, 1), 1)


def _height(value: float, low: float, high: float, logarithmic: bool) -> float:
    share = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _grid(low: float, high: float, logarithmic: bool) -> list[tuple[float, float]]:
    return [(value, _height(value, low, high, logarithmic)) for value in _ticks(low, high, logarithmic)]


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Two to five round values within the limits."""
    decades = range(math.floor(math.log10(max(low, 1e-300))) if logarithmic else 0, math.ceil(math.log10(max(high, 1e-300))) + 1)
    if logarithmic:
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            found = [factor * 10.0**decade for decade in decades for factor in factors if low <= factor * 10.0**decade <= high]
            if len(found) >= 2:
                return found[:: math.ceil(len(found) / 4)]
        return [low, high]
    rough = (high - low) / 3
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _path(iterations: Sequence[int], values: Sequence[float], total: int, low: float, high: float, logarithmic: bool) -> str:
    steps, joined = [], False
    for iteration, value in zip(iterations, values, strict=False):
        if not _fits(value, logarithmic):
            joined = False
            continue
        x = _place(iteration, total)
        steps.append(f"{'L' if joined else 'M'}{x:.1f} {_height(value, low, high, logarithmic):.1f}")
        joined = True
    return "".join(steps)
