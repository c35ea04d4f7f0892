"""What the processes do so that memory which nobody needs is given back."""

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

TRIM_SECONDS = 10.0
"""How often memory is given back."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""glibc's numbers of the settings, in malloc.h."""

_KEPT_BYTES = 1 << 30
_NEVER = (1 << 31) - 1

_libc = ctypes.CDLL(None)


_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return the resident memory of this process, what it shares with others included; 0 where that is not known."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def share_heaps(most: int) -> None:
    """Have at most so many heaps for all threads; call it before they start. Does nothing where there is no glibc.

    What is freed in one heap is of no use to another. By itself glibc has eight for each core, and each of gRPC's
    threads that has read a large message keeps as much as that had.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, most)


def keep_freed() -> None:
    """Have freed memory used again until `trim` is called. Does nothing where there is no glibc.

    By itself glibc gives large arrays back to the system as soon as they are freed, and each page of the next ones
    costs a fault: for rows of a picture that is several times what it takes to write them.
    """
    share_heaps(1)
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def settle() -> None:
    """Keep all that is there by now from being looked at by any later collection: models and libraries stay."""
    gc.collect()
    gc.freeze()
    # A full collection waits until there is a quarter as much that is new as the last one found. That was all that
    # is frozen now: what requests leave behind, and the arrays that it holds, would wait for hours.
    gc.collect()


@contextlib.contextmanager
def no_full_collections() -> Iterator[None]:
    """Leave full collections for later; what is young is collected as ever.

    One that comes while a model is loaded looks at all that there is of it by then, and finds next to nothing: the
    requests of the process wait for 40 to 100 ms.
    """
    first, second, third = gc.get_threshold()
    gc.set_threshold(first, second, _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(first, second, third)


def drop_frames(error: BaseException | None) -> None:
    """Take the tracebacks off an error that is dealt with, and off those that it came from.

    A frame that has the error in a variable, as one that waited for a future does, is a cycle with it, which
    would keep the arrays of every frame above until the next full collection.
    """
    left = [error]
    while left:
        found = left.pop()
        if found is not None and found.__traceback__ is not None:
            found.__traceback__ = None
            left += [found.__cause__, found.__context__]


def trim() -> None:
    """Give freed memory back to the system; takes some 15 ms for a GB. Does nothing where the C library is not glibc.

    Batches of ever other sizes leave holes between what is still used, which glibc keeps: hundreds of MB, and more
    by the minute.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
