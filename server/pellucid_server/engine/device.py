"""Where models run: what the process and its threads set for a CUDA device, and how it shows that one is lost.

On CUDA, float32 is float32: TF32 is off. What has a deterministic kernel runs on it, attention by plain products.
"""

import torch

_SIGNS = ("CUDA error", "CUDA driver error", "CUDNN_STATUS_", "CUBLAS_STATUS_", "cuda runtime error")


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
