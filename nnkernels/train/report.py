"""What a run shows: a progress bar, log.csv, TensorBoard's files, and the curves as a picture."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from .checkpoint import write_whole
from .settings import Settings


@dataclass(frozen=True)
class Line:
    """One line of log.csv: of training, or of an evaluation (then with `held_loss` and `metric`).

    Attributes:
        step: of the optimiser, from 1 on.
        epoch: how many epochs were finished.
        loss: mean over the steps since the line before.
        lr: the learning rate of the next step.
        held_loss: of held-out data.
        metric: of held-out data.
        samples_per_second: since the line before.
        seconds: since this process began to train.
    """

    step: int
    epoch: int
    loss: float | None
    lr: float
    held_loss: float | None = None
    metric: float | None = None
    samples_per_second: float | None = None
    seconds: float = 0.0


_SCALARS = {
    "loss": "loss/training",
    "held_loss": "loss/held out",
    "metric": "{metric}/held out",
    "lr": "learning rate",
    "samples_per_second": "samples per second",
}


def read_log(path: Path, tell: Callable[[str], None] = lambda text: None) -> list[Line]:
    """The lines of a log.csv; one that was cut off in writing is left out, as is one that cannot be read.

    Args:
        path: of the file.
        tell: is told of each that cannot be read.
    """
    lines = []
    names = [one.name for one in fields(Line)]
    written = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
    for number, text in enumerate(written.splitlines(), 1):
        row = text.replace("\0", "").split(",")
        if row == names:
            continue
        try:
            if len(row) != len(names):
                raise ValueError(f"{len(row)} columns, not {len(names)}")
            values = [None if cell == "" else float(cell) for cell in row]
            if values[3] is None or values[7] is None:
                raise ValueError("an empty column")
            lines.append(Line(int(row[0]), int(row[1]), *values[2:]))  # type: ignore[arg-type]
        except ValueError as error:
            tell(f"{path}, line {number} cannot be read and is left out: {error}")
    return lines


def _row(line: Line) -> list[str]:
    return ["" if value is None else repr(value) for value in asdict(line).values()]


class Report:
    """Shows a run; used as a context, so that everything is closed however the run ends.

    Args:
        settings: those of the run.
        folder: where files go; None shows nothing and writes nothing, as in all processes but one.
        metric: its name.
        total: steps of the whole run.
        first: the step that the run goes on from; later lines of an earlier process are taken back.
    """

    def __init__(self, settings: Settings, folder: Path | None, metric: str, total: int, first: int) -> None:
        self.settings, self.folder, self.metric, self.total, self.first = settings, folder, metric, total, first
        self.lines: list[Line] = []
        self._shown: dict[str, str] = {}
        self._samples = 0
        self._writer: Any = None
        self._bar: Any = None

    def __enter__(self) -> Report:
        self._began = self._since = time.perf_counter()
        if self.folder is None:
            return self
        self._open_csv(self.folder / "log.csv")
        if self.settings.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.first + 1)
        if self.settings.progress:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total, initial=self.first, unit="step", file=sys.stderr, dynamic_ncols=True, mininterval=0.2
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self.folder is None:
            return
        if self._bar is not None:
            self._bar.close()
        with contextlib.suppress(OSError):  # of a full disk, which has been raised already
            self._csv.close()
        if self._writer is not None:
            self._writer.close()

    def _open_csv(self, path: Path) -> None:
        if path.exists():
            self.lines = [line for line in read_log(path, self.tell) if line.step <= self.first]
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([one.name for one in fields(Line)])
        writer.writerows(map(_row, self.lines))
        write_whole(path, text.getvalue().encode())
        self._csv = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)

    def step(self, samples: int) -> None:
        """After each step, of so many samples."""
        self._samples += samples
        if self._bar is not None:
            self._bar.update()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time within it does not count as training."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def trained(self, step: int, epoch: int, loss: float, lr: float) -> None:
        """Every few steps, with the mean loss of these."""
        now = time.perf_counter()
        speed = self._samples / (now - self._since)
        self._samples, self._since = 0, now
        self._write(Line(step, epoch, loss, lr, samples_per_second=speed, seconds=now - self._began))

    def evaluated(self, step: int, epoch: int, loss: float, metric: float, lr: float) -> None:
        """After each evaluation of held-out data."""
        seconds = time.perf_counter() - self._began
        self._write(Line(step, epoch, None, lr, held_loss=loss, metric=metric, seconds=seconds))

    def _write(self, line: Line) -> None:
        if self.folder is None:
            return
        self.lines.append(line)
        csv.writer(self._csv).writerow(_row(line))
        self._csv.flush()
        if line.metric is not None:  # a checkpoint follows, and must not be newer than the log
            os.fsync(self._csv.fileno())
        if line.loss is not None:
            self._shown["loss"] = f"{line.loss:.4f}"
        if line.metric is not None:
            self._shown[self.metric] = f"{line.metric:.4f}"
        if line.samples_per_second is not None:
            self._shown["samples/s"] = f"{line.samples_per_second:.0f}"
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)
        if self._writer is not None:
            for field, name in _SCALARS.items():
                if (value := getattr(line, field)) is not None:
                    self._writer.add_scalar(name.format(metric=self.metric), value, line.step)

    def tell(self, text: str) -> None:
        """A sentence for the user, above the progress bar."""
        if self.folder is None:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)

    def graph(self, model: torch.nn.Module, inputs: torch.Tensor) -> None:
        """The network's graph for TensorBoard, once."""
        if self._writer is None or self.first:
            return
        was = model.training
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TensorBoard's tracing is deprecated, and says so three times
                self._writer.add_graph(model.eval(), inputs)
        except Exception as error:  # whatever a network of the user's does under tracing
            self.tell(f"TensorBoard gets no graph of this network: {str(error).strip().splitlines()[0]}")
        finally:
            model.train(was)

    def dead_units(self, shares: dict[str, torch.Tensor], step: int) -> None:
        """For each activation the share of samples in which each unit is off, as a histogram."""
        if self._writer is None:
            return
        for name, off in shares.items():
            self._writer.add_histogram(f"units off/{name}", off, step)
            self._writer.add_scalar(f"dead units/{name}", (off == 1).float().mean().item(), step)

    @property
    def watches_units(self) -> bool:
        return self._writer is not None

    def picture(self) -> None:
        """The curves, in curves.png."""
        if self.folder is None or not self.lines or not self.settings.picture:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, field, label, colour in (
            (left, "loss", "training", "#9db4d8"),
            (left, "held_loss", "held out", "#1f3b73"),
            (right, "metric", self.metric, "#c44e52"),
        ):
            points = [(line.step, getattr(line, field)) for line in self.lines if getattr(line, field) is not None]
            if points:
                few = "o" if len(points) < 3 else ""  # a line through one point is not seen
                axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=few)
        title = f"{self.settings.network} on {self.settings.data}"
        left.set(title=f"{title}: loss", xlabel="step", yscale="log" if self._positive() else "linear")
        right.set(title=f"{title}: {self.metric}, held out", xlabel="step")
        left.legend(frameon=False)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        write_whole(self.folder / "curves.png", picture.getvalue())

    def _positive(self) -> bool:
        return all(value > 0 for line in self.lines for value in (line.loss, line.held_loss) if value is not None)
