"""Stage 1 and 2 of ULMFiT: the tokeniser, a language model of general text, then of mail.

    python -m training.lm --general-minutes 60 --mail-minutes 120 [--bf16] [--backward] [--start DIR] [--resume]

Needs the cache of `training.prepare`; writes build/lm/{tokenizer.model,general.safetensors,mail.safetensors,log.txt},
a curve of each stage as CSV, and stages.json, which says what is complete, and under which cleaning rules: under others
`--resume` begins anew. A run that was killed goes on from its last snapshot.
`--from wt103 PATH` takes fastai's WikiText-103 model in the place of the general one (training.wt103).
`--backward` reads every text from its end, with the tokeniser that is there; its files are called *-backward.
Only the training part of the labelled corpora is read, without its labels.
"""

import argparse
import json
import lzma
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mailtagger.clean import RULES_HASH, clean_text
from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import checkpoint, tokenizer
from mailtagger.ulmfit.language_model import carried, fit_language_model
from mailtagger.ulmfit.model import SIZES, Dropouts, LanguageModel
from mailtagger.ulmfit.progress import Log
from mailtagger.ulmfit.run import Schedule
from mailtagger.ulmfit.schedules import SHAPES
from training import smoke, tokenizers, wt103
from training.arguments import device, dropout, factor, positive
from training.corpora import home
from training.prepare import OUT, load, load_unlabelled
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
    """General text, mail without and mail with labels, which are not looked at; the first two in no order. With no
    general text wanted, mail of one's own needs no corpus beside it."""
    labelled = [row.document.text for row in split("default", load(OUT)).train if row.document.text]
    unlabelled = load_unlabelled(OUT)
    if characters or "MAILTAGGER_CORPORA" in os.environ:
        unlabelled += mail(home())
    return list(general(home(), characters)) if characters else [], unlabelled, labelled


def trained_tokenizer(
    prose: Sequence[str],
    unlabelled: Sequence[str],
    labelled: Sequence[str],
    vocabulary: int | None,
    kind: tokenizers.Kind = "unigram",
) -> None:
    """Write the tokeniser of a sample of all three, and take away the models of another vocabulary."""
    sample = (text[:3000] for text in (*labelled[::3], *unlabelled[::5], *prose[::20]))
    tokenizers.build(kind, sample, LM / TOKENIZER, vocabulary)
    for stale in LM.glob("*.safetensors"):
        stale.unlink()


class Stages:
    """What is complete, under today's cleaning rules. Runs of the two directions may share it, so that it is read each
    time anew."""

    def __contains__(self, stage: str) -> bool:
        return stage in self._complete()

    def complete(self, stage: str) -> None:
        """Remember that a stage is."""
        self._write([*self._complete(), stage])

    def forget(self, direction: str) -> None:
        """What ends so is to be made again; all of it, if that is nothing."""
        self._write([stage for stage in self._complete() if not stage.endswith(direction)])

    def _complete(self) -> list[str]:
        if not (LM / STAGES).exists():
            return []
        found = json.loads((LM / STAGES).read_text())
        return list(found["complete"]) if found["cleaning"] == RULES_HASH else []

    def _write(self, stages: Sequence[str]) -> None:
        aside = LM / f".{STAGES}"
        aside.write_text(json.dumps({"cleaning": RULES_HASH, "complete": stages}))
        aside.replace(LM / STAGES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train within the minutes given."""
    options = argparse.ArgumentParser(
        prog="python -m training.lm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--general-minutes", type=float, default=60, help="0 leaves the stage out")
    options.add_argument("--mail-minutes", type=float, default=120, help="0 leaves the stage out")
    options.add_argument("--epochs", type=float, default=4, help="of each stage at most")
    options.add_argument("--general-epochs", type=float, help="of general text at most, if not as many")
    options.add_argument("--general-characters", type=positive, default=30_000_000)
    options.add_argument("--size", choices=SIZES, default="compact", help="full: 400/1152×3, for a GPU")
    options.add_argument("--tokenizer", choices=tokenizers.KINDS, default="unigram", help="what a new tokeniser reads")
    options.add_argument("--vocabulary", type=int, help="its pieces at most; as many as suit its kind if not given")
    options.add_argument("--shape", choices=SHAPES, default="slanted", help="of the rate")
    options.add_argument("--discriminative", type=factor, default=1.0, help="of the mail stage; ULMFiT: 2.6")
    options.add_argument("--dropout", type=dropout, default=0.5, help="factor of AWD-LSTM's rates")
    options.add_argument("--threads", type=positive, default=1)
    options.add_argument("--device", type=device, default="cpu", help="cuda where there is one")
    options.add_argument("--resume", action="store_true", help="keep what is complete, go on from the last snapshot")
    options.add_argument("--from", dest="source", nargs=2, metavar=("wt103", "PATH"), help="begin with fastai's model")
    options.add_argument("--start", type=Path, metavar="DIR", help="go on from DIR's general model and tokeniser")
    options.add_argument("--backward", action="store_true", help="from the last piece to the first (ULMFiT §3.3)")
    options.add_argument("--bf16", action="store_true", help="multiply in bf16, on a processor that can, or a GPU")
    options.add_argument("--smoke", action="store_true", help="all of it in seconds, on made-up mail")
    chosen = options.parse_args(arguments)
    source = chosen.source and Path(chosen.source[1]).absolute()
    if chosen.smoke:
        smoke.begin()
        chosen.size, chosen.vocabulary, chosen.epochs = "tiny", 700, 1
    if chosen.general_epochs is None:
        chosen.general_epochs = chosen.epochs
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    LM.mkdir(parents=True, exist_ok=True)
    plans = {  # refused here, before anything is read
        stage: Schedule(minutes or 1, epochs, rate, bf16=chosen.bf16, shape=chosen.shape)
        for stage, minutes, epochs, rate in (
            (GENERAL, chosen.general_minutes, chosen.general_epochs, 4e-3),
            (MAIL, chosen.mail_minutes, chosen.epochs, 3e-3),
        )
    }
    if chosen.source and chosen.source[0] != "wt103":
        raise MailtaggerError(f"Nothing is known of a model {chosen.source[0]!r}.", "--from wt103 PATH is.")
    stages = Stages()
    direction = "-backward" * chosen.backward

    def log(line: str) -> None:
        print(line, flush=True)
        with (LM / "log.txt").open("a") as file:
            file.write(line + "\n")

    prose, unlabelled, labelled = texts(chosen.general_characters if chosen.general_minutes else 0)
    mails = unlabelled + [text[:3000] for text in labelled]
    shuffle = random.Random(0).shuffle
    shuffle(mails)
    shuffle(prose)
    if not chosen.resume:
        stages.forget(direction)
    if "tokenizer" not in stages and not (chosen.backward and (LM / TOKENIZER).exists()):
        stages.forget("")
        trained_tokenizer(prose, unlabelled, labelled, chosen.vocabulary, chosen.tokenizer)
        stages.complete("tokenizer")
    pieces = tokenizers.load(LM / TOKENIZER)
    begun: dict[str, Tensor] = {}
    sizes = replace(SIZES[chosen.size], vocabulary=pieces.vocab_size())
    first = LM / f"{GENERAL}{direction}.safetensors"
    if first.stem in stages:
        sizes = checkpoint.sizes(opened(first, log))
    elif source:
        begun, sizes, told = wt103.language_model(source, pieces, chosen.backward)
        log(f"== {first.stem}: {sizes.embedding}/{sizes.hidden}×{sizes.layers} of WikiText-103; {told}")
        saving(first.stem)(begun, first)
        stages.complete(first.stem)
    elif chosen.start:
        old, known = chosen.start / f"{GENERAL}.safetensors", chosen.start / TOKENIZER
        state, _ = checkpoint.load(old, log, tokenizer=known)
        begun = carried(state, tokenizers.load(known), pieces)
        sizes = checkpoint.sizes(begun)
    elif (done := f"{MAIL}{direction}") in stages:
        sizes = checkpoint.sizes(opened(LM / f"{done}.safetensors", log))
    model = LanguageModel(sizes, Dropouts().scaled(chosen.dropout)).to(chosen.device)
    if begun:
        model.load_state_dict(begun)
    for stage, documents, minutes, discriminative in (
        (GENERAL, prose, chosen.general_minutes, 1.0),
        (MAIL, mails, chosen.mail_minutes, chosen.discriminative),
    ):
        name = stage + direction
        file = LM / f"{name}.safetensors"
        if name in stages:
            model.load_state_dict(opened(file, log))
        if name in stages or not minutes:
            continue
        held = max(1, len(documents) // 100)
        log(f"== {name}: {len(documents):,} documents")
        valid, stream = tokenizer.stream(pieces, documents[:held]), tokenizer.stream(pieces, documents[held:])
        if chosen.backward:
            valid, stream = valid[::-1], stream[::-1]
        fit_language_model(
            model,
            stream,
            valid,
            plans[stage],
            file,
            log,
            discriminative=discriminative,
            resume=chosen.resume,
            save=saving(name),
        )
        stages.complete(name)


def opened(file: Path, log: Log) -> dict[str, Tensor]:
    """The state of a language model of build/lm; ModelError if it belongs to another tokeniser or other cleaning."""
    return checkpoint.load(file, log, tokenizer=LM / TOKENIZER, cleaning=RULES_HASH)[0]


def saving(stage: str) -> Callable[[Mapping[str, Tensor], Path], None]:
    """What writes such a model."""
    return partial(checkpoint.save, stage=stage, tokenizer=LM / TOKENIZER, cleaning=RULES_HASH)


def _found(file: Path) -> Path:
    if not file.is_file():
        raise MailtaggerError(f"The text {file} is not there.", "training/README.md says what it holds.")
    return file


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
