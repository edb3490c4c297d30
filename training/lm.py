"""Stage 1 and 2 of ULMFiT: the tokeniser, a language model of general text, then of mail.

    python -m training.lm --general-minutes 60 --mail-minutes 120 [--bf16] [--backward] [--start DIR] [--resume]

Needs the cache of `training.prepare`; writes build/lm/{tokenizer.model,general.safetensors,mail.safetensors,log.txt}
and stages.json, which says what is complete, and under which cleaning rules: under others `--resume` begins anew.
`--backward` reads every text from its end, with the tokeniser that is there; its files are called *-backward.
Only the training part of the labelled corpora is read, without its labels.
"""

import argparse
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from mailtagger.clean import RULES_HASH, clean_text
from mailtagger.ulmfit import tokenizer, train
from mailtagger.ulmfit.model import Dropouts, LanguageModel, Sizes
from training.corpora import home
from training.prepare import OUT, load
from training.splits import split

LM = Path("build/lm")


def general(root: Path, limit: int) -> Iterator[str]:
    """Yield cleaned documents of general_text, `limit` characters in all."""
    with lzma.open(root / "general_text.txt.xz", "rt", encoding="utf-8") as file:
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
    with lzma.open(root / "mail_text.txt.xz", "rt", encoding="utf-8") as file:
        parts = (d.removeprefix("Subject: ").partition("\n\n") for d in file.read().split("\n\n\n"))
        return [text for subject, _, body in parts if (text := clean_text(subject, body[:8000]))]


def main() -> None:
    """Train within the minutes given."""
    options = argparse.ArgumentParser(prog="python -m training.lm", description=__doc__)
    options.add_argument("--general-minutes", type=float, default=60)
    options.add_argument("--mail-minutes", type=float, default=120)
    options.add_argument("--general-characters", type=int, default=30_000_000)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--resume", action="store_true", help="keep what is complete, go on from the last checkpoint")
    options.add_argument("--start", type=Path, metavar="DIR", help="go on from DIR's general model and tokeniser")
    options.add_argument("--backward", action="store_true", help="from the last piece to the first (ULMFiT §3.3)")
    options.add_argument("--bf16", action="store_true", help="multiply in bf16, on a processor that can")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    LM.mkdir(parents=True, exist_ok=True)
    begun = {}
    if chosen.start:
        begun = load_file(chosen.start / "general.safetensors")
        known = tokenizer.load(chosen.start / "tokenizer.model")
    done: list[str] = []  # stages that are complete, under these rules
    if chosen.resume and (LM / "stages.json").exists():
        stages = json.loads((LM / "stages.json").read_text())
        done = stages["complete"] if stages["cleaning"] == RULES_HASH else []

    def complete(stage: str) -> None:
        done.append(stage)
        (LM / "stages.json").write_text(json.dumps({"cleaning": RULES_HASH, "complete": done}))

    def log(line: str) -> None:
        print(line, flush=True)
        with (LM / "log.txt").open("a") as file:
            file.write(line + "\n")

    labelled = [row.document.text for row in split("default", load(OUT)).train if row.document.text]
    unlabelled = mail(home())
    prose = list(general(home(), chosen.general_characters))
    shuffle = random.Random(0).shuffle
    mails = unlabelled + [text[:3000] for text in labelled]
    shuffle(mails)
    shuffle(prose)
    file = LM / "tokenizer.model"
    if "tokenizer" not in done and not chosen.backward:
        tokenizer.train((text[:3000] for text in (labelled[::3] + unlabelled[::5] + prose[::20])), file)
        for stale in LM.glob("*.safetensors"):
            stale.unlink()  # of another vocabulary
        complete("tokenizer")
    pieces = tokenizer.load(file)
    model = LanguageModel(Sizes(vocabulary=pieces.vocab_size()), Dropouts().scaled(0.5))
    if begun:
        model.load_state_dict(train.carried(begun, known, pieces))
    for stage, texts, minutes, rate in (
        ("general", prose, chosen.general_minutes, 4e-3),
        ("mail", mails, chosen.mail_minutes, 3e-3),
    ):
        stage += "-backward" * chosen.backward
        checkpoint = LM / f"{stage}.safetensors"
        if checkpoint.exists():
            model.load_state_dict(load_file(checkpoint))
        if stage in done or not minutes:
            continue
        held = max(1, len(texts) // 100)
        log(f"== {stage}: {len(texts):,} documents, {minutes} minutes at most")
        plan = train.Schedule(minutes=minutes, epochs=4, rate=rate, bf16=chosen.bf16)
        valid, stream = tokenizer.stream(pieces, texts[:held]), tokenizer.stream(pieces, texts[held:])
        if chosen.backward:
            valid, stream = valid[::-1], stream[::-1]
        log(f"{len(stream):,} tokens to train on")
        train.fit_language_model(model, stream, valid, plan, checkpoint, log)
        complete(stage)


if __name__ == "__main__":
    main()
