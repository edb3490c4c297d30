"""Cleaned text ↔ ids: sentencepiece unigram or BPE, trained on a sample and saved as one file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, overload

import numpy as np
import sentencepiece
from numpy.typing import NDArray

UNKNOWN, START, END, PAD = 0, 1, 2, 3
LINKS = ("xxlinkown", "xxlinkmixed", "xxlinkelse")  # where they lead: the sender's domain, others too, others alone
STRUCTURE = (  # facts beside the text, in the order of `clean.structure`
    *("xxattach", "xxmismatch", "xxreplyto", *LINKS, "xxlinkip"),
    *("xxnoname", "xxnoto", "xxtoself", "xxcaps", "xxpicture"),
)
DISGUISES = ("xxzero", "xxmixed", "xxspaced")  # words that were hidden from a filter
MARKS = ("xxurl", "xxmail", "xxrep", "xxid", "xxlong", *STRUCTURE, *DISGUISES)
SYMBOLS = (*MARKS, *(f"xxn{n}" for n in range(2, 9)))  # pieces of every tokeniser, with the ids after PAD
Model = Literal["unigram", "bpe"]


class Tokenizer(Protocol):
    """What training asks of a tokeniser: a part of sentencepiece's processor, which is one."""

    @overload
    def encode(self, texts: str) -> list[int]: ...
    @overload
    def encode(self, texts: list[str]) -> list[list[int]]: ...
    @overload
    def decode(self, ids: list[int]) -> str: ...
    @overload
    def decode(self, ids: list[list[int]]) -> list[str]: ...
    def vocab_size(self) -> int: ...
    def id_to_piece(self, id: int) -> str: ...
    def piece_to_id(self, piece: str) -> int: ...


def train(
    texts: Iterable[str], file: Path, vocabulary: int = 8000, sample: int = 400_000, model: Model = "unigram"
) -> None:
    """Write a unigram (Kudo 2018) or BPE model (Sennrich et al. 2016) of `vocabulary` pieces; text is lower case
    already, so no further rules."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(file.with_suffix("")),
        vocab_size=vocabulary,
        model_type=model,
        character_coverage=0.9995,
        normalization_rule_name="identity",
        user_defined_symbols=[*SYMBOLS],
        unk_id=UNKNOWN,
        bos_id=START,
        eos_id=END,
        pad_id=PAD,
        input_sentence_size=sample,
        shuffle_input_sentence=True,
        num_threads=2,
        minloglevel=2,
    )


def load(file: Path) -> sentencepiece.SentencePieceProcessor:
    """Return the processor of a saved model."""
    return sentencepiece.SentencePieceProcessor(model_file=str(file))


def cut(ids: Sequence[int], head: int = 256, tail: int = 128) -> list[int]:
    """Return the first `head` and last `tail` ids of a longer sequence, the same in training and live."""
    return list(ids) if len(ids) <= head + tail else [*ids[:head], *ids[-tail:]]


def stream(processor: Tokenizer, texts: Sequence[str]) -> NDArray[np.uint16]:
    """Return all texts as one stream of ids, each document closed by END (vocabulary ≤ 65,536)."""
    parts = [np.asarray([*ids, END], np.uint16) for ids in processor.encode(list(texts))]
    return np.concatenate([np.empty(0, np.uint16), *parts])
