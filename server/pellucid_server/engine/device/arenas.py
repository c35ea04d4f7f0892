"""ONNX Runtime's memory on a CUDA device, beside torch's.

Each session has an arena of its own, which keeps what its largest run took. As long as there is a session on a device,
half of the device's memory is for arenas: a quarter for the session that runs (a worker's device thread runs one at a
time), and a quarter for what all others keep meanwhile. The other half is torch's, less the weights of the sessions.
"""

import threading
import weakref

import torch

_SHARE = 4
"""Beside weights, an arena may grow to a quarter of the device's memory; what idle arenas keep comes to another."""

_VALUES_AT_ONCE = 2
"""At any time an operator's input and its output are there."""


class Arena:
    """The bounds of one session's arena, for as long as this object lives.

    Parameters
    ----------
    device
        "cuda:N".
    """

    def __init__(self, device: str) -> None:
        _, total = torch.cuda.mem_get_info(device)
        self.device = device
        self.most_bytes = total // _SHARE
        """Most that it may grow to beside its weights."""
        with _lock:
            _arenas.add(self)

    def outgrown(self, rows: int, value_bytes: int) -> bool:
        """Tell whether a run may have left more in the arena than an idle one may keep.

        `value_bytes` are those of a row's largest value. Arenas on a device share alike what idle ones may keep.
        """
        return rows * value_bytes * _VALUES_AT_ONCE > self.most_bytes // len(_on(self.device))


def reserved_bytes(device: str) -> int:
    """Return how much of a CUDA device's memory is for arenas: nothing where there are no sessions on it."""
    return 2 * max((arena.most_bytes for arena in _on(device)), default=0)


_lock = threading.Lock()
_arenas: "weakref.WeakSet[Arena]" = weakref.WeakSet()


def _on(device: str) -> list[Arena]:
    with _lock:
        return [arena for arena in _arenas if arena.device == device]
