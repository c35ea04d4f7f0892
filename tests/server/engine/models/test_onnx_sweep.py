"""No ONNX operator that is served reads or writes beyond its arrays, whatever its arguments.

A part of the sweep that `onnx_long_sweep.py` does at length, with its seed printed.
"""

import random

import numpy as np
import pytest
from onnx import helper
from pellucid_server.engine.models.onnx.operators import refusal
from server.engine.models.onnx_more_starts import more_starts
from server.engine.models.onnx_starts import onnx_starts, start
from server.engine.models.onnx_sweep import MODES, Runner, call_of, random_call, sweep

SEED = 20
CALLS = 700
MODULES = (
    "argmax", "averagepool", "cast", "col2im", "concat", "conv", "convtranspose", "cumsum", "dequantizelinear",
    "einsum", "gather", "gathernd", "gridsample", "gru", "layernormalization", "loop", "lrn", "lstm", "max",
    "maxpool", "maxunpool", "nonmaxsuppression", "onehot", "pad", "qlinearconv", "reshape", "resize",
    "reversesequence", "roialign", "scan", "scatterelements", "scatternd", "slice", "split", "stft",
    "topk", "where",
)  # fmt: skip
"""A part of the onnx package's cases, as all of them take long to make."""


def served(starts):
    return [
        entry for entry in starts if all(refusal(node.domain, node.op_type) is None for node in entry.model.graph.node)
    ]


@pytest.mark.filterwarnings("ignore")
def test_no_operator_reads_or_writes_beyond_its_arrays():
    print(f"seed {SEED}")
    starts = served([*more_starts(), *onnx_starts(MODULES)])
    by_operator = {entry.operator: [other for other in starts if other.operator == entry.operator] for entry in starts}

    def calls():
        generator = random.Random(SEED)
        for _ in range(CALLS):
            yield random_call(generator.choice(by_operator[generator.choice(sorted(by_operator))]), generator)

    count, findings = sweep(calls)

    assert len(by_operator) > 100
    assert count == CALLS
    assert findings == []


def unchanged(model, feeds):
    pass


KNOWN = {
    "an unwritten half": (
        helper.make_node("LinearClassifier", ["x"], ["l", "y"], domain="ai.onnx.ml", coefficients=[0.5] * 3,
                         intercepts=[0.1], classlabels_ints=[0, 1], post_transform="PROBIT"),
        {"x": np.ones((5, 3), np.float32)}, "reads beyond",
    ),
    "an unwritten part": (
        helper.make_node("Concat", ["x", "z"], ["y"], axis=1),
        {"x": np.ones((2, 2), np.float32), "z": np.ones((0, 2), np.float32)}, "reads beyond",
    ),
    "a write": (
        helper.make_node("QGemm", ["x", "s", "z", "w", "s", "z", "b", "", "z"], ["y"], domain="com.microsoft"),
        {"x": np.ones((3, 4), np.uint8), "s": np.array(0.1, np.float32), "z": np.array(3, np.uint8),
         "w": np.ones((4, 5), np.uint8), "b": np.ones(5, np.int32)}, "writes beyond",
    ),
    "an end at an empty array": (
        helper.make_node("SkipLayerNormalization", ["x", "s", "g"], ["y"], domain="com.microsoft"),
        {"x": np.ones((2, 4, 8), np.float32), "s": np.ones((0, 4, 8), np.float32), "g": np.ones(8, np.float32)},
        "dies of SIGFPE",
    ),
    "an end at an empty series": (
        helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=3),
        {"x": np.ones((0, 3, 3), np.float32), "w": np.ones((1, 9, 3), np.float32), "r": np.ones((1, 9, 3), np.float32)},
        "dies of SIGABRT",
    ),
    "an end at an empty picture": (
        helper.make_node("ConvTranspose", ["x", "w"], ["y"]),
        {"x": np.ones((1, 1, 0, 4, 5), np.float32), "w": np.ones((1, 2, 3, 3, 3), np.float32)}, "dies of SIGSEGV",
    ),
    "an end at an empty axis": (
        helper.make_node("Unique", ["x"], ["y"], axis=0), {"x": np.ones((3, 0), np.float32)}, "dies of SIGABRT",
    ),
    "an end at no window": (
        helper.make_node("STFT", ["x", "step", "window"], ["y"]),
        {"x": np.ones((1, 32, 1), np.float32), "step": np.array(4), "window": np.ones(0, np.float32)},
        "dies of SIGFPE",
    ),
    "a crash at what is left out": (
        helper.make_node("QLinearConcat", ["s", "z", "x", "", "z"], ["y"], domain="com.microsoft", axis=0),
        {"x": np.ones((3, 4), np.uint8), "s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}, "dies of SIGSEGV",
    ),
    "a crash": (
        helper.make_node("Max", ["x", "", "x"], ["y"]), {"x": np.ones(3, np.float32)}, "dies of SIGSEGV",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("node", "feeds", "kind"), KNOWN.values(), ids=KNOWN)
def test_the_sweep_finds_what_onnx_runtime_does_and_the_checks_stop_it(node, feeds, kind):
    call = call_of(start("known", [node], feeds), [("as it is", unchanged)], "hidden")

    def calls():
        yield call

    _, unchecked = sweep(calls, checks=False)
    _, checked = sweep(calls)

    assert [finding.kind for finding in unchecked] == [kind]
    assert checked == []


def test_arguments_that_fit_are_run():
    starts = served(more_starts())
    runner = Runner()

    run = {
        entry.operator
        for entry in starts
        if any(not isinstance(runner.answer(call_of(entry, [("as it is", unchanged)], mode)), str) for mode in MODES)
    }

    assert {entry.operator for entry in starts} == run
    assert len(run) > 60
