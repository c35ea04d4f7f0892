"""Operators of ai.onnx.ml and com.microsoft with arguments that fit, and groups that ONNX Runtime fuses into one."""

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto, helper
from server.engine.models.onnx_starts import start
from server.engine.models.onnx_sweep import Start

_rng = np.random.default_rng(0)


def real(*shape, kind=np.float32):
    return _rng.standard_normal(shape).astype(kind)


def byte(*shape, kind=np.uint8):
    return _rng.integers(0, 100, shape).astype(kind)


def whole(values, kind=np.int64):
    return np.array(values, kind)


def scale(value=0.1):
    return np.array(value, np.float32)


def zero(kind=np.uint8, value=3):
    return np.array(value, kind)


def _single(domain, operator, feeds, outputs=1, version=None, name=None, **attributes) -> Start:
    inputs = []
    arrays = {}
    for place, array in enumerate(feeds):
        inputs.append("" if array is None else f"i{place}")
        if array is not None:
            arrays[f"i{place}"] = array
    node = helper.make_node(operator, inputs, [f"o{place}" for place in range(outputs)], domain=domain, **attributes)
    return start(name or f"{operator}_{len(feeds)}_{outputs}", [node], arrays, {domain: version} if version else {})


TREE = {
    "nodes_treeids": [0, 0, 0, 0, 0, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
    "nodes_featureids": [0, 1, 0, 0, 0, 2, 0, 0],
    "nodes_values": [0.1, 0.2, 0.0, 0.0, 0.0, -0.1, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 2, 0, 0, 0, 1, 0, 0],
    "nodes_falsenodeids": [4, 3, 0, 0, 0, 2, 0, 0],
    "nodes_missing_value_tracks_true": [0] * 8,
    "nodes_hitrates": [1.0] * 8,
}
LEAVES = {"treeids": [0, 0, 0, 1, 1], "nodeids": [2, 3, 4, 1, 2], "weights": [1.0, 2.0, 3.0, 4.0, 5.0]}


def _trees() -> Iterator[Start]:
    for kind in (np.float32, np.float64, np.int64):
        x = (real(5, 3) * 3).astype(kind)
        for ids in ([0, 1, 2, 0, 1], [0, 0, 0, 0, 0]):
            classes = {f"class_{name}": value for name, value in LEAVES.items()}
            labels = {"classlabels_int64s": [10, 20, 30] if max(ids) else [10, 20]}
            yield _single("ai.onnx.ml", "TreeEnsembleClassifier", [x], 2, class_ids=ids, **TREE, **classes, **labels)
            targets = {f"target_{name}": value for name, value in LEAVES.items()}
            yield _single(
                "ai.onnx.ml", "TreeEnsembleRegressor", [x], n_targets=max(ids) + 1, target_ids=ids, **TREE, **targets
            )
    many = _rng.standard_normal((300, 3)).astype(np.float32)
    targets = {f"target_{name}": value for name, value in LEAVES.items()}
    yield _single(
        "ai.onnx.ml", "TreeEnsembleRegressor", [many], n_targets=1, target_ids=[0] * 5, name="many", **TREE, **targets
    )
    yield _single(
        "ai.onnx.ml",
        "TreeEnsembleRegressor",
        [many[:1]],
        n_targets=3,
        target_ids=[0, 1, 2, 0, 1],
        name="one",
        **TREE,
        **targets,
    )
    stumps = {name: [value[5:8] for _ in range(60)] for name, value in TREE.items()}
    forest = {name: [entry for part in parts for entry in part] for name, parts in stumps.items()}
    forest["nodes_treeids"] = [tree for tree in range(60) for _ in range(3)]
    leaves = {
        "target_treeids": [tree for tree in range(60) for _ in range(2)],
        "target_nodeids": [1, 2] * 60,
        "target_weights": [1.0, 2.0] * 60,
        "target_ids": [0, 1] * 60,
    }
    yield _single("ai.onnx.ml", "TreeEnsembleRegressor", [many], n_targets=2, name="forest", **forest, **leaves)
    tensors = {
        "nodes_splits": helper.make_tensor("s", TensorProto.FLOAT, [3], [0.1, 0.2, -0.1]),
        "nodes_modes": helper.make_tensor("m", TensorProto.UINT8, [3], [0, 0, 0]),
        "leaf_weights": helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0]),
    }
    yield _single(
        "ai.onnx.ml", "TreeEnsemble", [real(5, 3)], version=5, n_targets=2, tree_roots=[0],
        nodes_featureids=[0, 1, 2], nodes_truenodeids=[1, 0, 2], nodes_trueleafs=[0, 1, 1],
        nodes_falsenodeids=[2, 1, 3], nodes_falseleafs=[0, 1, 1],
        leaf_targetids=[0, 1, 0, 1], **tensors,
    )  # fmt: skip
    members = helper.make_tensor("v", TensorProto.FLOAT, [4], [1.0, 2.0, float("nan"), 3.0])
    tensors["nodes_modes"] = helper.make_tensor("m", TensorProto.UINT8, [3], [0, 6, 0])
    yield _single(
        "ai.onnx.ml", "TreeEnsemble", [real(5, 3)], version=5, name="members", n_targets=2, tree_roots=[0],
        nodes_featureids=[0, 1, 2], nodes_truenodeids=[1, 0, 2], nodes_trueleafs=[0, 1, 1],
        nodes_falsenodeids=[2, 1, 3], nodes_falseleafs=[0, 1, 1],
        leaf_targetids=[0, 1, 0, 1], membership_values=members, **tensors,
    )  # fmt: skip


def _classical() -> Iterator[Start]:
    ml = "ai.onnx.ml"
    x = real(5, 3)
    for kernel in ("LINEAR", "RBF", "POLY", "SIGMOID"):
        svm = {"kernel_type": kernel, "kernel_params": [0.5, 1.0, 2.0]}
        vectors = {"support_vectors": [0.5] * 12, "rho": [0.1, 0.2, 0.3], "vectors_per_class": [2, 1, 1]}
        yield _single(
            ml,
            "SVMClassifier",
            [x],
            2,
            name=kernel,
            coefficients=[0.1] * 8,
            classlabels_ints=[1, 2, 3],
            **svm,
            **vectors,
        )
        yield _single(
            ml, "SVMClassifier", [x], 2, name=f"{kernel}_p", coefficients=[0.1] * 8, classlabels_ints=[1, 2, 3],
            prob_a=[0.1] * 3, prob_b=[0.2] * 3, **svm, **vectors,
        )  # fmt: skip
        yield _single(
            ml, "SVMClassifier", [x], 2, name=f"{kernel}_2", coefficients=[0.1] * 4, classlabels_ints=[1, 2], **svm,
            support_vectors=[0.5] * 12, rho=[0.1], vectors_per_class=[2, 2], prob_a=[0.1], prob_b=[0.1],
        )  # fmt: skip
        yield _single(
            ml, "SVMRegressor", [x], name=kernel, coefficients=[0.1] * 4, n_supports=4, rho=[0.1],
            support_vectors=[0.5] * 12, **svm,
        )  # fmt: skip
    yield _single(
        ml,
        "SVMClassifier",
        [x],
        2,
        name="linear",
        coefficients=[0.1] * 9,
        classlabels_ints=[1, 2, 3],
        rho=[0.1] * 3,
        kernel_type="LINEAR",
        kernel_params=[0.5, 1.0, 2.0],
    )
    yield _single(
        ml, "SVMRegressor", [x], name="linear", coefficients=[0.1] * 3, rho=[0.1], n_supports=0,
        kernel_type="LINEAR", kernel_params=[0.5, 1.0, 2.0],
    )  # fmt: skip
    for kind in (np.float32, np.float64, np.int64, np.int32):
        z = (x * 3).astype(kind)
        for rows in ([3, [1, 2, 3]], [1, [0, 1]], [2, [4, 5]]):
            yield _single(
                ml, "LinearClassifier", [z], 2, coefficients=[0.5] * (3 * rows[0]), intercepts=[0.1] * rows[0],
                classlabels_ints=rows[1],
            )  # fmt: skip
        yield _single(ml, "Scaler", [z], offset=[1.0, 2.0, 3.0], scale=[0.5, 0.5, 0.5])
        yield _single(ml, "Normalizer", [z], norm="L2")
        yield _single(ml, "FeatureVectorizer", [z, z], inputdimensions=[3, 3])
    yield _single(ml, "LinearRegressor", [x], coefficients=[0.5] * 6, intercepts=[0.1, 0.2], targets=2)
    yield _single(ml, "Binarizer", [x], threshold=0.5)
    yield _single(ml, "Imputer", [x], imputed_value_floats=[1.0, 2.0, 3.0], replaced_value_float=0.5)
    yield _single(
        ml, "Imputer", [whole([[1, 2, 3], [4, 5, 6]])], imputed_value_int64s=[1, 2, 3], replaced_value_int64=4
    )
    yield _single(ml, "OneHotEncoder", [whole([[1, 2], [3, 1]])], cats_int64s=[1, 2, 3], zeros=1)
    yield _single(ml, "OneHotEncoder", [real(2, 2)], cats_int64s=[1, 2, 3], zeros=1)
    yield _single(ml, "ArrayFeatureExtractor", [x, whole([2, 0])])
    yield _single(ml, "ArrayFeatureExtractor", [real(2, 3, 4), whole([[1, 3]])])
    yield _single(ml, "ArrayFeatureExtractor", [real(4), whole([1])])
    yield _single(
        ml, "LabelEncoder", [whole([1, 2, 9])], keys_int64s=[1, 2], values_floats=[0.5, 0.6], default_float=1.0
    )
    yield _single(ml, "LabelEncoder", [whole([1, 2, 9])], keys_int64s=[1, 2], values_int64s=[5, 6])
    yield _single(ml, "LabelEncoder", [whole([1, 2, 9])], version=4, name="four",
                  keys_tensor=helper.make_tensor("k", TensorProto.INT64, [2], [1, 2]),
                  values_tensor=helper.make_tensor("v", TensorProto.FLOAT, [2], [0.5, 0.6]))  # fmt: skip


def _microsoft() -> Iterator[Start]:
    ms = "com.microsoft"
    x, h = real(2, 4, 8), real(8)
    for operator in ("Gelu", "FastGelu", "QuickGelu"):
        yield _single(ms, operator, [x])
    yield _single(ms, "FastGelu", [x, h])
    yield _single(ms, "BiasGelu", [x, h])
    for operator in ("FusedMatMul", "TransposeMatMul"):
        yield _single(ms, operator, [real(3, 4), real(4, 5)])
        yield _single(ms, operator, [real(2, 4, 3), real(2, 4, 5)], name="b", transA=1, alpha=0.5)
    yield _single(ms, "FusedMatMul", [real(2, 3, 4), real(2, 4, 5)], name="batch", transBatchA=0, transBatchB=0)
    yield _single(ms, "FusedGemm", [real(3, 4), real(4, 5), real(5)], activation="Relu")
    yield _single(
        ms, "FusedGemm", [real(3, 4), real(4, 5), real(3, 5)], activation="LeakyRelu", activation_alpha=0.1, name="l"
    )
    for group, size in ((1, 3), (3, 1)):
        conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "group": group, "activation": "Relu"}
        yield _single(ms, "FusedConv", [real(1, 3, 5, 5), real(6, size, 3, 3), real(6)], name=f"g{group}", **conv)
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "activation": "Relu"}
    yield _single(ms, "FusedConv", [real(1, 3, 5, 5), real(6, 3, 3, 3), real(6), real(1, 6, 5, 5)], name="sum", **conv)
    yield _single(ms, "SkipLayerNormalization", [x, real(2, 4, 8), h, real(8), real(8)], epsilon=1e-5)
    yield _single(ms, "SkipLayerNormalization", [x, real(4, 8), h, real(8), real(8)], 4, name="b", epsilon=1e-5)
    yield _single(ms, "SkipSimplifiedLayerNormalization", [x, real(2, 4, 8), h, real(8)], epsilon=1e-5)
    ids, seg = whole([[1, 2, 0], [3, 4, 1]], np.int32), whole([[0, 0, 1], [0, 1, 1]], np.int32)
    words = [real(5, 8), real(6, 8), real(2, 8), real(8), real(8)]
    mask = whole([[1, 1, 0], [1, 1, 1]], np.int32)
    yield _single(ms, "EmbedLayerNormalization", [ids, seg, *words, mask], 2)
    yield _single(ms, "EmbedLayerNormalization", [ids, None, words[0], words[1], None, *words[3:]], 2, name="no")
    yield _single(ms, "EmbedLayerNormalization", [ids, seg, *words, mask, ids], 3, name="pos")
    for masks in (None, whole([4, 3], np.int32), whole([[1, 1, 1, 0]] * 2, np.int32), np.ones((2, 4, 4), np.int32)):
        yield _single(ms, "Attention", [x, real(8, 24), real(24), masks], num_heads=2, name=f"m{np.shape(masks)}")
    yield _single(ms, "Attention", [x, real(8, 24), real(24), None, real(2, 2, 2, 3, 4)], 2, num_heads=2, name="past")
    yield _single(ms, "Attention", [x, real(8, 24), real(24), None, None, real(2, 2, 4, 4)], num_heads=2, name="bias")
    yield _single(ms, "Attention", [x, real(8, 20), real(20)], num_heads=2, qkv_hidden_sizes=[8, 8, 4], name="q")
    yield _single(ms, "MultiHeadAttention", [x, real(2, 5, 8), real(2, 5, 8)], num_heads=2)
    yield _single(ms, "MultiHeadAttention", [x, real(2, 5, 8), real(2, 5, 8), real(24)], num_heads=2, name="b")
    yield _single(
        ms,
        "MultiHeadAttention",
        [x, real(2, 5, 8), real(2, 5, 8), None, whole([[1] * 5] * 2, np.int32)],
        num_heads=2,
        name="m",
    )
    yield _single(
        ms, "MultiHeadAttention", [x, real(2, 5, 8), real(2, 5, 8), None, None, real(1, 2, 4, 5)], num_heads=2, name="r"
    )
    yield _single(
        ms,
        "MultiHeadAttention",
        [x, real(2, 4, 8), real(2, 4, 8), None, None, None, real(2, 2, 3, 4), real(2, 2, 3, 4)],
        3,
        num_heads=2,
        name="p",
    )
    yield _single(ms, "GroupQueryAttention",
        [real(1, 2, 32), real(1, 2, 16), real(1, 2, 16), real(1, 1, 6, 16), real(1, 1, 6, 16),
         whole([3], np.int32), whole(5, np.int32)], 3,
        num_heads=2, kv_num_heads=1)  # fmt: skip
    yield _single(ms, "RotaryEmbedding", [real(2, 3, 8), whole([[0, 1, 2]] * 2), real(6, 2), real(6, 2)], num_heads=2)
    yield _single(ms, "RotaryEmbedding", [real(2, 2, 3, 4), whole([1]), real(6, 2), real(6, 2)], name="o")
    yield _single(ms, "MatMulNBits", [real(3, 32), byte(4, 2, 8), real(4 * 2)], K=32, N=4, bits=4, block_size=16)
    yield _single(
        ms,
        "MatMulNBits",
        [real(3, 32), byte(4, 2, 8), real(4 * 2), byte(4)],
        name="z",
        K=32,
        N=4,
        bits=4,
        block_size=16,
    )
    yield _single(
        ms,
        "MatMulNBits",
        [real(3, 32), byte(4, 2, 8), real(4 * 2), byte(4), None, real(4)],
        name="zb",
        K=32,
        N=4,
        bits=4,
        block_size=16,
        accuracy_level=4,
    )
    yield _single(
        ms, "MatMulNBits", [real(3, 32), byte(4, 2, 16), real(4 * 2)], name="8", K=32, N=4, bits=8, block_size=16
    )
    yield _single(ms, "DynamicQuantizeMatMul", [real(3, 4), byte(4, 5), scale(), zero(), real(5)])
    yield _single(ms, "DynamicQuantizeMatMul", [real(3, 4), byte(4, 5), real(5), byte(5)], name="c")
    yield _single(ms, "MatMulIntegerToFloat", [byte(3, 4), byte(4, 5), scale(), scale(), zero(), zero(), real(5)])
    yield _single(ms, "MatMulIntegerToFloat", [byte(3, 4), byte(4, 5), scale(), real(5), zero(), byte(5)], name="c")
    for operator in ("QLinearAdd", "QLinearMul"):
        yield _single(ms, operator, [byte(2, 3), scale(), zero(), byte(2, 3), scale(), zero(), scale(), zero()])
        yield _single(ms, operator, [byte(2, 3), scale(), zero(), byte(3), scale(), zero(), scale(), zero()], name="b")
    pool = {"kernel_shape": [2, 2], "strides": [1, 1]}
    q = [scale(), zero(), scale(), zero()]
    yield _single(ms, "QLinearAveragePool", [byte(1, 3, 4, 4), *q], pads=[0, 0, 1, 1], **pool)
    yield _single(ms, "QLinearAveragePool", [byte(1, 4, 4, 3), *q], channels_last=1, name="l", **pool)
    yield _single(ms, "QLinearGlobalAveragePool", [byte(1, 3, 4, 4), *q])
    yield _single(ms, "QLinearGlobalAveragePool", [byte(1, 4, 4, 3), *q], channels_last=1, name="l")
    yield _single(ms, "QLinearLeakyRelu", [byte(2, 3), *q], alpha=0.1)
    yield _single(ms, "QLinearSigmoid", [byte(2, 3), *q])
    yield _single(ms, "QLinearSoftmax", [byte(2, 3), *q], opset=13, axis=-1)
    yield _single(ms, "QLinearSoftmax", [byte(2, 3, 4), *q], name="s", opset=12, axis=1)
    yield _single(
        ms, "QLinearConcat", [scale(), zero(), byte(2, 3), scale(), zero(), byte(2, 1), scale(), zero()], axis=1
    )
    yield _single(
        ms,
        "QLinearWhere",
        [np.ones((2, 3), bool), byte(2, 3), scale(), zero(), byte(2, 3), scale(), zero(), scale(), zero()],
    )
    yield _single(
        ms,
        "QLinearConv",
        [
            byte(1, 3, 5, 5),
            scale(),
            zero(),
            byte(6, 3, 3, 3),
            scale(),
            zero(),
            scale(),
            zero(),
            whole([1] * 6, np.int32),
        ],
        kernel_shape=[3, 3],
    )
    yield _single(
        ms,
        "QLinearConv",
        [
            byte(1, 5, 5, 3),
            scale(),
            zero(),
            byte(6, 3, 3, 3, kind=np.int8),
            np.abs(real(6)),
            np.zeros(6, np.int8),
            scale(),
            zero(),
        ],
        kernel_shape=[3, 3],
        channels_last=1,
        name="l",
    )
    yield _single(
        ms,
        "QGemm",
        [byte(3, 4), scale(), zero(), byte(4, 5), scale(), zero(), whole([1] * 5, np.int32), scale(), zero()],
    )
    yield _single(
        ms,
        "QGemm",
        [byte(3, 4), scale(), zero(), byte(4, 5), real(5), byte(5), whole([1] * 5, np.int32)],
        name="f",
        transA=0,
    )
    yield _single(
        ms,
        "QAttention",
        [
            byte(2, 4, 8),
            byte(8, 24, kind=np.int8),
            real(24),
            scale(),
            scale(),
            whole([4, 3], np.int32),
            zero(),
            zero(np.int8),
        ],
        num_heads=2,
    )
    yield _single(
        ms,
        "QAttention",
        [byte(2, 4, 8), byte(8, 24), real(24), scale(), real(24), None, zero(), byte(24)],
        num_heads=2,
        name="c",
    )
    qwords = [byte(5, 8), byte(6, 8), byte(2, 8), byte(8), byte(8), mask]
    yield _single(ms, "QEmbedLayerNormalization", [ids, seg, *qwords, *[scale()] * 5, *[zero()] * 5], 2)
    yield _single(ms, "NhwcMaxPool", [byte(1, 4, 4, 3)], pads=[0, 0, 1, 1], **pool)
    for kind in (np.uint8, np.int8):
        yield _single(ms, "QuantizeLinear", [real(2, 3), scale(), zero(kind)], name=f"{kind}")
        yield _single(
            ms, "DequantizeLinear", [byte(2, 3, kind=kind), np.abs(real(3)), byte(3, kind=kind)], name=f"{kind}", axis=1
        )
    yield _single(
        ms,
        "DynamicQuantizeLSTM",
        [
            real(3, 2, 4),
            byte(1, 4, 12),
            byte(1, 3, 12),
            real(1, 24),
            whole([3, 2], np.int32),
            real(1, 2, 3),
            real(1, 2, 3),
            None,
            scale([0.1]),
            zero(value=[3]),
            scale([0.1]),
            zero(value=[3]),
        ],
        3,
        hidden_size=3,
    )
    yield _single(ms, "Trilu", [real(2, 3, 4), whole(1)])
    yield _single(ms, "Inverse", [real(2, 3, 3)])
    for metric in ("euclidean", "sqeuclidean"):
        yield _single(ms, "CDist", [real(3, 4), real(5, 4)], metric=metric, name=metric)
    yield _single(ms, "GridSample", [real(1, 2, 4, 4), real(1, 3, 3, 2)])
    yield _single(ms, "ExpandDims", [real(2, 3), whole(1, np.int32)])
    yield _single(ms, "Pad", [real(2, 3), whole([0, 1, 1, 0]), scale(0.5)])
    yield _single(ms, "GatherND", [real(3, 4), whole([[0, 1], [2, 3]])])
    yield _single(ms, "Range", [scale(0), scale(5), scale(1)])
    yield _single(ms, "Unique", [real(6)], 3)
    yield _single(
        ms,
        "ConvTransposeWithDynamicPads",
        [real(1, 2, 3, 3), real(2, 2, 3, 3), whole([0, 0, 0, 0])],
        kernel_shape=[3, 3],
    )
    yield _single(ms, "MatMulInteger16", [whole([[1, 2]], np.int16), whole([[1], [2]], np.int16)])
    yield _single(ms, "MaxpoolWithMask", [real(1, 1, 4, 4), np.ones((1, 1, 4, 4), np.int32)], **pool)


def _fused() -> Iterator[Start]:
    def chain(name, nodes, **feeds):
        return start(name, nodes, feeds)

    n = helper.make_node
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    x, w, b = real(1, 16, 6, 6), real(16, 16, 3, 3), real(16)
    chans = {"s": real(16), "t": real(16), "m": real(16), "v": np.abs(real(16))}
    yield chain(
        "conv_bn",
        [n("Conv", ["x", "w", "b"], ["c"], **conv), n("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"])],
        x=x,
        w=w,
        b=b,
        **chans,
    )
    yield chain(
        "conv_relu_pool",
        [
            n("Conv", ["x", "w", "b"], ["c"], **conv),
            n("Relu", ["c"], ["r"]),
            n("MaxPool", ["r"], ["y"], kernel_shape=[2, 2]),
        ],
        x=x,
        w=w,
        b=b,
    )
    yield chain(
        "conv_add_relu",
        [n("Conv", ["x", "w", "b"], ["c"], **conv), n("Add", ["c", "z"], ["a"]), n("Relu", ["a"], ["y"])],
        x=x,
        w=w,
        b=b,
        z=x,
    )
    yield chain(
        "conv_mul",
        [n("Conv", ["x", "w", "b"], ["c"], **conv), n("Mul", ["c", "k"], ["y"])],
        x=x,
        w=w,
        b=b,
        k=real(16, 1, 1),
    )
    yield chain(
        "conv_add",
        [n("Conv", ["x", "w", "b"], ["c"], **conv), n("Add", ["c", "k"], ["y"])],
        x=x,
        w=w,
        b=b,
        k=real(16, 1, 1),
    )
    yield chain(
        "depthwise",
        [
            n("Conv", ["x", "w", "b"], ["c"], group=16, **conv),
            n("Clip", ["c", "lo", "hi"], ["r"]),
            n("GlobalAveragePool", ["r"], ["y"]),
        ],
        x=x,
        w=real(16, 1, 3, 3),
        b=b,
        lo=scale(0),
        hi=scale(6),
    )
    yield chain(
        "grouped",
        [n("Conv", ["x", "w", "b"], ["c"], group=2, **conv), n("HardSigmoid", ["c"], ["y"])],
        x=x,
        w=real(16, 8, 3, 3),
        b=b,
    )
    yield chain(
        "three",
        [
            n("Conv", ["x", "w", "b"], ["c"], **conv),
            n("AveragePool", ["c"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        ],
        x=real(1, 3, 6, 6),
        w=real(16, 3, 3, 3),
        b=b,
    )
    yield chain(
        "bn_alone",
        [
            n("Conv", ["x", "w"], ["c"], **conv),
            n("BatchNormalization", ["c", "s", "t", "m", "v"], ["d"]),
            n("Sigmoid", ["d"], ["e"]),
            n("Mul", ["d", "e"], ["y"]),
        ],
        x=x,
        w=w,
        **chans,
    )
    yield chain(
        "pad_conv",
        [n("Pad", ["x", "p"], ["q"]), n("Conv", ["q", "w", "b"], ["y"], kernel_shape=[3, 3])],
        x=x,
        p=whole([0, 0, 1, 1, 0, 0, 1, 1]),
        w=w,
        b=b,
    )
    yield chain(
        "upsample",
        [n("Conv", ["x", "w", "b"], ["c"], **conv), n("Resize", ["c", "", "k"], ["y"], mode="nearest")],
        x=x,
        w=w,
        b=b,
        k=np.array([1, 1, 2, 2], np.float32),
    )
    yield chain(
        "concat",
        [
            n("Conv", ["x", "w", "b"], ["c"], **conv),
            n("Conv", ["x", "w", "b"], ["d"], **conv),
            n("Concat", ["c", "d"], ["y"], axis=1),
        ],
        x=x,
        w=w,
        b=b,
    )
    yield chain(
        "matmul_add",
        [n("MatMul", ["x", "w"], ["c"]), n("Add", ["c", "b"], ["y"])],
        x=real(2, 3, 4),
        w=real(4, 5),
        b=real(5),
    )
    yield chain(
        "matmul_add_2",
        [n("MatMul", ["x", "w"], ["c"]), n("Add", ["c", "b"], ["y"])],
        x=real(3, 4),
        w=real(4, 5),
        b=real(5),
    )
    yield chain(
        "matmul_bn",
        [n("MatMul", ["x", "w"], ["c"]), n("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"])],
        x=real(3, 4),
        w=real(4, 16),
        **chans,
    )
    yield chain(
        "gemm_relu",
        [n("Gemm", ["x", "w", "b"], ["c"], transB=1), n("Relu", ["c"], ["y"])],
        x=real(3, 4),
        w=real(5, 4),
        b=real(5),
    )
    yield chain(
        "gemm_sum", [n("Gemm", ["x", "w"], ["c"]), n("Sum", ["c", "b"], ["y"])], x=real(3, 4), w=real(4, 5), b=real(5)
    )
    yield chain(
        "transpose_matmul",
        [
            n("Transpose", ["w"], ["t"], perm=[0, 2, 1]),
            n("MatMul", ["x", "t"], ["c"]),
            n("Mul", ["c", "k"], ["d"]),
            n("Softmax", ["d"], ["y"], axis=-1),
        ],
        x=real(2, 3, 4),
        w=real(2, 5, 4),
        k=scale(0.5),
    )
    yield chain(
        "layernorm",
        [
            n("ReduceMean", ["x", "ax"], ["m"]),
            n("Sub", ["x", "m"], ["d"]),
            n("Pow", ["d", "two"], ["p"]),
            n("ReduceMean", ["p", "ax"], ["v"]),
            n("Add", ["v", "e"], ["f"]),
            n("Sqrt", ["f"], ["q"]),
            n("Div", ["d", "q"], ["r"]),
            n("Mul", ["r", "g"], ["s"]),
            n("Add", ["s", "b"], ["y"]),
        ],
        x=real(2, 3, 8),
        ax=whole([-1]),
        two=scale(2),
        e=scale(1e-5),
        g=real(8),
        b=real(8),
    )
    yield chain(
        "skip_layernorm",
        [n("Add", ["x", "z"], ["a"]), n("Add", ["a", "k"], ["c"]), n("LayerNormalization", ["c", "g", "b"], ["y"])],
        x=real(2, 3, 8),
        z=real(2, 3, 8),
        k=real(8),
        g=real(8),
        b=real(8),
    )
    yield chain(
        "bias_gelu",
        [n("MatMul", ["x", "w"], ["m"]), n("Add", ["m", "b"], ["c"]), n("Gelu", ["c"], ["y"])],
        x=real(2, 3, 8),
        w=real(8, 8),
        b=real(8),
    )
    quant = {"xs": scale(), "xz": zero(), "ws": scale(), "wz": zero(np.int8, 0), "ys": scale(), "yz": zero()}
    yield chain(
        "qdq_conv",
        [
            n("DequantizeLinear", ["x", "xs", "xz"], ["a"]),
            n("DequantizeLinear", ["w", "ws", "wz"], ["e"]),
            n("Conv", ["a", "e"], ["c"], **conv),
            n("QuantizeLinear", ["c", "ys", "yz"], ["q"]),
            n("DequantizeLinear", ["q", "ys", "yz"], ["y"]),
        ],
        x=byte(1, 4, 5, 5),
        w=byte(4, 4, 3, 3, kind=np.int8),
        **quant,
    )
    channel = quant | {"ws": np.abs(real(4)), "wz": np.zeros(4, np.int8)}
    yield chain(
        "qdq_conv_channel",
        [
            n("DequantizeLinear", ["x", "xs", "xz"], ["a"]),
            n("DequantizeLinear", ["w", "ws", "wz"], ["e"], axis=0),
            n("DequantizeLinear", ["b", "ws"], ["f"], axis=0),
            n("Conv", ["a", "e", "f"], ["c"], **conv),
            n("QuantizeLinear", ["c", "ys", "yz"], ["q"]),
            n("DequantizeLinear", ["q", "ys", "yz"], ["y"]),
        ],
        x=byte(1, 4, 5, 5),
        w=byte(4, 4, 3, 3, kind=np.int8),
        b=whole([1] * 4, np.int32),
        **channel,
    )
    yield chain(
        "qdq_matmul",
        [
            n("DequantizeLinear", ["x", "xs", "xz"], ["a"]),
            n("DequantizeLinear", ["w", "ws", "wz"], ["e"]),
            n("MatMul", ["a", "e"], ["c"]),
            n("QuantizeLinear", ["c", "ys", "yz"], ["q"]),
            n("DequantizeLinear", ["q", "ys", "yz"], ["y"]),
        ],
        x=byte(3, 4),
        w=byte(4, 5, kind=np.int8),
        **quant,
    )
    yield chain(
        "qdq_add",
        [
            n("DequantizeLinear", ["x", "xs", "xz"], ["a"]),
            n("DequantizeLinear", ["z", "ws", "xz"], ["e"]),
            n("Add", ["a", "e"], ["c"]),
            n("QuantizeLinear", ["c", "ys", "yz"], ["y"]),
        ],
        x=byte(3, 4),
        z=byte(3, 4),
        **quant,
    )
    yield chain(
        "qdq_pool",
        [
            n("DequantizeLinear", ["x", "xs", "xz"], ["a"]),
            n("AveragePool", ["a"], ["c"], kernel_shape=[2, 2]),
            n("QuantizeLinear", ["c", "ys", "yz"], ["y"]),
        ],
        x=byte(1, 4, 5, 5),
        **quant,
    )
    yield chain(
        "qdq_weights",
        [n("DequantizeLinear", ["w", "ws", "wz"], ["e"], axis=1), n("MatMul", ["x", "e"], ["y"])],
        x=real(3, 4),
        w=byte(4, 5, kind=np.int8),
        ws=np.abs(real(5)),
        wz=np.zeros(5, np.int8),
    )
    yield chain(
        "dynamic",
        [
            n("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            n("MatMulInteger", ["q", "w", "z", "wz"], ["m"]),
            n("Cast", ["m"], ["c"], to=1),
            n("Mul", ["s", "ws"], ["k"]),
            n("Mul", ["c", "k"], ["d"]),
            n("Add", ["d", "b"], ["y"]),
        ],
        x=real(3, 4),
        w=byte(4, 5),
        wz=zero(),
        ws=scale(),
        b=real(5),
    )
    yield chain(
        "dynamic_conv",
        [
            n("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            n("ConvInteger", ["q", "w", "z", "wz"], ["m"], kernel_shape=[3, 3]),
            n("Cast", ["m"], ["c"], to=1),
            n("Mul", ["s", "ws"], ["k"]),
            n("Mul", ["c", "k"], ["y"]),
        ],
        x=real(1, 3, 5, 5),
        w=byte(4, 3, 3, 3),
        wz=zero(),
        ws=scale(),
    )
    yield chain(
        "reshape_fusion",
        [
            n("Shape", ["x"], ["h"]),
            n("Gather", ["h", "k"], ["d"], axis=0),
            n("Unsqueeze", ["d", "ax"], ["u"]),
            n("Concat", ["u", "m"], ["c"], axis=0),
            n("Reshape", ["x", "c"], ["y"]),
        ],
        x=real(2, 3, 4),
        k=whole(0),
        ax=whole([0]),
        m=whole([-1]),
    )
    yield chain(
        "gather_slice",
        [n("Gather", ["x", "i"], ["a"], axis=1), n("Slice", ["a", "s", "e", "ax"], ["y"])],
        x=real(2, 3, 4),
        i=whole([0, 2]),
        s=whole([0]),
        e=whole([1]),
        ax=whole([2]),
    )


def more_starts() -> Iterator[Start]:
    """Yield all of them."""
    yield from _trees()
    yield from _classical()
    yield from _microsoft()
    yield from _fused()
