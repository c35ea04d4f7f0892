"""The contracts of single operators: one short rule for each, with the reason why torch needs it.

A rule takes all arguments of its operator, in order, and raises `BrokenContractError` with the end of a sentence about
the operator. Sizes that are open while a model is loaded are passed over: the rule is asked again at every call.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

Rule = Callable[..., None]
Size = Any
"""A length: a number, or a symbolic one while a model is loaded."""
Parameter = torch.Tensor | None
"""A tensor that may be left out."""


TRAINING = "training mode"
"""What a normalization is given that would change its own statistics."""


class BrokenContractError(RuntimeError):
    """An operator is given what its kernel would take on trust; the message is the end of a sentence about it."""


def _require(met: bool, text: str) -> None:
    if not met:
        raise BrokenContractError(text)


def _may_equal(size: Size, other: Size) -> bool:
    """Tell whether two sizes are equal, or may be as far as is known while a model is loaded."""
    return size == other if isinstance(size, int) and isinstance(other, int) else True


def _within(size: Size, least: int, most: Size) -> bool:
    """Tell whether a size is in [least, most], or may be as far as is known while a model is loaded."""
    if not isinstance(size, int):
        return True
    return least <= size and (not isinstance(most, int) or size <= most)


def _require_shape(name: str, tensor: torch.Tensor | None, shape: Sequence[Size]) -> None:
    if tensor is None:
        return
    same = tensor.ndim == len(shape) and all(map(_may_equal, tensor.shape, shape))
    _require(same, f"{name} of shape {_shown(tensor.shape)}, where it must be {_shown(shape)}")


def _require_axes(name: str, tensor: torch.Tensor, least: int, most: int | None = None) -> None:
    allowed = least <= tensor.ndim <= (most or least)
    wanted = f"{least}" if (most or least) == least else f"{least} to {most}"
    _require(allowed, f"{name} of {tensor.ndim} axes, where it must have {wanted}")


def _require_one_type(tensors: Mapping[str, torch.Tensor | None], dtype: torch.dtype) -> None:
    for name, tensor in tensors.items():
        if tensor is not None:
            _require(tensor.dtype is dtype, f"{name} of type {tensor.dtype}, where it must be {dtype}")


def _shown(shape: Sequence[Size]) -> str:
    return f"({', '.join(map(str, shape))})"


# Normalization


def _per_channel(x: torch.Tensor, parameters: Mapping[str, torch.Tensor | None]) -> None:
    _require_axes("an input", x, 2, 64)
    for name, tensor in parameters.items():
        _require_shape(f"a {name}", tensor, (x.shape[1],))


def _batch_norm(
    x: torch.Tensor, weight: Parameter, bias: Parameter, mean: Parameter, variance: Parameter, *_: Any
) -> None:
    # The kernels read a number for each channel from all four, however many they have, or from none at all.
    _require(mean is not None and variance is not None, "no mean or no variance")
    _per_channel(x, {"weight": weight, "bias": bias, "running mean": mean, "running variance": variance})


def _batch_norm_in_mode(x: torch.Tensor, *arguments: Any) -> None:
    # In training mode it writes to its statistics, although its schema says that it writes to nothing.
    weight, bias, mean, variance, training, *_ = arguments
    if training:
        _require(mean is None and variance is None, TRAINING)
        _batch_norm_without_statistics(x, weight, bias, True)
    else:
        _batch_norm(x, weight, bias, mean, variance)


def _batch_norm_without_statistics(
    x: torch.Tensor, weight: Parameter, bias: Parameter, training: bool, *_: Any
) -> None:
    # As `_batch_norm`; out of training it reads statistics that it does not have.
    _require(training, "no statistics out of training mode")
    _per_channel(x, {"weight": weight, "bias": bias})


def _native_group_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    rows: Size,
    channels: Size,
    places: Size,
    group: int,
    *_: Any,
) -> None:
    # The kernel believes the sizes that stand beside its input.
    _per_channel(x, {"weight": weight, "bias": bias})
    own = (x.shape[0], x.shape[1], math.prod(x.shape[2:]))
    same = all(map(_may_equal, own, (rows, channels, places)))
    _require(same, f"the sizes {_shown((rows, channels, places))}, where its input has {_shown(own)}")
    divides = not isinstance(channels, int) or (group > 0 and channels % group == 0)
    _require(divides, f"{group} groups for {channels} channels")


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int) -> None:
    # The fused kernel writes a norm, and reads a number of `g`, for each place of `v` along `dim`.
    _require(v.ndim > 0 and dim in (0, v.ndim - 1), f"the axis {dim} of {v.ndim}, where it must be the first or last")
    _require_shape("a magnitude", g, [size if axis == dim else 1 for axis, size in enumerate(v.shape)])
    _require_one_type({"a magnitude": g}, v.dtype)


# Recurrent networks


def _layers(
    x: torch.Tensor,
    batch: Size,
    states: Sequence[torch.Tensor],
    params: Sequence[torch.Tensor],
    gates: int,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> None:
    # The fused kernels read as much of each weight as the sizes of the states ask for.
    ways = 2 if bidirectional else 1
    hidden, projected = states[-1].shape[-1], states[0].shape[-1]
    projects = len(states) == 2 and isinstance(hidden, int) and isinstance(projected, int) and hidden != projected
    each = 2 + 2 * has_biases + projects
    fits = num_layers > 0 and len(params) == num_layers * ways * each
    _require(fits, f"{len(params)} weights for {num_layers} layers")
    out = projected if projects else hidden
    for state, size in zip(states, (out, hidden)[-len(states) :], strict=True):
        _require_shape("a state", state, (num_layers * ways, batch, size))
    for place, tensor in enumerate((*states, *params)):
        _require_one_type({f"tensor {place}": tensor}, x.dtype)
    for start in range(0, len(params), each):
        width = x.shape[-1] if start < each * ways else out * ways
        rows = hidden * gates
        shapes = [(rows, width), (rows, out), *[(rows,)] * (2 * has_biases), *[(projected, hidden)] * projects]
        for tensor, shape in zip(params[start : start + each], shapes, strict=True):
            _require_shape("a weight", tensor, shape)


def _states(hx: Any, gates: int) -> Sequence[torch.Tensor]:
    states = list(hx) if gates == 4 else [hx]
    _require(len(states) == (2 if gates == 4 else 1), f"{len(states)} states")
    for state in states:
        _require_axes("a state", state, 3)
    return states


def _recurrent(gates: int) -> Rule:
    def rule(
        x: torch.Tensor,
        hx: Any,
        params: Sequence[torch.Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> None:
        _require_axes("an input", x, 3)
        states = _states(hx, gates)
        batch = x.shape[0 if batch_first else 1]
        _layers(x, batch, states, params, gates, has_biases, num_layers, bidirectional)

    return rule


def _packed(gates: int) -> Rule:
    def rule(
        data: torch.Tensor,
        batch_sizes: torch.Tensor,
        hx: Any,
        params: Sequence[torch.Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
    ) -> None:
        # Steps are cut out of `data` by `batch_sizes`, which nothing compares with it.
        _require_axes("data", data, 2)
        _require_axes("batch sizes", batch_sizes, 1)
        _require_one_type({"batch sizes": batch_sizes}, torch.int64)
        states = _states(hx, gates)
        if _known(batch_sizes):
            sizes = batch_sizes.tolist()
            falling = all(a >= b for a, b in zip(sizes, [*sizes[1:], 1], strict=True))
            _require(
                bool(sizes) and falling and sum(sizes) == data.shape[0] and sizes[0] == states[0].shape[1],
                f"batch sizes {sizes[:8]}, which must fall from {states[0].shape[1]} and sum to {data.shape[0]}",
            )
        _layers(data, states[0].shape[1], states, params, gates, has_biases, num_layers, bidirectional)

    return rule


def _cell(gates: int) -> Rule:
    def rule(
        x: torch.Tensor,
        hx: Any,
        w_ih: torch.Tensor,
        w_hh: torch.Tensor,
        b_ih: torch.Tensor | None,
        b_hh: torch.Tensor | None,
    ) -> None:
        # The fused kernel reads as many numbers as a state has, times the gates.
        _require_axes("an input", x, 2)
        states = list(hx) if gates == 4 else [hx]
        _require(len(states) == (2 if gates == 4 else 1), f"{len(states)} states")
        _require_axes("a state", states[0], 2)
        hidden = states[0].shape[1]
        for state in states:
            _require_shape("a state", state, (x.shape[0], hidden))
        _require_shape("a weight", w_ih, (gates * hidden, x.shape[1]))
        _require_shape("a weight", w_hh, (gates * hidden, hidden))
        _require_shape("a bias", b_ih, (gates * hidden,))
        _require_shape("a bias", b_hh, (gates * hidden,))

    return rule


def _known(tensor: torch.Tensor) -> bool:
    """Whether a tensor's numbers can be read: not while a model is loaded."""
    return not isinstance(tensor, FakeTensor)


# Sampling


def _resampled(x: torch.Tensor, sizes: Sequence[Size], scales: Sequence[float | None]) -> None:
    # The kernels find their places by the scale alone, or make a table that is 1 / scale long.
    _require_axes("an input", x, len(sizes) + 2)
    for length, size, scale in zip(x.shape[2:], sizes, scales, strict=True):
        _require(_within(size, 1, 2**31 - 1), f"the output size {size}")
        if scale is None:
            continue
        _require(math.isfinite(scale) and scale > 0, f"the scale {scale}")
        if isinstance(length, int) and isinstance(size, int):
            _require(abs(length * scale - size) <= 1, f"the scale {scale} from {length} to {size}")


def _upsample(axes: int, *, aligns: bool) -> Rule:
    def rule(x: torch.Tensor, output_size: Sequence[Size], *others: Any) -> None:
        _require(len(output_size) == axes, f"{len(output_size)} output sizes")
        _resampled(x, output_size, others[aligns:])

    return rule


def _upsample_by_factors(axes: int, *, aligns: bool) -> Rule:
    def rule(x: torch.Tensor, output_size: Sequence[Size] | None, *others: Any) -> None:
        factors: Any = others[aligns]
        _require((output_size is None) != (factors is None), "both sizes and scales, or neither")
        if output_size is not None:
            _require(len(output_size) == axes, f"{len(output_size)} output sizes")
            _resampled(x, output_size, [None] * axes)
            return
        given = list(factors)
        _require(len(given) == axes, f"{len(given)} scales")
        _require_axes("an input", x, axes + 2)
        for length, factor in zip(x.shape[2:], given, strict=True):
            _require(math.isfinite(factor) and factor > 0, f"the scale {factor}")
            if isinstance(length, int):
                _require(1 <= length * factor < 2**31, f"the scale {factor} of {length} numbers")

    return rule


def _grid_sampler(axes: int | None) -> Rule:
    def rule(x: torch.Tensor, grid: torch.Tensor, interpolation_mode: int, padding_mode: int, *_: Any) -> None:
        # A mode that is unknown leaves the output unwritten.
        if axes is None:
            _require_axes("an input", x, 4, 5)
        else:
            _require_axes("an input", x, axes + 2)
        places = x.ndim - 2
        modes = 3 if places == 2 else 2
        _require(0 <= interpolation_mode < modes, f"the interpolation mode {interpolation_mode}")
        _require(0 <= padding_mode < 3, f"the padding mode {padding_mode}")
        _require_axes("a grid", grid, x.ndim)
        fits = _may_equal(grid.shape[0], x.shape[0]) and _may_equal(grid.shape[-1], places)
        _require(fits, f"a grid of shape {_shown(grid.shape)} for an input of shape {_shown(x.shape)}")
        _require_one_type({"a grid": grid}, x.dtype)
        _require(all(_within(size, 1, 2**31) for size in x.shape[1:]), f"an input of shape {_shown(x.shape)}")

    return rule


def _affine_grid(theta: torch.Tensor, size: Sequence[Size], *_: Any) -> None:
    places = len(size) - 2
    _require(places in (2, 3) and all(_within(length, 1, 2**31) for length in size), f"the size {_shown(size)}")
    _require_shape("a transformation", theta, (size[0], places, places + 1))


# Fourier transforms


def _axes_of(x: torch.Tensor, dim: Sequence[int], normalization: int) -> None:
    # The kernels index the sizes by the axes, and a table of modes by the normalization, as they are given.
    _require(0 <= normalization <= 2, f"the normalization {normalization}")
    apart = len(set(dim)) == len(dim) and all(0 <= axis < x.ndim for axis in dim)
    _require(bool(dim) and apart, f"the axes {list(dim)} of a value that has {x.ndim}")
    _require(all(_within(x.shape[axis], 1, 2**62) for axis in dim), "an axis without numbers")


def _fft_c2c(x: torch.Tensor, dim: Sequence[int], normalization: int, forward: bool) -> None:
    _axes_of(x, dim, normalization)
    _require(x.is_complex(), f"a value of type {x.dtype}, where it must be complex")


def _fft_r2c(x: torch.Tensor, dim: Sequence[int], normalization: int, onesided: bool) -> None:
    _axes_of(x, dim, normalization)
    _require(x.is_floating_point(), f"a value of type {x.dtype}, where it must be real")


def _fft_c2r(x: torch.Tensor, dim: Sequence[int], normalization: int, last_dim_size: Size) -> None:
    # The kernel reads half of `last_dim_size`, and one more, however long the last axis is.
    _axes_of(x, dim, normalization)
    _require(x.is_complex(), f"a value of type {x.dtype}, where it must be complex")
    _require(_within(last_dim_size, 1, 2**31), f"the length {last_dim_size}")
    half = last_dim_size // 2 + 1
    _require(_may_equal(x.shape[dim[-1]], half), f"{x.shape[dim[-1]]} numbers for a length of {last_dim_size}")


# Tables


def _embedding_bag(
    weight: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: torch.Tensor | None,
    include_last_offset: bool,
    *_: Any,
) -> None:
    # The kernels walk from offset to offset, and the last of them may lie anywhere.
    _require_axes("a table", weight, 2)
    _require_axes("indices", indices, 1)
    _require_axes("offsets", offsets, 1)
    _require(0 <= mode <= 2, f"the mode {mode}")
    _require(not sparse, "sparse gradients")
    if per_sample_weights is not None:
        _require(mode == 0, f"weights of samples in mode {mode}")
        _require_shape("weights of samples", per_sample_weights, indices.shape)
        _require_one_type({"weights of samples": per_sample_weights}, weight.dtype)
    for name, tensor in (("indices", indices), ("offsets", offsets)):
        _require(tensor.dtype in (torch.int32, torch.int64), f"{name} of type {tensor.dtype}")
    if not (_known(indices) and _known(offsets)):
        return
    starts = offsets.tolist()
    _require(not include_last_offset or bool(starts), "no offsets")
    rising = all(a <= b for a, b in zip(starts, [*starts[1:], len(indices)], strict=True))
    _require(not starts or (starts[0] == 0 and rising), f"offsets that do not rise from 0 to {len(indices)}")
    if include_last_offset:
        _require(starts[-1] == len(indices), f"a last offset that is not {len(indices)}")
    _require(bool(starts) or not len(indices), "indices without offsets")
    if len(indices):
        least, most = int(indices.min()), int(indices.max())
        _require(least >= 0 and most < weight.shape[0], f"an index out of range in a table of {weight.shape[0]} rows")


# Other kernels


def _to_size(x: torch.Tensor, output_size: Sequence[int]) -> None:
    # A negative size makes a value of negative size.
    _require(all(_within(size, 0, 2**31) for size in output_size), f"the output size {_shown(output_size)}")


def _padded(x: torch.Tensor, padding: Sequence[Size], *_: Any) -> None:
    # What the sides come to together is not looked at.
    _require(all(_within(size, -(2**31), 2**31) for size in padding), f"the padding {_shown(padding)}")


def _windows(*settings: Sequence[int]) -> None:
    # Sizes are reckoned with, and walked along, without a look at their signs or at what they come to.
    *others, padding, stride = settings
    _require(all(0 < size < 2**31 for setting in (*others, stride) for size in setting), "a size that is no count")
    _require(all(0 <= size < 2**31 for size in padding), f"the padding {list(padding)}")


def _im2col(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> None:
    _windows(kernel_size, dilation, padding, stride)


def _col2im(
    x: torch.Tensor,
    output_size: Sequence[Size],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> None:
    _windows(kernel_size, dilation, padding, stride)
    _require(all(_within(size, 1, 2**31) for size in output_size), f"the output size {_shown(output_size)}")


def _pairs(x: torch.Tensor, *_: Any) -> None:
    # Backward, the kernel divides by the number of rows.
    _require_axes("rows", x, 2)
    _require(_within(x.shape[0], 1, 2**62), "no rows")


def _cross_entropy(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, reduction: int) -> None:
    # A result of the input's shape is written in the shape that all three are broadcast to.
    _require_shape("a target", target, x.shape)
    _require(0 <= reduction <= 2, f"the reduction {reduction}")
    if weight is not None:
        _require_axes("a weight", weight, 0, x.ndim)
        sizes = zip(reversed(weight.shape), reversed(x.shape), strict=False)
        fits = all(size == 1 or _may_equal(size, own) for size, own in sizes)
        _require(fits, f"a weight of shape {_shown(weight.shape)} for {_shown(x.shape)}")


def _eigenvalues(x: torch.Tensor) -> None:
    # LAPACK's routine refuses numbers that are not finite, and what torch does next reads what is not there.
    if _known(x):
        _require(bool(x.isfinite().all()), "a number that is not finite")


def _matrix_power(x: torch.Tensor, n: int) -> None:
    # An exponent of any size is walked down bit by bit, and the lowest number of all has no opposite.
    _require(-(2**31) < n < 2**31, f"the exponent {n}")


def _combinations(x: torch.Tensor, r: int, *_: Any) -> None:
    # A grid of as many axes as `r` is made first.
    _require(0 <= r <= 16, f"{r} elements at a time")


def _sections(x: torch.Tensor, sections: int, *_: Any) -> None:
    # Each is a tensor, also those that are empty because there are more than numbers to put in.
    _require(sections <= 4096, f"{sections} sections")


def _truncated(x: torch.Tensor, other: torch.Tensor | float, rounding_mode: str | None) -> None:
    """Hold a division of whole numbers to quotients that their type has.

    The processor stops at the lowest number divided by -1, where the quotient is cut; rounded down, torch checks it.
    """
    if rounding_mode != "trunc" or not _known(x) or isinstance(other, FakeTensor):
        return
    dtype = torch.result_type(x, other)
    if not dtype.is_signed or dtype.is_floating_point or dtype.is_complex:
        return
    lowest = x.to(dtype) == torch.iinfo(dtype).min
    _require(not bool((lowest & (torch.as_tensor(other) == -1)).any()), "the lowest whole number, divided by -1")


_RESAMPLING: Mapping[str, Rule] = {
    f"{name}{overload}": rule(axes, aligns=aligns)
    for names, axes, aligns in [
        (["upsample_linear1d"], 1, True),
        (["upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "_upsample_bicubic2d_aa"], 2, True),
        (["upsample_trilinear3d"], 3, True),
        (["upsample_nearest1d", "_upsample_nearest_exact1d"], 1, False),
        (["upsample_nearest2d", "_upsample_nearest_exact2d"], 2, False),
        (["upsample_nearest3d", "_upsample_nearest_exact3d"], 3, False),
    ]
    for name in names
    for overload, rule in [("", _upsample), (".vec", _upsample_by_factors)]
}

RULES: Mapping[str, Rule] = {
    **_RESAMPLING,
    "_adaptive_avg_pool2d": _to_size,
    "_adaptive_avg_pool3d": _to_size,
    "adaptive_avg_pool1d": _to_size,
    "adaptive_avg_pool2d": _to_size,
    "adaptive_avg_pool3d": _to_size,
    **{f"{kind}_pad{axes}d": _padded for kind in ("reflection", "replication") for axes in (1, 2, 3)},
    "constant_pad_nd": _padded,
    "pad": _padded,
    "im2col": _im2col,
    "col2im": _col2im,
    "_pdist_forward": _pairs,
    "pdist": _pairs,
    "binary_cross_entropy": _cross_entropy,
    "linalg_eigvals": _eigenvalues,
    "linalg_matrix_power": _matrix_power,
    "matrix_power": _matrix_power,
    "combinations": _combinations,
    "tensor_split.sections": _sections,
    **{f"{name}.{kind}_mode": _truncated for name in ("div", "divide") for kind in ("Tensor", "Scalar")},
    "_native_batch_norm_legit.no_stats": _batch_norm_without_statistics,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "batch_norm": _batch_norm_in_mode,
    "native_batch_norm": _batch_norm_in_mode,
    # It is made of the other, and `use_input_stats` is where `training` is there.
    "instance_norm": _batch_norm_in_mode,
    "native_group_norm": _native_group_norm,
    "_weight_norm": _weight_norm,
    "lstm.input": _recurrent(4),
    "lstm.data": _packed(4),
    "gru.input": _recurrent(3),
    "gru.data": _packed(3),
    "rnn_tanh.input": _recurrent(1),
    "rnn_tanh.data": _packed(1),
    "rnn_relu.input": _recurrent(1),
    "rnn_relu.data": _packed(1),
    "lstm_cell": _cell(4),
    "gru_cell": _cell(3),
    "rnn_tanh_cell": _cell(1),
    "rnn_relu_cell": _cell(1),
    "grid_sampler": _grid_sampler(None),
    "grid_sampler_2d": _grid_sampler(2),
    "grid_sampler_3d": _grid_sampler(3),
    "affine_grid_generator": _affine_grid,
    "_fft_c2c": _fft_c2c,
    "_fft_r2c": _fft_r2c,
    "_fft_c2r": _fft_c2r,
    "embedding_bag": _embedding_bag,
    "embedding_bag.padding_idx": _embedding_bag,
}
"""The rule of each operator that needs one, by its name and overload."""
