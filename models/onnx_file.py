"""Does an ONNX file refer to other files? Answered from its protobuf fields, without the onnx package.

Called by `models.registry` before weights are run: ONNX lets a tensor name a file by path (TensorProto.external_data,
data_location), and a path may lead anywhere. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_SHIFT = 63
_MAX_DEPTH = 40

# Which fields of a message hold messages that may, at some depth, hold a tensor.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def has_external_data(data: bytes) -> bool:
    """Whether any tensor of the model lies in another file.

    Raises
    ------
    ValueError
        If `data` is not well-formed protobuf or has no graph.
    """
    view = memoryview(data)
    if not any(number == 7 for number, _, _ in _fields(view)):  # noqa: PLR2004  (ModelProto.graph)
        raise ValueError("it has no graph")
    return _external(view, "model", 0)


def _external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    children = _CHILDREN[kind]
    for number, wire, value in _fields(message):
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
            return True
        if number in children:
            if wire != _BYTES or isinstance(value, int):
                raise ValueError(f"field {number} of a {kind} is no message")
            if _external(value, children[number], depth + 1):
                return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == _VARINT:
            value, position = _varint(message, position)
        elif wire == _BYTES:
            length, position = _varint(message, position)
            value, position = message[position : position + length], position + length
        elif wire in _FIXED_BYTES:
            value, position = 0, position + _FIXED_BYTES[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if position > len(message):
            raise ValueError("it ends in the middle of a field")
        yield number, wire, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _MAX_VARINT_SHIFT + 1, 7):
        if position >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise ValueError("a number is too long")
