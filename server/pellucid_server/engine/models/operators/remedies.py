"""What an author reads of an operator that is refused: where `forward` uses it, why it is refused, and a way round."""

import re
from collections.abc import Mapping
from typing import Any

import torch

_FRAME = re.compile(r'File "([^"\n]{0,4096})", line (\d{1,7}), in ([^\n]{1,256})(?:\n[ \t]+(?!File ")([^\n]*))?')
_PLACE = re.compile(r'File "[\w.\- ]{1,100}", line \d{1,7}, in [\w<>]{1,100}(\n    [^\n]{1,120})?')
_TORCH = re.compile(r"[/\\](site|dist)-packages[/\\]torch[/\\]|^<eval_with_key>|[/\\]torch[/\\](nn|_[a-z]+)[/\\]")
_LONGEST_TRACE = 65_536

_RANDOM = (
    "is random, so that the same row would have different answers",
    "Call model.eval() before the export; pass other random numbers as an input, or take them out of forward",
)
_LENGTH = (
    "gives a result whose length depends on values",
    "Keep the length: use a mask with torch.where, masked_fill or scatter_add",
)
_SPARSE = (
    "works on sparse tensors, and a server runs dense ones",
    "Make the weights dense with to_dense() before the export, and use matmul or torch.nn.functional.linear",
)
_QUANTIZED = (
    "works on quantized tensors",
    "Export the network as it was before quantization, in float32 or float16",
)
_NESTED = ("works on nested tensors", "Pad the rows to one length, and pass a mask as an input")
_MEMORY = (
    "reads memory by its addresses",
    "Use slices, torch.Tensor.unfold, reshape or expand; a new tensor is made by torch.zeros or torch.cat",
)
_BACKWARD = ("is part of a backward pass", "Export the forward pass alone; the server makes the gradients")
_FILES = ("reads or writes files", "Load the values before the export, and keep them as a buffer")
_POLYNOMIAL = (
    "takes a time that grows with the values it is given",
    "Write the recurrence out in forward, as many times as the largest degree",
)
_PIVOTS = ("trusts the pivots that it is given", "Use torch.linalg.solve")
_CONTROL = "holds a graph of its own, which a server does not run"
_OTHER = ("is not on the list of those that a server runs", "Write that line with other functions of torch")

_ATEN_REMEDIES: Mapping[str, tuple[str, str]] = {
    "bincount": (_LENGTH[0], "Use torch.nn.functional.one_hot(x, count).sum(0)"),
    "_ctc_loss": ("trusts the lengths that it is given", "Leave the loss out of forward"),
    "ctc_loss": ("trusts the lengths that it is given", "Leave the loss out of forward"),
    "embedding_renorm_": (
        "changes the weights in a forward pass",
        "Scale the weights once, and make the embedding with max_norm=None",
    ),
    "geqrf": ("has no derivative", "Use torch.linalg.qr"),
    "ormqr": ("has no derivative", "Use torch.linalg.qr, and matmul"),
    "linalg_lstsq": (_LENGTH[0], "Use torch.linalg.pinv(a) @ b"),
    "linalg_lu_solve": _PIVOTS,
    "lu_solve": _PIVOTS,
    "linalg_ldl_solve": _PIVOTS,
    "linalg_ldl_factor": ("has no derivative", "Use torch.linalg.cholesky or torch.linalg.lu"),
    "linalg_ldl_factor_ex": ("has no derivative", "Use torch.linalg.cholesky or torch.linalg.lu"),
    "lu_unpack": (_PIVOTS[0], "Use torch.linalg.lu"),
    "resize_": (_MEMORY[0], "Use slices, torch.nn.functional.pad or reshape"),
    "resize_as_": (_MEMORY[0], "Use slices, torch.nn.functional.pad or reshape"),
    "segment_reduce": ("trusts the lengths that it is given", "Use torch.scatter_reduce"),
    "_segment_reduce": ("trusts the lengths that it is given", "Use torch.scatter_reduce"),
    "from_file": _FILES,
    "save": _FILES,
    "fractional_max_pool2d": (_RANDOM[0], "Use torch.nn.functional.adaptive_max_pool2d"),
    "fractional_max_pool3d": (_RANDOM[0], "Use torch.nn.functional.adaptive_max_pool3d"),
}

_ATEN_FAMILIES: tuple[tuple[str, tuple[str, str]], ...] = (
    (r"rand.*|bernoulli.*|multinomial|normal.*|poisson|exponential.*|uniform.*|.*dropout.*", _RANDOM),
    (r".*polynomial.*", _POLYNOMIAL),
    (
        r".*sparse.*|.*_(csr|csc|bsr|bsc|coo)(_.*)?|to_mkldnn|mkldnn_.*|sspaddmm|smm|hspmm|(col|crow|row)_indices",
        _SPARSE,
    ),
    (r".*quantize.*|q_.*|int_repr|fake_quant.*|quantized_.*|fbgemm_.*", _QUANTIZED),
    (r".*nested.*|.*jagged.*", _NESTED),
    (r"as_strided.*|set_.*|.*storage.*|.*resize.*|data_ptr", _MEMORY),
    (r".*_backward(_.*)?", _BACKWARD),
    (r"nonzero.*|argwhere|masked_select|.*unique.*", _LENGTH),
)
"""Ways round by the name of an ATen operator; the first that fits holds."""

_GRAPHS: tuple[tuple[str, str], ...] = (
    (r"cond|.*switch.*", "Compute both sides, and choose with torch.where"),
    (r"while_loop|scan|associative_scan|map.*|.*invoke_subgraph", "Write the loop out in Python over a fixed length"),
    (r"flex_attention.*", "Use torch.nn.functional.scaled_dot_product_attention with a mask"),
    (r".*checkpoint.*", "Call the block without torch.utils.checkpoint"),
    (r".*set_grad_enabled.*|.*inference_mode.*", "Leave torch.no_grad and torch.set_grad_enabled out of forward"),
    (r".*autocast.*", "Leave torch.autocast out of forward, and convert with to(dtype)"),
    (r"triton.*", "Write the kernel with functions of torch"),
    (r"autograd_function_apply|.*custom_function.*", "Write forward without torch.autograd.Function"),
)
"""Ways round operators that hold a graph, by their name."""

_UNKNOWN_GRAPH = "Write forward without it: torch.where in place of conditions, and loops over a fixed length"


def refusal(target: str, metadata: object) -> str:
    """Say of an operator that is not on the list where `forward` uses it, why it is refused, and a way round.

    Parameters
    ----------
    target
        The operator as a file spells it.
    metadata
        The metadata of its node, as the file has it.
    """
    reason, way = _reason(target)
    name = target.removeprefix("torch.ops.")[:120]
    return f"{_module(metadata)} uses the operator {name!r}{_of(metadata)}, which {reason}: refused. {way}."


def place(trace: object) -> str:
    """Return the last place in a stack trace that is the author's own, or an empty text.

    Of the file's path only its name is left. The result has the form of a frame: `File "net.py", line 3, in forward`
    and, where it is there, the line itself behind a line break and four spaces.
    """
    if not isinstance(trace, str) or len(trace) > _LONGEST_TRACE:
        return ""
    frames = _FRAME.findall(trace)
    own = [frame for frame in frames if not _TORCH.search(frame[0])] or frames
    if not own:
        return ""
    path, line, function, code = own[-1]
    file = re.split(r"[/\\]", path)[-1]
    code = code.strip()[:120]
    text = f'File "{file}", line {line}, in {function}' + (f"\n    {code}" if code and code.isprintable() else "")
    return text if _PLACE.fullmatch(text) else ""


def place_text(trace: object) -> str:
    """Write a place as the part of a sentence, with a space before it: ` (net.py, line 3: return x + y)`."""
    found = _FRAME.match(place(trace))
    if not found:
        return ""
    file, line, function, code = found.groups()
    inside = "" if function == "forward" else f" in {function}"
    return f" ({file}, line {line}{inside}{': ' + code if code else ''})"


def _of(metadata: object) -> str:
    return place_text(metadata.get("stack_trace")) if isinstance(metadata, dict) else ""


def _module(metadata: object) -> str:
    """Name the module that an operator stands in, by the file's own description."""
    stack = metadata.get("nn_module_stack") if isinstance(metadata, dict) else None
    parts = stack.rsplit(";", 1)[-1].split(",") if isinstance(stack, str) else []
    known = len(parts) == 3 and parts[1] and all(re.fullmatch(r"[\w.\[\]@:<>]{1,256}", part) for part in parts[1:])
    return f"Layer {parts[1]!r} ({parts[2].rsplit('.', 1)[-1]})" if known else "The model's forward"


def _reason(target: str) -> tuple[str, str]:
    """Return why an operator is refused, as the end of a sentence, and the way round, as a sentence without a stop."""
    prefix, _, name = target.rpartition("torch.ops.")
    library, _, rest = name.partition(".")
    if not prefix and library == "aten":
        return _aten_reason(*rest.partition(".")[::2])
    if not prefix and library == "higher_order":
        return _CONTROL, next((way for pattern, way in _GRAPHS if re.fullmatch(pattern, rest)), _UNKNOWN_GRAPH)
    if not prefix and library in ("quantized", "quantized_decomposed", "torchao"):
        return _QUANTIZED
    if not prefix and target.startswith("torch.ops."):
        return (
            f"belongs to the library {library[:60]!r}; a server runs those of torch itself",
            "Write it with functions of torch, or take it out of forward and let the caller do it with the outputs",
        )
    return (
        "is not arithmetic on sizes that a server runs",
        "Compute sizes with + - * // and comparisons, and use functions of torch for tensors",
    )


def _aten_reason(name: str, overload: str) -> tuple[str, str]:
    if name in _ATEN_REMEDIES:
        return _ATEN_REMEDIES[name]
    family = next((found for pattern, found in _ATEN_FAMILIES if re.fullmatch(pattern, name)), None)
    known: Any = getattr(getattr(torch.ops.aten, name, None), overload, None) if name.isidentifier() else None
    if not isinstance(known, torch._ops.OpOverload):
        return family or (f"torch {torch.__version__.partition('+')[0]} does not have", _OTHER[1])
    if any(argument.is_out for argument in known._schema.arguments):
        return "writes into a tensor that it is given", "Leave out the argument `out`"
    if torch.Tag.nondeterministic_seeded in known.tags:
        return family or _RANDOM
    if torch.Tag.dynamic_output_shape in known.tags or torch.Tag.data_dependent_output in known.tags:
        return family or _LENGTH
    return family or _OTHER
