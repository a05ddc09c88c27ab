"""The report of a sweep: one self-contained HTML page with plots, tables and thumbnails, and its numbers as JSON.

A table of every difference comes first. Then each measure is a plot of the paired differences to the baseline with their 95 %
confidence intervals, and a table with the means behind them; differences.svg has all the plots in one picture. What could not
be run is listed.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamerxl.files import replacing
from dreamerxl.lab.evaluate import HIGHER
from dreamerxl.lab.plot import COLORS, Panel, boxed, limits, page
from dreamerxl.lab.statistics import Estimate, Key, estimate, paired, units
from dreamerxl.lab.sweep import Sweep, is_done, read_outcome

MOST_ROWS = 24  # of thumbnails
ACROSS = 940  # pixels for the thumbnails of a prompt
PLOTS_A_ROW = 3
GREY = "#9aa0a6"
STYLE = (
    "body{font:15px/1.5 system-ui,'Segoe UI',sans-serif;color:#222;max-width:1100px;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 2rem}td,th{padding:.2rem .7rem;border-bottom:1px solid #e5e5e5}"
    "td,th{text-align:right}"
    "td:first-child,th:first-child{text-align:left}.yes{font-weight:600}"
    ".thumbs td,.thumbs th{padding:2px;text-align:center;font-size:12px}.thumbs img{margin:auto}"
    ".all{font-size:13px}.all td{white-space:nowrap}"
    "img{display:block}svg{max-width:100%;height:auto}pre{background:#f6f6f6;padding:1rem;overflow:auto}"
    ".scroll{overflow-x:auto}"
)


def gather(sweep: Sweep, root: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """(outcomes, failures, how many tasks have neither)."""
    found = [read_outcome(root, task) for task in sweep.tasks()]
    done = [outcome for outcome in found if outcome is not None and is_done(outcome)]
    failed = [outcome for outcome in found if outcome is not None and not is_done(outcome)]
    return done, failed, len(found) - len(done) - len(failed)


def collect(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[Key, float]]]:
    """measure -> case -> (prompt, seed) -> value, without what could not be measured."""
    values: dict[str, dict[str, dict[Key, float]]] = {}
    for outcome in outcomes:
        for side in outcome["sides"]:
            for name, value in side["measures"].items():
                if value is not None and math.isfinite(value):
                    values.setdefault(name, {}).setdefault(side["case"], {})[outcome["prompt"], outcome["seed"]] = value
    return values


def summarize(sweep: Sweep, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """measure -> a row for each case: its mean and its paired difference to the baseline, each an Estimate."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for measure, by_case in collect(outcomes).items():
        baseline = by_case.get(sweep.baseline, {})
        rows[measure] = [
            {"case": case.name, "mean": estimate(units(by_case[case.name])), "difference": paired(by_case[case.name], baseline)}
            for case in sweep.cases
            if case.name in by_case
        ]
    return rows


def write_report(sweep: Sweep, root: Path) -> Path:
    """report.html, differences.svg and data.json in the sweep's folder, of the outcomes that are there. Raises RunFolderError."""
    done, failed, missing = gather(sweep, root)
    rows = summarize(sweep, done)
    data = {
        "name": sweep.name,
        "baseline": sweep.baseline,
        "runs": {"done": len(done), "failed": len(failed), "missing": missing},
        "measures": {
            measure: [
                {"case": row["case"], **{key: _plain(row[key]) for key in ("mean", "difference")}} for row in of_measure
            ]
            for measure, of_measure in rows.items()
        },
        "outcomes": [
            {**outcome, "sides": [{k: v for k, v in side.items() if k != "thumbnail"} for side in outcome["sides"]]}
            for outcome in done
        ],
    }  # fmt: skip
    with replacing(root / "data.json") as temporary:
        temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with replacing(root / "differences.svg") as temporary:
        temporary.write_text(differences(sweep, rows), encoding="utf-8")
    with replacing(root / "report.html") as temporary:
        temporary.write_text(render(sweep, rows, done, failed, missing), encoding="utf-8")
    return root / "report.html"


def render(
    sweep: Sweep,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    done: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, Any]],
    missing: int,
) -> str:
    """The page."""
    seconds = sum(outcome.get("seconds", 0.0) for outcome in done)
    state = f"{counted(done, 'run')} done in {seconds:,.0f} s of iterations"
    state += "".join(f", {count} {word}" for count, word in ((len(failed), "failed"), (missing, "not yet run")) if count)
    body = [
        f"<h1>{html.escape(sweep.name)}</h1><p>{html.escape(sweep.description)}</p><p>{state}. "
        f"{counted(sweep.prompts, 'prompt')}, {counted(sweep.seeds, 'seed')}, {counted(sweep.cases, 'case')}; baseline: "
        f"<b>{html.escape(sweep.baseline)}</b>.</p>"
        "<p>Differences are paired: a case and the baseline under the same prompt and seed share views, timesteps and noise. "
        "The seeds of a prompt are averaged first; intervals are 95 % by Student's t over the prompts (over the seeds, where "
        "there is one prompt). With many cases and measures some intervals leave 0 out by chance: one in twenty of those where "
        "nothing differs.</p>"
    ]
    body += [f"<p>{html.escape(text)}</p>" for text in dict.fromkeys(text for one in done for text in one.get("left out", ()))]
    body.append(_overview(sweep, rows))
    for measure, of_measure in rows.items():
        body.append(f"<h2>{html.escape(measure)}</h2>")
        if is_constant(of_measure):
            body.append(f"<p>{of_measure[0]['mean'].mean:g} in every case.</p>")
            continue
        body.append(page("", [[forest(measure, of_measure, sweep.baseline)]]) + _table(of_measure, sweep.baseline))
    body.append(_thumbnails(sweep, done))
    if failed:
        items = "".join(
            f"<li>{html.escape(entry['prompt'])}, seed {entry['seed']}: {html.escape(entry['error'])}</li>" for entry in failed
        )
        body.append(f"<h2>Failed</h2><ul>{items}</ul>")
    body.append(f"<h2>The sweep</h2><pre>{html.escape(sweep.source)}</pre>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(sweep.name)}</title><style>{STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def counted(things: Sequence[object], word: str) -> str:
    """'1 run', '2 runs'."""
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def which_is_better(measure: str) -> str:
    """'higher is better', 'lower is better', or nothing where neither can be said."""
    if measure in HIGHER:
        return "higher is better"
    return "lower is better" if measure.endswith("distance") or "LPIPS" in measure else ""


def is_constant(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a measure is one number in every case and run; of a single run there is no half width."""
    return len({row["mean"].mean for row in rows}) == 1 and not any(row["mean"].half_width > 0 for row in rows)


def differences(sweep: Sweep, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The plots of every measure in one picture."""
    drawn = [forest(measure, of_measure, sweep.baseline) for measure, of_measure in rows.items() if not is_constant(of_measure)]
    rows_of_plots = [drawn[start : start + PLOTS_A_ROW] for start in range(0, len(drawn), PLOTS_A_ROW)]
    caption = (
        f"Paired differences to {sweep.baseline} with 95 % confidence intervals, {counted(sweep.prompts, 'prompt')} and "
        f"{counted(sweep.seeds, 'seed')}. Blue: the interval leaves 0 out."
    )
    return page(sweep.name, rows_of_plots or [[("", 460.0, 0.0)]], caption)


def forest(measure: str, rows: Sequence[Mapping[str, Any]], baseline: str) -> tuple[str, float, float]:
    """The differences to the baseline with their intervals, a line a case, as ``page`` wants a panel."""
    shown = [row for row in rows if row["case"] != baseline]
    ends = [end for row in shown for end in (row["difference"].mean, row["difference"].low, row["difference"].high)]
    left = 24 + 6.4 * max((len(row["case"]) for row in shown), default=10)
    said = f"difference to {baseline}", which_is_better(measure)
    panel = Panel(
        measure, limits(ends, zero=True), (0, max(len(shown), 1)), note="; ".join(filter(None, said)),
        width=left + 250, height=110 + 24 * max(len(shown), 1), left=left,
    )  # fmt: skip
    zero, bottom = panel.at(0, 0)
    panel.parts.append(f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="44" y2="{bottom:.1f}"/>')
    for place, row in enumerate(reversed(shown)):
        difference, y = row["difference"], place + 0.5
        color = COLORS[0] if difference.differs else GREY
        if math.isfinite(difference.half_width):
            panel.segments([(difference.low, y, difference.high, y)], color, 1.0)
        panel.dots([difference.mean], [y], color, 4, 1)
    names = [(place + 0.5, row["case"]) for place, row in enumerate(reversed(shown))]
    return boxed(panel, y_ticks=names)


def _overview(sweep: Sweep, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Every difference in one table, a line a case and a column a measure; of the baseline its means."""
    told = {
        measure: {row["case"]: row for row in of_measure} for measure, of_measure in rows.items() if not is_constant(of_measure)
    }
    head = "".join(f"<th>{html.escape(measure)}</th>" for measure in told)
    lines = []
    for case in (sweep.baseline, *(case.name for case in sweep.cases if case.name != sweep.baseline)):
        cells = []
        for by_case in told.values():
            if case not in by_case:
                cells.append("<td></td>")
            elif case == sweep.baseline:
                cells.append(f"<td>{uncertain(by_case[case]['mean'])}</td>")
            else:
                cells.append(_difference(by_case[case]["difference"]))
        lines.append(f"<tr><td>{html.escape(case)}</td>{''.join(cells)}</tr>")
    said = f"Of {html.escape(sweep.baseline)} the means, of the others the paired differences to it."
    table = f'<table class="all"><tr><th></th>{head}</tr>{"".join(lines)}</table>'
    return f'<h2>All differences</h2><p>{said}</p><div class="scroll">{table}</div>' if told else ""


def _table(rows: Sequence[Mapping[str, Any]], baseline: str) -> str:
    cells = []
    for row in rows:
        difference = "<td>baseline</td>" if row["case"] == baseline else _difference(row["difference"])
        name, mean = html.escape(row["case"]), uncertain(row["mean"])
        cells.append(f"<tr><td>{name}</td><td>{mean}</td>{difference}<td>{row['difference'].n}</td></tr>")
    head = "<tr><th>case</th><th>mean ± 95 %</th><th>paired difference ± 95 %</th><th>n</th></tr>"
    return f"<table>{head}{''.join(cells)}</table>"


def _difference(found: Estimate) -> str:
    style = ' class="yes"' if found.differs else ""
    return f"<td{style}>{uncertain(found, '+')}</td>"


def _thumbnails(sweep: Sweep, done: Sequence[Mapping[str, Any]]) -> str:
    """A picture for each prompt and case, under the first seed that has any."""
    pictures: dict[tuple[str, str], str] = {}
    for outcome in done:
        for side in outcome["sides"]:
            pictures.setdefault((outcome["prompt"], side["case"]), side["thumbnail"])
    prompts = [prompt for prompt in sweep.prompts if any(key[0] == prompt for key in pictures)][:MOST_ROWS]
    head = "".join(f"<th>{html.escape(case.name)}</th>" for case in sweep.cases)
    size = max(56, min(112, ACROSS // len(sweep.cases)))
    rows = []
    for prompt in prompts:
        cells = "".join(
            f'<td><img alt="" width="{size}" height="{size}" src="data:image/jpeg;base64,{pictures[prompt, case.name]}"></td>'
            if (prompt, case.name) in pictures
            else "<td></td>"
            for case in sweep.cases
        )
        rows.append(f"<tr><td>{html.escape(prompt)}</td>{cells}</tr>")
    body = f'<table class="thumbs"><tr><th></th>{head}</tr>{"".join(rows)}</table>'
    return f'<h2>What they look like</h2><div class="scroll">{body}</div>'


def uncertain(found: Estimate, sign: str = "") -> str:
    """'0.7160 ± 0.0065': a mean to the second digit of its half width; the mean alone where that is not known."""
    mean, half = found.mean, found.half_width
    if not math.isfinite(mean):
        return "–"
    if not math.isfinite(half) or half <= 0:
        return f"{mean:{sign}.3g}"
    digits = 1 - math.floor(math.log10(half))
    if digits > 6:
        return f"{mean:{sign}.3g} ± {half:.2g}"
    return f"{round(mean, digits):{sign}.{max(digits, 0)}f} ± {round(half, digits):.{max(digits, 0)}f}"


def _plain(found: Estimate) -> dict[str, float | int | None]:
    """An estimate for JSON, which has no NaN."""
    return {
        "mean": found.mean if math.isfinite(found.mean) else None,
        "half_width": found.half_width if math.isfinite(found.half_width) else None,
        "n": found.n,
    }
