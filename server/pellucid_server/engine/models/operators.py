"""The operators that a model file may name: a list, so that what is not on it is not run.

Of ATen: deterministic functions of tensors and sizes. Left out are operators that read or write
files (`from_file`, `save`), that read memory nobody has written (`empty`, `resize_`), that reach
into storages (`set_`, `as_strided`), that draw random numbers (an answer is a function of its
input), kernels that trust their arguments, and backward, sparse, quantized and nested ones.
Dropout and train-mode batch norm are on the list: what to do about them is said better by the
check for fitness, which sees the whole graph.
"""

from collections.abc import Iterator
from typing import Any

import torch

_ATEN_NAMES = """
    abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr adjoint alias all allclose amax amin aminmax
    angle any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort asin asinh atan atan2
    atanh baddbmm bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm
    bucketize ceil celu clamp clamp_max clamp_min clip clone complex conj contiguous copysign cos cosh
    count_nonzero cross cummax cummin cumprod cumsum deg2rad detach diag diag_embed diagonal diff digamma div divide
    dot eq equal erf erfc erfinv exp exp2 expm1 eye float_power floor floor_divide fmax fmin fmod frac full full_like
    ge greater greater_equal heaviside hypot i0 imag inner isclose isfinite isin isinf isnan isneginf isposinf isreal
    kron kthvalue ldexp le lerp less less_equal lgamma lift_fresh lift_fresh_copy linspace log log10 log1p log2
    logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit logspace logsumexp lt
    matmul max maximum mean median min minimum mm mode mul multiply mv nan_to_num nanmean nanmedian nansum ne neg
    negative new_full new_ones new_zeros nextafter norm not_equal numel one_hot ones ones_like outer polar positive
    pow prod quantile nanquantile rad2deg real reciprocal remainder resolve_conj resolve_neg round rsqrt rsub
    scalar_tensor searchsorted sgn sigmoid sign signbit sin sinc sinh sort sqrt square std std_mean sub subtract sum
    tan tanh tensordot topk trace tril tril_indices triu triu_indices true_divide trunc var var_mean vdot
    view_as_complex view_as_real where xlogy zero zeros zeros_like

    _conj _shape_as_tensor _to_copy _unsafe_view broadcast_tensors broadcast_to cat chunk column_stack concat
    concatenate constant_pad_nd copy expand expand_as fill flatten flip fliplr flipud gather hstack index index_add
    index_copy index_fill index_put index_reduce index_select masked_fill masked_scatter masked_select meshgrid
    moveaxis movedim narrow nonzero pad permute ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as roll rot90 scatter
    scatter_add scatter_reduce select select_scatter slice slice_scatter split split_with_sizes squeeze stack
    swapaxes swapdims t take take_along_dim tensor_split tile to transpose type_as unbind unflatten unfold
    unsafe_chunk unsafe_split unsqueeze view view_as vstack

    _adaptive_avg_pool2d _adaptive_avg_pool3d _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _softmax _weight_norm adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    affine_grid_generator alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear cdist channel_shuffle
    col2im conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution cosine_similarity
    dropout einsum elu embedding embedding_bag feature_alpha_dropout feature_dropout gelu glu grid_sampler
    grid_sampler_2d grid_sampler_3d group_norm gru gru_cell hardshrink hardsigmoid hardswish hardtanh im2col
    instance_norm layer_norm leaky_relu linear log_sigmoid log_sigmoid_forward log_softmax lstm lstm_cell max_pool1d
    max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices mish native_batch_norm native_dropout
    native_group_norm native_layer_norm pairwise_distance pixel_shuffle pixel_unshuffle prelu relu relu6 rms_norm
    rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell rrelu scaled_dot_product_attention selu silu softmax softplus
    softshrink threshold upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d

    _fft_c2c _fft_c2r _fft_r2c fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift
    fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn hamming_window hann_window istft stft
    linalg_cross linalg_det linalg_diagonal linalg_inv linalg_matmul linalg_matrix_norm linalg_multi_dot linalg_norm
    linalg_solve linalg_vecdot linalg_vector_norm special_entr special_erfcx special_expit special_log_softmax
    special_logit special_ndtr special_softmax special_xlog1py special_xlogy

    _assert_scalar _assert_tensor_metadata _local_scalar_dense item sym_constrain_range sym_constrain_range_for_size
    sym_numel sym_size sym_storage_offset sym_stride
"""
_ATEN = frozenset(_ATEN_NAMES.split())

_SIZES = frozenset(
    [
        f"_operator.{name}"
        for name in [
            "add",
            "and_",
            "eq",
            "floordiv",
            "ge",
            "gt",
            "le",
            "lt",
            "mod",
            "mul",
            "ne",
            "neg",
            "or_",
            "pos",
            "pow",
            "sub",
            "truediv",
        ]
    ]
    + [f"torch.sym_{name}" for name in ["float", "int", "ite", "max", "min", "not", "sqrt"]]
    + ["math.trunc"]
)
"""Arithmetic on sizes: what torch itself writes for it."""

_ON_NUMBERS = frozenset({"_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"})
"""Operators without a tensor that exports have."""

_PREFIX = "torch.ops.aten."


def allowed(target: str) -> bool:
    """Say whether a file may name this operator, as it is spelled there: `torch.ops.aten.NAME.OVERLOAD` or arithmetic.

    An ATen operator that ends in an underscore works in place and is allowed where its functional
    form is; one that writes into an argument (`out`) is not: no export has it.
    """
    if target in _SIZES:
        return True
    name, dot, overload = target.removeprefix(_PREFIX).partition(".")
    if not target.startswith(_PREFIX) or not dot or name.removesuffix("_") not in _ATEN:
        return False
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket) or overload not in packet.overloads():  # type: ignore[no-untyped-call]
        return False
    return name in _ON_NUMBERS or _of_tensors(getattr(packet, overload, None))


def runnable(operator: torch._ops.OpOverload) -> bool:
    """Say whether a graph in which nothing works in place may run an operator."""
    return allowed(f"torch.ops.{operator}") and not operator._schema.is_mutable


def every_operator() -> Iterator[torch._ops.OpOverload]:
    """Yield every operator of ATen that is `runnable`, in the order of names."""
    for name in sorted(_ATEN):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            operator = getattr(packet, overload, None)
            if isinstance(operator, torch._ops.OpOverload) and runnable(operator):
                yield operator


def _of_tensors(operator: Any) -> bool:
    """Whether an overload takes or gives tensors, and writes into no argument made for that.

    Others are TorchScript's own, on lists, texts and numbers, or "prim" ones, which no export has.
    """
    if not isinstance(operator, torch._ops.OpOverload) or operator._overloadname.startswith("prim"):
        return False
    arguments, returns = operator._schema.arguments, operator._schema.returns
    return any("Tensor" in str(part.type) for part in (*arguments, *returns)) and not any(
        argument.is_out for argument in arguments
    )
