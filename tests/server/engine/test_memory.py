import numpy as np
import pytest
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as states
from pellucid_server.engine.device.memory import out_of_memory

PIB = 1 << 50


def numpy_array():
    np.empty(PIB, np.uint8)


def torch_tensor():
    torch.empty(PIB, dtype=torch.uint8)


@pytest.mark.parametrize("allocate", [numpy_array, torch_tensor])
def test_what_a_library_raises_when_it_asks_for_too_much_is_known(allocate):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()

    assert out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        states.RuntimeException("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
        states.Fail("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 4000"),
        states.RuntimeException(
            "[ONNXRuntimeError] : 6 : Available memory of 0 is smaller than requested bytes of 1024"
        ),
    ],
    ids=str,
)
def test_what_cannot_be_provoked_here_is_known_by_its_words(error):
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), RuntimeError("index 7 is out of bounds"), states.Fail("Invalid input shape")],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not out_of_memory(error)
