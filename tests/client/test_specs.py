"""Explanations as callers ask for them, as messages."""

import numpy as np
import pytest
from client.fake_server import MODELS
from pellucid import Blur, ExplanationSpec
from pellucid.catalogue import read_model
from pellucid.errors import InvalidRequestError
from pellucid.specs import explanation_message
from pellucid.tensors import from_tensor
from pellucid.v1 import explanation_pb2, tensor_pb2


def write(model="table", method="saliency", **options):
    return explanation_message(read_model(MODELS[model]), ExplanationSpec(method, **options), where="")


def test_what_is_left_out_is_left_to_the_server():
    message = write()

    assert message.method == "saliency"
    assert not message.HasField("target")
    assert not message.HasField("baseline")
    assert not message.HasField("tolerance")


@pytest.mark.parametrize(
    ("value", "kind", "written"),
    [
        (True, "flag", True),
        (3, "integer", 3),
        (np.int32(3), "integer", 3),
        (0.5, "real", 0.5),
        (np.float32(0.5), "real", 0.5),
        ("left", "text", "left"),
    ],
)
def test_a_parameter_keeps_its_type(value, kind, written):
    parameter = write(parameters={"p": value}).parameters["p"]

    assert parameter.WhichOneof("value") == kind
    assert getattr(parameter, kind) == written


def test_parameters_in_a_dictionary_are_to_be_given_by_their_names():
    with pytest.raises(InvalidRequestError, match="by its own name"):
        write(parameters={"parameters": {"samples": 512}})


def test_a_list_of_numbers_is_a_tensor():
    np.testing.assert_array_equal(from_tensor(write(parameters={"p": [1.5, 2]}).parameters["p"].tensor), [1.5, 2])


@pytest.mark.parametrize(
    ("target", "index", "label"), [(3, [3], ""), (np.int64(3), [3], ""), ((1, 2), [1, 2], ""), ("cat", [], "cat")]
)
def test_a_target_is_an_index_or_a_label(target, index, label):
    outcome = write(target=target).target.outcome

    assert list(outcome.index) == index
    assert outcome.label == label


def test_contrast_output_and_space_go_without_a_target():
    target = write(contrast="dog", output="logits", space="probabilities").target

    assert not target.HasField("outcome")
    assert (target.contrast.label, target.output) == ("dog", "logits")
    assert target.space == explanation_pb2.OUTPUT_SPACE_PROBABILITIES


@pytest.mark.parametrize(
    ("baseline", "kind", "sigma"),
    [
        ("zeros", explanation_pb2.BASELINE_KIND_ZEROS, 0),
        ("mean", explanation_pb2.BASELINE_KIND_MEAN, 0),
        ("blur", explanation_pb2.BASELINE_KIND_BLUR, 0),
        ("background", explanation_pb2.BASELINE_KIND_BACKGROUND, 0),
        ("medoid", explanation_pb2.BASELINE_KIND_MEDOID, 0),
        (Blur(3), explanation_pb2.BASELINE_KIND_BLUR, 3),
    ],
)
def test_a_baseline_is_named(baseline, kind, sigma):
    message = write(baseline=baseline).baseline

    assert (message.kind, message.blur_sigma) == (kind, sigma)


def test_a_baseline_can_be_given_like_the_inputs():
    message = write(baseline={"age": 1, "colour": "green"}).baseline

    assert message.kind == explanation_pb2.BASELINE_KIND_GIVEN
    assert message.inputs["row"].table.rows[0].cells["colour"].category == "green"


def test_a_baselines_picture_can_be_a_file(tmp_path):
    (tmp_path / "black.png").write_bytes(b"picture")

    message = write("photos", baseline=str(tmp_path / "black.png")).baseline

    assert list(message.inputs["image"].pictures.encoded) == [b"picture"]


def test_seed_tolerance_and_format_are_typed():
    message = write(seed=2**64 - 1, tolerance=0.25, sum_channels=True, dtype="float16")

    assert message.seed == 2**64 - 1
    assert message.tolerance == 0.25
    assert message.format.sum_channels
    assert message.format.data_type == tensor_pb2.DATA_TYPE_FLOAT16


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"target": -1}, "target is -1; an index is counted from 0"),
        ({"target": 1.5}, "target is 1.5; it must be an index, a label or a tuple"),
        ({"target": True}, "target is True; it must be an index"),
        ({"target": ""}, "target is empty"),
        ({"contrast": (1, -2)}, r"contrast is \(1, -2\); an index"),
        ({"space": "odds"}, "space is 'odds'; it must be one of 'logits', 'probabilities'"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be one of 'float32', 'float16'"),
        ({"baseline": "zeroes"}, "baseline is 'zeroes', which is no file; it must be one of 'zeros'"),
        ({"seed": -1}, r"seed is -1; it must be a whole number in \[0, 18446744073709551615\]"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"method": None}, "method is of type NoneType; it must be a text"),
        ({"method": "\ud800"}, "method is .*; half of a surrogate pair is no character"),
        ({"target": "\ud800"}, "target is .*; half of a surrogate pair is no character"),
        ({"target": [0, "cat"]}, r"target is \(0, 'cat'\); it must be an index, a label or a tuple"),
        ({"target": {}}, "target is of type dict; it must be an index"),
        ({"target": 10**5000}, "target is a whole number of 16610 bits; an index must fit 64 bits"),
        ({"output": 3}, "output is of type int; it must be a text"),
        ({"space": ["logits"]}, "space is of type list; it must be one of 'logits'"),
        ({"dtype": np.float16}, "dtype is of type type; it must be one of 'float32'"),
        ({"tolerance": "small"}, "tolerance is 'small'; it must be a number"),
        ({"tolerance": True}, "tolerance is True; it must be a number"),
        ({"sum_channels": "yes"}, "sum_channels is 'yes'; it must be True or False"),
        ({"baseline": Blur("wide")}, "baseline.sigma is 'wide'; it must be a number"),
        ({"baseline": "a\0b"}, r"baseline is 'a\\x00b', which is no file"),
        ({"baseline": "z" * 5000}, "baseline is 'zzz.*…, which is no file"),
        ({"parameters": [1]}, "parameters is of type list; it must be a dict of values by name"),
        ({"parameters": {1: 2}}, "a key of parameters is of type int"),
        ({"parameters": {"p": "\ud800"}}, "p is .*; half of a surrogate pair is no character"),
        ({"parameters": {"p": 10**5000}}, "p is a whole number of 16610 bits; a whole number must fit 64 bits"),
        ({"parameters": {"p": object()}}, "p is of type object; it must be a bool, a number"),
        ({"parameters": {"p": 2**63}}, "p is 9223372036854775808; a whole number must fit 64 bits"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_remedy(options, right):
    with pytest.raises(InvalidRequestError, match=right):
        write(**options)
