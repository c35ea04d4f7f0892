"""Holds ONNX operators to their contract where ONNX Runtime does not.

What each rule stops was found by running ONNX Runtime 1.32 with arguments that do not fit: a crash, a read beyond an
array, or an answer of memory that was never written. ONNX Runtime checks the rest itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, helper

from pellucid_server.engine.models.onnx.graphs import Scope
from pellucid_server.engine.models.onnx.guards import known_empty
from pellucid_server.engine.models.onnx.operators import listed

Attributes = Mapping[str, Any]
Check = Callable[[onnx.NodeProto, Attributes, Scope], str | None]
"""Returns what is wrong, and what would be right; None for a node that fits."""

_FLAGS = listed(
    """
    align_corners allowzero antialias broadcast causal ceil_mode center_point_box channels_last count_include_pad
    detect_negative detect_positive do_rotary exclude_outside exclusive fmod input_forget inverse is_causal is_test
    keepdims largest layout linear_before_reset noop_with_empty_axes onesided periodic reverse saturate
    select_last_index sorted storage_order training_mode transA transB transBatchA transBatchB unidirectional upper
    zeros
    """
)
"""Attributes that are 0 or 1; others reach ONNX Runtime's code cut to 32 bits there and whole here."""

_LOWEST = {
    **dict.fromkeys(("dilations", "group", "kernel_shape", "strides", "offset_group", "num_groups", "blocksize"), 1),
    **dict.fromkeys(
        ("hidden_size", "num_heads", "q_num_heads", "kv_num_heads", "bits", "block_size", "K", "N", "size"), 1
    ),
    **dict.fromkeys(("batch_dims", "sampling_ratio", "output_padding", "output_shape", "n_targets", "targets"), 0),
    **dict.fromkeys(("output_height", "output_width", "inputdimensions", "n_supports", "vectors_per_class"), 0),
}
_HIGHEST = 1 << 30
"""Of each whole number in an attribute that is a size, so that no product of two leaves 64 bits."""

_AXES = listed("axes axis batch_axis perm scan_input_axes scan_output_axes time_axis")
_MOST_AXES = 64

_WINDOWS = listed(
    """
    AveragePool Conv ConvInteger ConvTranspose DeformConv FusedConv LpPool MaxPool MaxUnpool NhwcMaxPool
    QLinearAveragePool QLinearConv Col2Im
    """
)
_MAY_BE_ZERO = frozenset(
    {
        ("QLinearAveragePool", "kernel_shape"),
        ("MatMulNBits", "block_size"),
        ("DequantizeLinear", "block_size"),
        ("QuantizeLinear", "block_size"),
    }
)


def misfit(node: onnx.NodeProto, version: int, scope: Scope) -> str | None:
    """Return what is wrong with a node's arguments, and what would be right, or None."""
    attributes = _attributes(node)
    return (
        _misfit_reference(node)
        or _misfit_input(node, version)
        or misfit_number(node)
        or _misfit_random(node, attributes, version, scope)
        or (_CHECKS[node.op_type](node, attributes, scope) if node.op_type in _CHECKS else None)
    )


def _attributes(node: onnx.NodeProto) -> Attributes:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute if not entry.ref_attr_name}


def _misfit_reference(node: onnx.NodeProto) -> str | None:
    referring = next((entry.name for entry in node.attribute if entry.ref_attr_name), None)
    if referring is None:
        return None
    return (
        f"its {referring} is an attribute of a function around it that cannot be resolved; write its value "
        "into the node"
    )


def _misfit_input(node: onnx.NodeProto, version: int) -> str | None:
    """Find an input that is left out and must not be: ONNX Runtime follows a null pointer there."""
    if all(node.input) and node.op_type not in ("Max", "Min", "Mean", "Sum"):
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return None
    for place, name in enumerate(node.input):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        if not name and formal.option != onnx.defs.OpSchema.FormalParameterOption.Optional:
            return f"its input {place} ({formal.name}) is left out; it needs it"
    return None


def misfit_number(node: onnx.NodeProto) -> str | None:
    """Return which whole number among a node's attributes is beyond its range, or None."""
    for name, value in _attributes(node).items():
        numbers = [value] if isinstance(value, int) else value if _whole_numbers(node, name) else []
        if name in _FLAGS and any(number not in (0, 1) for number in numbers):
            return f"its {name} is {value}; it must be 0 or 1"
        lowest = 0 if (node.op_type, name) in _MAY_BE_ZERO else _LOWEST.get(name)
        if name == "pads" and node.op_type in _WINDOWS:
            lowest = 0
        if name in _AXES and any(abs(number) > _MOST_AXES for number in numbers):
            return f"its {name} is {_shown(value)}; it must be in [-{_MOST_AXES}, {_MOST_AXES}]"
        if lowest is not None and any(not lowest <= number <= _HIGHEST for number in numbers):
            return f"its {name} is {_shown(value)}; it must be in [{lowest}, {_HIGHEST}]"
    return None


def _whole_numbers(node: onnx.NodeProto, name: str) -> bool:
    return any(entry.name == name and entry.type == AttributeProto.INTS for entry in node.attribute)


def _shown(value: object) -> str:
    text = str(list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _misfit_random(node: onnx.NodeProto, attributes: Attributes, version: int, scope: Scope) -> str | None:
    """Find what behaves as in training: it draws random numbers, or takes a batch's own mean."""
    evaluation = "export the model in evaluation mode (model.eval())"
    if node.op_type == "BatchNormalization":
        extra = version < 14 and any(node.output[1:])
        if attributes.get("training_mode") or extra or (attributes.get("is_test", 1) == 0 and version < 7):
            return f"it normalizes as in training, so that rows depend on each other; {evaluation}"
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        training = scope.constant(node.input[2])
        if training is None or training.size != 1 or bool(training.item()):
            return f"it drops values at random, as its training_mode is not a constant False; {evaluation}"
    return None


def _known_rank(places: Mapping[int, tuple[int, ...]]) -> Check:
    def check(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
        for place, ranks in places.items():
            if place >= len(node.input) or not node.input[place]:
                continue
            shape = scope.shape(node.input[place])
            if shape is None or len(shape) not in ranks:
                found = "cannot be found out by reading the file" if shape is None else f"is {len(shape)}"
                return (
                    f"its input {place} must have {' or '.join(map(str, ranks))} axes, and their number {found}; "
                    "reshape it to fixed axes just before"
                )
        return None

    return check


def _convolution_of_whole_numbers(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    place = 1 if node.op_type == "ConvInteger" else 3
    shape = scope.shape(node.input[place]) if len(node.input) > place else None
    if shape is None or not all(isinstance(length, int) and length > 0 for length in shape):
        return "its weights must be in the file, and not empty"
    return None


def _short_time_fourier(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    for place, name in ((1, "frame_step"), (3, "frame_length")):
        if len(node.input) <= place or not node.input[place]:
            continue
        value = scope.constant(node.input[place])
        if value is None or value.size != 1 or not 1 <= int(value.item()) <= _HIGHEST:
            return f"its {name} must be a constant of at least 1"
    return known_empty(node, scope) or _known_rank({0: (2, 3), 2: (1,)})(node, attributes, scope)


def _features(node: onnx.NodeProto, scope: Scope) -> int | None:
    shape = scope.shape(node.input[0]) if node.input else None
    length = shape[-1] if shape else None
    return length if isinstance(length, int) else None


def _linear_classifier(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    misfit = _classifier(node, attributes, scope)
    if misfit is not None:
        return misfit
    classes = len(attributes.get("intercepts", ())) or 1
    coefficients, features = len(attributes.get("coefficients", ())), _features(node, scope)
    if coefficients % classes or (features is not None and coefficients != classes * features):
        return (
            f"it has {coefficients} coefficients and {len(attributes.get('intercepts', ()))} intercepts; there must "
            "be one intercept for each class, and a coefficient for each class and feature"
        )
    return None


def _linear_regressor(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    targets, features = attributes.get("targets", 1), _features(node, scope)
    coefficients, intercepts = len(attributes.get("coefficients", ())), len(attributes.get("intercepts", ()))
    if intercepts not in (0, targets) or coefficients != targets * (features or coefficients / max(targets, 1)):
        return (
            f"it has {coefficients} coefficients and {intercepts} intercepts for {targets} targets; there must be one "
            "intercept for each target, and a coefficient for each target and feature"
        )
    return None


_CACHED = "it takes or gives keys and values of earlier steps; export one forward pass, without a cache"


def _attention(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    past = node.input[4:5] if node.domain else node.input[4:6]
    return _CACHED if any(past) or any(node.output[1:3]) else None


def _heads(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    return _CACHED if any(node.input[6:]) or any(node.output[1:]) else known_empty(node, scope)


def _never_empty(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    return known_empty(node, scope)


def _quantized_gemm(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    given = [len(node.input) > place and bool(node.input[place]) for place in (7, 8)]
    return None if given[0] == given[1] else "it has one of y_scale and y_zero_point; it needs both or none"


def _quantized(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    if len(node.input) < 5 or not all(node.input[:5]):
        return "one of its scales and zero points is left out; it needs all four"
    return None


def _quantized_concat(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    return None if all(node.input) else "one of its inputs is left out; it needs them all"


def _filled_input(place: int) -> Check:
    def check(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
        shape = scope.shape(node.input[place]) if place < len(node.input) else None
        return f"its input {place} is empty; give it elements" if shape is not None and 0 in shape else None

    return check


def _quantized_average(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    # A window larger than the picture divides by zero.
    if attributes.get("channels_last"):
        return "its channels_last is 1; it must be 0"
    return _quantized(node, attributes, scope)


def _division(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    # The processor stops at the lowest whole number divided by -1.
    divisor = scope.constant(node.input[1]) if len(node.input) > 1 else None
    if divisor is not None and divisor.dtype.kind == "i" and bool((divisor == -1).any()):
        return "it divides whole numbers by -1, which the lowest of them cannot be; multiply by -1 instead"
    return None


_NODE_LISTS = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_modes",
    "nodes_truenodeids",
    "nodes_falsenodeids",
)


def _trees(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    """Check the ids of an ensemble of trees, so that each walk stays inside a tree and ends at a leaf."""
    lists = [list(attributes.get(name, ())) for name in _NODE_LISTS]
    if len({len(entries) for entries in lists}) != 1:
        return f"its lists of nodes ({', '.join(_NODE_LISTS)}) must be of one length"
    features = _features(node, scope)
    keys = {(tree, name): place for place, (tree, name) in enumerate(zip(lists[0], lists[1], strict=True))}
    if len(keys) != len(lists[0]):
        return "two nodes of a tree have one id; each must have its own"
    parents, children = [0] * len(keys), [list[int]() for _ in keys]
    for tree, name, feature, mode, true, false in zip(*lists, strict=True):
        if mode == b"LEAF":
            continue
        if feature < 0 or (features is not None and feature >= features):
            return f"node {name} of its tree {tree} compares feature {feature}; there are {features or 'fewer'}"
        for child in (true, false):
            place = keys.get((tree, child))
            if place is None:
                return f"node {name} of its tree {tree} leads to a node {child}, which the tree does not have"
            parents[place] += 1
            children[keys[tree, name]].append(place)
    ready = [place for place, count in enumerate(parents) if count == 0]
    for place in ready:
        for child in children[place]:
            parents[child] -= 1
            if parents[child] == 0:
                ready.append(child)
    return None if len(ready) == len(keys) else "the nodes of a tree lead back to themselves; a tree must end in leaves"


def _classifier(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    if attributes.get("post_transform") == b"PROBIT":
        # For one class, the other's half of the output is never written.
        return "its post_transform is PROBIT; it must be NONE, LOGISTIC, SOFTMAX or SOFTMAX_ZERO"
    given = [name for name in attributes if name.startswith("classlabels_") and attributes[name]]
    return None if len(given) < 2 else f"it has both {' and '.join(sorted(given))}; it must have one of them"


def _tree_classifier(node: onnx.NodeProto, attributes: Attributes, scope: Scope) -> str | None:
    labels = max(len(attributes.get(f"classlabels_{kind}", ())) for kind in ("strings", "int64s"))
    beyond = next((number for number in attributes.get("class_ids", ()) if not 0 <= number < labels), None)
    if beyond is not None:
        return f"it has a leaf of class {beyond}; it has {labels} labels, so that each must be in [0, {labels})"
    return _classifier(node, attributes, scope) or _trees(node, attributes, scope)


_CHECKS: dict[str, Check] = {
    "Div": _division,
    "Conv": _filled_input(1),
    "DequantizeLinear": _filled_input(0),
    "QLinearConcat": _quantized_concat,
    "QLinearConv": _convolution_of_whole_numbers,
    "ConvInteger": _convolution_of_whole_numbers,
    "DFT": _known_rank({0: tuple(range(2, 9))}),
    "STFT": _short_time_fourier,
    "ReverseSequence": _known_rank({0: tuple(range(2, 9))}),
    "Attention": _attention,
    "MultiHeadAttention": _heads,
    "QGemm": _quantized_gemm,
    "QLinearAveragePool": _quantized_average,
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearGlobalAveragePool", "QLinearSoftmax"), _quantized),
    **dict.fromkeys(
        ("ConvTranspose", "GRU", "LSTM", "RNN", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "Unique"),
        _never_empty,
    ),
    "RoiAlign": _known_rank({0: (4,), 1: (2,), 2: (1,)}),
    "EmbedLayerNormalization": _known_rank({0: (2,), 1: (2,), 7: (1, 2), 8: (2,)}),
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "SVMClassifier": _classifier,
    "TreeEnsembleClassifier": _tree_classifier,
    "TreeEnsembleRegressor": _trees,
}
