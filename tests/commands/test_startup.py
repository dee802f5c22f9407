"""What starts at once, without torch; and what `import nnkernels` is, whether torch is there or not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnkernels
from nnkernels.cli import COMMANDS, parser
from nnkernels.names import BACKENDS
from nnkernels.requirement import OLDEST
from nnkernels.train import choices

ROOT = Path(nnkernels.__file__).parent.parent
HEAVY = ("torch", "numpy", "torchmetrics", "sklearn", "optuna", "matplotlib")


def python(code: str, **more: str) -> subprocess.CompletedProcess:
    """Runs `code` in a fresh interpreter that finds this package."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **more}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT)


ANSWERS = """
import sys
from nnkernels.cli import main
codes = []
for options in {commands!r}:
    try:
        codes.append(main(options))
    except SystemExit as stopped:
        codes.append(stopped.code)
print("codes", codes)
print("heavy", [name for name in {heavy!r} if name in sys.modules])
"""


def test_help_and_refusals_need_no_torch():
    refused = [
        ["chekc"],
        ["check", "--activation", "mihs"],
        ["bench", "--dtype", "bf16"],
        ["demo", "--epochs", "0"],
    ]
    commands = [["--help"], *([name, "--help"] for name in COMMANDS if name not in ("train", "tune")), *refused]
    done = python(ANSWERS.format(commands=commands, heavy=HEAVY))
    assert f"codes {[0] * (len(commands) - len(refused)) + [2] * len(refused)}" in done.stdout, done.stderr
    assert "heavy []" in done.stdout


def test_the_trainers_help_and_refusals_need_no_torch(tmp_path):
    for package in ("tyro", "yaml", "torchmetrics"):
        pytest.importorskip(package)
    (tmp_path / "bad.yaml").write_text("netwrok: cnn")
    commands = [["train", "--help"]]
    commands += [["train", f"--{name}", "nonsense"] for name in ("network", "data", "activation", "optimizer", "loss")]
    commands += [["train", "--lr", "-1"], ["train", "--config", str(tmp_path / "bad.yaml")]]
    done = python(ANSWERS.format(commands=commands, heavy=HEAVY))
    assert f"codes {[0] + [2] * (len(commands) - 1)}" in done.stdout, done.stderr
    assert "heavy []" in done.stdout


def test_the_searchs_help_and_refusals_need_no_torch():
    for package in ("tyro", "yaml", "torchmetrics", "optuna"):
        pytest.importorskip(package)
    commands = [["tune", "--help"], ["tune", "--search", "lrr"], ["tune", "--activations", "mihs"]]
    done = python(ANSWERS.format(commands=commands, heavy=HEAVY))
    assert "codes [0, 2, 2]" in done.stdout and "heavy []" in done.stdout, done.stderr


def test_training_says_what_it_is_at_before_torch_is_there(tmp_path):
    for package in ("tyro", "yaml", "torchmetrics", "sklearn"):
        pytest.importorskip(package)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from nnkernels.cli import main; main(sys.argv[2:])"
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is wanted')")  # found before the real one
    (tmp_path / "version.py").write_text("__version__ = '99.0'")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "train", "--data", "wine"],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    first, *_, last = done.stderr.splitlines()
    assert "wine" in first and last == "torch is wanted"


def test_the_names_of_settings_are_those_of_what_they_stand_for():
    from nnkernels import dispatch
    from nnkernels.networks import NETWORKS
    from nnkernels.train import datasets, metrics, optimizers

    assert tuple(NETWORKS) == choices.NETWORKS and tuple(datasets.DATA) == choices.DATA
    assert tuple(metrics.METRICS) == choices.METRICS and tuple(optimizers.SCHEDULES) == choices.SCHEDULES
    assert set(choices.OPTIMIZERS) <= set(optimizers.OPTIMIZERS)  # a later torch may have more
    assert set(choices.LOSSES) <= set(optimizers.LOSSES)
    assert dispatch.NAMES == BACKENDS


def test_the_commands_are_those_of_the_parser(capsys):
    for name in COMMANDS:
        if name in ("train", "tune"):
            assert parser().parse_known_args([name])[0].command == name
            continue
        with pytest.raises(SystemExit) as stopped:
            parser().parse_args([name, "--help"])
        assert stopped.value.code == 0 and f"nnkernels {name}" in capsys.readouterr().out


USES = {
    "an attribute": "import nnkernels; nnkernels.nn.Mish(); nnkernels.functional.mish; nnkernels.saving('auto')",
    "from": "from nnkernels import backend, init_for, optimize, register, build_info, saving, nn, functional",
    "a module": "import nnkernels.functional as F; F.mish; import nnkernels; nnkernels.nn.Mish",
    "a star": "from nnkernels import *; nn.Mish(); functional.mish; register; backend('auto'); activations()",
    "other parts": "import nnkernels; nnkernels.autograd.has_cpp_node(); nnkernels.dispatch.NAMES; nnkernels.reference",
    "the catalogue first": "from nnkernels.nn import Mish; import nnkernels.registry as r; assert r.activation('mish')",
    "pickles": "import pickle, nnkernels; n = nnkernels; assert pickle.loads(pickle.dumps(n.activation('mish'))) is "
    "n.activation('mish'); pickle.loads(pickle.dumps(n.nn.Mish()))",
    "register": "import nnkernels as n; n.register('mine', reference=lambda x: x); n.nn.Mine(); n.functional.mine",
    "dir": "import nnkernels; assert set(nnkernels.__all__) <= set(dir(nnkernels))",
    "the same object": "import nnkernels as n; from nnkernels.dispatch import backend; assert n.backend is backend; "
    "assert n.nn is n.nn and 'backend' in vars(n)",
    "the trainer": "from nnkernels.train import Settings, Trainer; import nnkernels.train as t; t.Data; dir(t)",
}


@pytest.mark.parametrize("before", ["", "import torch; "], ids=["torch after", "torch before"])
def test_every_way_to_import_works(before):
    """In one process each, forked from one that has imported torch, if that is to come first."""
    code = f"""{before}
import os, sys
for name, use in {USES!r}.items():
    pid = os.fork()
    if pid == 0:
        try:
            exec(use, {{}})
        except BaseException as error:
            print(name, type(error), error, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, name
"""
    if before:
        done = python(code)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    done = [python(use) for use in (USES["an attribute"], USES["a star"])]  # each imports torch anew
    assert all(one.returncode == 0 for one in done), done[0].stderr + done[1].stderr


def test_nothing_is_imported_until_it_is_used_and_wrong_names_are_refused():
    done = python(
        "import sys, nnkernels; assert 'torch' not in sys.modules and nnkernels.activation('mish').name == 'mish'\n"
        "for wrong in ('nosuch', '_nosuch', '__wrapped__'):\n"
        "    assert not hasattr(nnkernels, wrong)\n"
        "assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_where_torch_is_everything_is_imported_at_once():
    """Among it the C++ operators, which may be called by name."""
    code = "import torch, sys, nnkernels as n; assert 'nnkernels.nn' in sys.modules and 'backend' in vars(n)\n"
    code += "assert isinstance(n.native.library('cpu'), str) or torch.ops.nnkernels.forward"
    assert (done := python(code)).returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("version", "said"), [(None, "there is none"), ("2.10.3", "2.10.3"), ("1.13.1+cu117", "1.13.1")], ids=str
)
def test_a_torch_that_is_missing_or_too_old_is_named_at_once(tmp_path, version, said):
    (tmp_path / "torch").mkdir()
    code = "import sys; sys.modules['torch'] = None; import nnkernels"
    if version:
        (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')")
        (tmp_path / "torch" / "version.py").write_text(f"__all__ = ['__version__']\n__version__ = '{version}'\n")
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import nnkernels"
    done = python(code)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and re.match(r"(ImportError|ModuleNotFoundError): nnkernels needs PyTorch 2\.11", last)
    assert said in last and "pip install" in last


def test_the_oldest_torch_is_that_of_the_metadata():
    text = (ROOT / "pyproject.toml").read_text()
    assert f"torch>={'.'.join(map(str, OLDEST))}" in text
