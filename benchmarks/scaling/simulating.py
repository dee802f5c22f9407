"""What more processes would give, from measured computing and a model of the links; everything it assumes is printed.

A collective of S bytes over N processes takes alpha for each of its rounds and S (N - 1) / N / B for each pass:
a ring's all-reduce has 2 (N - 1) rounds and two passes, all-gather and reduce-scatter have N - 1 rounds and one pass
(Thakur, Rabenseifner & Gropp 2005). DDP's buckets go while backward computes, all but the last; FSDP2 gathers a block
while the one before computes; tensor parallelism waits for each of its sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Links:
    """How long a message takes: `alpha` seconds to begin, then `bandwidth` bytes a second in each direction."""

    alpha: float
    bandwidth: float
    source: str

    def all_reduce(self, size: float, processes: int) -> float:
        return 2 * self.gather(size, processes)

    def gather(self, size: float, processes: int) -> float:
        """All-gather or reduce-scatter of `size` bytes in all."""
        return (processes - 1) * (self.alpha + size / processes / self.bandwidth)

    @classmethod
    def fitted(cls, sizes: Sequence[int], seconds: Sequence[float], processes: int) -> Links:
        """To measured all-reduces: relative least squares in alpha and 1 / bandwidth, neither negative."""
        rounds = 2 * (processes - 1)
        took = np.asarray(seconds)
        left = np.stack([np.full(len(sizes), rounds), rounds * np.asarray(sizes) / processes], 1) / took[:, None]
        (alpha, slowness), *_ = np.linalg.lstsq(left, np.ones(len(sizes)), rcond=None)
        return cls(max(alpha, 0.0), 1 / max(slowness, 1e-15), f"all-reduces measured on {processes} processes")


@dataclass(frozen=True)
class Work:
    """One process's step, measured without communication.

    Attributes:
        seconds: of a step.
        parameters: of the model.
        blocks: that FSDP2 gathers one by one.
        grad_bytes, weight_bytes: of one parameter, as they travel.
        bucket_bytes: of DDP.
        forward_share: of the step.
    """

    seconds: float
    parameters: int
    blocks: int
    grad_bytes: int
    weight_bytes: int
    bucket_bytes: float = 25 * 2**20
    forward_share: float = 1 / 3

    def ddp(self, links: Links, processes: int) -> float:
        total = self.parameters * self.grad_bytes
        buckets = max(1, round(total / self.bucket_bytes))
        each = links.all_reduce(total / buckets, processes)
        backward = self.seconds * (1 - self.forward_share)
        return self.seconds - backward + max(backward, each * (buckets - 1)) + each

    def fsdp(self, links: Links, processes: int) -> float:
        """A block's gather hides behind the block before; the first one's gather and the last one's sum do not."""
        part = self.parameters / self.blocks
        gather = links.gather(part * self.weight_bytes, processes)
        scatter = links.gather(part * self.grad_bytes, processes)
        forward = self.seconds * self.forward_share / self.blocks
        backward = self.seconds * (1 - self.forward_share) / self.blocks
        return gather + self.blocks * (max(forward, gather) + max(backward, gather + scatter)) + scatter


def mlps(seconds: float, blocks: int, bytes_each: int, links: Links, processes: int) -> float:
    """Feed-forward blocks split over the processes: one sum forward and one backward for each, hidden by nothing."""
    return seconds / processes + 2 * blocks * links.all_reduce(bytes_each, processes)


def simulate(work: Work, links: Links, sizes: Sequence[int], mlp: Callable[[int], float], say: Callable) -> list[dict]:
    """Weak scaling of DDP and FSDP2 and the feed-forward blocks' time, for each number of processes."""
    say(f"\nsimulated, not measured; the links: {links.source}")
    say(f"  alpha {links.alpha * 1e6:.1f} us a round, {links.bandwidth / 1e9:.2f} GB/s each way, between any two")
    say("  rings, no congestion, no stragglers; computing slows down in no way while messages pass")
    say(f"  forward is {work.forward_share:.0%} of a step without communication, {work.seconds * 1e3:.2f} ms, measured")
    bucket = work.bucket_bytes / 2**20
    say(f"  DDP: {work.parameters:,} gradients of {work.grad_bytes} bytes in buckets of {bucket:.0f} MiB")
    say(f"  FSDP2: {work.blocks} equal parts, weights of {work.weight_bytes} bytes gathered twice, gradients summed")
    say("  tensor parallelism: computing is divided, one sum of the output forward and one backward for each block")
    say(f"{'processes':>10} {'DDP ms':>9} {'eff.':>5} {'FSDP2 ms':>9} {'eff.':>5} {'MLPs ms':>9}")
    rows = []
    for size in sizes:
        ddp, fsdp, split = work.ddp(links, size), work.fsdp(links, size), mlp(size)
        say(
            f"{size:>10} {ddp * 1e3:>9.2f} {work.seconds / ddp:>5.2f} {fsdp * 1e3:>9.2f} {work.seconds / fsdp:>5.2f} "
            f"{split * 1e3:>9.3f}"
        )
        rows.append({"processes": size, "ddp_seconds": ddp, "fsdp_seconds": fsdp, "mlps_seconds": split})
    return [{"links": asdict(links), "work": asdict(work)}, *rows]
