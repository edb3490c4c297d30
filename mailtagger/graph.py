"""What stands in an ONNX file, read without the onnx package, which scoring does not need.

Only as much of protobuf as it takes to see that a graph is one of ours; field numbers are those of onnx.proto.
"""

from collections.abc import Iterator
from typing import Any

OPERATORS = frozenset(
    (
        *("Gather", "Cast", "Mul", "Transpose", "LSTM", "DynamicQuantizeLSTM", "Squeeze"),
        *("ReduceMax", "ReduceMean", "Concat", "Gemm", "MatMul", "Add", "Relu"),
        *("Tanh", "Slice", "Mod", "Unique", "ReduceSum", "Max", "Sqrt", "Reciprocal"),  # of the linear part
    )
)
MOST_CONCATS, MOST_INPUTS = 4, 16  # or a few nodes could double a text until the memory is full
DOMAINS = frozenset({b"", b"ai.onnx", b"com.microsoft"})


def embedding_rows(content: bytes) -> int:
    """The rows of the tensor `embedding`, if the graph is one that a classifier needs; ValueError for any other.

    Loops, sub-graphs, functions of its own, foreign operators, and data in other files (a path out of the model's
    directory) have no place there.
    """
    try:
        model = list(_fields(memoryview(content)))
        (graph,) = (value for number, value in model if number == 7)
        if any(number in (20, 25) for number, _ in model):
            raise ValueError("its graph brings functions of its own")
        rows = concats = 0
        for number, value in _fields(graph):
            if number == 1:
                concats += _check_node(list(_fields(value))) == "Concat"
                if concats > MOST_CONCATS:
                    raise ValueError("its graph joins more tensors than a classifier does")
            elif number == 5:
                tensor = list(_fields(value))
                if any(n == 13 or (n == 14 and v != 0) for n, v in tensor):
                    raise ValueError("its graph keeps data in other files")
                if (8, b"embedding") in tensor:
                    rows = next(v for n, v in tensor if n == 1)
            elif number == 15:
                raise ValueError("its graph has sparse tensors")
        return int(rows)
    except (IndexError, TypeError, StopIteration) as error:
        raise ValueError("its graph is not in the ONNX format") from error


def _check_node(node: list[tuple[int, Any]]) -> str:
    """The operator of a node that a classifier may have."""
    operator = b"".join(bytes(v) for n, v in node if n == 4).decode("ascii", "replace")
    domain = b"".join(bytes(v) for n, v in node if n == 7)
    if operator not in OPERATORS or domain not in DOMAINS:
        raise ValueError(f"its graph has the operator {operator!r:.40}, which no model of mailtagger needs")
    if sum(n == 1 for n, _ in node) > MOST_INPUTS:
        raise ValueError(f"its graph has a {operator} of more inputs than a classifier needs")
    for attribute in (list(_fields(v)) for n, v in node if n == 5):
        if any(n in (5, 6, 10, 11, 22, 23) for n, _ in attribute):
            raise ValueError(f"its graph hides tensors or graphs in an attribute of {operator}")
    return operator


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protobuf message: an int, or the bytes of a string, a tensor or a message within."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                value, at = _varint(message, at)
                yield key >> 3, value
                continue
            case 1:
                length = 8
            case 2:
                length, at = _varint(message, at)
            case 5:
                length = 4
            case _:
                raise ValueError("its graph is not in the ONNX format")
        if at + length > len(message):
            raise ValueError("its graph is cut short")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at `at` and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("its graph is not in the ONNX format")
