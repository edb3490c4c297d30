"""Stage 1 of ULMFiT from a model that somebody else trained: fastai's AWD-LSTM of WikiText-103, for our tokeniser.

    python -m training.wt103 ~/.fastai/models/wt103-fwd --out build/lm-wt103 [--backward]

PATH is what fastai unpacks, or its archive wt103-fwd.tgz: lstm_fwd.pth and itos_wt103.pkl (--backward: lstm_bwd.pth).
Both files are pickles, and a pickle may run whatever its author likes. torch reads the weights with `weights_only`; the
vocabulary is a list of strings, for which an unpickler needs no class or function at all, so ours refuses every one.

A piece of ours that spells a word of theirs alone gets that word's row. Any other gets the mean of the words that it
helps to spell, and where there are none, of all words (ULMFiT §3.2).
"""

import argparse
import io
import pickle
import pickletools
import shutil
import sys
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from mailtagger.clean import RULES_HASH
from mailtagger.errors import MailtaggerError, ModelError
from mailtagger.ulmfit import checkpoint, tokenizer
from mailtagger.ulmfit.fastai_weights import language_model_from_fastai
from mailtagger.ulmfit.model import Sizes
from mailtagger.ulmfit.tokenizer import END, PAD, START, UNKNOWN

VOCABULARY = "itos_wt103.pkl"
MAX_WEIGHTS, MAX_VOCABULARY = 1 << 30, 1 << 24  # bytes
SPECIAL = {UNKNOWN: "xxunk", START: "xxbos", END: "xxbos", PAD: "xxpad"}  # END and xxbos: what parts two documents
ROWS = ("encoder.embedding.weight", "bias")  # a row for each word


def language_model(
    path: Path, pieces: SentencePieceProcessor, backward: bool = False
) -> tuple[dict[str, Tensor], Sizes, str]:
    """The state of a LanguageModel for this tokeniser, its sizes (of the file; WikiText-103's are 400/1152×3), and a
    sentence on how its words were found. MailtaggerError where the files are missing, damaged or something else."""
    weights = f"lstm_{'bwd' if backward else 'fwd'}.pth"
    words = vocabulary(_read(path, VOCABULARY, MAX_VOCABULARY), path)
    theirs = language_model_from_fastai(_tensors(_read(path, weights, MAX_WEIGHTS), weights))
    try:
        found = checkpoint.sizes(theirs)
    except ValueError as error:
        raise _foreign(weights, str(error)) from error
    if "decoder" in theirs:
        raise _foreign(weights, "its softmax has other weights than its embedding")
    if len(words) != found.vocabulary:
        raise _foreign(weights, f"it has rows for {found.vocabulary} words, and {VOCABULARY} has {len(words)}")
    state, told = carried(theirs, words, pieces)
    return state, checkpoint.sizes(state), told


def carried(
    state: Mapping[str, Tensor], words: Sequence[str], pieces: SentencePieceProcessor
) -> tuple[dict[str, Tensor], str]:
    """The state with a row for each of our pieces in the place of one for each of their words, and what was found."""
    blank, size = pieces.piece_to_id("▁"), pieces.vocab_size()
    place = {word: i for i, word in enumerate(words)}
    own = {id: place[word] for id, word in SPECIAL.items() if word in place}
    helped: list[tuple[int, int]] = []  # piece, word
    for i, spelling in enumerate(pieces.encode(list(words))):
        alone = [id for id in spelling if id != blank]
        if len(alone) == 1 and alone[0] not in SPECIAL:
            own.setdefault(alone[0], i)
        if not words[i].startswith("xx"):  # fastai's marks are no words
            helped += [(id, i) for id in set(spelling)]
    piece, word = torch.tensor(helped, dtype=torch.long).reshape(-1, 2).T
    often = torch.zeros(size).index_add_(0, piece, torch.ones(len(piece)))
    found = dict(state)
    for name in ROWS:
        old = state[name].float().reshape(len(words), -1)
        rows = old.mean(0).repeat(size, 1)
        spelled = torch.zeros(size, old.shape[1]).index_add_(0, piece, old[word])
        rows[often > 0] = spelled[often > 0] / often[often > 0, None]
        rows[list(own)] = old[list(own.values())]
        found[name] = rows.reshape(size, *state[name].shape[1:])
    helping = len(set(piece.tolist()) - own.keys())
    told = f"{len(own):,} are words of theirs, {helping:,} help to spell some, {size - len(own) - helping:,} are new"
    return found, f"{size:,} pieces for {len(words):,} words: {told}"


def vocabulary(content: bytes, path: Path) -> list[str]:
    """The words of itos_wt103.pkl, in the order of their rows; nothing in it is ever called."""
    try:
        # An index into the memo larger than the file makes C's unpickler reserve that much memory.
        if any(op.name in ("PUT", "LONG_BINPUT") and arg > len(content) for op, arg, _ in pickletools.genops(content)):
            raise pickle.UnpicklingError("it reserves memory for nothing")
        words = _Plain(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise _foreign(VOCABULARY, f"it is no plain list of words ({error!a:.120})") from error
    if not isinstance(words, list) or not words or not all(type(word) is str for word in words):
        raise _foreign(VOCABULARY, "it is no list of words")
    return words


class _Plain(pickle.Unpickler):
    """Lists, strings and numbers; a pickle can do harm only through a class or function that it names, and here it
    can name none."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _tensors(content: bytes, name: str) -> dict[str, Tensor]:
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch has as many errors as formats
        raise _foreign(
            name, f"torch finds no plain tensors in it ({str(error).partition(chr(10))[0]!a:.120})"
        ) from error
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded  # beside an optimiser's memory
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise _foreign(name, "it holds something else than named tensors")
    return {key: value.detach().float() for key, value in state.items()}


def _read(path: Path, name: str, limit: int) -> bytes:
    """The bytes of a file in a directory, or in an archive, which is read in place."""
    try:
        if path.is_dir():
            file = path / name
            if file.is_file() and file.stat().st_size <= limit:
                return file.read_bytes()
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    if PurePosixPath(member.name).name == name and member.isfile() and member.size <= limit:
                        return archive.extractfile(member).read()  # type: ignore[union-attr]
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ModelError(f"{path} cannot be read ({error}).", _WAY) from error
    raise ModelError(f"{path} has no file {name} of a sensible size.", _WAY)


_WAY = (
    "It takes the directory that fastai unpacks, or its archive, wt103-fwd.tgz or wt103-bwd.tgz (then with --backward)."
)


def _foreign(name: str, why: str) -> ModelError:
    return ModelError(f"{name} is not fastai's: {why}.", _WAY)


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.wt103", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("path", type=Path)
    options.add_argument("--out", type=Path, default=Path("build/lm-wt103"), metavar="DIR")
    options.add_argument("--tokenizer", type=Path, default=Path("build/lm/tokenizer.model"), metavar="FILE")
    options.add_argument("--backward", action="store_true")
    chosen = options.parse_args(arguments)
    if not chosen.tokenizer.is_file():
        raise MailtaggerError(f"There is no tokeniser {chosen.tokenizer}.", "`python -m training.lm` makes one.")
    state, found, told = language_model(chosen.path, tokenizer.load(chosen.tokenizer), chosen.backward)
    chosen.out.mkdir(parents=True, exist_ok=True)
    stage, kept = "general" + "-backward" * chosen.backward, chosen.out / "tokenizer.model"
    if not kept.exists() or not kept.samefile(chosen.tokenizer):
        shutil.copy(chosen.tokenizer, kept)
    file = chosen.out / f"{stage}.safetensors"
    checkpoint.save(state, file, stage=stage, tokenizer=kept, cleaning=RULES_HASH)
    print(f"{file}: {found.embedding}/{found.hidden}×{found.layers}; {told}.")


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
