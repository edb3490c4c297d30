"""A language model on disk: its tensors as safetensors, and in their header a JSON record of what they are. No pickle.

The record says under which tokeniser and cleaning rules the tensors were learned, and has a hash over them and itself:
it finds damage and changes by hand, not a forger. Files from before there was a record are format 0; they are taken
where their sizes fit a language model, and nothing else is known of them.
"""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from mailtagger.artifact import MAX_HEADER, Sha256
from mailtagger.errors import ModelError
from mailtagger.graph import pieces
from mailtagger.ulmfit.model import Sizes

FORMAT: Literal[1] = 1
MAX_BYTES = 1 << 30
RECORD = "mailtagger"  # its key in safetensors' header


class About(BaseModel):
    """What the tensors are."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    format: Literal[1]
    stage: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]  # general, mail, general-backward
    sizes: Sizes
    tokenizer: Sha256  # of its file
    cleaning: Sha256
    tensors: Sha256 | None  # over all of the above, and the tensors


def save(state: Mapping[str, Tensor], file: Path, *, stage: str, tokenizer: Path, cleaning: str) -> None:
    """Replace `file` in one step by a language model's state and its record."""
    kept = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    about = About(
        format=FORMAT, stage=stage, sizes=sizes(kept), tokenizer=_hash(tokenizer), cleaning=cleaning, tensors=None
    )
    about = about.model_copy(update={"tensors": _digest(kept, about)})
    aside = file.with_name(f".{file.name}")
    save_file(kept, aside, metadata={RECORD: about.model_dump_json()})
    aside.replace(file)


def load(
    file: Path, log: Callable[[str], None], *, tokenizer: Path | None = None, cleaning: str | None = None
) -> tuple[dict[str, Tensor], About | None]:
    """A language model's state and its record, which is None for format 0. ModelError where the file is damaged, of
    another format, no language model, or was learned under another tokeniser or other cleaning than those given."""
    content = _content(file)
    try:
        header = json.loads(content[8 : 8 + _header(file, content)])
        state: dict[str, Tensor] = load_tensors(content)
        text = header.get("__metadata__", {}).get(RECORD)
    except (SafetensorError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise _unusable(file, "it holds no safetensors, or not all of them") from error
    try:
        found = sizes(state)
    except ValueError as error:
        raise _unusable(file, str(error)) from error
    if text is None:
        if tokenizer is not None and (count := pieces(_read(tokenizer))) != found.vocabulary:
            raise _unusable(file, f"it has rows for {found.vocabulary} pieces, and {tokenizer} has {count}")
        log(f"{file} is of format 0: its sizes fit, and it does not say what it was learned with.")
        return state, None
    about = _about(file, text)
    if about.sizes != found or about.tensors != _digest(state, about):
        raise _unusable(file, "its tensors are not those that its record describes")
    if tokenizer is not None and about.tokenizer != _hash(tokenizer):
        raise _unusable(file, f"it was learned with another tokeniser than {tokenizer}")
    if cleaning is not None and about.cleaning != cleaning:
        raise _unusable(file, "it was learned under other cleaning rules than this version of mailtagger has")
    return state, about


def sizes(state: Mapping[str, Tensor]) -> Sizes:
    """The sizes of the language model with this state; ValueError completes the sentence where it is none."""
    layers = sum(name.startswith("encoder.lstm.") and name.endswith(".weight_hh") for name in state)
    try:
        vocabulary, embedding = state["encoder.embedding.weight"].shape
        hidden = state["encoder.lstm.0.weight_hh"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError("it holds no AWD-LSTM") from error
    found = Sizes(vocabulary, embedding, hidden, layers)
    wanted: dict[str, tuple[int, ...]] = {"encoder.embedding.weight": (vocabulary, embedding), "bias": (vocabulary,)}
    if "decoder" in state:  # softmax weights of its own
        wanted["decoder"] = (vocabulary, embedding)
    for i, (width, out) in enumerate(pairwise([embedding, *[hidden] * (layers - 1), embedding])):
        wanted |= {f"encoder.lstm.{i}.weight_ih": (4 * out, width), f"encoder.lstm.{i}.weight_hh": (4 * out, out)}
        wanted |= {f"encoder.lstm.{i}.bias_{of}": (4 * out,) for of in ("ih", "hh")}
    if odd := sorted(wanted.keys() ^ state.keys()):
        raise ValueError(f"{odd[0]!a:.80} is missing in it, or has no place in a language model")
    if odd := [n for n, value in state.items() if tuple(value.shape) != wanted[n] or not value.is_floating_point()]:
        raise ValueError(f"{odd[0]} has other sizes than the layers beside it")
    return found


def _about(file: Path, text: str) -> About:
    try:
        version: Any = json.loads(text)["format"]
        if version != FORMAT:
            raise _unusable(file, f"it has format {version!a:.20}, and this version of mailtagger reads {FORMAT}")
        return About.model_validate_json(text)
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unusable(file, "its record cannot be read") from error


def _content(file: Path) -> bytes:
    try:
        if file.exists() and not file.is_file():  # a pipe would make us wait
            raise _unusable(file, "it is no plain file")
        if file.stat().st_size > MAX_BYTES:
            raise _unusable(file, f"it is larger than {MAX_BYTES >> 20} MB")
        return file.read_bytes()
    except OSError as error:
        raise _unusable(file, f"it cannot be read ({error.strerror})") from error


def _header(file: Path, content: bytes) -> int:
    """The length of safetensors' header, which its first eight bytes tell."""
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= min(MAX_HEADER, len(content) - 8):
        raise _unusable(file, "it has no header of a sensible length")
    return length


def _digest(state: Mapping[str, Tensor], about: About) -> str:
    found = sha256(about.model_copy(update={"tensors": None}).model_dump_json().encode())
    for name in sorted(state):
        found.update(f"\n{name} {state[name].dtype} {tuple(state[name].shape)}\n".encode())
        found.update(state[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _hash(tokenizer: Path) -> str:
    return sha256(_read(tokenizer)).hexdigest()


def _read(tokenizer: Path) -> bytes:
    try:
        return tokenizer.read_bytes()
    except OSError as error:
        raise ModelError(
            f"The tokeniser {tokenizer} cannot be read ({error.strerror}).", "`python -m training.lm` makes one."
        ) from error


def _unusable(file: Path, why: str) -> ModelError:
    return ModelError(f"The checkpoint {file} cannot be used: {why}.", "`python -m training.lm` makes a new one.")
