"""Weights in files beside an ONNX file, read into memory.

ONNX Runtime maps such files, and uses many weights where they lie. A file that is overwritten while the model is served
would change the answers of a version that is said to be another, or end the process where it became shorter.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

DTYPES: Mapping[int, np.dtype[np.generic]] = {
    kind: onnx.helper.tensor_dtype_to_np_dtype(kind)
    for kind in (
        *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32),
        *(TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL),
    )
}
"""Types that numpy has, of values that may leave a part or enter one."""

LEAST_SHARED_BYTES = 4096
"""Of a weight that is handed over beside a model; smaller ones may be shapes, which ONNX Runtime reads as it loads."""

_ELSEWHERE = "shared"
"""The place that a model gives for a weight which is handed over beside it. No such file is read."""


def take_in(model: onnx.ModelProto, folder: Path) -> dict[str, onnxruntime.OrtValue]:
    """Read weights of the main graph in; those of types that numpy lacks, and of branches, stay in their files.

    Small ones are put into the model. The others are returned by name, and are to be handed over beside it.
    """
    taken: dict[str, onnxruntime.OrtValue] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL or tensor.data_type not in DTYPES:
            continue
        data = _read(tensor, folder)
        if data.nbytes > LEAST_SHARED_BYTES:
            taken[tensor.name] = onnxruntime.OrtValue.ortvalue_from_numpy(data.reshape(tuple(tensor.dims)))
            tensor.CopyFrom(placeholder(tensor, data.nbytes))
        else:
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = data.tobytes()
    return taken


def placeholder(tensor: TensorProto, nbytes: int) -> TensorProto:
    """Return what stands in a model for a weight that is handed over beside it."""
    left = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    left.data_location = TensorProto.EXTERNAL
    for key, value in (("location", _ELSEWHERE), ("length", str(nbytes))):
        entry = left.external_data.add()
        entry.key, entry.value = key, value
    return left


def _read(tensor: TensorProto, folder: Path) -> "np.ndarray[tuple[int], np.dtype[np.generic]]":
    """Read a tensor's numbers, which are known to be there."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    kind, count = DTYPES[tensor.data_type], int(np.prod(tuple(tensor.dims), dtype=np.int64))
    data = np.fromfile(folder / entries["location"], kind, count, offset=int(entries.get("offset", "0")))
    if len(data) != count:
        raise OSError(0, "it became shorter while it was read", str(folder / entries["location"]))
    return data
