"""Programs that wait for each other's partial results. Those that do have to be at work together: a launcher gives out
the shares of a row in the order in which programs start, and never more of them than surely fit on the device."""

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
