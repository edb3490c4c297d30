"""What stands in a model's two protobuf files, before the libraries that use them see a byte of it.

Only as much of protobuf as it takes to see that graph and tokeniser are like ours, in the field numbers of onnx.proto
and sentencepiece_model.proto. Scoring needs no onnx package for it.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

OPERATORS = frozenset(
    (
        *("Gather", "Cast", "Mul", "Transpose", "LSTM", "DynamicQuantizeLSTM", "Squeeze"),
        *("ReduceMax", "ReduceMean", "Concat", "Gemm", "MatMul", "Add", "Relu"),
        *("Tanh", "Slice", "Mod", "Unique", "ReduceSum", "Max", "Sqrt", "Reciprocal"),  # of the linear part
    )
)
MOST_CONCATS, MOST_INPUTS = 4, 16  # or a few nodes could double a text until the memory is full
MOST_NODES = MOST_TENSORS = 200  # the packaged model has 48 and 41
MOST_FIELDS = 1 << 17  # of one message: a tokeniser has one for each of its words
FLATBUFFER = b"ORTM"  # in its place onnxruntime takes the file for one of its own format, whatever else it is
DOMAINS = frozenset({b"", b"ai.onnx", b"com.microsoft"})


def embedding_rows(content: bytes) -> int:
    """The rows of the tensor `embedding`, if the graph is one that a classifier needs; ValueError for any other.

    Loops, sub-graphs, functions of its own, foreign operators, and data in other files (a path out of the model's
    directory) have no place there.
    """
    try:
        if content[4:8] == FLATBUFFER:
            raise ValueError("its graph is not in the ONNX format")
        model = list(_fields(memoryview(content)))
        graphs = [value for number, value in model if number == 7]
        if len(graphs) != 1:
            raise IndexError
        if any(number in (20, 25) for number, _ in model):
            raise ValueError("its graph brings functions of its own")
        rows = concats = nodes = tensors = 0
        for number, value in _fields(graphs[0]):
            if number == 1:
                nodes += 1
                concats += _check_node(list(_fields(value))) == "Concat"
                if concats > MOST_CONCATS or nodes > MOST_NODES:
                    raise ValueError("its graph joins more tensors than a classifier does")
            elif number == 5:
                tensors += 1
                tensor = list(_fields(value))
                if tensors > MOST_TENSORS:
                    raise ValueError("its graph has more tensors than a classifier needs")
                if any(n == 13 or (n == 14 and v != 0) for n, v in tensor):
                    raise ValueError("its graph keeps data in other files")
                if prod(int(v) for n, v in tensor if n == 1) > len(value):  # no element takes less than a byte
                    raise ValueError("its graph has a tensor that claims more than it holds")
                if (8, b"embedding") in tensor:
                    rows = next(v for n, v in tensor if n == 1)
            elif number == 15:
                raise ValueError("its graph has sparse tensors")
        return int(rows)
    except (IndexError, TypeError, StopIteration) as error:
        raise ValueError("its graph is not in the ONNX format") from error


def pieces(content: bytes) -> int:
    """The pieces of a sentencepiece model that takes texts as they are; ValueError for any other.

    A table of its own for normalising could make a book of each letter, and mail is cleaned before.
    """
    try:
        model = list(_fields(memoryview(content)))
        if any(n == 2 and len(v) for number, value in model if number in (3, 5) for n, v in _fields(value)):
            raise ValueError("its tokeniser rewrites texts by rules of its own")
        return sum(number == 1 for number, _ in model)
    except (IndexError, TypeError) as error:
        raise ValueError("its tokeniser is no sentencepiece model") from error


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
    """(field number, value) of a protobuf message: an int, or the bytes of a string, a tensor or a message within.

    IndexError where it is none.
    """
    at = count = 0
    while at < len(message):
        count += 1
        if count > MOST_FIELDS:
            raise ValueError("one of its files has more parts than a model needs")
        key, at = _varint(message, at)
        if key >> 32:  # protobuf keeps 32 bits of it, and would see another field here
            raise IndexError
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
                raise IndexError
        if at + length > len(message):
            raise IndexError
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
    raise IndexError
