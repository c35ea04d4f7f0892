"""Findings turned into the message that both streams carry."""

from pellucid import tensors
from pellucid.v1 import explanation_service_pb2, findings_pb2, input_pb2

from pellucid_server.rpc import dissection
from pellucid_server.rpc.ablation import record_message
from pellucid_server.rpc.replies import accuracy_message, param_value, receipt_message
from pellucid_server.vocabulary import findings, messages


def ablate_response(part: messages.Part) -> explanation_service_pb2.AblateResponse:
    """Write a part of the answer to an Ablate."""
    return explanation_service_pb2.AblateResponse(
        progress=part.share, findings=findings_message(part.body), part=part.number
    )


def findings_message(found: findings.Findings) -> findings_pb2.Findings:
    """Write what a method found, or a part of it."""
    return findings_pb2.Findings(
        arrays={name: _array(each) for name, each in found.arrays.items()},
        tables={name: _table(each) for name, each in found.tables.items()},
        pictures={name: _picture(each) for name, each in found.pictures.items()},
        accuracy=None if found.accuracy is None else accuracy_message(found.accuracy),
        warnings=found.warnings,
        resolved={name: param_value(value) for name, value in found.resolved.items()},
        receipt=None if found.receipt is None else receipt_message(found.receipt),
        ablation=None if found.ablation is None else record_message(found.ablation),
        dissection=None if found.dissection is None else dissection.record_message(found.dissection),
    )


def _array(array: findings.NamedArray) -> findings_pb2.NamedArray:
    return findings_pb2.NamedArray(
        values=tensors.to_tensor(array.values),
        axes=[_axis(each) for each in array.axes],
        unit=array.unit,
        text=array.text,
        missing=array.missing,
    )


def _axis(axis: findings.Axis) -> findings_pb2.Axis:
    coordinates = None if axis.coordinates is None else tensors.to_tensor(axis.coordinates)
    return findings_pb2.Axis(name=axis.name, labels=axis.labels, coordinates=coordinates, unit=axis.unit)


def _table(table: findings.Table) -> findings_pb2.NamedTable:
    return findings_pb2.NamedTable(
        columns=[_column(name, each) for name, each in table.columns.items()], text=table.text
    )


def _column(name: str, column: findings.Column) -> findings_pb2.NamedColumn:
    missing = None if column.missing is None else tensors.to_tensor(column.missing)
    message = findings_pb2.NamedColumn(name=name, missing=missing, unit=column.unit, text=column.text)
    if isinstance(column.values, tuple):
        message.texts.CopyFrom(input_pb2.Texts(texts=column.values))
    else:
        message.numbers.CopyFrom(tensors.to_tensor(column.values))
    return message


def _picture(picture: findings.Picture) -> findings_pb2.Picture:
    return findings_pb2.Picture(
        data=picture.data,
        media_type=picture.media_type,
        width=picture.width,
        height=picture.height,
        text=picture.text,
    )
