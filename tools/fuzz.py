"""Random calls of the whole library on guarded memory, as many as you like.

python tools/fuzz.py --calls 10000 --seed 0             legal calls, compared with float64
python tools/fuzz.py --calls 10000 --nonsense           illegal ones, which have to raise; in a process of their own
python tools/fuzz.py --seed 4711 --calls 1              one call again

Ends with status 1, and the failures as one line each, if there were any.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="how many calls")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first call")
    parser.add_argument("--nonsense", action="store_true", help="illegal calls instead of legal ones")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.calls)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    failures = 0
    if options.nonsense:
        import fuzz_nonsense

        for line in fuzz_nonsense.failures(seeds):
            failures += 1
            print(line, flush=True)
    else:
        import fuzz_calls

        for seed in seeds:
            try:
                text = fuzz_calls.run(seed)
            except fuzz_calls.Failure as failure:
                failures += 1
                print(f"seed {seed}: {failure}", flush=True)
            else:
                if options.calls == 1:
                    print(text)
    print(f"{options.calls} calls, {failures} failures")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
