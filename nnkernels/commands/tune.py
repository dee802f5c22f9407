"""`nnkernels tune`: searches for settings; it takes all options of `nnkernels train` beside its own.

nnkernels tune --network cnn --data digits --search lr optimizer width activation --trials 40
nnkernels tune --network cnn --data digits --search activation --seeds 5
nnkernels tune --data digits --storage postgresql://me@host/studies     # on as many machines as there are
nnkernels train --config runs/tune-digits-mlp/best.yaml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..cli import missing


def _options(given: list[str]) -> tuple[argparse.Namespace, list[str]]:
    from ..train.choices import PRUNERS
    from ..train.searching import ACTIVATIONS, SPACE, USUAL

    parser = argparse.ArgumentParser(
        "nnkernels tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--search", nargs="+", default=list(USUAL), metavar="NAME",
        help=f"settings to search for (default: {', '.join(USUAL)}), of {', '.join(SPACE)}; activation alone compares "
        "activations, each with several seeds",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, default=40, help="over all processes (default: 40)")
    parser.add_argument(
        "--activations", nargs="+", default=list(ACTIVATIONS), metavar="NAME", help="among which to choose"
    )
    parser.add_argument("--seeds", type=int, default=5, help="of each activation, if nothing else is searched for")
    parser.add_argument("--pruner", choices=PRUNERS, default="median", help="which trials are cut short")
    parser.add_argument(
        "--storage", help="of the study, shared by all processes: see the documentation of Optuna's storages"
    )
    parser.add_argument("--study", help="its name in the storage (default: DATA-NETWORK)")
    parser.add_argument("--heartbeat", type=int, default=10, help="seconds between two signs of life of a trial")
    parser.add_argument("--out", type=Path, help="folder (default: runs/tune-DATA-NETWORK)")
    return parser.parse_known_args(given)


def run(args: argparse.Namespace) -> int:
    if (name := missing("optuna", "torchmetrics", "tyro", "yaml")) is not None:
        print(f"nnkernels tune needs {name}; run: pip install 'nnkernels[train]'", file=sys.stderr)
        return 2
    from ..train.searching import Comparison, Search
    from .train import _settings

    own, rest = _options(args.options)
    try:
        if "--resume" in rest:
            raise ValueError("a study needs no --resume: the same command goes on with it")
        base = _settings(rest)
        folder = own.out or Path("runs") / f"tune-{base.data}-{base.network}"
        compares = own.search == ["activation"]
        search = Comparison(own.activations, own.seeds) if compares else Search(own.search, own.activations, own.trials)
    except (ValueError, TypeError, OSError) as error:
        print(f"nnkernels tune: {error}", file=sys.stderr)
        return 2
    from ..train.tuning import Place, best_of, failures, shown, table, tune  # with torch, which takes seconds

    try:
        place = Place(folder, own.storage, own.study, own.heartbeat)
        study = tune(base, search, place, own.pruner)
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        print(f"nnkernels tune: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the study", file=sys.stderr)
        return 130
    home = place.home(base)
    if not best_of(study, search):
        print(f"nnkernels tune: {failures(study)}", file=sys.stderr)
        print(f"trials.csv: {home}; begin another --study with other settings", file=sys.stderr)
        return 1
    if compares:
        print(shown(table(study), base.metric or "metric"))
    else:
        print(
            f"best of {len(study.get_trials(deepcopy=False))} trials: {study.best_value:.4f} with {study.best_params}"
        )
    print(f"go on with: nnkernels train --config {home / 'best.yaml'}; plots and trials.csv: {home}")
    return 0
