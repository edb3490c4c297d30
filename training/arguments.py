"""Kinds of arguments that several stages have: what nothing can be done with is refused while the line is read."""

from argparse import ArgumentTypeError


def positive(text: str) -> int:
    """1, 2, 3 …"""
    return _whole(text, 1)


def number(text: str) -> int:
    """0, 1, 2 …"""
    return _whole(text, 0)


def factor(text: str) -> float:
    """Above 0."""
    found = _real(text)
    if not 0 < found < float("inf"):
        raise ArgumentTypeError(f"{text} is not above 0")
    return found


def dropout(text: str) -> float:
    """What AWD-LSTM's rates can be multiplied by: the highest is 0.2."""
    found = _real(text)
    if not 0 <= found < 5:
        raise ArgumentTypeError(f"{text} is not from 0 to below 5: the highest rate is 0.2 times that")
    return found


def device(text: str) -> str:
    """A device of torch's that is there."""
    import torch

    try:
        torch.zeros(1, device=text).item()
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        raise ArgumentTypeError(f"there is no {text} here; cpu is everywhere") from error
    return text


def _whole(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise ArgumentTypeError(f"{text} is no whole number from {least} on")
    return int(text)


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text} is no number") from error
