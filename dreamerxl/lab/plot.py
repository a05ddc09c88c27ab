"""Plots as self-contained SVG: axes, points, lines, bands and heat maps, set in a grid. Pure functions from numbers to text.

A panel is drawn in its own box of WIDTH x HEIGHT; ``page`` sets panels in rows under a title and a caption. The
drawings carry their style inside, so that a file opened alone, an <img> and a report look the same.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

WIDTH, HEIGHT = 300, 260  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 44, 44
COLORS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8f5aa8", "#c98a1b", "#4f5d75", "#2a9d8f", "#b56576")
STYLE = (
    "text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:11px;fill:#333}"
    ".title{font-size:13px;font-weight:600;fill:#111}.head{font-size:17px;font-weight:600;fill:#111}.note{fill:#666}"
    ".grid{stroke:#e6e6e6}.axis{stroke:#999}.zero{stroke:#888;stroke-dasharray:4 3}"
)
Ticks: TypeAlias = Sequence[tuple[float, str]]  # value, text
BLUES = ("#b2182b", "#ef8a62", "#fddbc7", "#f7f7f7", "#d1e5f0", "#67a9cf", "#2166ac")  # 0, one half, 1


@dataclass
class Panel:
    """One drawing with its axes. ``x`` and ``y`` are the limits; a logarithmic axis wants limits above 0."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str = ""
    y_label: str = ""
    note: str = ""
    log_y: bool = False
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    parts: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies in the box."""
        (x0, x1), (y0, y1) = self.x, self.y
        share = (x - x0) / (x1 - x0)
        up = math.log(y / y0) / math.log(y1 / y0) if self.log_y else (y - y0) / (y1 - y0)
        across, tall = self.width - self.left - RIGHT, self.height - TOP - BOTTOM
        return self.left + share * across, TOP + (1 - up) * tall

    def dots(self, xs: Sequence[float], ys: Sequence[float], color: str, radius: float = 1.8, opacity: float = 0.7) -> None:
        """Points that lie inside the limits."""
        for x, y in zip(xs, ys, strict=True):
            if self._inside(x, y):
                px, py = self.at(x, y)
                self.parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius}" fill="{color}" fill-opacity="{opacity}"/>')

    def segments(self, ends: Sequence[tuple[float, float, float, float]], color: str, opacity: float = 0.5) -> None:
        """Straight lines (x, y, x', y')."""
        for x, y, x2, y2 in ends:
            if self._inside(x, y) and self._inside(x2, y2):
                (a, b), (c, d) = self.at(x, y), self.at(x2, y2)
                self.parts.append(
                    f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="{color}" stroke-opacity="{opacity}"/>'
                )

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str, dashed: bool = False) -> None:
        """A line through points; what cannot be drawn leaves a gap."""
        path, pen = [], "M"
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(y) and (y > 0 or not self.log_y):
                path.append("{}{:.1f} {:.1f}".format(pen, *self.at(x, y)))
                pen = "L"
            else:
                pen = "M"
        dash = ' stroke-dasharray="5 3"' if dashed else ""
        self.parts.append(f'<path d="{"".join(path)}" fill="none" stroke="{color}" stroke-width="1.8"{dash}/>')

    def zero(self) -> None:
        """A dashed line at y = 0."""
        (a, b), (c, _) = self.at(self.x[0], 0), self.at(self.x[1], 0)
        self.parts.append(f'<line class="zero" x1="{a}" x2="{c}" y1="{b:.1f}" y2="{b:.1f}"/>')

    def cells(self, values: Sequence[Sequence[float]], numbers: bool = True) -> None:
        """A heat map of shares 0..1, row 0 at the bottom; red below one half, blue above."""
        rows, columns = len(values), len(values[0])
        across, tall = (self.width - self.left - RIGHT) / columns, (self.height - TOP - BOTTOM) / rows
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                x, y = self.left + j * across, self.height - BOTTOM - (i + 1) * tall
                self.parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{across + 0.3:.1f}" height="{tall + 0.3:.1f}" fill="{shade(value)}"/>'
                )
                if numbers:
                    self.parts.append(
                        f'<text x="{x + across / 2:.1f}" y="{y + tall / 2 + 3:.1f}" text-anchor="middle" '
                        f'style="font-size:8px;fill:{"#fff" if abs(value - 0.5) > 0.38 else "#333"}">{100 * value:.0f}</text>'
                    )

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """(text, colour) pairs in the upper right corner."""
        wide = 6.2 * max(len(text) for text, _ in entries) + 24
        self.parts.append(
            f'<rect x="{self.width - RIGHT - wide:.0f}" y="{TOP + 1}" width="{wide - 1:.0f}" height="{14 * len(entries) + 6}" '
            'fill="#fff" fill-opacity="0.85"/>'
        )
        for row, (text, color) in enumerate(entries):
            y = TOP + 14 + 14 * row
            self.parts.append(
                f'<circle cx="{self.width - RIGHT - 8}" cy="{y - 4}" r="4" fill="{color}"/>'
                f'<text x="{self.width - RIGHT - 16}" y="{y}" text-anchor="end">{html.escape(text)}</text>'
            )

    def drawn(
        self, x_ticks: Sequence[tuple[float, str]] | None = None, y_ticks: Sequence[tuple[float, str]] | None = None
    ) -> str:
        """The panel as SVG elements. Ticks are (value, text); None takes round numbers."""
        frame = []
        for value, text in x_ticks if x_ticks is not None else ticks(*self.x):
            x, _ = self.at(value, self.y[0])
            frame.append(
                f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{self.height - BOTTOM}"/>'
                f'<text x="{x:.1f}" y="{self.height - BOTTOM + 14}" text-anchor="middle">{html.escape(text)}</text>'
            )
        found = y_ticks if y_ticks is not None else (decades(*self.y) if self.log_y else ticks(*self.y))
        for value, text in found:
            _, y = self.at(self.x[0], value)
            frame.append(
                f'<line class="grid" x1="{self.left}" x2="{self.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{self.left - 5}" y="{y + 4:.1f}" text-anchor="end">{html.escape(text)}</text>'
            )
        middle_x, middle_y = (self.left + self.width - RIGHT) / 2, (TOP + self.height - BOTTOM) / 2
        words = (
            f'<text class="title" x="{self.left}" y="18">{html.escape(self.title)}</text>'
            f'<text class="note" x="{self.left}" y="34">{html.escape(self.note)}</text>'
            f'<text x="{middle_x:.0f}" y="{self.height - 10}" text-anchor="middle">{html.escape(self.x_label)}</text>'
            f'<text transform="translate({self.left - 40:.0f} {middle_y:.0f}) rotate(-90)" text-anchor="middle">'
            f"{html.escape(self.y_label)}</text>"
        )
        axis = (
            f'<rect class="axis" x="{self.left}" y="{TOP}" width="{self.width - self.left - RIGHT}" '
            f'height="{self.height - TOP - BOTTOM}" fill="none"/>'
        )
        return "".join([*frame, *self.parts, axis, words])

    def _inside(self, x: float, y: float) -> bool:
        return self.x[0] <= x <= self.x[1] and self.y[0] <= y <= self.y[1]


def page(title: str, rows: Sequence[Sequence[tuple[str, float, float]]], caption: str = "") -> str:
    """An SVG of drawn panels (elements, width, height) in rows, under a title and above a caption."""
    margin = 16
    width = max(sum(panel[1] for panel in row) for row in rows) + 2 * margin
    y, body = 46.0 if title else 8.0, []
    for row in rows:
        x = float(margin)
        for elements, across, _ in row:
            body.append(f'<g transform="translate({x:.0f} {y:.0f})">{elements}</g>')
            x += across
        y += max(panel[2] for panel in row) + 10
    lines = textwrap.wrap(caption, max(20, int((width - 2 * margin) / 5.9)))
    said = "".join(
        f'<text class="note" x="{margin + 8}" y="{y + 14 + 15 * k:.0f}">{html.escape(line)}</text>'
        for k, line in enumerate(lines)
    )
    head = f'<text class="head" x="{margin + 8}" y="30">{html.escape(title)}</text>' if title else ""
    height = y + 15 * len(lines) + 18
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{head}{''.join(body)}{said}</svg>"
    )


def boxed(panel: Panel, **options: Ticks) -> tuple[str, float, float]:
    """A panel as ``page`` wants it; options are those of ``Panel.drawn``."""
    return panel.drawn(**options), panel.width, panel.height


def shade(value: float) -> str:
    """The colour of a share 0..1."""
    place = min(max(value, 0.0), 1.0) * (len(BLUES) - 1)
    low = min(int(place), len(BLUES) - 2)
    parts = [
        round(int(BLUES[low][k : k + 2], 16) * (1 - place + low) + int(BLUES[low + 1][k : k + 2], 16) * (place - low))
        for k in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in parts)


def ticks(low: float, high: float, most: int = 5) -> list[tuple[float, str]]:
    """Round numbers within limits, with their texts."""
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [(k * step, f"{k * step:.6g}") for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten within limits."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [(10.0**k, f"1e{k}") for k in range(first, last + 1)]


def limits(values: Sequence[float], zero: bool = False) -> tuple[float, float]:
    """The limits of an axis that holds some values, with a margin; with 0 in it where asked."""
    fine = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(fine), max(fine)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin
