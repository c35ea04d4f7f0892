"""Which ONNX operators are served, and why others are not.

Each operator of the lists was run by ONNX Runtime 1.32 with arguments that do not fit, between guarded buffers
(tests/server/engine/models/onnx_sweep.py). One that reads or writes beyond them, or answers memory that it never
wrote, is either held to its contract by `onnx_arguments`, or not in the list.
"""


def listed(names: str) -> frozenset[str]:
    """Return the names of a text, which blanks separate."""
    return frozenset(names.split())


STANDARD = listed(
    """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
    BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad
    Clip Col2Im Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT
    DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand
    EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
    If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop
    LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization
    MelWeightMatrix Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul
    QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign
    Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size
    Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh TensorScatter
    ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Where Xor
    """
)
"""Of the domain "" (also "ai.onnx")."""

MACHINE_LEARNING = listed(
    """
    ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor Normalizer
    OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
    """
)
"""Of the domain "ai.onnx.ml". ZipMap is here for its own message: an output that is not a tensor."""

MICROSOFT = listed(
    """
    Attention BiasGelu CDist DequantizeLinear DynamicQuantizeMatMul EmbedLayerNormalization FastGelu FusedConv
    FusedGemm FusedMatMul Gelu MatMulIntegerToFloat MatMulNBits MultiHeadAttention NhwcMaxPool
    QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul
    QLinearSigmoid QLinearSoftmax QLinearWhere QuantizeLinear QuickGelu SkipLayerNormalization
    SkipSimplifiedLayerNormalization TransposeMatMul Trilu
    """
)
"""Of the domain "com.microsoft": what ONNX Runtime's own tools write when they optimize or quantize a model."""

ALLOWED = {"": STANDARD, "ai.onnx.ml": MACHINE_LEARNING, "com.microsoft": MICROSOFT}

RANDOM = listed(
    """
    Bernoulli BiasDropout BitmaskBiasDropout BitmaskDropout DropoutGrad Multinomial RandomNormal RandomNormalLike
    RandomUniform RandomUniformLike Sampling
    """
)

_REFUSED = {
    "TRAINING": (
        "SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss SoftmaxCrossEntropy Gradient Adam Adagrad Momentum",
        "it is for training; export the model without its loss",
    ),
    "SEQUENCES": (
        "SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap "
        "SplitToSequence ConcatFromSequence Optional OptionalGetElement OptionalHasElement",
        "it makes or takes a list, of which no size is known before it runs; use tensors (torch.stack, torch.split "
        "with fixed sizes, a loop that torch unrolls) and export the model again",
    ),
    "STRINGS": (
        "TfIdfVectorizer RegexFullMatch StringConcat StringNormalizer StringSplit Tokenizer CastMap "
        "CategoryMapper DictVectorizer",
        "it is for text or dictionaries, which no input can be; make numbers of them before the model",
    ),
    "FILES": ("EPContext ImageDecoder", "it reads a file or a picture; leave that to the server's preprocessing"),
    "OLD": ("Upsample", "it is from before opset 10, where Resize took its place; export the model with a newer opset"),
    "STATE": (
        "BeamSearch GreedySearch WhisperBeamSearch GroupQueryAttention DecoderMaskedMultiHeadAttention SparseAttention "
        "PagedAttention",
        "it is for generating text step by step; export one forward pass, without a cache",
    ),
}
_REASONS = {name: reason for names, reason in _REFUSED.values() for name in names.split()}


def refusal(domain: str, operator: str) -> str | None:
    """Return why an operator is not served, and a way round it; None where it is."""
    domain = "" if domain == "ai.onnx" else domain
    if operator in RANDOM:
        return (
            "it draws random numbers, so that an answer could not be given again; take it out of forward, or export "
            "the model in evaluation mode (model.eval()), where dropout does nothing"
        )
    if operator in ALLOWED.get(domain, ()):
        return None
    if domain not in ALLOWED:
        return (
            f"only the standard operators can be served (domains: {', '.join(name for name in ALLOWED if name)}); "
            "export the model without custom operators"
        )
    return _REASONS.get(
        operator,
        "it is not in the list of operators that can be served (docs/onnx.md); write it with operators that are, or "
        "serve the model as model.pt2",
    )
