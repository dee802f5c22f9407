"""A search loses no trial, whatever happens to its processes, and says which activation is best."""

from __future__ import annotations

import os
import pwd
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("torchmetrics")
pytest.importorskip("sklearn")

import optuna
from launching import server

from nnkernels.cli import main
from nnkernels.train import Settings
from nnkernels.train.report import Report
from nnkernels.train.searching import Comparison, Search
from nnkernels.train.storing import storage_at
from nnkernels.train.tuning import Place, shown, table, tune

SMALL = {"data": "iris", "width": 8, "batch_size": 120, "epochs": 2, "device": "cpu", "log_every": 1}


def search_in(folder: Path, storage: str | None, trials: int) -> None:
    Report.picture = lambda self: None  # which takes longer than such a trial
    tune(Settings(**SMALL), Search(["lr", "optimizer"], trials=trials), Place(folder, storage, "study", heartbeat=1))


def search_until_told(folder: Path, storage: str | None, trials: int, ready: Path) -> None:
    """Stops dead in the middle of its third trial."""
    report, count = optuna.trial.Trial.report, iter(range(1000))

    def stuck(self, value: float, step: int) -> None:
        report(self, value, step)
        if next(count) == 4:
            ready.touch()
            time.sleep(1000)

    optuna.trial.Trial.report = stuck
    search_in(folder, storage, trials)


def search_with_a_death(folder: Path, storage: str | None, trials: int) -> list[optuna.trial.FrozenTrial]:
    """All trials after a search in two processes, one of which was killed half-way."""
    ready, processes = folder.parent / "ready", server()
    victim = processes.Process(target=search_until_told, args=(folder, storage, trials, ready))
    victim.start()
    while not ready.exists():
        assert victim.is_alive()
        time.sleep(0.05)
    other = processes.Process(target=search_in, args=(folder, storage, trials))
    other.start()
    victim.kill()
    victim.join()
    other.join(200)
    assert other.exitcode == 0
    return optuna.load_study(study_name="study", storage=storage_at(storage or str(folder / "study.db"))).trials


def assert_none_lost(trials: list[optuna.trial.FrozenTrial], wanted: int, folder: Path) -> None:
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") + states.count("PRUNED") == wanted
    assert states.count("FAIL") == 1 and len(states) == wanted + 1
    (dead,) = (trial for trial in trials if trial.state.name == "FAIL")
    (again,) = (trial for trial in trials if trial.system_attrs.get("failed_trial") == dead.number)
    assert again.params == dead.params and again.state.name != "FAIL"
    assert (folder / "study-study" / "trials" / f"{dead.number:04}").exists()  # in which the second try went on
    assert not (folder / "study-study" / "trials" / f"{again.number:04}").exists()


def test_forty_trials_in_two_processes_of_which_one_is_killed(tmp_path):
    folder = tmp_path / "search"
    trials = search_with_a_death(folder, None, 40)
    assert_none_lost(trials, 40, folder)
    assert all(trial.distributions["lr"].log for trial in trials)
    home = folder / "study-study"
    best = Settings.load(home / "best.yaml")
    assert best.lr in [trial.params["lr"] for trial in trials] and best.out is None
    assert {"optimization_history.png", "slice.png", "timeline.png"} <= {path.name for path in home.iterdir()}
    assert len((home / "trials.csv").read_text().splitlines()) == 1 + len(trials)


def test_a_journal_loses_none_either(tmp_path):
    folder = tmp_path / "search"
    assert_none_lost(search_with_a_death(folder, str(tmp_path / "study.journal"), 6), 6, folder)


@pytest.fixture
def postgresql():
    """The address of a server of our own. It refuses to run as root, so then somebody else runs it."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [shutil.which("initdb")]
    if found[-1] is None:
        pytest.skip("no PostgreSQL server is installed")
    binaries = Path(found[-1]).parent
    user = (
        None
        if os.geteuid()
        else next((one.pw_name for one in pwd.getpwall() if one.pw_name in ("postgres", "nobody")), None)
    )
    if user is None and not os.geteuid():
        pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
    folder = Path(tempfile.mkdtemp(prefix="nnk"))  # a socket's path has to be short
    if user:
        shutil.chown(folder, user)

    def call(*command: str) -> None:
        told = [str(binaries / command[0]), *command[1:]]
        subprocess.run(told, user=user, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=120)

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "tuner", "--auth=trust", "--no-sync")
    call("pg_ctl", "-D", data, "-w", "-o", f"-k {folder} -h '' -F", "-l", str(folder / "log"), "start")
    try:
        yield f"postgresql://tuner@/postgres?host={folder}"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_a_postgresql_server_keeps_a_study_of_several_processes(tmp_path, postgresql):
    folder = tmp_path / "search"
    assert_none_lost(search_with_a_death(folder, postgresql, 6), 6, folder)


def test_the_command_says_which_activation_is_best(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Report, "picture", lambda self: None)
    command = ["tune", "--search", "activation", "--activations", "relu", "mish", "--seeds", "2"]
    command += ["--out", str(tmp_path / "search"), "--data", "iris", "--epochs", "1", "--width", "8", "--device", "cpu"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "relu" in text and "mish" in text and "+-" in text and "ms/step" in text
    rows = (tmp_path / "search" / "trials.csv").read_text().splitlines()
    assert sorted(row.split(",")[3:] for row in rows[1:]) == [
        ["mish", "0"],
        ["mish", "1"],
        ["relu", "0"],
        ["relu", "1"],
    ]
    assert Settings.load(tmp_path / "search" / "best.yaml").activation in ("relu", "mish")
    assert main(command) == 0  # a second time there is nothing left to do
    assert (tmp_path / "search" / "trials.csv").read_text().splitlines() == rows
    assert main([*command, "--lr", "0.5"]) == 2
    assert "--study" in capsys.readouterr().err


def test_the_table_has_means_and_students_intervals():
    study = optuna.create_study(direction="maximize")
    scores = {"relu": [0.80, 0.90, 0.85], "mish": [0.90, 0.92, 0.91], "tanh": [0.1, 0.1, 0.1]}
    for name, values in scores.items():
        for seed, value in enumerate(values):
            space = {
                "activation": optuna.distributions.CategoricalDistribution(list(scores)),
                "seed": optuna.distributions.IntDistribution(0, 10),
            }
            told = {"activation": name, "seed": seed}
            more = {"seconds_per_step": 0.001 * (seed + 1)}
            study.add_trial(optuna.create_trial(params=told, distributions=space, value=value, user_attrs=more))
    lines = table(study)
    assert [line.activation for line in lines] == ["mish", "relu", "tanh"]
    assert lines[1].mean == pytest.approx(0.85)
    assert lines[1].half == pytest.approx(4.302653 * statistics.stdev(scores["relu"]) / 3**0.5)
    assert lines[1].seconds_per_step == 0.002
    marked = [line.split()[0] for line in shown(lines, "accuracy").splitlines() if "not told apart" in line]
    assert marked == ["relu"]


def test_a_comparison_makes_each_pair_once():
    comparison = Comparison(["relu", "mish"], 3)
    told = [comparison.next([], turn) for turn in range(6)]
    assert sorted((one["activation"], one["seed"]) for one in told) == [
        (a, s) for a in ("mish", "relu") for s in range(3)
    ]


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: Search(["lrr"]), "'lr'"),
        (lambda: Search(["activation"], ["mosh"]), "mosh"),
        (lambda: Search(["lr"], trials=0), "0"),
        (lambda: Comparison(["relu"], seeds=1), "1"),
        (lambda: storage_at("study.txt"), "study.txt"),
        (lambda: storage_at("nosuch://host/db"), "nosuch"),
    ],
)
def test_what_cannot_be_searched_is_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_a_server_that_is_not_there_is_named():
    pytest.importorskip("psycopg")
    with pytest.raises(OSError, match="postgresql://nobody@"):
        storage_at("postgresql://nobody@/none?host=/nowhere")
