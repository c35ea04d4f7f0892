"""Whether an error means that there was no memory: each library says so in its own way."""

import torch

_SIGNS = (
    "can't allocate memory",  # torch's allocator on the CPU
    "not enough memory",  # the same, on other systems
    "annot allocate memory",  # the operating system
    "Failed to allocate memory",  # ONNX Runtime's arena
    "is smaller than requested bytes of",  # the same, where it has a limit
    "bad_alloc",  # C++, by way of either
    "out of memory",  # the CUDA driver
    "_STATUS_ALLOC_FAILED",  # cuBLAS and cuDNN
)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether what a program raised would not have been raised for fewer rows, or on a larger device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(sign in str(error) for sign in _SIGNS)
