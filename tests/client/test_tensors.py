import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pellucid.tensors import DTYPES, TensorError, from_tensor, to_tensor
from pellucid.v1 import tensor_pb2


@pytest.mark.parametrize("data_type", DTYPES)
@given(data=st.data())
def test_every_array_comes_back_as_it_went(data_type, data):
    array = data.draw(hnp.arrays(DTYPES[data_type], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)))

    back = from_tensor(tensor_pb2.Tensor.FromString(to_tensor(array).SerializeToString()))

    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_bytes_are_little_endian_and_row_major_whatever_the_array_was():
    columns_first = np.array([[1, 2], [3, 4]], dtype=">i2").T

    tensor = to_tensor(columns_first)

    assert tensor.data == struct.pack("<4h", 1, 3, 2, 4)
    assert tensor.data_type == tensor_pb2.DATA_TYPE_INT16
    assert list(tensor.shape) == [2, 2]


def test_nested_sequences_are_taken_in_the_type_asked_for():
    tensor = to_tensor([[1, 2.5]], dtype=np.float32)

    assert tensor.data == struct.pack("<2f", 1, 2.5)
    assert list(tensor.shape) == [1, 2]


def test_a_received_array_cannot_be_written_to():
    array = from_tensor(to_tensor([1.0, 2.0]))

    with pytest.raises(ValueError, match="read-only"):
        array[0] = 3


def test_bfloat16_is_widened_to_float32():
    values = np.array([1.0, -2.5, 3.140625, np.inf], np.float32)  # each exact in bfloat16
    upper_halves = b"".join(struct.pack("<f", value)[2:] for value in values)

    array = from_tensor(tensor_pb2.Tensor(data_type="DATA_TYPE_BFLOAT16", shape=[2, 2], data=upper_halves))

    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, values.reshape(2, 2))
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("tensor", "part", "right"),
    [
        (tensor_pb2.Tensor(shape=[1], data=b"\0"), "data_type", "DATA_TYPE_FLOAT32"),
        (tensor_pb2.Tensor(data_type=99, shape=[1], data=b"\0"), "data_type", "is 99"),
        (tensor_pb2.Tensor(data_type="DATA_TYPE_INT32", shape=[2, 3], data=b"\0" * 23), "data", "takes 24"),
        (tensor_pb2.Tensor(data_type="DATA_TYPE_INT32", data=b""), "data", "takes 4"),
        (tensor_pb2.Tensor(data_type="DATA_TYPE_BFLOAT16", shape=[2], data=b"\0" * 8), "data", "takes 4"),
        (tensor_pb2.Tensor(data_type="DATA_TYPE_UINT8", shape=[-1]), "shape", "negative"),
        (tensor_pb2.Tensor(data_type="DATA_TYPE_UINT8", shape=[1] * 33, data=b"\0"), "shape", "at most 32"),
        (tensor_pb2.Tensor(data_type="DATA_TYPE_UINT8", shape=[1 << 62, 4, 0]), "shape", "more than an array"),
        (tensor_pb2.Tensor(data_type="DATA_TYPE_BOOL", shape=[2], data=b"\1\2"), "data", "0 or 1"),
    ],
)
def test_a_malformed_tensor_is_refused_by_field_and_remedy(tensor, part, right):
    with pytest.raises(TensorError, match=right) as caught:
        from_tensor(tensor)

    assert caught.value.part == part
    assert str(caught.value).startswith(part)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([1], np.uint16), np.array([None])])
def test_an_element_type_that_the_schema_has_not_is_refused_with_those_it_has(array):
    with pytest.raises(TensorError, match=r"data_type cannot be .*; convert the array to one of bool, uint8"):
        to_tensor(array)


def test_ragged_sequences_are_refused():
    with pytest.raises(TensorError, match="equal length on each axis"):
        to_tensor([[1, 2], [3]])
