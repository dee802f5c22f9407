"""Programs that wait for each other's partial results.

All programs that wait for one another must be on the device at once, or it hangs: a program draws its share's number
from a counter as it starts, and a launcher cuts a row, or whatever is shared, into no more shares than surely fit.
"""

import triton
import triton.language as tl


@triton.jit
def publish(counter):
    """Counts this program's stores as done, after all its threads made them."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release")


@triton.jit
def wait(counter, count):
    """Until `count` programs have published; what they stored can be read then."""
    done = tl.atomic_add(counter, 0, sem="relaxed")
    while done < count:
        done = tl.atomic_add(counter, 0, sem="relaxed")
    # Once, since it empties the multiprocessor's L1 cache under the other programs there.
    tl.atomic_add(counter, 0, sem="acquire")
    tl.debug_barrier()


@triton.jit
def is_last(counter, count):
    """Whether this program, whose stores count as done, is the last one of `count`: the others' can be read then."""
    tl.debug_barrier()
    found = tl.atomic_add(counter, 1, sem="acq_rel") == count - 1
    tl.debug_barrier()
    return found
