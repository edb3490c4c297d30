"""Text ↔ ids by words, subwords or characters, with one interface: what every stage asks of sentencepiece's processor.

    pieces = tokenizers.build("word", texts, file)      word, unigram, bpe or char
    pieces = tokenizers.load(file, sha256)              refused if the file has another hash

In all of them UNKNOWN, START, END, PAD and the marks of cleaning have the same ids, and '▁' is a space. Words and
subwords keep no more of the space between words than that it is there, which is what cleaning leaves; characters keep
all of it, so that uncleaned text fits too. What they lose, each of them: '▁' itself comes back as a space.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, overload

import sentencepiece

from mailtagger.count import Count
from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import tokenizer
from mailtagger.ulmfit.tokenizer import SYMBOLS, UNKNOWN, Tokenizer

Kind = Literal["word", "unigram", "bpe", "char"]
Listed = Literal["word", "char"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SPACE = "▁"
CONTROLS = ("<unk>", "<s>", "</s>", "<pad>")  # in the order of their ids; no text is read as one
LARGEST = 1 << 16  # a stream is of uint16
FORMAT = 1


class Limits(NamedTuple):
    """How large a vocabulary may be."""

    most: int  # pieces, controls and marks among them
    least: int  # how often a piece must stand in the text; sentencepiece has rules of its own, and 1 here


LIMITS = {"word": Limits(30_000, 3), "unigram": Limits(8_000, 1), "bpe": Limits(8_000, 1), "char": Limits(1_000, 10)}


def build(kind: Kind, texts: Iterable[str], file: Path, most: int | None = None, least: int | None = None) -> Tokenizer:
    """Learn a vocabulary and save it; MailtaggerError where the text or the limits allow for none."""
    if kind not in KINDS:
        raise MailtaggerError(f"There is no tokeniser {kind!r}.", f"Known: {', '.join(KINDS)}.")
    most = LIMITS[kind].most if most is None else most
    least = LIMITS[kind].least if least is None else least
    first = len(CONTROLS) + len(SYMBOLS)
    if not first < most <= LARGEST or least < 1:
        raise MailtaggerError(
            f"No vocabulary has {most} pieces at most that occur {least} times at least.",
            f"From {first + 1} to {LARGEST} pieces, and once or oftener.",
        )
    if kind in get_args(Listed):
        save(Vocabulary.of(kind, texts, most, least), file)
    elif least > 1:
        raise MailtaggerError(
            f"The pieces of {kind} are not chosen by how often they occur.", "Their number says it all."
        )
    else:
        try:
            tokenizer.train(texts, file, most, model=kind)
        except RuntimeError as error:  # too little text for so many pieces
            reason = str(error).rpartition("] ")[2].strip()
            raise MailtaggerError(f"There is no vocabulary of {most} pieces in this text: {reason}") from error
    return load(file)


def save(pieces: Any, file: Path) -> str:
    """Write a tokeniser, and return the hash that it is loaded by."""
    listed = isinstance(pieces, Vocabulary)
    content = pieces.serialized() if listed else pieces.serialized_model_proto()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def load(file: Path, sha256: str | None = None) -> Tokenizer:
    """The tokeniser in a file, of whatever kind it is; MailtaggerError if its hash is not the one given."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise MailtaggerError(f"There is no tokeniser {file}.", "`python -m training.lm` makes one.") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise MailtaggerError(
            f"{file} is another tokeniser than asked for: its sha256 is {found}, not {sha256}.",
            "A model reads only by the one that it was trained with.",
        )
    try:
        if content.startswith(b"{"):
            return Vocabulary.parsed(content)
        if not content:
            raise ValueError("empty")  # which sentencepiece takes for an order to wait for a model
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise MailtaggerError(f"{file} is no tokeniser, or a damaged one ({error}).", "Make it again.") from error


def digest(file: Path) -> str:
    """The hash of a saved tokeniser."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def unknown(pieces: Tokenizer, texts: Sequence[str]) -> Count:
    """How many of the pieces that the texts are read as are out of vocabulary."""
    ids = [id for text in pieces.encode(list(texts)) for id in text]
    return Count(ids.count(UNKNOWN), len(ids))


def scale(pieces: Tokenizer) -> int:
    """How many of its pieces say about as much as one subword: mails are cut so much later."""
    return 4 if isinstance(pieces, Vocabulary) and pieces.kind == "char" else 1


class Vocabulary:
    """A tokeniser whose pieces, words or characters, stand in a list; an id is a place in it."""

    def __init__(self, kind: Listed, pieces: Sequence[str]) -> None:
        self.kind = kind
        self._pieces = [*CONTROLS, *SYMBOLS, *pieces]
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        self._read = {piece: i for piece, i in self._ids.items() if i >= len(CONTROLS)}
        self._split = SPLIT[kind]
        before = SPACE if kind == "word" else ""  # a mark is a word, and has its space with it
        self._text = [" ⁇ ", *[""] * (len(CONTROLS) - 1), *(before + mark for mark in SYMBOLS), *pieces]

    @classmethod
    def of(cls, kind: Listed, texts: Iterable[str], most: int, least: int) -> "Vocabulary":
        """The `most` frequent pieces of those that occur `least` times, the most frequent first."""
        counts = Counter(piece for text in texts for piece in SPLIT[kind](text))
        for known in (*CONTROLS, *SYMBOLS):
            counts.pop(known, None)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        kept = [piece for piece, count in ranked if count >= least]
        return cls(kind, kept[: most - len(CONTROLS) - len(SYMBOLS)])

    @overload
    def encode(self, texts: str) -> list[int]: ...
    @overload
    def encode(self, texts: list[str]) -> list[list[int]]: ...
    def encode(self, texts: str | list[str]) -> list[int] | list[list[int]]:
        """Ids of a text, or of each text."""
        if isinstance(texts, str):
            return [self._read.get(piece, UNKNOWN) for piece in self._split(texts)]
        return [self.encode(text) for text in texts]

    @overload
    def decode(self, ids: list[int]) -> str: ...
    @overload
    def decode(self, ids: list[list[int]]) -> list[str]: ...
    def decode(self, ids: list[int] | list[list[int]]) -> str | list[str]:
        """The text of ids, or of each row of ids; controls have none, and what was unknown is ⁇."""
        if ids and not isinstance(ids[0], int):
            return [self.decode(row) for row in ids]
        text = "".join(self._text[id] for id in ids).replace(SPACE, " ")
        return text.removeprefix(" ") if self.kind == "word" else text

    def vocab_size(self) -> int:
        """How many pieces there are."""
        return len(self._pieces)

    def id_to_piece(self, id: int) -> str:
        """What an id stands for."""
        return self._pieces[id]

    def piece_to_id(self, piece: str) -> int:
        """The id of a piece; UNKNOWN if it is none."""
        return self._ids.get(piece, UNKNOWN)

    def serialized(self) -> bytes:
        """What `parsed` reads."""
        own = self._pieces[len(CONTROLS) + len(SYMBOLS) :]
        about = {"format": FORMAT, "kind": self.kind, "symbols": SYMBOLS, "pieces": own}
        return json.dumps(about, ensure_ascii=False, indent=0).encode("utf-8", "surrogatepass")

    @classmethod
    def parsed(cls, content: bytes) -> "Vocabulary":
        """ValueError, KeyError or TypeError for what `serialized` did not write, or did with other marks."""
        about = json.loads(content.decode("utf-8", "surrogatepass"))
        if about["format"] != FORMAT or about["symbols"] != list(SYMBOLS) or about["kind"] not in SPLIT:
            raise ValueError("of another version")
        pieces = [*CONTROLS, *SYMBOLS, *about["pieces"]]
        if len(set(pieces)) < len(pieces) or not all(type(piece) is str for piece in pieces) or len(pieces) > LARGEST:
            raise ValueError("its pieces are no list of different strings")
        return cls(about["kind"], about["pieces"])


def words(text: str) -> Iterator[str]:
    """The tokens of spaCy's English rules, '▁' before those that a space stands before; marks without it."""
    for word in text.replace(SPACE, " ").split():
        yield from _parts(word)


def characters(text: str) -> list[str]:
    """The characters, '▁' for a space; marks whole."""
    return _CHARACTERS.findall(text.replace(" ", SPACE))


SPLIT: dict[str, Callable[[str], Iterable[str]]] = {"word": words, "char": characters}
_CHARACTERS = re.compile("|".join([*sorted(SYMBOLS, key=len, reverse=True), "."]), re.DOTALL)  # xxreplyto before xxrep


@lru_cache(1 << 17)
def _parts(word: str) -> tuple[str, ...]:
    """spaCy's rules never look over a space, so each different word is asked of them once."""
    if word in SYMBOLS:
        return (word,)
    parts = [token.text for token in _spacy()(word)]
    if any(part in SYMBOLS for part in parts):  # a mark is a word of its own, or none
        parts = [word]
    return (SPACE + parts[0], *parts[1:])


@cache
def _spacy() -> Any:
    try:
        from spacy.lang.en import English
    except ImportError as error:
        raise MailtaggerError("Words are split by spaCy, which is not there.", "pip install -e '.[study]'") from error
    return English().tokenizer
