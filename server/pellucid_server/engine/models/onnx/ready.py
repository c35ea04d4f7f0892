"""An ONNX file that was read and checked, in the form in which it is run: a model and its large weights beside it.

All of it can be written to a file and read from there. So one process reads and checks a model, and another one that
serves meanwhile opens the result: protobuf and the libraries of ONNX keep the interpreter for tens of milliseconds at a
time. Weights are used where they lie in that file, which must not change.
"""

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from pellucid_server.engine.models.onnx.beside import placeholder, take_in
from pellucid_server.engine.models.onnx.file import OnnxFile
from pellucid_server.engine.models.onnx.session import Weights
from pellucid_server.engine.models.onnx.skeleton import Skeleton, beside_bytes, large_weight

_ALIGNMENT = 64
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class ReadyFile:
    """What a session of a file is opened with, and what is needed to explain its errors.

    Attributes
    ----------
    content
        The model, serialized, with large weights left out.
    weights
        Those, by name.
    harms
        What went wrong where a guard ended a run, by the guard's number.
    refusing
        By an operator that is given a shape or a place which follows what a caller sends, one such node.
    largest_value_bytes
        Bytes of the largest value in the file, for a row.
    skeleton
        What the file is cut by; None where that was not asked for. Its weights are those of the session.
    """

    content: bytes
    weights: Weights
    harms: tuple[str, ...]
    refusing: Mapping[str, str]
    largest_value_bytes: int
    skeleton: Skeleton | None

    @classmethod
    def of(cls, file: OnnxFile, folder: Path, *, cuttable: bool) -> "ReadyFile":
        """Make it of a file that was read; its model is emptied.

        Parameters
        ----------
        folder
            Where data beside the file is.
        cuttable
            Whether to keep what is needed to cut it.
        """
        model = file.model
        taken = take_in(model, folder)
        skeleton = Skeleton.of(model, folder, taken) if cuttable else None
        values = dict(taken if skeleton is None else skeleton.weights.values)
        for tensor in model.graph.initializer:
            if tensor.name in taken:
                continue
            found = large_weight(tensor)
            if found is None:
                continue
            # Those of a skeleton are in memory already, and are not kept twice.
            if tensor.name not in values:
                values[tensor.name] = onnxruntime.OrtValue.ortvalue_from_numpy(found)
            tensor.CopyFrom(placeholder(tensor, found.nbytes))
        weights = Weights(values, beside_bytes(model, values))
        content = model.SerializeToString()
        # It need not be in memory once more while ONNX Runtime reads it.
        model.Clear()
        harms = tuple(guard.harm for guard in file.guards)
        return cls(content, weights, harms, dict(file.refusing), file.largest_value_bytes, skeleton)

    def write(self, descriptor: int, digest: str) -> None:
        """Write it to an empty file, with the digest of the version that it belongs to."""
        arrays = {name: value.numpy() for name, value in self.weights.values.items()}
        skeleton = b"" if self.skeleton is None else self.skeleton.model.SerializeToString()
        pieces: list[bytes | memoryview[int]] = [self.content, skeleton]
        pieces += [memoryview(array).cast("B") for array in arrays.values()]
        header: dict[str, Any] = {
            "digest": digest,
            "content": len(self.content),
            "skeleton": len(skeleton),
            "weights": [(name, array.dtype.str, array.shape) for name, array in arrays.items()],
            "beside": self.weights.beside,
            "harms": self.harms,
            "refusing": self.refusing,
            "largest": self.largest_value_bytes,
            "cut": None if self.skeleton is None else self.skeleton.facts(),
        }
        text = json.dumps(header).encode()
        with os.fdopen(os.dup(descriptor), "wb") as out:
            out.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
            out.write(text)
            for piece in pieces:
                out.write(bytes(-out.tell() % _ALIGNMENT))
                out.write(piece)

    @classmethod
    def read(cls, descriptor: int) -> "tuple[ReadyFile, str] | None":
        """Return what was written to a file, and the digest; None of an empty file.

        The file may be closed afterwards, and must not be changed: weights stay where they are in it.
        """
        size = os.fstat(descriptor).st_size
        if not size:
            return None
        data = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
        header = json.loads(data[_LENGTH_BYTES:start])

        def place(length: int) -> int:
            nonlocal start
            found = start + -start % _ALIGNMENT
            start = found + length
            return found

        content, lean = (data[(at := place(header[part])) : at + header[part]] for part in ("content", "skeleton"))
        values = {}
        for name, kind, shape in header["weights"]:
            dtype, count = np.dtype(kind), int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(data, dtype, count, place(count * dtype.itemsize)).reshape(shape)
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        weights, cut = Weights(values, header["beside"]), header["cut"]
        ready = cls(
            content,
            weights,
            tuple(header["harms"]),
            header["refusing"],
            header["largest"],
            None if cut is None else Skeleton.of_facts(lean, weights, cut),
        )
        return ready, header["digest"]
