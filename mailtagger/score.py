"""Text → P(spam), from a loaded artifact, with onnxruntime and sentencepiece: no torch, no fastai.

One message at a time: the int8 graph measures the range of its inputs as it goes, so in a batch a message's score would
hang on its neighbours. A Scorer may be shared by threads.
"""

from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from mailtagger.artifact import GRAPH, TOKENIZER, Artifact, Cutoffs, unusable
from mailtagger.decide import probability
from mailtagger.errors import ModelError
from mailtagger.ulmfit.tokenizer import cut

Ids = NDArray[np.int64]
Array = NDArray[np.float64]

# So far may a golden text score from its record: processors add int8 alike, but round the sigmoids between differently.
TOLERANCE = 0.02
FAMILIAR_LETTERS = 3
ENOUGH = 80  # letters that a text should have: "holiday pictures" over a photo says too little to judge it by
UNKNOWN_LETTERS = 4  # an unknown piece stands for about a word: sentencepiece joins unknown characters to one piece


@dataclass(frozen=True)
class Score:
    """What the model says of one text."""

    p: float  # P(spam), calibrated
    logit: float  # before calibration
    tokens: int  # that were read, after the cut
    familiar: float  # see Scorer.familiar


class Scorer:
    """Scores texts with one model, on the graph that ships or on its reference."""

    def __init__(self, artifact: Artifact, threads: int = 1, graph: str = GRAPH) -> None:
        self.model = artifact.id
        self.cutoffs: Cutoffs = artifact.meta.cutoffs
        self._cut = artifact.meta.cut
        self._calibration = artifact.meta.calibration
        self._pieces = SentencePieceProcessor(model_proto=artifact.read(TOKENIZER))
        self._known, self._letters = _letters(self._pieces)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(artifact.read(graph), options, providers=["CPUExecutionProvider"])

    def score(self, text: str) -> Score:
        """The score of a cleaned text; a blank one is for the caller to decide."""
        if not text.strip():
            raise ValueError("a blank text has no score")
        return self.read(self.ids(text))

    def read(self, ids: Ids) -> Score:
        """The score of these tokens; no tokens count as one that is unknown."""
        ids = ids if len(ids) else np.array([self._pieces.unk_id()], dtype=np.int64)
        (logit,) = self._session.run(["logit"], {"ids": ids[np.newaxis]})
        z = float(logit.item())
        return Score(self.probability(z), z, len(ids), self.familiar(ids))

    def ids(self, text: str) -> Ids:
        """The tokens the model reads: of long mail the first 256 and the last 128 (a model may say otherwise)."""
        ids = self._encode(text) or [self._pieces.unk_id()]
        return np.array(cut(ids, self._cut.head, self._cut.tail), dtype=np.int64)

    def words(self, text: str) -> list[tuple[int, str]]:
        """For each of `ids(text)` the word that it is a part of: its place in the cleaned text, and the word."""
        names, at, found = text.split(), -1, []
        for id_ in self._encode(text):
            at += self._pieces.id_to_piece(id_).startswith("▁")  # no piece reaches over a space
            found.append(at)
        return [(at, names[at]) for at in cut(found, self._cut.head, self._cut.tail)]

    def _encode(self, text: str) -> list[int]:
        whole = text.encode("utf-8", "replace").decode()  # a lone surrogate would be an error
        return list(self._pieces.encode(whole))

    def familiar(self, ids: Ids) -> float:
        """How much of the text is in words that the model knows, 0 to 1.

        It is the share of the letters, or of ENOUGH letters in a shorter text, that stand in pieces of three letters or
        more: another language falls into short pieces, another script into unknown ones.
        """
        return float(self._known[ids].sum() / max(self._letters[ids].sum(), ENOUGH))

    def probability(self, logit: float) -> float:
        """P(spam) of a logit, calibrated."""
        return probability(self._calibration.a * logit + self._calibration.b)


def open_scorer(artifact: Artifact, threads: int = 1) -> Scorer:
    """A Scorer that has just given the artifact's golden texts their recorded scores; ModelError if it cannot."""
    try:
        scorer = Scorer(artifact, threads)
        found = [(golden.p, scorer.score(golden.text).p) for golden in artifact.meta.golden]
    except ModelError:
        raise
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise unusable(artifact.path, f"onnxruntime cannot run its graph ({type(error).__name__})") from error
    if not all(abs(p - recorded) <= TOLERANCE for recorded, p in found):  # so that NaN fails too
        told = ", ".join(f"{p:.3f} instead of {recorded:.3f}" for recorded, p in found)
        raise unusable(artifact.path, f"its golden texts score {told}")
    return scorer


def _letters(pieces: SentencePieceProcessor) -> tuple[Array, Array]:
    """For each piece of the vocabulary: its letters if the piece is a known one of three or more, and its letters."""
    known, letters = np.zeros((2, pieces.get_piece_size()))
    for i in range(len(letters)):
        piece = pieces.id_to_piece(i).lstrip("▁")
        if pieces.is_unknown(i):
            letters[i] = UNKNOWN_LETTERS
        elif pieces.is_byte(i):
            letters[i] = 1
        elif not pieces.is_control(i) and not piece.startswith("xx"):  # xxurl and its like are ours, not the writer's
            letters[i] = sum(map(str.isalpha, piece))
            known[i] = letters[i] if letters[i] >= FAMILIAR_LETTERS else 0
    return known, letters
