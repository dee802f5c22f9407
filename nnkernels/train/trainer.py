"""The training loop, to be read from top to bottom.

nnkernels train --network cnn --data digits --activation mish
nnkernels train --out runs/digits-cnn-1 --resume
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..policies import saving
from . import optimizers
from .batches import Order, loader
from .checkpoint import CheckpointError, Checkpoints, check_fields, check_tensors, using
from .choices import OWN
from .contexts import deterministic, profiling, random_state, seed_everything, stopping
from .data import Data
from .datasets import named
from .dead_units import units_off
from .divergence import Glance, NotFinite, all_finite, culprit, few
from .folder import CHECKPOINTS, free, taken
from .metrics import Judge
from .model import averaged, criterion, network
from .parallel import local
from .processes import Processes, joined
from .progress import Evaluation, Progress, Result
from .report import Report
from .settings import Settings


class Trainer:
    """Trains one network.

    Args:
        settings: what, on what and how.
        data: of your own; by default what `settings.data` names.
        model: of your own; by default what `settings.network` names.
        processes: in how many processes; by default those that torchrun started, or this one.
        watch: is told of each evaluation; what it raises ends the run.

    Raises:
        ValueError: the settings do not fit the data.
        FileExistsError: the folder already holds a run, and `settings.resume` is not set.
        CheckpointError: the run to be resumed cannot be.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from nnkernels.train import Settings, Trainer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = Path(folder) / "run"
        ...     settings = Settings(data="iris", epochs=2, out=out, progress=False, tensorboard=False)
        ...     Trainer(settings).run().steps
        4
    """

    def __init__(
        self,
        settings: Settings,
        data: Data | None = None,
        model: torch.nn.Module | None = None,
        *,
        processes: Processes | None = None,
        watch: Callable[[Evaluation], None] = lambda evaluation: None,
    ) -> None:
        if data is not None:
            settings = dataclasses.replace(settings, data=OWN)
        self.data = data or named(settings.data, settings.context)
        self.watch = watch
        self.processes = processes or joined(settings)
        self.device = self.processes.device
        self.order = Order(len(self.data.train), settings.batch_size, settings.seed, self.processes)  # type: ignore[arg-type]
        self.held_order = Order(len(self.data.held), settings.batch_size, None, self.processes)  # type: ignore[arg-type]
        self.total = settings.epochs * len(self.order)
        self.data.check(settings.data, settings.batch_size)

        seed_everything(settings.seed)
        self.dtype = torch.float64 if settings.precision == "float64" else torch.float32
        self.model = (model or network(settings, self.data.problem)).to(self.device, self.dtype)
        self.average = averaged(self.model, settings.ema)
        self.processes.divide(self.model)
        if self.average is not None:
            self.processes.divide(self.average.module)
        self.called = self.processes.wrap(self.model)
        self.parameters = list(self.model.parameters())
        self.criterion = criterion(settings, self.data.problem)
        self.judge = Judge(settings.metric, self.data.problem, self.device)
        self.optimizer = optimizers.optimizer(settings, self.model)
        self.schedule = optimizers.Schedule(settings, self.optimizer, self.total)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        if settings.compile:
            self.called.compile()
        self.processes.seed(settings.seed)

        self.progress = Progress()
        self.chooses = settings.out is None  # a folder by itself
        self.settle(settings, self.processes.agreed(lambda: settings.out or free(settings.data, settings.network)))

    def run(self) -> Result:
        """Trains until the end, or until it is told to stop, from the newest checkpoint if so told.

        Raises:
            NotFinite: the loss became NaN or infinite.
            InUse: another process trains in the folder.
            OSError: a file could not be written; the checkpoints before are whole.
        """
        with ExitStack() as held:
            self.take(held)
            if not ((self.settings.resume or self.processes.restarted) and self.restore()):
                self.prepare()
            return self.train()

    def train(self) -> Result:
        """From where the run stands."""
        settings, progress = self.settings, self.progress
        folder = self.folder if self.processes.is_main else None
        began, evaluation, reason = progress.step, None, self.exhausted()
        with (
            deterministic(settings.deterministic),
            Report(settings, folder, self.judge.name, self.total, progress.step) as report,
            profiling(self.folder / "trace.json" if settings.profile and folder else None) as profiled,
            stopping() as signalled,
        ):
            if not self.processes.divides:
                report.graph(self.model, self.held_inputs()[:2])
            self.model.train()
            while progress.epoch < settings.epochs and not reason:
                for inputs, targets in self.batches():
                    progress.losses.append(self.step(inputs, targets))
                    ended = self.advance()
                    profiled()
                    report.step(len(inputs) * self.processes.size)
                    if _due(settings.log_every, progress.step):
                        report.trained(progress.step, progress.epoch, self.mean_loss(), self.schedule.lr)
                    reason = self.processes.any(signalled())
                    if _due(settings.evaluate_every, progress.step) or (ended and self.closes_with_evaluation):
                        with report.paused():
                            evaluation = self.evaluate(report)
                            self.save(evaluation.best)
                            self.watch(evaluation)
                        reason = reason or self.exhausted()
                    elif reason or _due(settings.save_every, progress.step):
                        with report.paused():
                            self.save()
                    if reason:
                        break
            report.picture()
        best, step = progress.best, progress.best_step
        return Result(progress.step, began, evaluation, best, step, self.judge.name, self.folder, reason)

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """One step of the optimiser; returns the mean loss of the batch, or this process's share in it."""
        settings = self.settings
        inputs, targets = self.moved(inputs), self.moved(targets)
        self.optimizer.zero_grad()
        total, pieces = 0.0, settings.accumulate
        weight = self.processes.weight(self.order.size(self.progress.batch))
        for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
            with self.autocast(), saving("recompute") if settings.recompute else nullcontext():
                loss = self.criterion(self.called(x), y)
            if (share := weight * len(x) / len(inputs)) != 1:
                loss = loss * share
            glance = Glance(loss)
            self.scaler.scale(loss).backward()
            total += glance.value()
        if not math.isfinite(total):
            raise self.not_finite(total, inputs, targets)
        if settings.clip is not None:
            self.scaler.unscale_(self.optimizer)
            self.processes.clip(self.parameters, settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return total

    def advance(self) -> bool:
        """Counts a step; returns whether an epoch ended with it."""
        progress = self.progress
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        ended = progress.batch == len(self.order)
        if ended:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        return ended

    def evaluate(self, report: Report) -> Evaluation:
        """Judges all held-out data, with the mean weights where there are such."""
        progress, model = self.progress, self.average or self.called
        model.eval()
        total, seen, spoilt = 0.0, 0, None
        for batch, (inputs, targets) in enumerate(self.held_batches()):
            x, y = self.moved(inputs), self.moved(targets)
            with torch.no_grad(), self.autocast():
                outputs = model(x)
                loss = self.criterion(outputs, y).item()
            if spoilt is None and not math.isfinite(loss):
                spoilt = batch, x, y
            if count := self.processes.count(self.held_order.size(batch)):
                if spoilt is None:
                    self.judge.update(outputs, y)
                total, seen = total + loss * count, seen + count
        loss = self.processes.mean(total / max(seen, 1), seen)
        if not math.isfinite(loss):
            raise self.held_not_finite(loss, spoilt)
        model.train()
        metric = self.judge.result()
        better = self.judge.better(metric, progress.best)
        progress.waited = 0 if better else progress.waited + 1
        if better:
            progress.best, progress.best_step = metric, progress.step
        self.schedule.evaluated(loss)
        if report.watches_units and not self.processes.divides:
            report.dead_units(units_off(self.model, self.held_inputs()), progress.step)
        report.evaluated(progress.step, progress.epoch, loss, metric, self.schedule.lr)
        return Evaluation(progress.step, loss, metric, better)

    def exhausted(self) -> str | None:
        """Whether patience is, as the reason to stop."""
        patience = self.settings.patience
        return "patience" if patience is not None and self.progress.waited >= patience else None

    def save(self, best: bool = False) -> None:
        """Writes a checkpoint, whole or not at all."""
        processes = self.processes
        self.progress.losses = processes.means(self.progress.losses)
        state = {
            "settings": self.settings.to_dict(),
            "problem": self.data.problem.to_dict(),
            "model": processes.weights(self.model),
            "average": processes.weights(self.average) if self.average is not None else None,
            "optimizer": processes.optimizer_state(self.model, self.optimizer),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "random": processes.gathered(random_state()),
        }
        processes.agreed(lambda: self.checkpoints.save(self.progress.step, state, best))

    def restore(self) -> bool:
        """Goes back to the newest whole checkpoint; returns whether there is one.

        Raises:
            CheckpointError: it is of another network, or the settings that make the order of the batches have changed.
        """
        tell = partial(print, file=sys.stderr)
        found = self.processes.agreed(lambda: self.checkpoints.newest(tell))
        if found is None:
            return False
        path, state = found
        check_fields(path, state, _FIELDS)
        check_tensors(path, state["model"], self.model)
        for name in ("data", "batch_size", "seed", "optimizer", "schedule"):
            if (before := state["settings"].get(name)) != getattr(self.settings, name):
                raise CheckpointError(
                    f"{path} was made with {name} {before!r} and cannot go on with "
                    f"{getattr(self.settings, name)!r}; a run is resumed with what it began with"
                )
        with using(path):
            saved = optimizers.in_form_of(self.optimizer, state["optimizer"])
            self.processes.load_optimizer(self.model, self.optimizer, saved)
            self.processes.load_weights(self.model, state["model"])
            if self.average is not None and state["average"] is not None:
                self.processes.load_weights(self.average, state["average"])
            self.schedule.load_state_dict(state["schedule"])
            self.scaler.load_state_dict(state["scaler"])
            self.progress = Progress(**{one.name: state["progress"][one.name] for one in dataclasses.fields(Progress)})
            self.processes.restore_random(state["random"])
        if self.processes.is_main:
            self.settings.save(self.folder / "settings.yaml")
        return True

    def settle(self, settings: Settings, folder: Path) -> None:
        """Into which folder everything goes."""
        self.folder, self.settings = folder, dataclasses.replace(settings, out=folder)
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, settings.keep)

    def take(self, held: ExitStack) -> None:
        """Locks the folder of the run until `held` ends; of folders without a name the next one that is free.

        Raises:
            InUse: another process trains there.
            FileExistsError: it is not empty and holds no run.
            OSError: it cannot be written.
        """

        def choose() -> Path:
            folder = self.folder
            while True:
                try:
                    held.enter_context(taken(folder, new=self.chooses))
                    return folder
                except FileExistsError:  # another process was faster
                    if not self.chooses:
                        raise
                    folder = free(self.settings.data, self.settings.network)

        chosen = self.processes.agreed(choose)
        if chosen != self.folder:
            if self.processes.is_main:
                print(f"{self.folder} was taken meanwhile; this run is in {chosen}", file=sys.stderr)
            self.settle(self.settings, chosen)

    def prepare(self) -> None:
        """Makes the folder of a new run ready.

        Raises:
            FileExistsError: it already holds a run.
            OSError: it cannot be written.
        """

        def make() -> None:
            if self.checkpoints.found() or self.checkpoints.found("best"):
                raise FileExistsError(f"{self.folder} already holds a run; go on with it (resume), or choose another")
            (self.folder / "log.csv").unlink(missing_ok=True)
            self.settings.save(self.folder / "settings.yaml")

        self.processes.agreed(make)

    @property
    def closes_with_evaluation(self) -> bool:
        """Whether the epoch that just ended is followed by an evaluation: each, unless told otherwise, and the last."""
        return self.settings.evaluate_every is None or self.progress.epoch == self.settings.epochs

    def batches(self) -> DataLoader:
        """What is left of the epoch."""
        self.order.epoch, self.order.first = self.progress.epoch, self.progress.batch
        return loader(self.data.train, self.order, self.settings.workers, self.device)

    def held_batches(self) -> DataLoader:
        return loader(self.data.held, self.held_order, 0, self.device)

    def held_inputs(self) -> Tensor:
        """The first batch of them, for pictures of the network."""
        return self.moved(next(iter(self.held_batches()))[0])

    def moved(self, batch: Tensor) -> Tensor:
        return batch.to(self.device, self.dtype if batch.is_floating_point() else None, non_blocking=True)

    def autocast(self) -> AbstractContextManager:
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.settings.precision)
        return torch.autocast(self.device.type, precision) if precision else nullcontext()

    def mean_loss(self) -> float:
        """Of the steps since it was last asked for."""
        losses, self.progress.losses = self.processes.means(self.progress.losses), []
        return sum(losses) / len(losses)

    def not_finite(self, loss: float, inputs: Tensor, targets: Tensor) -> NotFinite:
        progress = self.progress
        where = "a layer, which can be found where each process holds the whole network"
        if not self.processes.divides:
            with self.autocast():
                where = culprit(self.model, inputs, targets, self.criterion)
        chosen = few(self.processes.share(self.order.indices(progress.epoch, progress.batch)))
        return NotFinite(
            f"the loss is {loss} at step {progress.step + 1}, batch {progress.batch} of epoch {progress.epoch} "
            f"(samples {chosen}). The first number that is not finite comes out of {where}. The weights are as before "
            f"the step; checkpoints are in {self.checkpoints.folder}"
        )

    def held_not_finite(self, loss: float, spoilt: tuple[int, Tensor, Tensor] | None) -> NotFinite:
        """The error for held-out data; weights that are sound are saved before it, since training came so far."""
        sound = self.processes.mean(float(all(all_finite(local(one.detach())) for one in self.parameters))) == 1
        if sound:
            self.save()
        where = "a batch of another process"
        if spoilt is not None:
            batch, inputs, targets = spoilt
            where = f"batch {batch} (samples {few(self.processes.share(self.held_order.indices(0, batch)))})"
            if not self.processes.divides:
                with self.autocast():
                    model = self.model if self.average is None else self.average.module
                    where += f", out of {culprit(model, inputs, targets, self.criterion)}"
        return NotFinite(
            f"the loss of held-out data is {loss} after step {self.progress.step}. The first number that is not finite "
            f"comes in {where}. Checkpoints are in {self.checkpoints.folder}"
        )


_FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("settings", "model", "optimizer", "schedule", "scaler", "progress"), dict),
    **{"average": (dict, type(None)), "random": list},
}
"""Of a checkpoint, what a run needs to go on from it."""


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
