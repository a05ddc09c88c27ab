"""Command line without a browser: ``python -m dreamerxl run --preset NAME --out DIR``, ``take``, ``evaluate``, ...

Exit codes: 0 done, 1 the run failed, 2 something that was asked cannot be used, 130 interrupted (scenes are kept).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dreamerxl import __version__
from dreamerxl.config import Settings, leaf_fields, load_preset, load_settings, parse_value, preset_names
from dreamerxl.errors import DreamerError, SettingsError

if TYPE_CHECKING:
    from dreamerxl.lab.executor import Executor

LOG_SECONDS = 10.0  # between two progress bars where they go to a file
SHORTCUTS = {
    "model": "model",
    "seed": "seed",
    "iterations": "iterations",
    "gamma": "variants.gamma",
    "delta_t": "variants.delta_t",
    "clip_color": "variants.clip_color",
    "clip_depth": "variants.clip_depth",
    "guidance_scale": "variants.guidance_scale",
}


@dataclass(frozen=True)
class Command:
    """A subcommand: its line of help, its options, and what it does (returning the exit code)."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace, Any], int]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message[:1].upper()}{message[1:].rstrip('.')}; '{self.prog} --help' lists what is accepted.\n")


def main(arguments: Sequence[str] | None = None, make_trainer: Any = None) -> int:
    """Run a command line; returns the exit code. ``make_trainer`` replaces the real one (see runs.manager)."""
    parser = Parser(prog="python -m dreamerxl", description="Text to 3D Gaussians by trajectory score matching.")
    parser.add_argument("--version", action="version", version=f"dreamerxl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.help, description=command.help))
    options = parser.parse_args(arguments)
    try:
        return COMMANDS[options.command].execute(options, make_trainer)
    except DreamerError as error:
        print(error, file=sys.stderr)
        return 2


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", metavar="NAME", help="a preset (see 'presets') or the path of a .yaml file")
    parser.add_argument("--prompt", metavar="TEXT", help="what to make, in words")
    parser.add_argument(
        "--rules", choices=["paper", "released"], help="make every rule the paper's or the released code's, on top of the preset"
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="the sides: sds, csd, ism, tsm, vsd; one to four")
    described = {name: item.metadata["help"] for name, item in leaf_fields()}
    for option, name in SHORTCUTS.items():
        parser.add_argument(f"--{option.replace('_', '-')}", metavar="X", help=described[name].replace("%", "%%"))
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting, e.g. views.batch=2; see 'settings'"
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run folder; must not hold anything yet")
    parser.add_argument("--no-video", action="store_true", help="leave out the turntable video")
    parser.add_argument(
        "--allow-pickle-weights", action="store_true", help="convert the model's weights to .safetensors where they are pickled"
    )


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings that a command line asks for. Raises SettingsError."""
    settings = Settings()
    if options.preset is not None:
        is_file = options.preset.endswith((".yaml", ".yml"))
        settings = load_settings(Path(options.preset)) if is_file else load_preset(options.preset)
    if options.rules:
        settings = settings.with_rules(options.rules)
    if options.methods:
        settings = settings.override({"variants": sides_for(settings, options.methods)})
    typed = {name: getattr(options, option) for option, name in SHORTCUTS.items()}
    changes = {name: parse_value(text) for name, text in typed.items() if text is not None}
    for assignment in options.set:
        name, equals, value = assignment.partition("=")
        if not (name.strip() and equals):
            raise SettingsError(f"--set was given {assignment!r}; NAME=VALUE is accepted, for example views.batch=2.")
        changes[name.strip()] = parse_value(value)
    if options.prompt is not None:
        changes["prompt"] = options.prompt
    return settings.override(changes)


def sides_for(settings: Settings, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Variants for a list of methods: the preset's own where it has one for the method, else its last one, adapted."""
    known = {variant.method: variant for variant in reversed(settings.variants)}
    return [asdict(known.get(method, settings.variants[-1])) | {"method": method} for method in methods]


def run(options: argparse.Namespace, make_trainer: Any) -> int:
    """Train, showing progress on stderr; then the captures. Prints the paths of what it made."""
    settings = settings_from(options)
    from dreamerxl.runs.manager import RunManager, check_runnable

    check_runnable(settings)
    if options.allow_pickle_weights:
        from dreamerxl.guidance.pickles import convert

        settings = settings.override({"model": convert(settings.model, tell)})
    manager = RunManager(options.out.parent, make_trainer)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        job = manager.submit(settings, folder=options.out)
        interrupted = follow(manager, job)
        view = job.view
        training = sum(view.timings.get(name, 0.0) for name in ("iterations", "snapshots"))
        summary = view.reason or f"{view.iteration} iterations in {training:.0f} s."
        print(f"{view.status}: {summary}", file=sys.stderr)
        made = sorted(job.folder.scenes.glob("*.ply"))
        if view.status == "done":
            from dreamerxl.runs.capture import capture_run

            made += capture_run(view, video=not options.no_video)
        for path in made:
            print(path)
    finally:
        manager.close()
    return 130 if interrupted else {"done": 0, "stopped": 1, "failed": 1}[view.status]


def follow(manager: Any, job: Any) -> bool:
    """Show a run's progress until it has ended; Ctrl-C stops it and keeps its scenes. Returns whether it was interrupted."""
    from tqdm import tqdm

    interrupted, told, drawn = False, 0, 0.0
    pause = 0.1 if sys.stderr.isatty() else LOG_SECONDS  # a log keeps every bar that is drawn
    bar_options: Any = {"unit": "it", "dynamic_ncols": True, "smoothing": 0.1, "file": sys.stderr, "mininterval": pause}
    with tqdm(total=job.view.iterations, **bar_options) as bar:
        while True:
            try:
                ended = job.wait(0.2)
                view = job.view
                for notice in view.notices[told:]:
                    bar.write(notice, file=sys.stderr)
                told = len(view.notices)
                if view.snapshot is not None:
                    norms = [f"{side.label} |g| {side.metrics['grad_norm']:.3g}" for side in view.snapshot.sides]
                    bar.set_postfix_str("  ".join(norms), refresh=False)
                bar.set_description("stopping" if interrupted and not ended else view.stage or view.status, refresh=False)
                bar.update(view.iteration - bar.n)
                if ended or time.monotonic() - drawn >= pause:
                    bar.refresh()
                    drawn = time.monotonic()
                if ended:
                    return interrupted
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                manager.stop(job.id, "Stopped from the keyboard.")


def add_take_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run that has ended")
    parser.add_argument(
        "names", nargs="+", metavar="FILE", help="growth.mp4, side-by-side.mp4, screenshot.png, scene.html, growth.viser, "
        "0-ism.spz, 1-tsm.glb, sides.splat.zip, ...",
    )  # fmt: skip


def take(options: argparse.Namespace, make_trainer: Any) -> int:
    """Make files of a run: captures and exports, by the names that they will have. Prints their paths."""
    from dreamerxl.runs.run import read_run
    from dreamerxl.web.takeaway import make

    view = read_run(options.folder).view
    for name in options.names:
        print(make(view, name))
    return 0


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs that have ended")
    parser.add_argument("--views", type=int, default=24, metavar="N", help="renders of a turn, 360 / N degrees apart")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of a render")
    parser.add_argument("--download", action="store_true", help="fetch the weights that are not there")
    parser.add_argument("--lpips", type=Path, metavar="DIR", help="a folder with vgg.safetensors, alex.safetensors")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the scores in a file too")


def evaluate(options: argparse.Namespace, make_trainer: Any) -> int:
    """Score runs as in the paper's Table 1, with whatever weights can be had. Prints a table."""
    from dreamerxl.lab.evaluate import evaluate_run, keep_scores, make_metrics, table

    if options.views < 2 or options.size < 64:
        raise SettingsError(f"--views {options.views} --size {options.size}: at least 2 views of 64 pixels are accepted.")
    metrics, absent = make_metrics(lpips_folder=options.lpips, say=tell, download=options.download)
    for sentence in absent:
        tell(sentence)
    scores = [found for folder in options.folders for found in evaluate_run(folder, metrics, options.views, options.size)]
    print(table(scores))
    if options.json:
        keep_scores(options.json, scores, options.views, options.size)
    return 0


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="SWEEP.yaml", help="cases, prompts and seeds; see docs/lab.md")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes; started again, it does the rest")
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="runs at the same time, each in a process of its own (default: 1; on a cluster, as many as there is room for)",
    )  # fmt: skip
    parser.add_argument("--piece", default="1/1", metavar="K/N", help="do the K-th of N equal pieces, for several machines")
    parser.add_argument("--report", action="store_true", help="run nothing; write the report of what is there")
    parser.add_argument("--threads", type=int, metavar="N", help="processors of a run (default: its share; on a cluster, 1)")
    group = parser.add_argument_group("on a cluster", "needs requirements-cluster.txt; see docs/cluster.md")
    group.add_argument("--executor", choices=["local", "ray"], default="local", help="where runs go (default: %(default)s)")
    group.add_argument("--address", metavar="HOST:PORT", help="the Ray cluster, or auto; without it one of this machine starts")
    group.add_argument("--store", metavar="URL", help="for run folders and checkpoints, e.g. s3://BUCKET/PATH (default: --out)")
    group.add_argument("--gpus", type=float, metavar="X", help="cards of a run, or the share of one (default: by its model)")


def sweep(options: argparse.Namespace, make_trainer: Any) -> int:
    """Run what is missing of a sweep, and write its report. Prints the report's path."""
    from dreamerxl.lab.report import write_report
    from dreamerxl.lab.sweep import is_done, load_sweep, piece_of, read_outcome, write_outcome

    found = load_sweep(options.file)
    executor = executor_from(options, make_trainer)
    tasks = piece_of(found.tasks(), options.piece)
    left = [] if options.report else [task for task in tasks if not is_done(read_outcome(options.out, task))]
    tell(f"{found.name}: {len(tasks)} runs, {len(left)} to do.")
    failed, begun = 0, time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for count, (task, outcome) in enumerate(executor.run(left, options.out, found.metrics) if left else (), 1):
            write_outcome(options.out, task, outcome)
            failed += not is_done(outcome)
            rest = (time.monotonic() - begun) / count * (len(left) - count)
            tell(f"{count}/{len(left)}  {task.prompt}, seed {task.seed}: {outcome.get('error', 'done')}  ({rest:,.0f} s left)")
    except KeyboardInterrupt:
        tell("Interrupted; started again, it goes on from here.")
        return 130
    finally:
        print(write_report(found, options.out))
    return 1 if failed else 0


def executor_from(options: argparse.Namespace, make_trainer: Any) -> Executor:
    """What carries out a sweep's runs. Raises DreamerError for what cannot be had."""
    for name, most in (("jobs", 256 if options.executor == "local" else 10_000), ("threads", 1024)):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= most:
            raise SettingsError(f"--{name} is {value}; 1 to {most} are accepted.")
    if options.gpus is not None and not 0 <= options.gpus <= 64:
        raise SettingsError(f"--gpus is {options.gpus:g}; 0 to 64 are accepted.")
    if options.executor == "local":
        from dreamerxl.lab.executor import LocalExecutor

        if options.address or options.store or options.gpus is not None:
            raise SettingsError("--address, --store and --gpus are for a cluster; add --executor ray.")
        return LocalExecutor(options.jobs or 1, options.threads, make_trainer)
    from dreamerxl.cluster.sweep import RayExecutor

    return RayExecutor(options.address, options.store, options.jobs, options.threads or 1, options.gpus)


def add_figure_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="FIGURE", help="2, 3, 6, 7, proposition, modes or blue; see docs/lab.md")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR", help="where its picture and numbers go")
    parser.add_argument("--toy", nargs="+", metavar="X", default=[], help="for 3: t=900 s=800 mu=801,810 delta_s=200")
    add_settings_arguments(parser)


def figure(options: argparse.Namespace, make_trainer: Any) -> int:
    """Make one of the paper's figures, on the preset of a mushroom unless another is named. Prints the paths of what it made."""
    from dreamerxl.lab.figures import figure_of_toy, make_figure
    from dreamerxl.lab.toy import typed_settings
    from dreamerxl.runs.prepare import Preparation
    from dreamerxl.web.offer import FIRST

    options.preset = options.preset or FIRST
    told = 0.0

    def say(stage: str) -> None:
        nonlocal told
        if time.monotonic() - told >= LOG_SECONDS:
            told = time.monotonic()
            tell(stage)

    if options.toy and options.name != "3":
        raise SettingsError(f"--toy is for figure 3; figure {options.name[:20]} takes the settings of a run.")
    settings = settings_from(options)
    toy = typed_settings(options.toy) if options.toy else None
    made = make_figure(options.name, settings, make_trainer or Preparation(), say) if toy is None else figure_of_toy(toy)
    for path in made.save(options.out):
        print(path)
    return 0


def tell(sentence: str) -> None:
    """What goes on, beside what is printed as a result."""
    print(sentence, file=sys.stderr)


def presets(options: argparse.Namespace, make_trainer: Any) -> int:
    """List the presets."""
    names = preset_names()
    width = max(map(len, names), default=0)
    for name in names:
        preset = load_preset(name)
        print(f"{name:{width}}  {preset.description or preset.prompt}")
    return 0


def list_settings(options: argparse.Namespace, make_trainer: Any) -> int:
    """List every setting with its default, range and meaning."""
    for name, item in leaf_fields():
        data = item.metadata
        limits = f", {data['low']:g} to {data['high']:g}" if data["low"] is not None else ""
        unit = f" {data['unit']}" if data["unit"] else ""
        default = "off" if item.default is None else repr(item.default)
        print(f"{name} = {default}{limits}{unit}\n    {data['help']}")
    return 0


COMMANDS = {
    "run": Command("make a run without a browser", add_run_arguments, run),
    "take": Command("make captures and exports of a run", add_take_arguments, take),
    "evaluate": Command("score runs as in the paper's Table 1", add_evaluate_arguments, evaluate),
    "sweep": Command("run every case of a sweep and compare them", add_sweep_arguments, sweep),
    "figure": Command("make a figure of the paper, with its numbers", add_figure_arguments, figure),
    "presets": Command("list the presets", lambda parser: None, presets),
    "settings": Command("list every setting with its default and range", lambda parser: None, list_settings),
}

if __name__ == "__main__":
    sys.exit(main())
