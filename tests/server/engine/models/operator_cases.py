"""How each function of torch is called, so that a test can export it, serve it and compare.

A case is keyed by the names it holds for, wherever they are found: `torch.NAME`, `torch.Tensor.NAME`, in place
as `NAME_`, and in `torch.nn.functional`, `torch.linalg`, `torch.fft` and `torch.special`. A name with a dot
is that of one place alone. Rows are on axis 0 of what a function is given, so that sizes stay symbols.
"""

import math
import operator
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Values:
    """What the functions are given, made of one input, (rows, 84), each with a derivative where it is a float.

    x, y in (0, 1), s of both signs, (rows, 4); n whole numbers in 0..3 and b flags, (rows, 4); img (rows, 2, 6, 6).
    Each is made when it is first used, so that the export of one function holds little else.
    """

    def __init__(self, data: Tensor) -> None:
        self._data = data

    @cached_property
    def x(self) -> Tensor:
        return 0.5 + 0.4 * self._data[:, :4].sin()

    @cached_property
    def y(self) -> Tensor:
        return 0.5 + 0.4 * self._data[:, 4:8].cos()

    @cached_property
    def s(self) -> Tensor:
        return self._data[:, 8:12]

    @cached_property
    def img(self) -> Tensor:
        return self._data[:, 12:].reshape(-1, 2, 6, 6)

    @cached_property
    def n(self) -> Tensor:
        return self.s.argsort(1)

    @cached_property
    def b(self) -> Tensor:
        return self.s > 0.1

    @cached_property
    def z(self) -> Tensor:
        return torch.complex(self.x, self.s)

    @cached_property
    def seq(self) -> Tensor:
        return self.img[:, 0]

    @cached_property
    def square(self) -> Tensor:
        return self.seq[:, :3, :3] + 2 * torch.eye(3)

    @cached_property
    def spd(self) -> Tensor:
        return self.square @ self.square.transpose(1, 2)

    @cached_property
    def vec(self) -> Tensor:
        return self.img[:, 1, 0, :3]

    @cached_property
    def vol(self) -> Tensor:
        return torch.stack([self.img, self.img * 2, self.img - 1], 2)

    @cached_property
    def tri(self) -> Tensor:
        return self.square.tril()

    @staticmethod
    def w(*shape: int) -> Tensor:
        """Fixed numbers of both signs."""
        return torch.linspace(-1.0, 1.2, math.prod(shape)).reshape(shape)


Function = Callable[[Values], Any]
"""A function of values."""

Call = Callable[[Values], tuple[Any, ...]]
"""Makes the arguments of a call; a dictionary at the end holds those with names."""

CALLS: Mapping[str, Call] = {
    """abs absolute acos angle arccos arcsin arctan arctanh asin asinh arcsinh atan atanh ceil cos cosh deg2rad digamma
    erf erfc erfinv exp exp2 expm1 fix floor frac frexp i0 isfinite isinf isnan isneginf isposinf isreal lgamma log
    log10 log1p log2 logical_not logit nan_to_num neg negative positive rad2deg ravel reciprocal relu round rsqrt selu
    sgn sigmoid sign signbit sin sinc sinh sqrt square tan tanh trunc alias_copy clone detach detach_copy conj
    conj_physical resolve_conj resolve_neg real zeros_like ones_like flatten celu hardshrink elu gelu hardtanh
    leaky_relu logsigmoid mish relu6 silu softplus softshrink softsign tanhshrink airy_ai
    bessel_j0 bessel_j1 bessel_y0 bessel_y1 i0e i1 i1e entr erfcx expit gammaln log_ndtr modified_bessel_i0
    modified_bessel_i1 modified_bessel_k0 modified_bessel_k1 ndtr ndtri psi scaled_modified_bessel_k0
    scaled_modified_bessel_k1 spherical_bessel_j0 contiguous double float half bfloat16 int long short char byte bool
    cdouble cfloat chalf cpu msort diff std_mean trapezoid trapz cumulative_trapezoid aminmax
    sum mean prod fliplr flipud zero_ squeeze squeeze_copy""": lambda v: (v.x,),
    "acosh arccosh": lambda v: (v.x + 1.5,),
    "bitwise_not": lambda v: (v.n,),
    "imag": lambda v: (v.z,),
    """add arctan2 atan2 clamp clip clamp_max clamp_min copysign div divide eq float_power floor_divide fmax fmin fmod
    ge greater greater_equal gt heaviside hypot igamma igammac isclose ldexp le less less_equal logaddexp logaddexp2
    logical_and logical_or logical_xor lt max maximum min minimum mul multiply ne nextafter not_equal pow remainder
    rsub sub subtract true_divide xlogy xlog1py gammainc gammaincc expand_as view_as reshape_as type_as
    cosine_similarity pairwise_distance huber_loss l1_loss mse_loss smooth_l1_loss kl_div
    binary_cross_entropy binary_cross_entropy_with_logits nn.functional.poisson_nll_loss copy_ complex
    dist polar multilabel_soft_margin_loss hinge_embedding_loss""": lambda v: (v.x, v.y),
    "soft_margin_loss": lambda v: (v.x, v.y.detach()),
    "hash_tensor": lambda v: (v.x[0],),
    "zeta": lambda v: (v.x + 1.5, v.y + 0.5),
    "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift gcd lcm": lambda v: (v.n, v.n + 1),
    """all any amax amin argmax argmin argsort cummax cummin cumprod cumsum logcumsumexp logsumexp median mode nanmean
    nanmedian nansum sort softmax log_softmax softmin std var var_mean count_nonzero unbind unbind_copy glu unsqueeze
    unsqueeze_copy""": lambda v: (v.s, 1),
    "polygamma special.polygamma": lambda v: (1, v.x),
    "Tensor.polygamma": lambda v: (v.x, 1),
    "mvlgamma multigammaln": lambda v: (v.x + 3, 2),
    "kthvalue topk": lambda v: (v.s, 2, 1),
    "quantile nanquantile": lambda v: (v.s, 0.3, 1),
    "norm": lambda v: (v.s, 2, 1),
    "renorm": lambda v: (v.x, 2, 0, 0.7),
    "frobenius_norm": lambda v: (v.s, [1]),
    "norm_except_dim": lambda v: (v.s, 2, 0),
    "poisson_nll_loss": lambda v: (v.x, v.y, True, False, 1e-8, 1),
    "full_like": lambda v: (v.x, 0.5),
    "nonzero_static": lambda v: (v.n[0], {"size": 3}),
    "to type": lambda v: (v.n, torch.float64),
    "nuclear_norm": lambda v: (v.square, [1, 2]),
    "fill_": lambda v: (v.x, 0.5),
    "fill_diagonal_": lambda v: (v.square[0], 0.5),
    "lerp": lambda v: (v.x, v.y, 0.3),
    "addcdiv addcmul": lambda v: (v.x, v.y, v.y + 1),
    "addmm": lambda v: (v.x, v.y, v.w(4, 4)),
    "addmv": lambda v: (v.x[:, 0], v.y, v.w(4)),
    "addr": lambda v: (v.square[0], v.vec[0], v.vec[0]),
    "addbmm": lambda v: (v.square[0], v.square, v.spd),
    "baddbmm": lambda v: (v.square, v.square, v.spd),
    "bmm matmul solve solve_ex": lambda v: (v.spd, v.square),
    "mm": lambda v: (v.x, v.w(4, 3)),
    "mv": lambda v: (v.x, v.w(4)),
    "dot inner vdot vecdot": lambda v: (v.vec[0], v.img[0, 0, 0, :3]),
    "outer ger kron": lambda v: (v.x[0], v.y[0]),
    "linalg.vecdot": lambda v: (v.x, v.y),
    "chain_matmul": lambda v: (v.w(2, 4), v.square[0].repeat(2, 1)[:4], v.w(3, 2)),
    "multi_dot": lambda v: ([v.x, v.w(4, 3), v.w(3, 2)],),
    "tensordot": lambda v: (v.x, v.w(4, 3), 1),
    "einsum": lambda v: ("bi,ij,bj->b", v.x, v.w(4, 4), v.y),
    "cross": lambda v: (v.vec, v.vec * v.vec, {"dim": 1}),
    """cholesky det eigvals eigvalsh eigh inverse inv logdet matrix_exp pinverse pinv qr slogdet svd svdvals cond inv_ex
    cholesky_ex lu lu_factor lu_factor_ex matrix_norm matrix_rank adjoint""": lambda v: (v.spd,),
    "tril triu": lambda v: (v.square,),
    "trace": lambda v: (v.square[0],),
    "diag diagflat": lambda v: (v.vec[0],),
    "diag_embed": lambda v: (v.vec,),
    "diagonal diagonal_copy": lambda v: (v.square, 0, 1, 2),
    "linalg.diagonal": lambda v: (v.square,),
    "diagonal_scatter": lambda v: (v.square, v.vec, 0, 1, 2),
    "matrix_power": lambda v: (v.square, 3),
    "vector_norm": lambda v: (v.s, 3, 1),
    "linalg.norm": lambda v: (v.s, None, 1),
    "cholesky_inverse": lambda v: (torch.linalg.cholesky(v.spd),),
    "cholesky_solve": lambda v: (v.square, torch.linalg.cholesky(v.spd)),
    "solve_triangular": lambda v: (v.tri, v.spd, {"upper": False}),
    "triangular_solve": lambda v: (v.spd, v.tri, False),
    "householder_product orgqr": lambda v: (v.square, v.vec),
    "tensorinv": lambda v: (v.square[0], 1),
    "tensorsolve": lambda v: (v.square[0], v.vec[0]),
    "vander": lambda v: (v.vec, {"N": 3}),
    "t t_copy": lambda v: (v.square[0],),
    "transpose transpose_copy swapaxes swapdims moveaxis movedim": lambda v: (v.img, 1, 3),
    "permute permute_copy": lambda v: (v.img, (0, 2, 3, 1)),
    "roll": lambda v: (v.s, 1, 1),
    "rot90": lambda v: (v.img, 1, [2, 3]),
    "flip": lambda v: (v.img, [1, 2]),
    "tile repeat": lambda v: (v.x, (1, 2)),
    "repeat_interleave": lambda v: (v.x, 2, 1),
    "expand expand_copy broadcast_to": lambda v: (v.x[:, :1], (v.x.shape[0], 3)),
    "reshape view view_copy": lambda v: (v.img, (-1, 72)),
    "view": lambda v: (v.img, -1, 72),
    "unflatten": lambda v: (v.x, 1, (2, 2)),
    "unfold": lambda v: (v.s, 1, 2, 1),
    "unfold_copy": lambda v: (v.s, 1, 2, 1),
    "nn.functional.unfold": lambda v: (v.img, 3),
    "fold": lambda v: (F.unfold(v.img, 3), (6, 6), 3),
    "narrow narrow_copy": lambda v: (v.s, 1, 1, 2),
    "select select_copy": lambda v: (v.s, 1, 2),
    "select_scatter": lambda v: (v.s, v.x[:, 0], 1, 2),
    "slice_copy": lambda v: (v.s, 1, 1, 3),
    "slice_scatter": lambda v: (v.s, v.x[:, :2], 1, 1, 3),
    "chunk split split_copy unsafe_chunk unsafe_split tensor_split": lambda v: (v.s, 2, 1),
    "split_with_sizes split_with_sizes_copy unsafe_split_with_sizes": lambda v: (v.s, [1, 3], 1),
    "hsplit": lambda v: (v.s, 2),
    "vsplit": lambda v: (v.square[0], 3),
    "dsplit": lambda v: (v.square, 3),
    "cat concat concatenate stack": lambda v: ([v.x, v.y], 1),
    "column_stack hstack dstack": lambda v: ([v.x, v.y],),
    "vstack row_stack": lambda v: ([v.vec[0], v.vec[0]],),
    "block_diag": lambda v: (v.vec[0], v.square[0]),
    "broadcast_tensors": lambda v: (v.x, v.y[:, :1]),
    "cartesian_prod meshgrid": lambda v: (v.vec[0], v.vec[0]),
    "atleast_1d atleast_2d atleast_3d": lambda v: (v.x,),
    "constant_pad_nd pad": lambda v: (v.x, (1, 2)),
    "gather": lambda v: (v.s, 1, v.n),
    "take_along_dim": lambda v: (v.s, v.n, 1),
    "take": lambda v: (v.s, v.n[:1]),
    "put": lambda v: (v.s[0], torch.arange(2), v.x[0, :2], False),
    "index_select": lambda v: (v.s, 1, torch.tensor([2, 0])),
    "index_add index_copy": lambda v: (v.s, 1, torch.tensor([2, 0]), v.x[:, :2]),
    "index_reduce": lambda v: (v.s, 1, torch.tensor([2, 0]), v.x[:, :2], "amax"),
    "index_fill": lambda v: (v.s, 1, torch.tensor([2, 0]), 0.5),
    "index_put": lambda v: (v.s, (torch.arange(v.s.shape[0]), v.n[:, 0]), v.x[:, 0]),
    "scatter": lambda v: (v.s, 1, v.n[:, :1], v.x[:, :1]),
    "scatter_add": lambda v: (v.s, 1, v.n, v.x),
    "scatter_reduce": lambda v: (v.s, 1, v.n, v.x, "sum"),
    "masked_fill": lambda v: (v.s, v.b, 0.5),
    "masked_scatter": lambda v: (v.s, v.b, v.x),
    "where": lambda v: (v.b, v.x, v.y),
    "Tensor.where": lambda v: (v.x, v.b, v.y),
    "searchsorted": lambda v: (v.x.cumsum(1), v.y),
    "bucketize": lambda v: (v.x, v.w(5)),
    "histc": lambda v: (v.x, 4, 0.0, 1.0),
    "histogram": lambda v: (v.x.detach(), 4, {"range": (0.0, 1.0)}),
    "histogramdd": lambda v: (v.x.detach(), [2, 2, 2, 2]),
    "unravel_index": lambda v: (v.n, (2, 2)),
    "isin": lambda v: (v.n, torch.tensor([1, 3])),
    "gradient": lambda v: (v.x, {"dim": 1}),
    "sum_to_size": lambda v: (v.x, (v.x.shape[0], 1)),
    "view_as_complex": lambda v: (torch.stack([v.x, v.y], 2),),
    "view_as_complex_copy": lambda v: (torch.stack([v.x, v.y], 2).detach(),),
    "view_as_real view_as_real_copy": lambda v: (v.z,),
    "cdist": lambda v: (v.spd, v.square),
    "pdist": lambda v: (v.square[0],),
    "threshold": lambda v: (v.x, 0.4, 0.1),
    "prelu": lambda v: (v.s, v.w(4)),
    "rrelu": lambda v: (v.s,),
    "dropout alpha_dropout feature_dropout feature_alpha_dropout": lambda v: (v.s, 0.5, False),
    "dropout1d": lambda v: (v.seq, 0.5, False),
    "dropout2d": lambda v: (v.img, 0.5, False),
    "dropout3d": lambda v: (v.vol, 0.5, False),
    "native_dropout": lambda v: (v.s, 0.5, False),
    "normalize": lambda v: (v.s,),
    "layer_norm rms_norm": lambda v: (v.s, (4,)),
    "native_layer_norm": lambda v: (v.s, (4,), v.w(4), v.w(4), 1e-5),
    "group_norm": lambda v: (v.img, 2),
    "native_group_norm": lambda v: (v.img.contiguous(), v.w(2), v.w(2), v.img.shape[0], 2, 36, 2, 1e-5),
    "batch_norm": lambda v: (v.img, v.w(2), v.w(2) ** 2 + 1, v.w(2), v.w(2), False, 0.1, 1e-5, True),
    "nn.functional.batch_norm": lambda v: (v.img, v.w(2), v.w(2) ** 2 + 1, v.w(2), v.w(2)),
    "native_batch_norm": lambda v: (v.img, v.w(2), v.w(2), v.w(2), v.w(2) ** 2 + 1, False, 0.1, 1e-5),
    "instance_norm": lambda v: (v.img, v.w(2), v.w(2), None, None, True, 0.1, 1e-5, True),
    "nn.functional.instance_norm": lambda v: (v.img,),
    "local_response_norm": lambda v: (v.img, 2),
    "linear": lambda v: (v.x, v.w(3, 4), v.w(3)),
    "bilinear": lambda v: (v.x, v.y, v.w(3, 4, 4), v.w(3)),
    "embedding": lambda v: (v.w(5, 3), v.n),
    "nn.functional.embedding": lambda v: (v.n, v.w(5, 3)),
    "embedding_bag": lambda v: (v.w(5, 3), v.n.reshape(-1), torch.arange(v.n.shape[0]) * 4, False, 1),
    "nn.functional.embedding_bag": lambda v: (v.n, v.w(5, 3)),
    "one_hot": lambda v: (v.n, 5),
    "conv1d": lambda v: (v.seq, v.w(2, 6, 3)),
    "conv2d": lambda v: (v.img, v.w(3, 2, 3, 3), v.w(3), 1, 1),
    "conv3d": lambda v: (v.vol, v.w(2, 2, 2, 2, 2)),
    "conv_tbc": lambda v: (v.seq.transpose(0, 1).contiguous(), v.w(3, 6, 2), v.w(2)),
    "conv_transpose1d": lambda v: (v.seq, v.w(6, 2, 3)),
    "conv_transpose2d": lambda v: (v.img, v.w(2, 3, 3, 3)),
    "conv_transpose3d": lambda v: (v.vol, v.w(2, 2, 2, 2, 2)),
    "convolution": lambda v: (v.img, v.w(3, 2, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    "adaptive_avg_pool1d adaptive_max_pool1d adaptive_max_pool1d_with_indices": lambda v: (v.seq, 3),
    "adaptive_avg_pool2d adaptive_max_pool2d adaptive_max_pool2d_with_indices": lambda v: (v.img, (3, 2)),
    "adaptive_avg_pool3d adaptive_max_pool3d adaptive_max_pool3d_with_indices": lambda v: (v.vol, (1, 3, 2)),
    "avg_pool1d max_pool1d max_pool1d_with_indices": lambda v: (v.seq, 2),
    "avg_pool2d max_pool2d max_pool2d_with_indices": lambda v: (v.img, 2),
    "avg_pool3d max_pool3d max_pool3d_with_indices": lambda v: (v.vol, 2),
    "lp_pool1d": lambda v: (v.seq + 3, 2, 2),
    "lp_pool2d": lambda v: (v.img + 3, 2, 2),
    "lp_pool3d": lambda v: (v.vol + 5, 2, 2),
    "max_unpool1d": lambda v: (*F.max_pool1d(v.seq, 2, return_indices=True), 2),
    "max_unpool2d": lambda v: (*F.max_pool2d(v.img, 2, return_indices=True), 2),
    "max_unpool3d": lambda v: (*F.max_pool3d(v.vol, 2, return_indices=True), 2),
    "channel_shuffle native_channel_shuffle": lambda v: (v.img, 2),
    "pixel_shuffle": lambda v: (torch.cat([v.img, v.img], 1), 2),
    "pixel_unshuffle": lambda v: (v.img, 2),
    "interpolate": lambda v: (v.img, None, 2.0, "bilinear"),
    "affine_grid affine_grid_generator": lambda v: (v.square[:, :2], [v.x.shape[0], 2, 4, 5], False),
    "grid_sampler grid_sampler_2d": lambda v: (v.img, v.img[:, :, :4, :3].permute(0, 2, 3, 1) / 3, 0, 0, False),
    "grid_sample": lambda v: (v.img, v.img[:, :, :4, :3].permute(0, 2, 3, 1) / 3, "bilinear", "zeros", False),
    "grid_sampler_3d": lambda v: (
        v.vol,
        v.img[:, :, :2, :3, None]
        .permute(0, 4, 2, 3, 1)
        .expand(-1, 2, -1, -1, 2)
        .reshape(-1, 2, 2, 3, 2)[..., [0, 1, 0]]
        / 3,
        0,
        0,
        False,
    ),
    "scaled_dot_product_attention": lambda v: (v.img, v.img * 2, v.img - 1),
    "multi_head_attention_forward": lambda v: (
        v.seq,
        v.seq,
        v.seq,
        6,
        2,
        v.w(18, 6),
        v.w(18),
        None,
        None,
        False,
        0.0,
        v.w(6, 6),
        v.w(6),
        False,
    ),
    "gru_cell": lambda v: (v.x, v.y, v.w(12, 4), v.w(12, 4)),
    "rnn_relu_cell rnn_tanh_cell": lambda v: (v.x, v.y, v.w(4, 4), v.w(4, 4)),
    "lstm_cell": lambda v: (v.x, (v.y, v.s), v.w(16, 4), v.w(16, 4)),
    "gru": lambda v: (v.seq, v.y[None], [v.w(12, 6), v.w(12, 4)], False, 1, 0.0, False, False, True),
    "rnn_relu rnn_tanh": lambda v: (v.seq, v.y[None], [v.w(4, 6), v.w(4, 4)], False, 1, 0.0, False, False, True),
    "lstm": lambda v: (v.seq, (v.y[None], v.s[None]), [v.w(16, 6), v.w(16, 4)], False, 1, 0.0, False, False, True),
    "cross_entropy nll_loss multi_margin_loss": lambda v: (v.s, v.n[:, 0]),
    "cosine_embedding_loss": lambda v: (v.x, v.y, torch.ones(1)),
    "margin_ranking_loss": lambda v: (v.x, v.y, v.s.sign()),
    "multilabel_margin_loss": lambda v: (v.s, v.n),
    "triplet_margin_loss triplet_margin_with_distance_loss": lambda v: (v.x, v.y, v.s),
    """fft ifft rfft hfft irfft ihfft fftshift ifftshift""": lambda v: (v.seq,),
    "fft2 ifft2 rfft2 hfft2 irfft2 ihfft2": lambda v: (v.img,),
    "fftn ifftn rfftn hfftn irfftn ihfftn": lambda v: (v.img, None, (2, 3)),
    "stft": lambda v: (v.img.reshape(-1, 72), 16, {"return_complex": True, "window": torch.hann_window(16)}),
    "istft": lambda v: (
        torch.stft(v.img.reshape(-1, 72), 16, return_complex=True, window=torch.hann_window(16)),
        16,
        {"window": torch.hann_window(16)},
    ),
}


def _setting(v: Values) -> Tensor:
    changed = v.s.clone()
    changed[:, 1:3] = v.x[:, :2]
    changed[:, 0] += 1
    changed[v.b] = 0.25
    return changed


def _in_place(change: Callable[[Any, Any], Any], value: Tensor, other: Any) -> Tensor:
    changed: Tensor = change(value.clone(), other)
    return changed


EXPRESSIONS: Mapping[str, Function] = {
    "abs": lambda v: abs(v.s),
    "neg": lambda v: -v.s,
    "pos": lambda v: +v.s,
    "inv": lambda v: ~v.b,
    "invert": lambda v: (~v.n, ~v.b),
    "add": lambda v: (v.x + v.y, v.x + 1, 1 + v.x, v.n + v.x, v.b + v.x),
    "sub": lambda v: (v.x - v.y, v.x - 1, 1 - v.x),
    "mul": lambda v: (v.x * v.y, 2 * v.x, v.x * 2, v.x * (v.s > 0)),
    "truediv": lambda v: (v.x / v.y, v.x / 2, 1 / v.x, v.n / 2),
    "floordiv": lambda v: (v.s // v.y, v.n // 2, 3 // (v.n + 1)),
    "mod": lambda v: (v.s % v.y, v.n % 2, 3 % (v.x + 1)),
    "pow": lambda v: (v.x**v.y, v.x**2, 2**v.x, v.x**-0.5),
    "matmul": lambda v: (v.x @ v.w(4, 3), v.spd @ v.square, v.x @ v.w(4), v.w(2, 3) @ v.square),
    "and_": lambda v: (v.b & (v.x > 0.5), v.n & 1, ((v.s < 1) & (v.s > 0)).float() * v.s),
    "or_": lambda v: (v.b | (v.x > 0.5), v.n | 1),
    "xor": lambda v: (v.b ^ (v.x > 0.5), v.n ^ 1),
    "lshift": lambda v: (v.n << 1, v.n << v.n),
    "rshift": lambda v: (v.n >> 1, v.n >> v.n),
    "lt": lambda v: (v.x < v.y, v.x < 0.5, v.x > 0.5),
    "le": lambda v: (v.x <= v.y, v.n <= 1),
    "gt": lambda v: (v.x > v.y, v.x > 0.5, v.x * (v.s > 0)),
    "ge": lambda v: (v.x >= v.y, v.n >= 1),
    "eq": lambda v: (v.x == v.y, v.n == 1),
    "ne": lambda v: (v.x != v.y, v.n != 1),
    "getitem": lambda v: (
        v.s[:, 1],
        v.s[:, -1:],
        v.s[:, ::2],
        v.s[..., None],
        v.img[:, :, 1:3, ::2],
        v.s[:, [2, 0]],
        v.s[:, v.n[0]],
        v.s[torch.arange(v.s.shape[0]), v.n[:, 0]],
        v.img[:, torch.tensor([True, False])],
        v.s[:, :-1],
    ),
    "setitem": _setting,
    "iadd": lambda v: _in_place(operator.iadd, v.x, v.y),
    "isub": lambda v: _in_place(operator.isub, v.x, v.y),
    "imul": lambda v: _in_place(operator.imul, v.x, v.y),
    "itruediv": lambda v: _in_place(operator.itruediv, v.x, v.y),
    "ifloordiv": lambda v: _in_place(operator.ifloordiv, v.x, v.y),
    "imod": lambda v: _in_place(operator.imod, v.x, v.y),
    "ipow": lambda v: _in_place(operator.ipow, v.x, v.y),
    "imatmul": lambda v: operator.imatmul(v.spd, v.square),
    "iand": lambda v: (_in_place(operator.iand, v.b, v.x > 0.5), _in_place(operator.iand, v.n, 1)),
    "ior": lambda v: (_in_place(operator.ior, v.b, v.x > 0.5), _in_place(operator.ior, v.n, 1)),
    "ixor": lambda v: (_in_place(operator.ixor, v.b, v.x > 0.5), _in_place(operator.ixor, v.n, 1)),
    "ilshift": lambda v: (_in_place(operator.ilshift, v.n, 1), _in_place(operator.ilshift, v.n, v.n)),
    "irshift": lambda v: (_in_place(operator.irshift, v.n, 1), _in_place(operator.irshift, v.n, v.n)),
    "len": lambda v: v.x * len(v.vec[0]),
    "contains": lambda v: v.x * (6 in v.img.shape[1:]),
    "index": lambda v: v.x[:, operator.index(1)],
    "is_": lambda v: v.x * (v.x is v.x),
    "is_not": lambda v: v.x * (v.x is not v.x),
    "is_none": lambda v: v.x * (v.x is None),
    "is_not_none": lambda v: v.x * (v.x is not None),
    "itemgetter": lambda v: operator.itemgetter((slice(None), 1))(v.x),
    "attrgetter": lambda v: operator.attrgetter("mT")(v.spd),
    "methodcaller": lambda v: operator.methodcaller("sum", 1)(v.x),
    "call": lambda v: operator.methodcaller("sum", 1)(v.x),
    "length_hint": lambda v: v.x * operator.length_hint(v.vec[0]),
    "Tensor.T": lambda v: v.square[0].T,
    "Tensor.H": lambda v: (v.square[0].H, v.z.H.sum(0)),
    "Tensor.mT": lambda v: v.square.mT,
    "Tensor.mH": lambda v: v.square.mH,
    "Tensor.real": lambda v: (v.z.real, v.x.real),
    "Tensor.imag": lambda v: v.z.imag,
    "Tensor.shape": lambda v: v.x * v.img.shape[1] + v.img.shape[0],
    "Tensor.size": lambda v: v.x * v.img.size(1) + v.img.size(0),
    "Tensor.numel": lambda v: v.x * v.x.numel() + v.x.nelement(),
    "Tensor.__reversed__": lambda v: reversed(v.square[0]),
    "Tensor.ndim": lambda v: v.x * v.img.ndim + v.img.dim() + v.img.ndimension(),
    "Tensor.dtype": lambda v: v.n.to(v.x.dtype),
    "Tensor.device": lambda v: torch.ones(3, device=v.x.device),
    "Tensor.item": lambda v: v.x * v.y[0, 0].item(),
    "Tensor.bitwise_not_": lambda v: v.n.clone().bitwise_not_(),
    "Tensor.float_power_": lambda v: v.x.double().float_power_(2),
    "Tensor.requires_grad_": lambda v: v.x.requires_grad_(),
    "linalg.eig": lambda v: torch.linalg.eig(v.spd)[0].abs(),
    "masked_select": lambda v: v.s.masked_select(v.b).sum(),
    "nonzero": lambda v: v.n.nonzero().sum(),
    "argwhere": lambda v: v.n.argwhere().sum(),
    "unique": lambda v: v.n.unique().sum(),
    "unique_consecutive": lambda v: v.n.unique_consecutive().sum(),
    "sym_max": lambda v: v.x * torch.sym_max(v.x.shape[0], 2),
    "sym_min": lambda v: v.x * torch.sym_min(v.x.shape[0], 2),
    "sym_not": lambda v: v.x * torch.sym_not(v.x.shape[0] > 2),
    "sym_float": lambda v: v.x * torch.sym_float(v.x.shape[0]),
    "empty_like": lambda v: (torch.empty_like(v.x).fill_(0.5), torch.empty_like(v.x).copy_(v.y)),
    "new_empty": lambda v: v.x.new_empty(v.x.shape).zero_() + torch.empty(v.x.shape).fill_(1.0),
    "Tensor.new_zeros": lambda v: (v.x.new_zeros(3), v.x.new_ones(v.x.shape), v.x.new_full((2,), 0.5)),
    "arange": lambda v: (torch.arange(v.x.shape[0]), torch.linspace(0, 1, 3), torch.logspace(0, 1, 3), torch.eye(2)),
    "tensor": lambda v: v.x * torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.full((4,), 0.5) + torch.zeros(4),
    "tril_indices": lambda v: (torch.tril_indices(3, 3), torch.triu_indices(3, 3)),
    "windows": lambda v: (
        torch.hann_window(8),
        torch.hamming_window(8),
        torch.blackman_window(8),
        torch.bartlett_window(8),
        torch.kaiser_window(8),
        torch.signal.windows.gaussian(8, std=2.0),
    ),
    "fftfreq": lambda v: (torch.fft.fftfreq(5), torch.fft.rfftfreq(5)),
    "linalg.vander": lambda v: torch.linalg.vander(v.vec),
}


REFUSED: Mapping[str, tuple[str, Function]] = {
    "bernoulli": ("is random.*as an input", lambda v: torch.bernoulli(v.x)),
    "binomial": ("is random", lambda v: torch.binomial(v.x.round(), v.y)),
    "multinomial": ("is random", lambda v: torch.multinomial(v.x, 2)),
    "poisson": ("is random", lambda v: torch.poisson(v.x)),
    "Tensor.bernoulli_": ("is random", lambda v: v.x.clone().bernoulli_()),
    "Tensor.cauchy_": ("is random", lambda v: v.x.clone().cauchy_()),
    "Tensor.exponential_": ("is random", lambda v: v.x.clone().exponential_()),
    "Tensor.geometric_": ("is random", lambda v: v.x.clone().geometric_(0.5)),
    "Tensor.log_normal_": ("is random", lambda v: v.x.clone().log_normal_()),
    "Tensor.normal_": ("is random", lambda v: v.x.clone().normal_()),
    "Tensor.random_": ("is random", lambda v: v.x.clone().random_()),
    "Tensor.uniform_": ("is random", lambda v: v.x.clone().uniform_()),
    "rand": ("is random", lambda v: torch.rand(3)),
    "nn.functional.gumbel_softmax": ("is random", lambda v: F.gumbel_softmax(v.s)),
    "nn.functional.fractional_max_pool2d": ("is random", lambda v: F.fractional_max_pool2d(v.img, 2, 3)),
    "nn.functional.fractional_max_pool3d": ("is random", lambda v: F.fractional_max_pool3d(v.vol, 2, (1, 2, 2))),
    "nn.functional.fractional_max_pool2d_with_indices": (
        "is random",
        lambda v: F.fractional_max_pool2d_with_indices(v.img, 2, 3),
    ),
    "nn.functional.fractional_max_pool3d_with_indices": (
        "is random",
        lambda v: F.fractional_max_pool3d_with_indices(v.vol, 2, (1, 2, 2)),
    ),
    "svd_lowrank": ("is random", lambda v: torch.svd_lowrank(v.spd, 2)),
    "pca_lowrank": ("is random", lambda v: torch.pca_lowrank(v.spd, 2)),
    "bincount": ("length depends on values.*one_hot", lambda v: torch.bincount(v.n[0])),
    "as_strided_copy": ("reads memory", lambda v: torch.as_strided_copy(v.x, (2, 2), (1, 1))),
    "as_strided_scatter": ("reads memory", lambda v: torch.as_strided_scatter(v.x, v.y[:2, :2], (2, 2), (1, 1))),
    "Tensor.as_strided": ("reads memory.*unfold", lambda v: v.x.as_strided((2, 2), (1, 1))),
    "ctc_loss": (
        "trusts the lengths",
        lambda v: torch.ctc_loss(v.seq, torch.ones(6, 2, dtype=torch.int64), torch.full((6,), 3), torch.full((6,), 2)),
    ),
    "geqrf": (r"no derivative.*linalg\.qr", lambda v: torch.geqrf(v.spd)),
    "ormqr": (r"no derivative.*linalg\.qr", lambda v: torch.ormqr(v.square, v.vec, v.spd)),
    "linalg.ldl_factor": ("no derivative", lambda v: torch.linalg.ldl_factor(v.spd)),
    "linalg.ldl_factor_ex": ("no derivative", lambda v: torch.linalg.ldl_factor_ex(v.spd)),
    "linalg.ldl_solve": ("pivots", lambda v: torch.linalg.ldl_solve(*torch.linalg.ldl_factor(v.spd), v.square)),
    "linalg.lu_solve": (
        r"pivots.*linalg\.solve",
        lambda v: torch.linalg.lu_solve(*torch.linalg.lu_factor(v.spd), v.square),
    ),
    "lu_solve": (r"pivots.*linalg\.solve", lambda v: torch.lu_solve(v.square, *torch.linalg.lu_factor(v.spd))),
    "lu_unpack": (r"pivots.*linalg\.lu", lambda v: torch.lu_unpack(*torch.linalg.lu_factor(v.spd))),
    **{
        f"special.{kind}polynomial_{name}": (
            "grows with the values",
            lambda v, name=f"{kind}polynomial_{name}": getattr(torch.special, name)(v.x, 3),
        )
        for kind, names in [
            ("chebyshev_", "tuvw"),
            ("shifted_chebyshev_", "tuvw"),
            ("hermite_", ("h", "he")),
            ("laguerre_", "l"),
            ("legendre_", "p"),
        ]
        for name in names
    },
    "Tensor.to_sparse": ("sparse.*to_dense", lambda v: v.x.to_sparse()),
    "Tensor.resize_": ("reads memory", lambda v: v.x.clone().resize_(2, 2)),
    "Tensor.resize_as_": ("reads memory", lambda v: v.x.clone().resize_as_(v.vec)),
    "out=": ("writes into", lambda v: torch.add(v.x, v.y, out=torch.empty_like(v.x))),
}
"""Functions that are refused, with what the message says."""

UNEXPORTED: Mapping[str, Function] = {
    "combinations": lambda v: torch.combinations(v.vec[0]),
    "gradient": lambda v: torch.gradient(v.x, dim=1),
    "histogram": lambda v: torch.histogram(v.x.detach(), 4, range=(0.0, 1.0)),
    "histogramdd": lambda v: torch.histogramdd(v.x.detach(), [2, 2, 2, 2]),
    "linalg.multi_dot": lambda v: torch.linalg.multi_dot([v.x, v.w(4, 3), v.w(3, 2)]),
    "norm_except_dim": lambda v: torch.norm_except_dim(v.s, 2, 0),
    "take_along_dim": lambda v: torch.take_along_dim(v.s, v.n, 1),
    "nn.functional.conv_tbc": lambda v: F.conv_tbc(v.seq.transpose(0, 1).contiguous(), v.w(3, 6, 2), v.w(2)),
    "nn.functional.native_channel_shuffle": lambda v: F.native_channel_shuffle(v.img, 2),
    "nn.functional.linear_cross_entropy": lambda v: F.linear_cross_entropy(v.x, v.w(3, 4), v.n[:, 0]),
    "allclose": lambda v: torch.ones(1) * torch.allclose(v.x, v.y),
    "equal": lambda v: torch.ones(1) * torch.equal(v.x, v.y),
    "is_nonzero": lambda v: torch.ones(1) if torch.is_nonzero(v.x[0, 0]) else torch.zeros(1),
    "lobpcg": lambda v: torch.lobpcg(v.spd, 1),
    "linalg.lstsq": lambda v: torch.linalg.lstsq(v.spd, v.square),
    "nn.functional.ctc_loss": lambda v: F.ctc_loss(v.seq, v.n, v.n[:, 0], v.n[:, 0]),
    "nn.functional.gaussian_nll_loss": lambda v: F.gaussian_nll_loss(v.s, v.x, v.y),
    "cov": lambda v: torch.cov(v.square[0]),
    "corrcoef": lambda v: torch.corrcoef(v.square[0]),
    "sym_sqrt": lambda v: v.x * torch.sym_sqrt(v.x.shape[0]),
    "sym_sum": lambda v: v.x * torch.sym_sum([v.x.shape[0], 2, v.img.shape[0]]),
    "sym_ite": lambda v: v.x * torch.sym_ite(v.x.shape[0] > 2, 3, 4),
    "Tensor.data": lambda v: v.x.data,
    "Tensor.numpy": lambda v: torch.from_numpy(v.x.detach().numpy()),
    "Tensor.polygamma_": lambda v: v.x.clone().polygamma_(1),
    "Tensor.tolist": lambda v: torch.tensor(v.n.tolist()),
    "Tensor.as_strided_": lambda v: v.x.clone().as_strided_((2, 2), (1, 1)),
}
"""Functions that torch itself does not export, or not in a form that has a graph of its own."""

OTHERS: Mapping[str, str] = {
    "says something of a tensor, and gives none": """
        Tensor.dim Tensor.ndimension Tensor.nelement Tensor.element_size Tensor.itemsize Tensor.nbytes Tensor.get_device
        Tensor.is_complex Tensor.is_conj Tensor.is_contiguous Tensor.is_floating_point Tensor.is_inference Tensor.is_neg
        Tensor.is_pinned Tensor.is_same_size Tensor.is_set_to Tensor.is_shared Tensor.is_signed Tensor.is_coalesced
        Tensor.is_cpu Tensor.is_cuda Tensor.is_ipu Tensor.is_leaf Tensor.is_maia Tensor.is_meta Tensor.is_mkldnn
        Tensor.is_mps Tensor.is_mtia Tensor.is_nested Tensor.is_quantized Tensor.is_sparse Tensor.is_sparse_csr
        Tensor.is_vulkan Tensor.is_xla Tensor.is_xpu Tensor.is_distributed Tensor.layout Tensor.name Tensor.dim_order
        Tensor.storage_offset Tensor.storage_type Tensor.dense_dim Tensor.sparse_dim Tensor._dimI Tensor._dimV
        Tensor._nnz Tensor._is_view Tensor._nested_tensor_size Tensor._nested_tensor_storage_offsets
        Tensor._nested_tensor_strides Tensor._version Tensor.output_nr Tensor.qscheme get_device is_complex is_conj
        is_distributed is_floating_point is_inference is_neg is_same_size is_signed numel Tensor.__len__
        Tensor.__format__ Tensor.__repr__ Tensor.__contains__ Tensor.volatile
        """,
    "turns values into Python's own, which an export cannot": """
        Tensor.__bool__ Tensor.__complex__ Tensor.__float__ Tensor.__index__ Tensor.__int__ Tensor.__long__
        Tensor.__nonzero__ Tensor.__array__ Tensor.__array_wrap__ Tensor.__cuda_array_interface__ Tensor.__dlpack__
        Tensor.__dlpack_device__ Tensor.is_nonzero Tensor.allclose Tensor.equal
        """,
    "belongs to training": """
        Tensor.backward Tensor.grad Tensor.grad_dtype Tensor.grad_fn Tensor._grad Tensor._grad_fn Tensor._backward_hooks
        Tensor._base Tensor._post_accumulate_grad_hooks Tensor.register_hook Tensor.requires_grad
        Tensor.register_post_accumulate_grad_hook Tensor.retain_grad Tensor.retains_grad batch_norm_backward_elemt
        batch_norm_backward_reduce batch_norm_elemt batch_norm_gather_stats batch_norm_gather_stats_with_counts
        batch_norm_stats batch_norm_update_stats autocast Tensor._autocast_to_full_precision
        Tensor._autocast_to_reduced_precision
        """,
    "works on sparse tensors": """
        Tensor._coalesced_ Tensor._indices Tensor._values Tensor._sparse_mask_projection Tensor._to_dense
        Tensor.ccol_indices Tensor.coalesce Tensor.col_indices Tensor.crow_indices Tensor.indices Tensor.row_indices
        Tensor.resize_as_sparse_ Tensor.smm Tensor.sparse_mask Tensor.sparse_resize_ Tensor.sparse_resize_and_clear_
        Tensor.sspaddmm native_norm
        Tensor.to_dense Tensor.values ccol_indices_copy col_indices_copy crow_indices_copy hspmm
        indices_copy row_indices_copy smm spmm sspaddmm values_copy Tensor._clear_non_serializable_cached_data
        """,
    "works on quantized tensors": """
        Tensor.dequantize Tensor.int_repr Tensor.q_per_channel_axis Tensor.q_per_channel_scales
        Tensor.q_per_channel_zero_points Tensor.q_scale Tensor.q_zero_point choose_qparams_optimized dequantize
        fake_quantize_per_channel_affine fake_quantize_per_tensor_affine fbgemm_linear_fp16_weight
        fbgemm_linear_fp16_weight_fp32_activation fbgemm_linear_int8_weight
        fbgemm_linear_int8_weight_fp32_activation fbgemm_linear_quantize_weight fbgemm_pack_gemm_matrix_fp16
        fbgemm_pack_quantized_matrix fused_moving_avg_obs_fake_quant int_repr q_per_channel_axis q_per_channel_scales
        q_per_channel_zero_points q_scale q_zero_point quantize_per_channel quantize_per_tensor
        quantize_per_tensor_dynamic quantized_batch_norm quantized_gru_cell quantized_lstm_cell quantized_max_pool1d
        quantized_max_pool2d quantized_max_pool3d quantized_rnn_relu_cell quantized_rnn_tanh_cell
        """,
    "is of another device or library": """
        Tensor.cuda Tensor.ipu Tensor.mtia Tensor.xpu Tensor.to_mkldnn Tensor.pin_memory Tensor.record_stream
        miopen_batch_norm miopen_convolution miopen_convolution_add_relu miopen_convolution_relu
        miopen_convolution_transpose miopen_depthwise_convolution miopen_rnn
        """,
    "reaches into memory, or copies objects": """
        Tensor.const_data_ptr Tensor.data_ptr Tensor.set_ Tensor.share_memory_ Tensor.storage Tensor.untyped_storage
        slice_inverse Tensor.slice_inverse Tensor._cdata
        Tensor.__deepcopy__ Tensor.__reduce_ex__ Tensor.__setstate__ Tensor.module_load Tensor.resize
        Tensor.resize_as
        """,
    "calls a function of Python for each element": "Tensor.apply_ Tensor.map_ Tensor.map2_",
    "is private to torch, or an old name": "nn.functional._sym_int Tensor.__div__ Tensor.__ifloordiv__ Tensor.index",
}
"""Functions that are not called at all, by the reason."""

NO_OPERATORS: Mapping[str, str] = {
    "needs the truth of a value": "not_ truth",
    "works on sequences": "concat iconcat countOf indexOf",
    "takes items away, which tensors do not allow": "delitem",
}
"""Functions of `operator` that are not for tensors, by the reason."""
