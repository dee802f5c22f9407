"""`nnkernels train`: the settings are the options, and `--config FILE` starts from settings in YAML.

nnkernels train --network cnn --data digits --activation mish
nnkernels train --config runs/digits-cnn-1/settings.yaml --seed 1
nnkernels train --out runs/digits-cnn-1 --resume
nnkernels train --recipe mlp --epochs 5     # a row of nnkernels networks
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import signal
import sys
from pathlib import Path

from ..cli import missing, seed
from .networks import picture


def _settings(options: list[str]):
    """What the options say, beside what is saved in the folder of a run that goes on, or in `--config`."""
    import tyro

    from ..train.settings import Settings

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--recipe")
    known, rest = first.parse_known_args(options)
    first.add_argument("--out", type=Path)
    first.add_argument("--resume", action="store_true")
    asked = first.parse_known_args(options)[0]
    saved = asked.out / "settings.yaml" if asked.resume and asked.out else None
    if asked.resume and saved is None:
        raise ValueError("--resume needs the folder of the run: --out FOLDER")
    if saved is not None and not saved.exists():
        raise ValueError(_no_run(saved.parent))
    base = Settings()
    if known.recipe is not None:
        base = _of_recipe(known.recipe)
    elif known.config is not None:
        base = Settings.load(known.config)
    elif saved is not None:
        base = Settings.load(saved)
    base = dataclasses.replace(base, resume=False)
    told = "\n\n".join(filter(None, (__doc__ or "").split("\n")))  # tyro fills paragraphs, and each example is a line
    return tyro.cli(Settings, prog="nnkernels train", description=told, default=base, args=rest)


def _of_recipe(name: str):
    """The settings of a recipe that the trainer trains.

    Raises:
        ValueError: there is no such recipe, or the trainer does not train it.
    """
    from ..networks.recipes import recipe
    from ..networks.trials import Trained

    trial = recipe(name).trial
    if not isinstance(trial, Trained):
        raise ValueError(f"the recipe {name!r} is not trained by gradients: it takes --recipe, --seed and --out alone")
    return trial.settings


def _fit(options: list[str]) -> int | None:
    """Fits a recipe whose network fits itself, and keeps what it learned; None if the options name no such recipe."""
    first = argparse.ArgumentParser("nnkernels train", add_help=False, allow_abbrev=False)
    first.add_argument("--recipe")
    first.add_argument("--seed", type=seed, default=0)
    first.add_argument("--out", type=Path)
    own, rest = first.parse_known_args(options)
    if own.recipe is None or rest:
        return None
    print(f"getting ready: the recipe {own.recipe}", file=sys.stderr, flush=True)
    from ..networks.keeping import save
    from ..networks.recipes import recipe
    from ..networks.trials import Fitted
    from ..train.folder import free, taken

    try:
        row = recipe(own.recipe)
        if not isinstance(row.trial, Fitted):
            return None
        chosen = own.out or free(own.recipe)
        with taken(chosen, new=True):
            learned = row.trial.run(own.seed, chosen)
            path = save(row, learned, own.seed, chosen)
    except FileExistsError:
        print(f"nnkernels train: {chosen} is there already; choose another --out", file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        print(f"nnkernels train: {error}", file=sys.stderr)
        return 2
    print(f"{row.problem}: {row.metric.name} {row.metric.shown(learned.value)}")
    if row.picture is not None and not missing("matplotlib"):
        picture(row, chosen / "learned.png", learned)
    print(f"what was learned: {path}")
    return 0


def _no_run(folder: Path) -> str:
    """What is wrong with a folder that is to be resumed, and the one beside it that may have been meant."""
    runs = [one.parent.name for one in folder.parent.glob("*/settings.yaml")]
    close = difflib.get_close_matches(folder.name, runs, n=1)
    hint = f"; did you mean {folder.parent / close[0]}?" if close else ""
    return f"there is no run in {folder} to go on with (--resume){hint}"


def run(args: argparse.Namespace) -> int:
    if (name := missing("torchmetrics", "tyro", "yaml")) is not None:
        print(f"nnkernels train needs {name}; run: pip install 'nnkernels[train]'", file=sys.stderr)
        return 2
    if (code := _fit(args.options)) is not None:
        return code
    try:
        settings = _settings(args.options)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError) as error:
        print(f"nnkernels train: {error}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":
        print(f"getting ready: {settings.network} on {settings.data}", file=sys.stderr, flush=True)
    from ..train import CheckpointError, NotFinite, Trainer  # with torch, which takes seconds

    try:
        trainer = Trainer(settings)
        if trainer.processes.is_main:
            print(f"{trainer.settings.network} on {trainer.settings.data}, {trainer.folder}", file=sys.stderr)
        result = trainer.run()
        trainer.processes.close()
    except (ValueError, TypeError, RuntimeError, OSError, ImportError, CheckpointError, NotFinite) as error:
        print(f"nnkernels train: {error}", file=sys.stderr)
        return 1 if isinstance(error, NotFinite) else 2
    except KeyboardInterrupt:  # before the loop notes it, or a second time
        print("nnkernels train: stopped at once; --resume goes on from the last checkpoint, if any", file=sys.stderr)
        return 128 + signal.SIGINT
    if not trainer.processes.is_main:
        return 128 + signal.Signals[result.stopped] if result.stopped in ("SIGINT", "SIGTERM") else 0
    if result.evaluation is not None:
        last = result.evaluation
        print(
            f"step {last.step}: held-out loss {last.loss:.4f}, {result.metric} {last.metric:.4f} "
            f"(best {result.best:.4f} after step {result.best_step})"
        )
    elif result.steps == result.began:
        why, more = f"all {trainer.settings.epochs} epochs were trained", "--epochs"
        if result.stopped == "patience":
            why, more = f"{trainer.settings.patience} evaluations had brought no gain", "--patience"
        print(f"nothing was left to do: the run ended after step {result.steps}, as {why}; a greater {more} goes on")
    print(f"checkpoints, log.csv and curves.png: {result.folder}")
    if result.stopped in ("SIGINT", "SIGTERM"):
        print(
            f"stopped by {result.stopped}; go on with: nnkernels train --out {result.folder} --resume", file=sys.stderr
        )
        return 128 + signal.Signals[result.stopped]
    return 0
