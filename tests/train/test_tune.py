"""A search loses no trial, whatever happens to its processes, and says which activation is best."""

from __future__ import annotations

import contextlib
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
pytest.importorskip("tyro")

import optuna
from launching import server

from nnkernels.cli import main
from nnkernels.train import NotFinite, Settings, Trainer
from nnkernels.train.folder import taken
from nnkernels.train.report import Report
from nnkernels.train.searching import Comparison, Search
from nnkernels.train.storing import joined_study, storage_at
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


def compared(folder: Path, *more: str) -> list[str]:
    command = ["tune", "--search", "activation", "--activations", "relu", "mish", "--seeds", "2", "--out", str(folder)]
    return [*command, "--data", "iris", "--epochs", "1", "--device", "cpu", "--no-picture", *more]


def test_studies_in_one_folder_train_their_own_trials(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nnkernels.train.tuning.draw", lambda study, folder: None)
    runs = {"": "4", "A": "8", "../B": "16"}
    for name, width in runs.items():
        assert main(compared(tmp_path / "in", *(["--study", name] if name else []), "--width", width)) == 0
        best = Path(capsys.readouterr().out.split("--config ")[1].split(";")[0])
        assert Settings.load(best).width == int(width) and best.is_relative_to(tmp_path / "in")
    (tmp_path / "in" / "study.db").unlink()  # and what is begun anew trains anew
    assert main(compared(tmp_path / "in", "--width", "32")) == 0
    trained = [Settings.load(path).width for path in (tmp_path / "in").rglob("trials/*/settings.yaml")]
    assert sorted(trained) == sorted([4, 8, 16, 32] * 4)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def first_try(folder: Path, width: int) -> None:
    """A trial that goes on with what a first try is said to have left in trials/0007."""
    study = optuna.create_study(
        storage=storage_at(str(folder / "study.db")), study_name="iris-mlp", direction="maximize"
    )
    base, search = Settings(**{**SMALL, "width": width}), Search(["lr"], trials=1)
    told = {**search.told(), **{key: one for key, one in base.to_dict().items() if key not in search.names}}
    study.set_user_attr("told", told)
    lr = optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
    more = {"params": {"lr": 0.01}, "distributions": {"lr": lr}, "user_attrs": {"folder": "0007"}}
    study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.WAITING, **more))
    tune(base, search, Place(folder))


@pytest.mark.parametrize("state", ["whole", "other settings", "in use", "damaged", "foreign"])
def test_a_trial_goes_on_only_where_the_same_settings_were_trained(tmp_path, monkeypatch, state):
    monkeypatch.setattr("nnkernels.train.tuning.draw", lambda study, folder: None)
    old, new = (tmp_path / "trials" / name for name in ("0007", "0000"))
    more = {"lr": 0.01, "keep": 1, "progress": False, "tensorboard": False}
    Trainer(Settings(out=old, **{**SMALL, **more})).run()
    with contextlib.ExitStack() as held:
        if state == "in use":
            held.enter_context(taken(old))
        if state == "damaged":
            for path in (old / "checkpoints").iterdir():
                path.write_bytes(b"")
        if state == "foreign":
            (old / "settings.yaml").write_text("others")
        before = (old / "settings.yaml").read_bytes(), (old / "log.csv").read_bytes()
        first_try(tmp_path, width=16 if state == "other settings" else SMALL["width"])
    assert new.exists() == (state != "whole")
    if state != "whole":
        assert ((old / "settings.yaml").read_bytes(), (old / "log.csv").read_bytes()) == before
        assert Settings.load(new / "settings.yaml").width == (16 if state == "other settings" else SMALL["width"])


@pytest.mark.parametrize("search", [["activation", "--seeds", "2"], ["lr", "--trials", "3"]], ids=lambda told: told[0])
def test_a_study_of_which_every_trial_is_nan_says_so(tmp_path, monkeypatch, capsys, search):
    (tmp_path / "best.yaml").write_text("")  # of another study
    monkeypatch.setattr(Trainer, "train", not_a_number)
    command = ["tune", "--search", *search, "--activations", "relu", "--data", "iris", "--batch-size", "60"]
    for _ in range(2):
        assert main([*command, "--out", str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert "the third layer" in said.err and "best.yaml" not in said.out + said.err
    assert (tmp_path / "trials.csv").read_text().count("PRUNED") == int(search[-1])


def not_a_number(self):
    raise NotFinite("the loss is nan, out of the third layer")


def test_what_is_broken_off_by_hand_is_the_next_to_be_tried(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nnkernels.train.tuning.draw", lambda study, folder: None)
    command = ["tune", "--search", "lr", "--trials", "1", "--data", "iris", "--batch-size", "60", "--epochs", "1"]
    command += ["--out", str(tmp_path), "--heartbeat", "1000", "--no-picture"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", interrupted)
        assert main(command) == 130
        assert "Traceback" not in capsys.readouterr().err
    assert main(command) == 0  # without waiting for a sign of life
    rows = [row.split(",") for row in (tmp_path / "trials.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == ["FAIL", "COMPLETE"] and rows[0][3] == rows[1][3]
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["0000"]


def interrupted(self):
    raise KeyboardInterrupt


def begin(place: str, barrier, answers) -> None:
    try:
        barrier.wait(60)
        storage = storage_at(place)
        answers.put(joined_study("study", {"width": 8}, storage=storage, direction="maximize").study_name)
    except BaseException as error:
        answers.put(repr(error))


@pytest.mark.parametrize("kind", ["db", "journal"])
def test_processes_that_begin_a_study_at_the_same_time_all_join_it(tmp_path, kind):
    processes, size = server(), 4
    for turn in range(2):
        barrier, answers = processes.Barrier(size), processes.Queue()
        place = str(tmp_path / f"{turn}.{kind}")
        started = [processes.Process(target=begin, args=(place, barrier, answers)) for _ in range(size)]
        for process in started:
            process.start()
        assert [answers.get(timeout=120) for _ in started] == ["study"] * size
        for process in started:
            process.join()


def test_tables_that_another_process_makes_at_the_same_time_are_tried_again(tmp_path, monkeypatch):
    from sqlalchemy.exc import OperationalError

    made, calls = optuna.storages.RDBStorage, []

    def racing(*args, **options):
        calls.append(args)
        if len(calls) < 3:
            raise OperationalError("CREATE TABLE studies", {}, Exception("table studies already exists"))
        return made(*args, **options)

    monkeypatch.setattr(optuna.storages, "RDBStorage", racing)
    assert storage_at(f"sqlite:///{tmp_path}/study.db").get_all_studies() == [] and len(calls) == 3


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
