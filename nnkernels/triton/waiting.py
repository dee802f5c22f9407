"""Programs that wait for each other's partial results.

All that share a row must be on the device at once, or it hangs: a program draws its share's number from a counter as it
starts, and a launcher cuts a row into no more shares than surely fit.
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
    done = tl.atomic_add(counter, 0, sem="acquire")
    while done < count:
        done = tl.atomic_add(counter, 0, sem="acquire")
    tl.debug_barrier()
