"""The pictures of the toy: Figure 3 and Proposition 1, as SVG, with the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dreamerxl.lab.plot import COLORS, HEIGHT, WIDTH, Panel, boxed, limits, page
from dreamerxl.lab.toy import READINGS, Gap, Proposition, ToySettings, run_toy

GREY = "#b5b5b5"


def summary(gaps: Sequence[Gap]) -> list[dict[str, Any]]:
    """The means behind Figure 3, a row for each mu."""
    return [
        {
            "name": gap.name,
            "mu": gap.mu,
            "carried": gap.carried.mean().item(),
            "predicted": gap.predicted.mean().item(),
            "true_mu": gap.true_mu.mean().item(),
            "true_t": gap.true_t.mean().item(),
            "reconstruction": gap.reconstruction.norm(dim=1).mean().item(),
            "reconstruction_spread": spread(gap.reconstruction),
        }
        for gap in gaps
    ]


def spread(points: Tensor) -> float:
    """Root mean square distance of points [N, 2] from their mean."""
    return (points - points.mean(0)).square().sum(1).mean().sqrt().item()


def figure_3(settings: ToySettings) -> tuple[str, dict[str, Any]]:
    """(SVG, data): x_0 approximated at t and at each mu; the reconstruction gradients; the three errors over mu."""
    gaps = run_toy(settings)
    rows = summary(gaps)
    reach = 1.1 * max(max(gap.points.abs().max().item(), gap.other.abs().max().item()) for gap in gaps)
    top = [boxed(_scatter(gap, row, reach)) for gap, row in zip(gaps, rows, strict=True)]
    between = _between(settings)
    caption = (
        "Top: x_0 as predicted at t (grey) and at mu (coloured), joined point by point. 'carried' is the gap of the x_0 from "
        "which the two points were stepped, which TSM makes 0 by construction; 'predicted' is the gap of what is predicted at "
        "the points, which the gradient sees. Bottom: the reconstruction gradients, and the errors as mu goes from s (ISM) to t: "
        "only 'carried' jumps at s; the distance from the exact trajectory does not fall."
    )
    bottom = [boxed(_gradients(gaps, rows)), boxed(_curves(between, settings, "carried and predicted", ("carried", "predicted")))]
    bottom.append(boxed(_curves(between, settings, "distance from the exact trajectory", ("true_mu", "true_t"))))
    svg = page(f"Figure 3: the error of the approximated x_0, t = {settings.t}, s = {settings.s}", [top, bottom], caption)
    return svg, {"rows": rows, "over_mu": between, "t": settings.t, "s": settings.s, "delta_s": settings.delta_s}


def _between(settings: ToySettings) -> list[dict[str, Any]]:
    """The errors at some mu from s to t, both included."""
    length = settings.t - settings.s
    shares = [0, 1 / length, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1]
    mus = sorted({settings.s + round(share * length) for share in shares})
    wide = ToySettings(settings.t, settings.s, tuple(mus), settings.delta_s, settings.points, settings.seed)
    return summary(run_toy(wide))


def _scatter(gap: Gap, row: dict[str, Any], reach: float) -> Panel:
    color = COLORS[1] if gap.mu == gap.s else COLORS[0]
    note = f"carried {row['carried']:.4f} · predicted {row['predicted']:.4f}"
    panel = Panel(f"{gap.name} against t = {gap.t}", (-reach, reach), (-reach, reach), note=note)
    ends = [(*a, *b) for a, b in zip(gap.points.tolist(), gap.other.tolist(), strict=True)]
    panel.segments(ends, color)
    panel.dots(gap.points[:, 0].tolist(), gap.points[:, 1].tolist(), GREY)
    panel.dots(gap.other[:, 0].tolist(), gap.other[:, 1].tolist(), color)
    return panel


def _gradients(gaps: Sequence[Gap], rows: Sequence[dict[str, Any]]) -> Panel:
    reach = 1.1 * max(gap.reconstruction.abs().max().item() for gap in gaps)
    panel = Panel("reconstruction gradients (Eq. 4)", (-reach, reach), (-reach, reach))
    for index, gap in enumerate(gaps):
        panel.dots(gap.reconstruction[:, 0].tolist(), gap.reconstruction[:, 1].tolist(), _color(gap.mu == gap.s, index))
    panel.legend(
        [
            (f"{row['name']}: spread {row['reconstruction_spread']:.2g}", _color(gap.mu == gap.s, index))
            for index, (gap, row) in enumerate(zip(gaps, rows, strict=True))
        ]
    )
    return panel


def _color(is_ism: bool, index: int) -> str:
    return COLORS[1] if is_ism else (COLORS[0], COLORS[2], COLORS[3])[index % 3]


def _curves(rows: Sequence[dict[str, Any]], settings: ToySettings, title: str, names: Sequence[str]) -> Panel:
    values = [row[name] for row in rows for name in names]
    panel = Panel(title, (settings.s, settings.t), limits(values), x_label="mu", y_label="mean over the points")
    mus = [row["mu"] for row in rows]
    for index, name in enumerate(names):
        panel.line(mus, [row[name] for row in rows], COLORS[index])
        panel.dots(mus, [row[name] for row in rows], COLORS[index], 2.6, 1)
    words = {"true_mu": "at mu", "true_t": "at t"}
    panel.legend([(words.get(name, name), COLORS[index]) for index, name in enumerate(names)])
    return panel


def proposition_figure(found: Proposition) -> tuple[str, dict[str, Any]]:
    """(SVG, data): a heat map for each reading of Proposition 1, in per cent of the points for which it holds."""
    panels = []
    for name, shares in found.shares.items():
        rows, columns = shares.shape
        panel = Panel(
            name, (0, columns), (0, rows), x_label="gamma", y_label="t", note=f"holds for {100 * shares.mean():.1f} % in all",
            width=1.35 * WIDTH, height=1.45 * HEIGHT,
        )  # fmt: skip
        panel.cells(shares.tolist())
        x = [(k + 0.5, f"{gamma:g}") for k, gamma in enumerate(found.gammas)]
        y = [(k + 0.5, str(t)) for k, t in enumerate(found.ts)]
        panels.append(boxed(panel, x_ticks=x, y_ticks=y))
    said = "; ".join(f"'{name}': {text}" for name, text in READINGS.items())
    caption = (
        f"Per cent of the points for which Proposition 1 (eta_ISM > eta_TSM) holds, over t and gamma; delta_T = {found.delta_t}, "
        f"delta_S = {found.delta_s}. Blue: it holds for most; red: for few. Readings: {said}."
    )
    svg = page("Proposition 1, measured", [panels[:2], panels[2:]], caption)
    data = {"ts": found.ts, "gammas": found.gammas, "delta_t": found.delta_t, "delta_s": found.delta_s}
    return svg, {**data, "shares": {name: shares.round(4).tolist() for name, shares in found.shares.items()}}
