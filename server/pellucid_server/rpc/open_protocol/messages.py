"""The protocol's requests turned into the engine's, and results into its replies."""

from collections.abc import Mapping, Sequence

import numpy as np

from pellucid_server import open_inference_pb2
from pellucid_server.rpc.codec import refuse, shown
from pellucid_server.rpc.large_fields import LargeFields
from pellucid_server.rpc.open_protocol.elements import BYTES, datatype, raw_elements, read_bytes, read_numbers
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.vocabulary import descriptions, requests, results

PLATFORM = "pellucid"
"""What the protocol calls the platform of every model here."""

_MOST_DIGITS = 18
_ROWS = -1

Cell = float | str


def model_key(name: str, version: str, fields: tuple[str, str]) -> requests.ModelKey:
    """Read which model is meant; `fields` name the two fields.

    Raises
    ------
    InvalidRequestError
        The name is empty, or the version is no number.
    """
    if not name:
        refuse(fields[0], "is empty; ListModels names the models that are served")
    if version and not (version.isascii() and version.isdigit() and len(version) <= _MOST_DIGITS):
        refuse(fields[1], f"is {shown(version)}; it must be empty, for the highest, or a version's number")
    return requests.ModelKey(name, int(version or 0), "")


def predict_request(
    request: open_inference_pb2.ModelInferRequest,
    model: descriptions.ModelInfo,
    limits: LimitsConfig,
    large: LargeFields,
) -> requests.PredictRequest:
    """Read a ModelInfer request for a model as Predict.

    An input is the tensor of its name. Of a model with pictures, a BYTES tensor has a picture file in each element. The
    columns of a table may each come as an input of the column's name: numbers, or BYTES for a category.

    Raises
    ------
    InvalidRequestError
        The request can never be valid, or asks for more than `limits`.
    """
    tensors = request.inputs
    if not tensors:
        refuse("inputs", "is empty; give the rows of each of the model's inputs by its name")
    _check_sizes(request, model, limits.predict_rows)
    raw = _raw(request, large)
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        refuse("inputs", "has two inputs of one name; send each once")
    table = _table(names, model)
    inputs: Mapping[str, requests.Input]
    if table is not None:
        columns = {
            tensor.name: _cells(tensor, raw[number], f"inputs[{number}]") for number, tensor in enumerate(tensors)
        }
        counts = {name: len(cells) for name, cells in columns.items()}
        rows = tuple(dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=False))
        inputs = {table.name: requests.TableInput(rows)}
    else:
        modalities = {each.name: each.modality for each in model.inputs}
        read = [_input(tensor, raw[at], modalities.get(tensor.name, ""), at) for at, tensor in enumerate(tensors)]
        inputs = {name: value for name, (value, _) in zip(names, read, strict=True)}
        counts = {name: count for name, (_, count) in zip(names, read, strict=True)}
    _check_counts(counts, limits.predict_rows)
    outputs = tuple(output.name for output in request.outputs)
    if "" in outputs:
        refuse(f"outputs[{outputs.index('')}].name", "is empty; name an output, or leave outputs out for all")
    return requests.PredictRequest(model.key, inputs, outputs, top_k=0)


def infer_response(
    result: results.PredictResult, request_id: str, wanted: Sequence[str]
) -> open_inference_pb2.ModelInferResponse:
    """Write the reply to a ModelInfer: the outputs in the order asked for, as raw bytes."""
    names = list(wanted) or list(result.outputs)
    values = [result.outputs[name].values for name in names]
    return open_inference_pb2.ModelInferResponse(
        model_name=result.receipt.model.name,
        model_version=str(result.receipt.model.version),
        id=request_id,
        outputs=[
            open_inference_pb2.ModelInferResponse.InferOutputTensor(
                name=name, datatype=datatype(array.dtype.name), shape=array.shape
            )
            for name, array in zip(names, values, strict=True)
        ],
        raw_output_contents=[raw_elements(array) for array in values],
    )


def metadata_response(
    model: descriptions.ModelInfo, versions: Sequence[int]
) -> open_inference_pb2.ModelMetadataResponse:
    """Write what a model takes and gives."""
    metadata = open_inference_pb2.ModelMetadataResponse.TensorMetadata
    return open_inference_pb2.ModelMetadataResponse(
        name=model.key.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[
            metadata(name=each.name, datatype=_datatype(each), shape=(_ROWS, *each.shape)) for each in model.inputs
        ],
        outputs=[
            metadata(name=each.name, datatype=datatype(each.data_type), shape=(_ROWS, *each.shape))
            for each in model.outputs
        ],
        properties={"digest": model.key.digest, "description": model.description},
    )


def _datatype(each: descriptions.InputInfo) -> str:
    return BYTES if each.modality == "text" else datatype(each.data_type)


def _raw(request: open_inference_pb2.ModelInferRequest, large: LargeFields) -> Sequence[bytes | memoryview | None]:
    """Return each input's raw bytes, None where it has contents."""
    given = request.raw_input_contents
    if not given:
        return [None] * len(request.inputs)
    if len(given) != len(request.inputs):
        refuse("raw_input_contents", f"has {len(given)} entries for {len(request.inputs)} inputs; give one for each")
    for number, tensor in enumerate(request.inputs):
        if tensor.HasField("contents"):
            refuse(f"inputs[{number}].contents", "is set beside raw_input_contents; send one of the two")
    return [large.of(each) for each in given]


def _table(names: Sequence[str], model: descriptions.ModelInfo) -> descriptions.InputInfo | None:
    """Return the table whose columns the inputs are, if they are any's."""
    if len(model.inputs) != 1 or model.inputs[0].modality != "tabular" or model.inputs[0].name in names:
        return None
    (table,) = model.inputs
    return table if {column.name for column in table.columns} & set(names) else None


def _input(
    tensor: open_inference_pb2.ModelInferRequest.InferInputTensor,
    raw: bytes | memoryview | None,
    modality: str,
    number: int,
) -> tuple[requests.Input, int]:
    field = f"inputs[{number}]"
    if not tensor.name:
        refuse(f"{field}.name", "is empty; ModelMetadata names the model's inputs")
    if tensor.datatype != BYTES:
        array = read_numbers(tensor, raw, field)
        return requests.TensorInput(array), len(array)
    elements = read_bytes(tensor, raw, field)
    if modality == "image":
        for place, element in enumerate(elements):
            if not element:
                refuse(field, f"has an empty element {place}; it must hold a picture file")
        return requests.PicturesInput(tuple(elements)), len(elements)
    if modality != "text":
        refuse(f"{field}.datatype", "is BYTES; this input takes numbers, and ModelMetadata has their type")
    return requests.TextsInput(tuple(_text(element, field) for element in elements)), len(elements)


def _cells(
    tensor: open_inference_pb2.ModelInferRequest.InferInputTensor, raw: bytes | memoryview | None, field: str
) -> list[Cell]:
    """Read a column: a number or a category for each row."""
    if tensor.datatype == BYTES:
        return [_text(element, field) for element in read_bytes(tensor, raw, field)]
    array = read_numbers(tensor, raw, field)
    if array.shape[1:] not in ((), (1,)):
        refuse(f"{field}.shape", f"is {list(array.shape)}; a column has one element for each row: [rows] or [rows, 1]")
    return [float(value) for value in np.asarray(array).reshape(-1)]


def _text(element: bytes, field: str) -> str:
    try:
        return element.decode("utf-8")
    except UnicodeDecodeError:
        refuse(field, "has an element that is not UTF-8")


def _check_counts(counts: Mapping[str, int], most: int) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{shown(name)} has {count}" for name, count in sorted(counts.items())[:8])
        refuse("inputs", f"must have the same number of rows in each input; {listed}")
    _check_rows(next(iter(counts.values())), most)


def _check_sizes(request: open_inference_pb2.ModelInferRequest, model: descriptions.ModelInfo, most: int) -> None:
    """Refuse what is too much by its counts, before any of it is looked at: millions of elements take a minute."""
    takes = max(len(model.inputs), *(len(each.columns) for each in model.inputs))
    if len(request.inputs) > takes:
        refuse("inputs", f"has {len(request.inputs)} entries; this model takes {takes} at most")
    for tensor in request.inputs:
        if tensor.shape and tensor.shape[0] > most:
            _check_rows(tensor.shape[0], most)


def _check_rows(rows: int, most: int) -> None:
    if not 1 <= rows <= most:
        refuse("inputs", f"has {rows} rows; it must be 1 to {most} for this request")
