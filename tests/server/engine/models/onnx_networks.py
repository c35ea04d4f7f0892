"""Small ONNX files with what makes cuts hard, and what they say with values put in by hand.

`outputs_with` is the independent truth: the file itself, with inputs in place of some of its values.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def weight(name, *shape, kind=np.float32):
    """A weight drawn by its name."""
    source = np.random.default_rng(sum(map(ord, name)))
    values = source.standard_normal(shape) / math.sqrt(math.prod(shape[1:]) or 1)
    return numpy_helper.from_array(values.astype(kind), name)


def whole(name, values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def node(operator, inputs, outputs, name=None, **attributes):
    made = outputs.split()
    return helper.make_node(operator, inputs.split(), made, name=made[0] if name is None else name, **attributes)


@dataclass(frozen=True)
class File:
    """A file: `cuts` are the layers that it must have, in order; `shapes` of a row, by layer."""

    nodes: list
    tensors: list
    inputs: dict
    outputs: tuple
    cuts: str
    kind: int = FLOAT
    opset: int = 17
    domains: tuple = ()
    unit_axes: dict = field(default_factory=dict)

    @property
    def model(self):
        def info(name, shape):
            integer = self.inputs.get(name, ((), None))[1]
            return helper.make_tensor_value_info(name, integer or self.kind, shape)

        inputs = [info(name, ["rows", *shape]) for name, (shape, _) in self.inputs.items()]
        outputs = [helper.make_tensor_value_info(name, self.kind, ["rows", *shape]) for name, *shape in self.outputs]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.tensors)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(*domain) for domain in self.domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def rows(self, count, seed=0):
        source = np.random.default_rng(seed)
        kind = helper.tensor_dtype_to_np_dtype(self.kind)
        rows = {}
        for name, (shape, integer) in self.inputs.items():
            lengths = (count, *(length if isinstance(length, int) else 5 for length in shape))
            drawn = source.integers(0, 9, lengths) if integer else source.standard_normal(lengths)
            rows[name] = drawn.astype(np.int64 if integer else kind)
        return rows


def attention(batch_in_heads):
    """Self-attention of two heads, which are folded with the batch or stand beside it."""
    heads = ["heads", "half"] if batch_in_heads else ["two", "half"]
    split = []
    for name in "qkv":
        split += [
            node("MatMul", f"x {name}.w", name),
            node("Reshape", f"{name} apart", f"{name}.apart"),
            node("Transpose", f"{name}.apart", f"{name}.beside", perm=[0, 2, 1, 3]),
            node("Reshape", f"{name}.beside {'folded' if batch_in_heads else 'kept'}", f"{name}.heads"),
        ]
    order = [0, 2, 1] if batch_in_heads else [0, 1, 3, 2]
    return File(
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape zero", "count", axis=0),
            node("Gather", "shape one", "length", axis=0),
            node("Concat", "count length two half", "apart", axis=0),
            node("Mul", "count two", "heads"),
            node("Concat", " ".join([heads[0], "length", heads[1]]), "folded", axis=0),
            node("Concat", "count two length half", "kept", axis=0),
            *split,
            node("Transpose", "k.heads", "k.turned", perm=order),
            node("MatMul", "q.heads k.turned", "scores"),
            node("Softmax", "scores", "weights", axis=-1),
            node("MatMul", "weights v.heads", "mixed"),
            node("Concat", "count two length half", "back", axis=0),
            node("Reshape", "mixed back", "mixed.beside"),
            node("Transpose", "mixed.beside", "mixed.apart", perm=[0, 2, 1, 3]),
            node("Concat", "count length four", "whole", axis=0),
            node("Reshape", "mixed.apart whole", "joined"),
            node("MatMul", "joined o.w", "projected"),
            node("Add", "projected x", "sum"),
            node("LayerNormalization", "sum scale", "normal"),
            node("ReduceMean", "normal", "mean", axes=[1], keepdims=0),
            node("Gemm", "mean head.w", "y"),
        ],
        [
            *(weight(f"{name}.w", 4, 4) for name in "qkvo"),
            weight("head.w", 4, 3),
            weight("scale", 4),
            whole("zero", [0]),
            whole("one", [1]),
            whole("two", [2]),
            whole("half", [2]),
            whole("four", [4]),
        ],
        {"x": (("length", 4), None)},
        (("y", 3),),
        "q q.apart q.beside k k.apart k.beside v v.apart v.beside mixed.beside mixed.apart joined projected sum normal "
        "mean y"
        if batch_in_heads
        else "q q.apart q.beside q.heads k k.apart k.beside k.heads v v.apart v.beside v.heads k.turned scores weights "
        "mixed mixed.beside mixed.apart joined projected sum normal mean y",
        unit_axes={"q": 1, "joined": 1, "normal": 1, "sum": 1, "y": 0},
    )


def branch():
    """A choice between two branches, by a flag in the file, that take values from outside."""

    def body(operator, name):
        return helper.make_graph(
            [node(operator, "hidden skip", f"{name}.made")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.made", FLOAT, None)],
        )

    return File(
        [
            node("Gemm", "x a.w", "hidden"),
            node("Relu", "x", "skip"),
            node("ReduceSum", "count", "total", keepdims=0),
            node("Greater", "total limit", "more"),
            node("If", "more", "chosen", then_branch=body("Add", "then"), else_branch=body("Mul", "else")),
            node("Gemm", "chosen b.w", "y"),
        ],
        [weight("a.w", 4, 4), weight("b.w", 4, 2), whole("count", [1, 2]), whole("limit", 2)],
        {"x": ((4,), None)},
        (("y", 2),),
        "hidden skip chosen y",
    )


FILES = {
    "residual": File(
        [
            node("Conv", "x a.w", "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("BatchNormalization", "a scale shift mean variance", "normal"),
            node("Relu", "normal", "r"),
            node("Conv", "r b.w", "b", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Add", "b a", "sum"),
            node("Mul", "sum sum", "squared"),
            node("GlobalAveragePool", "squared", "pooled"),
            node("Flatten", "pooled", "flat"),
            node("Gemm", "flat head.w", "y"),
        ],
        [
            weight("a.w", 3, 2, 3, 3),
            weight("b.w", 3, 3, 3, 3),
            weight("head.w", 3, 4),
            *(
                numpy_helper.from_array(np.array(each, np.float32), name)
                for name, each in {
                    "scale": [1, 2, -1],
                    "shift": [0.5, 0, 1],
                    "mean": [0.1, -0.2, 0],
                    "variance": [1, 2, 0.5],
                }.items()
            ),
        ],
        {"x": ((2, 5, 5), None)},
        (("y", 4),),
        "a normal r b sum squared pooled flat y",
        unit_axes={"a": 0, "normal": 0, "r": 0, "sum": 0, "flat": 0, "y": 0},
    ),
    "attention": attention(batch_in_heads=False),
    "attention, heads folded with the batch": attention(batch_in_heads=True),
    "a token of its own for each row": File(
        [
            node("Shape", "x", "count", start=0, end=1),
            node("Concat", "count one four", "wanted", axis=0),
            node("Expand", "token wanted", "tokens"),
            node("Concat", "tokens x", "all", axis=1),
            node("MatMul", "all a.w", "hidden"),
            node("Gather", "hidden first", "y", axis=1),
        ],
        [weight("token", 1, 1, 4), weight("a.w", 4, 3), whole("one", [1]), whole("four", [4]), whole("first", 0)],
        {"x": ((3, 4), None)},
        (("y", 3),),
        "tokens all hidden y",
    ),
    "a place in each row, found by its number": File(
        [
            node("Gather", "table ids", "embedded", axis=0),
            node("MatMul", "embedded a.w", "hidden"),
            node("Tanh", "hidden", "bent"),
            node("ArgMax", "ids", "place", axis=1, keepdims=1),
            node("Shape", "ids", "count", start=0, end=1),
            node("Squeeze", "count", "end"),
            node("Range", "nothing end step", "numbers"),
            node("Unsqueeze", "numbers last", "column"),
            node("Concat", "column place", "index", axis=1),
            node("GatherND", "bent index", "found"),
            node("Gemm", "found b.w", "y"),
        ],
        [
            *(weight("table", 9, 4), weight("a.w", 4, 4), weight("b.w", 4, 2)),
            *(whole("nothing", 0), whole("step", 1), whole("last", [1])),
        ],
        {"ids": (("length",), INT64)},
        (("y", 2),),
        "embedded hidden bent found y",
    ),
    "several outputs, of which one is on the way": File(
        [
            node("Gemm", "x a.w", "h"),
            node("Relu", "h", "r"),
            node("Softmax", "r", "s"),
            node("Gemm", "x b.w", "beside"),
            node("Add", "s beside", "t"),
        ],
        [weight("a.w", 3, 4), weight("b.w", 3, 4)],
        {"x": ((3,), None)},
        (("t", 4), ("h", 4), ("beside", 4)),
        "h r s beside t",
    ),
    "branches": branch(),
    "float64, a row of one number": File(
        [node("Mul", "x w", "m"), node("Add", "m z", "n"), node("Exp", "n", "y")],
        [numpy_helper.from_array(np.array(0.5), "w")],
        {"x": ((), None), "z": ((), None)},
        (("y",),),
        "m n y",
        kind=TensorProto.DOUBLE,
    ),
    "float16": File(
        [node("MatMul", "x w", "m"), node("Relu", "m", "r"), node("MatMul", "r w", "y")],
        [weight("w", 3, 3, kind=np.float16)],
        {"x": ((3,), None)},
        (("y", 3),),
        "m r y",
        kind=TensorProto.FLOAT16,
    ),
}


def with_inputs(model, values, wanted):
    """Return a file in which values are inputs, and which gives others, also those themselves as they were made."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for each in graph.node:
        each.output[:] = [f"{name}~made" if name in values else name for name in each.output]
    graph.input.extend(onnx.helper.make_tensor_value_info(name, values[name], None) for name in values)
    graph.ClearField("output")
    for number, name in enumerate(wanted):
        graph.node.append(helper.make_node("Identity", [name], [f"wanted.{number}"]))
        graph.output.append(onnx.ValueInfoProto(name=f"wanted.{number}"))
    return changed


def run_with(model, rows, values, wanted):
    """Run a file with values put in by hand, by plain ONNX Runtime."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in values.items()}
    content = with_inputs(model, kinds, wanted).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    taken = {entry.name for entry in session.get_inputs()}
    return session.run(None, {name: array for name, array in {**rows, **values}.items() if name in taken})
