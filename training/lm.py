"""Stage 1 and 2 of ULMFiT: the tokeniser, a language model of general text, then of mail.

    python -m training.lm --general-minutes 60 --mail-minutes 120 [--bf16] [--backward] [--start DIR] [--resume]

Needs the cache of `training.prepare`; writes build/lm/{tokenizer.model,general.safetensors,mail.safetensors,log.txt},
a curve of each stage as CSV, and stages.json, which says what is complete, and under which cleaning rules: under others
`--resume` begins anew. A run that was killed goes on from its last snapshot.
`--backward` reads every text from its end, with the tokeniser that is there; its files are called *-backward.
Only the training part of the labelled corpora is read, without its labels.
"""

import argparse
import json
import lzma
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from mailtagger.clean import RULES_HASH, clean_text
from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import tokenizer, train
from mailtagger.ulmfit.model import SIZES, Dropouts, LanguageModel
from mailtagger.ulmfit.schedules import SHAPES
from training import smoke
from training.corpora import home
from training.prepare import OUT, load
from training.splits import split

LM = Path("build/lm")
TOKENIZER, GENERAL, MAIL, STAGES = "tokenizer.model", "general", "mail", "stages.json"


def general(root: Path, limit: int) -> Iterator[str]:
    """Yield cleaned documents of general_text, `limit` characters in all."""
    with lzma.open(_found(root / "general_text.txt.xz"), "rt", encoding="utf-8") as file:
        document: list[str] = []
        for line in file:
            if line.strip():
                document.append(line)
                continue
            text = clean_text("", "".join(document))
            document, limit = [], limit - len(text)
            if text:
                yield text
            if limit < 0:
                return


def mail(root: Path) -> list[str]:
    """Return the cleaned unlabelled mail."""
    with lzma.open(_found(root / "mail_text.txt.xz"), "rt", encoding="utf-8") as file:
        parts = (d.removeprefix("Subject: ").partition("\n\n") for d in file.read().split("\n\n\n"))
        return [text for subject, _, body in parts if (text := clean_text(subject, body[:8000]))]


def texts(characters: int) -> tuple[list[str], list[str], list[str]]:
    """General text, mail without and mail with labels, which are not looked at; the first two in no order."""
    labelled = [row.document.text for row in split("default", load(OUT)).train if row.document.text]
    unlabelled, prose = mail(home()), list(general(home(), characters))
    return prose, unlabelled, labelled


def trained_tokenizer(
    prose: Sequence[str], unlabelled: Sequence[str], labelled: Sequence[str], vocabulary: int
) -> None:
    """Write the tokeniser of a sample of all three, and take away the models of another vocabulary."""
    sample = (text[:3000] for text in (*labelled[::3], *unlabelled[::5], *prose[::20]))
    tokenizer.train(sample, LM / TOKENIZER, vocabulary)
    for stale in LM.glob("*.safetensors"):
        stale.unlink()


class Stages:
    """What is complete, under today's cleaning rules."""

    def __init__(self, resume: bool) -> None:
        self._done: list[str] = []
        if resume and (LM / STAGES).exists():
            found = json.loads((LM / STAGES).read_text())
            self._done = found["complete"] if found["cleaning"] == RULES_HASH else []

    def __contains__(self, stage: str) -> bool:
        return stage in self._done

    def complete(self, stage: str) -> None:
        """Remember that a stage is."""
        self._done.append(stage)
        (LM / STAGES).write_text(json.dumps({"cleaning": RULES_HASH, "complete": self._done}))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train within the minutes given."""
    options = argparse.ArgumentParser(
        prog="python -m training.lm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--general-minutes", type=float, default=60, help="0 leaves the stage out")
    options.add_argument("--mail-minutes", type=float, default=120, help="0 leaves the stage out")
    options.add_argument("--epochs", type=float, default=4, help="of each stage at most")
    options.add_argument("--general-characters", type=int, default=30_000_000)
    options.add_argument("--size", choices=SIZES, default="compact", help="full: 400/1152×3, for a GPU")
    options.add_argument("--vocabulary", type=int, default=8000, help="pieces of a new tokeniser")
    options.add_argument("--shape", choices=SHAPES, default="slanted", help="of the rate")
    options.add_argument("--discriminative", type=float, default=1.0, help="of the mail stage; ULMFiT: 2.6")
    options.add_argument("--dropout", type=float, default=0.5, help="factor of AWD-LSTM's rates")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--device", default="cpu", help="cuda where there is one")
    options.add_argument("--resume", action="store_true", help="keep what is complete, go on from the last snapshot")
    options.add_argument("--start", type=Path, metavar="DIR", help="go on from DIR's general model and tokeniser")
    options.add_argument("--backward", action="store_true", help="from the last piece to the first (ULMFiT §3.3)")
    options.add_argument("--bf16", action="store_true", help="multiply in bf16, on a processor that can, or a GPU")
    options.add_argument("--smoke", action="store_true", help="all of it in seconds, on made-up mail")
    chosen = options.parse_args(arguments)
    if chosen.smoke:
        smoke.begin()
        chosen.size, chosen.vocabulary, chosen.epochs = "tiny", 700, 1
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    LM.mkdir(parents=True, exist_ok=True)
    plans = {  # refused here, before anything is read
        stage: train.Schedule(minutes or 1, chosen.epochs, rate, bf16=chosen.bf16, shape=chosen.shape)
        for stage, minutes, rate in ((GENERAL, chosen.general_minutes, 4e-3), (MAIL, chosen.mail_minutes, 3e-3))
    }
    begun = {}
    if chosen.start:
        begun = load_file(chosen.start / f"{GENERAL}.safetensors")
        known = tokenizer.load(chosen.start / TOKENIZER)
    stages = Stages(chosen.resume)

    def log(line: str) -> None:
        print(line, flush=True)
        with (LM / "log.txt").open("a") as file:
            file.write(line + "\n")

    prose, unlabelled, labelled = texts(chosen.general_characters)
    mails = unlabelled + [text[:3000] for text in labelled]
    shuffle = random.Random(0).shuffle
    shuffle(mails)
    shuffle(prose)
    if "tokenizer" not in stages and not chosen.backward:
        trained_tokenizer(prose, unlabelled, labelled, chosen.vocabulary)
        stages.complete("tokenizer")
    pieces = tokenizer.load(LM / TOKENIZER)
    sizes = replace(SIZES[chosen.size], vocabulary=pieces.vocab_size())
    model = LanguageModel(sizes, Dropouts().scaled(chosen.dropout)).to(chosen.device)
    if begun:
        model.load_state_dict(train.carried(begun, known, pieces))
    for stage, documents, minutes, discriminative in (
        (GENERAL, prose, chosen.general_minutes, 1.0),
        (MAIL, mails, chosen.mail_minutes, chosen.discriminative),
    ):
        name = stage + "-backward" * chosen.backward
        checkpoint = LM / f"{name}.safetensors"
        if name in stages:
            model.load_state_dict(load_file(checkpoint))
        if name in stages or not minutes:
            continue
        held = max(1, len(documents) // 100)
        log(f"== {name}: {len(documents):,} documents")
        valid, stream = tokenizer.stream(pieces, documents[:held]), tokenizer.stream(pieces, documents[held:])
        if chosen.backward:
            valid, stream = valid[::-1], stream[::-1]
        train.fit_language_model(
            model, stream, valid, plans[stage], checkpoint, log, discriminative=discriminative, resume=chosen.resume
        )
        stages.complete(name)


def _found(file: Path) -> Path:
    if not file.is_file():
        raise MailtaggerError(f"The text {file} is not there.", "training/README.md says what it holds.")
    return file


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
