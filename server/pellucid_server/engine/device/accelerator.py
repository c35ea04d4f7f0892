"""Where models run: what the process and its threads set for a CUDA device, and how it shows that one is lost.

On CUDA, float32 is float32: TF32 is off. What has a deterministic kernel runs on it, attention by plain products.
"""

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.device import arenas

_SIGNS = ("CUDA error", "CUDA driver error", "CUDNN_STATUS_", "CUBLAS_STATUS_", "cuda runtime error")


_CPU_CHUNK_BYTES = 512 << 20
_SHARE_OF_FREE_MEMORY = 4
"""A chunk takes a quarter: the estimate is of the largest values, and torch keeps blocks for the next one."""

_PINNED_BYTES = 1 << 16
"""Arrays of so many bytes are copied by way of pinned memory, four times as fast; for smaller ones it is no gain."""

Array = npt.NDArray[np.generic]


class DeviceLostError(Exception):
    """A kernel failed in such a way that the process can use its CUDA device no more, whatever it does."""


def is_cuda(device: str) -> bool:
    """Whether a device, as the settings spell it, is a CUDA device."""
    return device.startswith("cuda")


def prepare_process(device: str) -> None:
    """Set how the process computes; CUDA itself is not touched yet, so that it may still be forked."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if not is_cuda(device):
        return
    torch.backends.cudnn.benchmark = False
    # An operator without a deterministic kernel runs all the same; torch warns of it in the log.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Memory that nobody has written is never read: the operators that give it write zeros.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def prepare_thread(device: str) -> None:
    """Make a CUDA device the thread's own, so that it makes no context on another one."""
    if is_cuda(device):
        torch.cuda.set_device(device)


def lost(device: str, error: BaseException) -> bool:
    """Tell whether the device is lost, after an error that a program on it raised.

    An illegal memory access and a failed assertion of a kernel stay with the process: every later call fails.
    """
    if not is_cuda(device) or not any(sign in str(error) for sign in _SIGNS):
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def chunk_bytes(device: str, wanted: int) -> int:
    """Return the most memory that a chunk may take: what is wanted, or if that is 0, what suits the device.

    On CUDA it is a quarter of what is free when the models are loaded, and not kept for ONNX Runtime: a few rows at a
    time are no work for it.
    """
    if wanted:
        return wanted
    if not is_cuda(device):
        return _CPU_CHUNK_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return max(_CPU_CHUNK_BYTES, (free - arenas.reserved_bytes(device)) // _SHARE_OF_FREE_MEMORY)


def leave_room(device: str) -> None:
    """Bound torch's memory on a CUDA device, so that what ONNX Runtime's arenas may take is there when they need it.

    torch keeps what its largest chunk took. At its bound it gives that back, and then is out of memory.
    """
    kept = arenas.reserved_bytes(device)
    if not kept:
        return
    free, total = torch.cuda.mem_get_info(device)
    # A small chunk is allowed on any device.
    more = max(free - kept, min(free, _CPU_CHUNK_BYTES))
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + more) / total, device)


def to_device(array: Array, device: str) -> torch.Tensor:
    """Return an array as a tensor on a device; on a CPU both share their memory, if it may be written to."""
    # torch warns of read-only arrays; nothing writes to an input of a functional graph.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if not is_cuda(device):
        return tensor
    if array.nbytes >= _PINNED_BYTES:
        tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
    return tensor.to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> Array:
    """Return a tensor as an array."""
    tensor = tensor.detach()
    if not tensor.is_cuda or tensor.nbytes < _PINNED_BYTES:
        return tensor.cpu().numpy()
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    pinned.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return pinned.numpy()
