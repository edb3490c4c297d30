"""Stage 3 of ULMFiT: the classifier on the fine-tuned encoder, the linear part beside it, and the artifact.

    python -m training.classifier cross:1 --out build/models/cross-1
    python -m training.classifier default --calibration build/calibration.json --out build/models/base-YYYYMMDD

Needs `training.prepare` and `training.lm`. Only the protocol's training rows are learned from. Without a calibration
that `training.calibrate` made, the protocol's validation rows give one; its test rows are never looked at.
`--resume` goes on with a run that was killed. `--smoke` does it all in seconds on made-up mail, language model and all.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from mailtagger.artifact import ID_PATTERN, TOKENIZER, WEIGHTS, Artifact
from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import checkpoint, linear, tokenizer
from mailtagger.ulmfit.classifier import LIMITS, fit_classifier, load_classifier, load_encoder, logits
from mailtagger.ulmfit.export import export
from mailtagger.ulmfit.model import Classifier, Dropouts, Sizes
from mailtagger.ulmfit.run import Schedule
from mailtagger.ulmfit.schedules import SHAPES
from mailtagger.ulmfit.unfreezing import SCHEMES
from training import lm, tokenizers
from training.arguments import device, factor, number, positive
from training.balance import balance, kind
from training.calibrate import Rule, choose, fingerprint
from training.evaluate import opened
from training.examples import examples
from training.labels import sound
from training.lm import LM
from training.prepare import OUT, load
from training.splits import Row, split

GOLDEN = (
    "re lunch on friday shall we meet at noon ? let me know if that works for you anna",
    "congratulations ! you have won $ xxn3 xxn3 in our lottery click here to claim your prize xxurl win",
    "your order has shipped thank you for your order track your parcel at xxurl shop example",
    "cheap viagra and cialis online no prescription needed order now ! xxrep",
    "patch fix the build on arm this fixes a warning in the driver signed off by xxmail",
)


def noise(structure: frozenset[int]) -> Callable[[list[int], np.random.Generator], list[int]]:
    """Return the augmentation: a third of the marks of structure and 5 % of words go, a third of mails is cut short,
    so that text without headers and short mail are at home."""

    def disturbed(ids: list[int], rng: np.random.Generator) -> list[int]:
        draws = rng.random(len(ids))
        kept = [i for i, u in zip(ids, draws, strict=True) if u > (0.35 if i in structure else 0.05)]
        if len(kept) > 24 and rng.random() < 0.33:
            kept = kept[: int(rng.integers(12, len(kept)))]
        return kept or ids

    return disturbed


def checked(chosen: argparse.Namespace) -> tuple[Rule | None, Artifact | None]:
    """The rule and the artifact that the options name; MailtaggerError if they fit nothing that could be trained."""
    if not re.fullmatch(ID_PATTERN, chosen.out.name):
        raise MailtaggerError(
            f"A model cannot be named {chosen.out.name!r}.", "Small letters, digits, dots and dashes; --out names it."
        )
    rule = parent = None
    if chosen.calibration:
        try:
            rule = Rule(**json.loads(chosen.calibration.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise MailtaggerError(
                f"{chosen.calibration} is no calibration ({error}).", "`python -m training.calibrate` makes one."
            ) from error
    if chosen.start:
        parent = opened(chosen.start).artifact
        if parent.meta.metrics["training"]["protocol"] != chosen.protocol:
            raise MailtaggerError(
                f"The model {parent.id} was not trained under {chosen.protocol}.",
                "--start takes one of the same protocol.",
            )
        if parent.read(TOKENIZER) != (LM / "tokenizer.model").read_bytes():
            raise MailtaggerError(
                f"The model {parent.id} reads by another tokeniser than {LM / 'tokenizer.model'}.",
                "Train it again without --start.",
            )
    elif not chosen.epochs:
        raise MailtaggerError("--epochs 0 trains nothing.", "It is for exporting again what --start names.")
    return rule, parent


def sizes(encoder: Path) -> Sizes:
    """The sizes of the language model in a checkpoint; ModelError if it belongs to another tokeniser or cleaning."""
    return checkpoint.sizes(lm.opened(encoder, print))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, calibrate, export."""
    options = argparse.ArgumentParser(
        prog="python -m training.classifier", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("protocol")
    options.add_argument("--epochs", type=float, default=3, help="0 with --start: export it again")
    options.add_argument("--minutes", type=float, default=600, help="end by the clock, if that comes first")
    options.add_argument("--rate", type=float, default=5e-3)
    options.add_argument("--threads", type=positive, default=1)
    options.add_argument("--bf16", action="store_true", help="multiply in bf16, on a processor that can")
    options.add_argument("--shape", choices=SHAPES, default="slanted", help="of the rate")
    options.add_argument("--unfreezing", choices=SCHEMES, help="gradual, and full with --start")
    options.add_argument("--discriminative", type=factor, default=2.6, help="how much slower each layer below learns")
    options.add_argument("--seed", type=number, default=0)
    options.add_argument("--device", type=device, default="cpu", help="cuda where there is one")
    options.add_argument("--resume", action="store_true", help="go on from the last snapshot")
    options.add_argument(
        "--tokenizer", choices=tokenizers.KINDS, default="unigram", help="of the trial; else as lm chose"
    )
    options.add_argument(
        "--as-labelled", action="store_true",
        help="as the literature does: each row as its corpus labels it, all alike, no copies, no noise",
    )
    options.add_argument("--smoke", action="store_true", help="all of it in seconds, on made-up mail")
    options.add_argument("--out", type=Path, help="the model's directory; build/models/PROTOCOL if not given")
    options.add_argument("--encoder", type=Path, default=LM / "mail.safetensors")
    options.add_argument("--start", type=Path, metavar="DIR", help="go on from this artifact of the same protocol")
    options.add_argument("--calibration", type=Path, metavar="FILE", help="what training.calibrate wrote")
    chosen = options.parse_args(arguments)
    if chosen.smoke:
        chosen.out = chosen.out and chosen.out.absolute()  # else a trial would take a real model's place
        lm.main(["--smoke", "--general-minutes", "0", "--tokenizer", chosen.tokenizer])
        chosen.epochs = min(chosen.epochs, 2)
    chosen.out = chosen.out or Path("build/models") / chosen.protocol.replace(":", "-")
    rule, parent = checked(chosen)
    plan = Schedule(
        chosen.minutes, chosen.epochs or 1, chosen.rate, bf16=chosen.bf16, shape=chosen.shape, seed=chosen.seed
    )
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    pieces = tokenizers.load(LM / lm.TOKENIZER)
    scale = tokenizers.scale(pieces)
    rows = split(chosen.protocol, load(OUT))
    learned = list(rows.train) if chosen.as_labelled else examples(rows.train)
    print(f"{chosen.protocol}: {len(rows.train)} training rows, {len(learned)} examples of them", flush=True)

    def ids(some: Sequence[Row]) -> list[list[int]]:
        found = pieces.encode([row.document.text for row in some])
        return [tokenizer.cut(one, 256 * scale, 128 * scale) for one in found]

    def spam(some: Sequence[Row]) -> list[bool]:
        return [row.document.label == "spam" for row in some]

    def counted(some: Sequence[Row]) -> list[float]:
        return [1.0] * len(some) if chosen.as_labelled else balance(some)

    documents, labels, weights = ids(learned), spam(learned), counted(learned)
    beside = linear.fit(documents, labels, weights, pieces.vocab_size())
    model = Classifier(sizes(chosen.encoder), Dropouts().scaled(0.6)).to(chosen.device)
    if chosen.start:
        load_classifier(model, chosen.start / WEIGHTS)
    else:
        load_encoder(model, chosen.encoder)
    if chosen.epochs:
        fit_classifier(
            model,
            documents,
            [float(label) for label in labels],
            weights,
            plan,
            lambda line: print(line, flush=True),
            None if chosen.as_labelled else noise(frozenset(pieces.piece_to_id(m) for m in tokenizer.STRUCTURE)),
            unfreezing_scheme=chosen.unfreezing or ("full" if chosen.start else "gradual"),
            discriminative=chosen.discriminative,
            limits=[limit * scale for limit in LIMITS],
            checkpoint=chosen.out.with_name(f"{chosen.out.name}.safetensors"),
            resume=chosen.resume,
        )
    valid = list(rows.valid) if chosen.as_labelled else sound(rows.valid)
    truth = np.array(spam(valid))
    found = linear.bounded(logits(model, ids(valid))), beside.logits(ids(valid))
    if not rule:
        rule = choose(*found, truth, np.array(counted(valid)), np.array([kind(row) for row in valid]))
    errors = float(np.mean((rule.probability(*found) > 0.5) != truth))
    print(f"{rule}; errors at 0.5 on validation rows {errors:.4f}", flush=True)
    if isinstance(pieces, tokenizers.Vocabulary):
        weights = chosen.out.with_name(f"{chosen.out.name}.safetensors")
        save_file(model.state_dict(), weights)
        print(f"{weights} has the weights; there is no artifact of them, as live mail is read by subwords alone")
        return
    export(
        {
            name: value.cpu().numpy()
            for name, value in model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        },
        LM / "tokenizer.model",
        chosen.out,
        id=chosen.out.name,
        golden=GOLDEN,
        calibration=(rule.a, rule.b),
        cutoffs=(rule.ham_cutoff, rule.spam_cutoff),
        metrics={
            "training": {
                "protocol": chosen.protocol,
                "rows": len(learned),
                "as_labelled": chosen.as_labelled,
                "epochs": chosen.epochs + (parent.meta.metrics["training"]["epochs"] if parent else 0),
                "test": fingerprint(rows.test),
            },
            "valid": {"errors_at_half": round(errors, 4), "rows": len(valid)},
        },
        data=f"{chosen.protocol}, {len(learned)} examples of {len(rows.train)} training rows",
        created=time.strftime("%Y-%m-%d"),
        linear=beside,
        mix=rule.mix,
    )
    print(f"{chosen.out} is complete", flush=True)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
