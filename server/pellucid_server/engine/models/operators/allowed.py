"""The operators that a model file may name: a list, so that what is not on it is not run.

Of ATen: deterministic functions of tensors and sizes. Left out are operators that read or write
files (`from_file`, `save`), that give memory nobody has written (`resize_`; in place of `empty` a
server runs `zeros`), that reach into storages (`set_`, `as_strided`), that draw random numbers (an
answer is a function of its input), that take a time which grows with a value (polynomials of a
degree), kernels that trust their arguments, and backward, sparse, quantized and nested ones.
Dropout and train-mode batch norm are on the list: what to do about them is said better by the
check for fitness, which sees the whole graph.
"""

from collections.abc import Iterator, Mapping
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

    __and__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__ __lshift__ __or__ __rshift__ __xor__ argwhere atleast_1d
    atleast_2d atleast_3d block_diag cartesian_prod chalf combinations conj_physical corrcoef cov cumulative_trapezoid
    det diagflat diagonal_scatter dist dsplit dstack frexp gcd gradient gt hash_tensor histc histogram histogramdd
    hsplit igamma igammac fix lcm logdet mH mT matrix_H matrix_exp matrix_power msort mvlgamma nonzero_numpy
    nonzero_static numpy_T pinverse polygamma put renorm row_stack sum_to_size trapezoid trapz unique_consecutive
    unique_dim _unique2 vander vsplit

    _lu_with_info chain_matmul conv_tbc fill_diagonal_ frobenius_norm ger inverse native_channel_shuffle norm_except_dim
    nuclear_norm orgqr unsafe_split_with_sizes

    _cdist_forward _fused_rms_norm _pdist_forward _scaled_dot_product_attention_math
    binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss hinge_embedding_loss
    huber_loss kl_div l1_loss margin_ranking_loss max_pool1d_with_indices max_unpool2d max_unpool3d mse_loss
    multi_margin_loss multilabel_margin_loss nll_loss nll_loss2d nll_loss_nd pdist poisson_nll_loss smooth_l1_loss
    soft_margin_loss triplet_margin_loss

    alias_copy detach_copy diagonal_copy expand_copy narrow_copy permute_copy select_copy slice_copy split_copy
    split_with_sizes_copy squeeze_copy t_copy transpose_copy unbind_copy unfold_copy unsqueeze_copy view_copy
    view_as_complex_copy view_as_real_copy

    cholesky cholesky_inverse cholesky_solve fft_fftfreq fft_hfft fft_hfft2 fft_hfftn fft_ihfft fft_ihfft2 fft_ihfftn
    fft_rfftfreq linalg_cholesky linalg_cholesky_ex linalg_cond linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh
    linalg_householder_product linalg_inv_ex linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_matrix_exp
    linalg_matrix_power linalg_matrix_rank linalg_pinv linalg_qr linalg_slogdet linalg_solve_ex linalg_solve_triangular
    linalg_svd linalg_svdvals linalg_tensorinv linalg_tensorsolve linalg_vander qr slogdet svd triangular_solve
    bartlett_window blackman_window kaiser_window

    special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 special_digamma special_erf
    special_erfc special_erfinv special_exp2 special_expm1 special_gammainc special_gammaincc special_gammaln
    special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_logsumexp
    special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1
    special_multigammaln special_ndtri special_polygamma special_psi special_round special_scaled_modified_bessel_k0
    special_scaled_modified_bessel_k1 special_sinc special_spherical_bessel_j0 special_zeta

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

_FILLED: Mapping[str, str] = {
    "empty.memory_format": "zeros.default",
    "empty_permuted.default": "zeros.default",
    "empty_strided.default": "zeros.default",
    "empty_like.default": "zeros_like.default",
    "new_empty.default": "new_zeros.default",
    "new_empty_strided.default": "new_zeros.default",
}
"""Operators that give memory nobody has written, and those that write zeros into it."""

_PLACEMENT = ("memory_format", "physical_layout", "stride")


def allowed(target: str) -> bool:
    """Say whether a file may name this operator, as it is spelled there: `torch.ops.aten.NAME.OVERLOAD` or arithmetic.

    An ATen operator that ends in an underscore works in place and is allowed where its functional
    form is; an overload that writes into an argument (`out`) is not: no export has it.
    """
    if target in _SIZES:
        return True
    name, dot, overload = target.removeprefix(_PREFIX).partition(".")
    if not target.startswith(_PREFIX) or not dot or not _ATEN.intersection((name, name.removesuffix("_"))):
        return False
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket) or overload not in packet.overloads():  # type: ignore[no-untyped-call]
        return False
    return name in _ON_NUMBERS or _of_tensors(getattr(packet, overload, None))


def filled(target: str, inputs: list[Any]) -> tuple[str, list[Any]]:
    """Give zeros in place of memory that nobody has written, which could hold another caller's numbers.

    Parameters
    ----------
    target, inputs
        An operator and its named arguments, as a file spells them.
    """
    replacement = _FILLED.get(target.removeprefix(_PREFIX)) if target.startswith(_PREFIX) else None
    if replacement is None:
        return target, inputs
    kept = [entry for entry in inputs if not (isinstance(entry, dict) and entry.get("name") in _PLACEMENT)]
    return _PREFIX + replacement, kept


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
