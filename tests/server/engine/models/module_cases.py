"""How each module of `torch.nn` is made and called; see `operator_cases`."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from server.engine.models.operator_cases import Values
from torch import nn

Case = tuple[Callable[[], nn.Module], Callable[[Values], tuple[Any, ...]]]
"""What makes a module, and its arguments."""


def _x(v: Values) -> tuple[Any, ...]:
    return (v.s,)


def _seq(v: Values) -> tuple[Any, ...]:
    return (v.seq,)


def _img(v: Values) -> tuple[Any, ...]:
    return (v.img,)


def _vol(v: Values) -> tuple[Any, ...]:
    return (v.vol,)


def _pair(v: Values) -> tuple[Any, ...]:
    return v.x, v.y


def _three(v: Values) -> tuple[Any, ...]:
    return v.x, v.y, v.s


def _ones(v: Values) -> tuple[Any, ...]:
    return v.x, v.y, v.s.sign()


def _classes(v: Values) -> tuple[Any, ...]:
    return v.s.log_softmax(1), v.n[:, 0]


class _Unpooled(nn.Module):
    def __init__(self, pool: nn.Module, unpool: nn.Module) -> None:
        super().__init__()
        self.pool, self.unpool = pool, unpool

    def forward(self, value: torch.Tensor) -> Any:
        return self.unpool(*self.pool(value))


class _Listed(nn.Module):
    """Uses a container that has no forward of its own."""

    def __init__(self, parts: nn.Module) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, value: torch.Tensor) -> Any:
        if isinstance(self.parts, (nn.ModuleDict, nn.ParameterDict)):
            return value * self.parts["a"] if isinstance(self.parts, nn.ParameterDict) else self.parts["a"](value)
        if isinstance(self.parts, nn.ParameterList):
            return value * self.parts[0] + self.parts[1]
        return self.parts[1](self.parts[0](value))


def _of(name: str, *arguments: Any, **named: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(nn, name)(*arguments, **named)


_ACTIVATIONS = """
    CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish PReLU RReLU ReLU
    ReLU6 SELU SiLU Sigmoid Softmin Softplus Softshrink Softsign Tanh Tanhshrink LogSoftmax Softmax Dropout
    AlphaDropout FeatureAlphaDropout Flatten
"""
_LOSSES = """
    BCELoss BCEWithLogitsLoss HuberLoss KLDivLoss L1Loss MSELoss MultiLabelSoftMarginLoss PoissonNLLLoss SmoothL1Loss
    HingeEmbeddingLoss CosineSimilarity PairwiseDistance
"""
_SHAPED = {"1d": _seq, "2d": _img, "3d": _vol}
_CHANNELS = {"1d": 6, "2d": 2, "3d": 2}

MODULES: Mapping[str, Case] = {
    **{name: (_of(name), _x) for name in _ACTIVATIONS.split()},
    **{name: (_of(name), _pair) for name in _LOSSES.split()},
    **{
        f"{kind}{axes}": (_of(f"{kind}{axes}", *arguments), data)
        for axes, data in _SHAPED.items()
        for kind, arguments in [
            ("AdaptiveAvgPool", (2,)),
            ("AdaptiveMaxPool", (2,)),
            ("AvgPool", (2,)),
            ("MaxPool", (2,)),
            ("BatchNorm", (_CHANNELS[axes],)),
            ("InstanceNorm", (_CHANNELS[axes],)),
            ("Dropout", ()),
            ("SyncBatchNorm", (_CHANNELS[axes],)),
            ("Conv", (_CHANNELS[axes], 3, 2)),
            ("ConvTranspose", (_CHANNELS[axes], 3, 2)),
            ("LPPool", (1, 2)),
            ("LazyConv", (3, 2)),
            ("LazyConvTranspose", (3, 2)),
            ("LazyBatchNorm", ()),
            ("LazyInstanceNorm", ()),
            ("CircularPad", (1,)),
            ("ConstantPad", (1, 0.5)),
            ("ReflectionPad", (1,)),
            ("ReplicationPad", (1,)),
            ("ZeroPad", (1,)),
        ]
        if hasattr(nn, f"{kind}{axes}")
    },
    "SyncBatchNorm": (_of("SyncBatchNorm", 2), _img),
    "Softmax2d": (_of("Softmax2d"), _img),
    "Threshold": (_of("Threshold", 0.1, 0.5), _x),
    "Linear": (_of("Linear", 4, 3), _x),
    "LazyLinear": (_of("LazyLinear", 3), _x),
    "Bilinear": (_of("Bilinear", 4, 4, 3), _pair),
    "LayerNorm": (_of("LayerNorm", 4), _x),
    "RMSNorm": (_of("RMSNorm", 4), _x),
    "GroupNorm": (_of("GroupNorm", 2, 2), _img),
    "LocalResponseNorm": (_of("LocalResponseNorm", 2), _img),
    "ChannelShuffle": (_of("ChannelShuffle", 2), _img),
    "PixelShuffle": (_of("PixelShuffle", 2), lambda v: (torch.cat([v.img, v.img], 1),)),
    "PixelUnshuffle": (_of("PixelUnshuffle", 2), _img),
    "Upsample": (_of("Upsample", scale_factor=2, mode="bicubic"), _img),
    "UpsamplingBilinear2d": (_of("UpsamplingBilinear2d", scale_factor=2), _img),
    "UpsamplingNearest2d": (_of("UpsamplingNearest2d", scale_factor=2), _img),
    "Fold": (_of("Fold", (6, 6), 3), lambda v: (nn.functional.unfold(v.img, 3),)),
    "Unfold": (_of("Unfold", 3), _img),
    "Unflatten": (_of("Unflatten", 1, (2, 2)), _x),
    "Embedding": (_of("Embedding", 5, 3), lambda v: (v.n,)),
    "EmbeddingBag": (_of("EmbeddingBag", 5, 3), lambda v: (v.n,)),
    "GRU": (_of("GRU", 6, 3, batch_first=True), _seq),
    "LSTM": (_of("LSTM", 6, 3, batch_first=True, bidirectional=True), _seq),
    "RNN": (_of("RNN", 6, 3, batch_first=True), _seq),
    "GRUCell": (_of("GRUCell", 4, 3), _x),
    "LSTMCell": (_of("LSTMCell", 4, 3), _x),
    "RNNCell": (_of("RNNCell", 4, 3), _x),
    "MultiheadAttention": (_of("MultiheadAttention", 6, 2, batch_first=True), lambda v: (v.seq, v.seq, v.seq)),
    "Transformer": (_of("Transformer", 6, 2, 1, 1, 8, batch_first=True), lambda v: (v.seq, v.seq * 0.5)),
    "TransformerEncoderLayer": (_of("TransformerEncoderLayer", 6, 2, 8, batch_first=True), _seq),
    "TransformerDecoderLayer": (
        _of("TransformerDecoderLayer", 6, 2, 8, batch_first=True),
        lambda v: (v.seq, v.seq * 0.5),
    ),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1),
        _seq,
    ),
    "TransformerDecoder": (
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(6, 2, 8, batch_first=True), 1),
        lambda v: (v.seq, v.seq * 0.5),
    ),
    **{
        f"MaxUnpool{axes}": (
            lambda axes=axes: _Unpooled(  # type: ignore[misc]
                getattr(nn, f"MaxPool{axes}")(2, return_indices=True), getattr(nn, f"MaxUnpool{axes}")(2)
            ),
            data,
        )
        for axes, data in _SHAPED.items()
    },
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True)), _x),
    "ModuleList": (lambda: _Listed(nn.ModuleList([nn.Linear(4, 3), nn.Tanh()])), _x),
    "ModuleDict": (lambda: _Listed(nn.ModuleDict({"a": nn.Linear(4, 3)})), _x),
    "ParameterList": (lambda: _Listed(nn.ParameterList([torch.ones(4) * 2, torch.ones(1)])), _x),
    "ParameterDict": (lambda: _Listed(nn.ParameterDict({"a": torch.ones(4) * 2})), _x),
    "SoftMarginLoss": (_of("SoftMarginLoss"), lambda v: (v.x, v.y.detach())),
    "CosineEmbeddingLoss": (_of("CosineEmbeddingLoss"), lambda v: (v.x, v.y, torch.ones(1))),
    "MarginRankingLoss": (_of("MarginRankingLoss"), _ones),
    "TripletMarginLoss": (_of("TripletMarginLoss"), _three),
    "TripletMarginWithDistanceLoss": (_of("TripletMarginWithDistanceLoss"), _three),
    "CrossEntropyLoss": (_of("CrossEntropyLoss"), _classes),
    "NLLLoss": (_of("NLLLoss"), _classes),
    "MultiMarginLoss": (_of("MultiMarginLoss"), _classes),
    "MultiLabelMarginLoss": (_of("MultiLabelMarginLoss"), lambda v: (v.s, v.n)),
}

REFUSED_MODULES: Mapping[str, tuple[str, Case]] = {
    "FractionalMaxPool2d": ("random", (_of("FractionalMaxPool2d", 2, output_size=3), _img)),
    "FractionalMaxPool3d": ("", (_of("FractionalMaxPool3d", 2, output_size=(1, 2, 2)), _vol)),
    "CTCLoss": (
        "",
        (
            _of("CTCLoss"),
            lambda v: (
                v.seq.log_softmax(2),
                torch.ones(6, 2, dtype=torch.int64),
                torch.full((6,), 3),
                torch.full((6,), 2),
            ),
        ),
    ),
    "CrossMapLRN2d": ("", (_of("CrossMapLRN2d", 2), _img)),
    "GaussianNLLLoss": ("", (_of("GaussianNLLLoss"), lambda v: (v.s, v.x, v.y))),
}
"""Modules that are refused, and what the message says; torch itself refuses those where that is empty."""

OTHER_MODULES: Mapping[str, str] = {
    "has no forward of its own": "Module Container RNNBase RNNCellBase",
    "is for training": "AdaptiveLogSoftmaxWithLoss DataParallel",
    "is a kernel of its own": "LinearCrossEntropyLoss",
    "is an old name of NLLLoss": "NLLLoss2d",
}


class OneModule(nn.Module):
    """A module of `torch.nn` with what it is given."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        make, self.arguments = case
        self.part = make().eval()
        with torch.no_grad():
            self(Values(torch.ones(3, 84)))  # A lazy module takes its sizes from its first call.
        self.requires_grad_(False)  # As a server's weights are.

    def forward(self, values: Values) -> Any:
        return self.part(*self.arguments(values))
