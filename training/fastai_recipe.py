"""The stages of ULMFiT through fastai's own learners, step by step as its users know them: a second, short recipe.

    python -m training.fastai_recipe dedup [--smoke]

Needs `training.prepare`, and of `training.lm` the tokeniser and a general language model. fastai fine-tunes that on the
protocol's training mail, without its labels, and learns the classifier on it. An artifact comes out, like those of
`training.classifier` but for the linear part beside. Weights go to fastai and come back by `ulmfit.fastai_weights`, not
through its pickles. Mixed precision on a GPU. `--smoke` does it all in seconds on made-up mail.

fastai 2.8 loses tokens where a batch's rows begin in different windows (tests/test_fastai.py). Mail is cut to 384
pieces here as everywhere, and `seq_len` is that, so that one window holds every row and nothing is lost.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.text.all import (
    AWD_LSTM,
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    DataLoaders,
    Learner,
    Perplexity,
    ProgressCallback,
    SubwordTokenizer,
    TextBlock,
    accuracy,
    awd_lstm_clas_config,
    awd_lstm_lm_config,
    language_model_learner,
    set_seed,
    text_classifier_learner,
)

from mailtagger.artifact import ID_PATTERN
from mailtagger.clean import RULES_HASH
from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import checkpoint, fastai_weights, tokenizer
from mailtagger.ulmfit.classifier import logits
from mailtagger.ulmfit.export import export
from mailtagger.ulmfit.model import Classifier, Dropouts, Sizes
from training import lm
from training.balance import balance, kind
from training.calibrate import choose, fingerprint
from training.classifier import GOLDEN
from training.examples import examples
from training.labels import sound
from training.prepare import OUT, load
from training.splits import Row, split

HEAD, TAIL = 256, 128  # pieces of a long mail
State = dict[str, torch.Tensor]


class Pieces(SubwordTokenizer):
    """Our tokeniser as fastai calls one: the pieces of each text, after `finish`."""

    def __init__(self, file: Path, finish: Callable[[list[str]], Sequence[str]]) -> None:
        super().__init__(sp_model=file, cache_dir=file.parent)
        self.finish = finish

    def __call__(self, items: Iterable[str]) -> Iterator[Sequence[str]]:
        return map(self.finish, super().__call__(items))


def frame(learned: Sequence[Row], valid: Sequence[Row]) -> pd.DataFrame:
    """fastai's table: text, label, is_valid."""
    parts = ((row, part) for part, rows in enumerate((learned, valid)) for row in rows)
    return pd.DataFrame(
        [(row.document.text, row.document.label, bool(part)) for row, part in parts],
        columns=["text", "label", "is_valid"],
    )


def ready(learner: Learner, state: State) -> Learner:
    """The learner with these weights, in mixed precision where there is a GPU for it; bars on a terminal only."""
    learner.model.load_state_dict(state)
    if not sys.stdout.isatty():
        learner.remove_cb(ProgressCallback)
    if not torch.cuda.is_available():
        return learner
    return learner.to_bf16() if torch.cuda.is_bf16_supported() else learner.to_fp16()


def language_model(table: pd.DataFrame, state: State, sizes: Sizes, file: Path, epochs: int) -> State:
    """Stage 2, LM fine-tuning: our state in, our state out."""
    words = vocabulary(file)
    mails = DataBlock(
        blocks=TextBlock.from_df(
            "text", vocab=words, is_lm=True, rules=[], n_workers=0,
            tok=Pieces(file, lambda pieces: [*pieces, words[tokenizer.END]]),
        ),
        get_x=ColReader("text"),
        splitter=ColSplitter(),
    )  # fmt: skip
    learn = language_model_learner(
        loaders(mails, table), AWD_LSTM, config=awd_lstm_lm_config | shape(sizes), drop_mult=0.5, pretrained=False,
        metrics=[accuracy, Perplexity()],
    )  # fmt: skip
    learn = ready(learn, fastai_weights.language_model_to_fastai(state))
    learn.freeze()
    learn.fit_one_cycle(1, 2e-2)
    learn.unfreeze()
    learn.fit_one_cycle(epochs, 2e-3)
    return fastai_weights.language_model_from_fastai(on_cpu(learn))


def classifier(table: pd.DataFrame, state: State, sizes: Sizes, file: Path, epochs: int) -> tuple[State, Any]:
    """Stage 3, gradual unfreezing: a language model's state in; a classifier's out, and P(spam) of validation mail."""
    mails = DataBlock(
        blocks=(
            TextBlock.from_df(
                "text", vocab=vocabulary(file), seq_len=HEAD + TAIL, rules=[], n_workers=0,
                tok=Pieces(file, lambda pieces: tokenizer.cut(pieces, HEAD, TAIL)),
            ),
            CategoryBlock(vocab=["ham", "spam"]),
        ),
        get_x=ColReader("text"),
        get_y=ColReader("label"),
        splitter=ColSplitter(),
    )  # fmt: skip
    learn = text_classifier_learner(
        loaders(mails, table), AWD_LSTM, config=awd_lstm_clas_config | shape(sizes), drop_mult=0.5, pretrained=False,
        seq_len=HEAD + TAIL, metrics=accuracy,
    )  # fmt: skip
    fresh = dict(learn.model.state_dict())
    learn = ready(learn, fresh | fastai_weights.encoder_to_fastai(state, "0.module."))
    learn.freeze()
    learn.fit_one_cycle(1, 2e-2)
    for layers, rate in ((-2, 1e-2), (-3, 5e-3)):
        learn.freeze_to(layers)
        learn.fit_one_cycle(1, slice(rate / 2.6**4, rate))
    learn.unfreeze()
    learn.fit_one_cycle(epochs, slice(1e-3 / 2.6**4, 1e-3))
    probabilities, _ = learn.get_preds()
    return fastai_weights.classifier_from_fastai(on_cpu(learn)), probabilities[:, 1].double().numpy()


def loaders(block: DataBlock, table: pd.DataFrame) -> DataLoaders:
    return block.dataloaders(table, bs=64, num_workers=0)


def vocabulary(file: Path) -> list[str]:
    """Our pieces in our order. fastai pads with number 1, which is START here and stands in no text."""
    pieces = tokenizer.load(file)
    return [pieces.id_to_piece(i) for i in range(pieces.vocab_size())]


def shape(sizes: Sizes) -> dict[str, int]:
    return {"emb_sz": sizes.embedding, "n_hid": sizes.hidden, "n_layers": sizes.layers}


def on_cpu(learn: Learner) -> State:
    return {name: value.detach().float().cpu() for name, value in learn.model.state_dict().items()}


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.fastai_recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("protocol")
    options.add_argument("--start", type=Path, default=lm.LM / f"{lm.GENERAL}.safetensors", metavar="FILE")
    options.add_argument("--lm-epochs", type=int, default=4, help="with all layers, after one with the outermost alone")
    options.add_argument("--epochs", type=int, default=2, help="of the whole classifier, after three with a part of it")
    options.add_argument("--out", type=Path, help="the model's directory; build/models/fastai-PROTOCOL if not given")
    options.add_argument("--smoke", action="store_true", help="all of it in seconds, on made-up mail")
    chosen = options.parse_args(arguments)
    out = chosen.out or Path("build/models") / f"fastai-{chosen.protocol.replace(':', '-')}"
    if not re.fullmatch(ID_PATTERN, out.name) or min(chosen.epochs, chosen.lm_epochs) < 1:
        raise MailtaggerError("--out names no model, or an epoch count is below one.", "Small letters, digits, dashes.")
    if chosen.smoke:
        out = chosen.out.absolute() if chosen.out else out  # else a trial would take a real model's place
        lm.main(["--smoke", "--mail-minutes", "0"])
        chosen.lm_epochs = chosen.epochs = 1
    set_seed(0)
    file = lm.LM / lm.TOKENIZER
    state, _ = checkpoint.load(chosen.start, print, tokenizer=file, cleaning=RULES_HASH)
    sizes = checkpoint.sizes(state)
    rows = split(chosen.protocol, load(OUT))
    learned = examples(rows.train)
    valid = sound(rows.valid)
    table = frame(learned, valid)
    state = language_model(table, state, sizes, file, chosen.lm_epochs)
    state, theirs = classifier(table, state, sizes, file, chosen.epochs)

    ours = Classifier(sizes, Dropouts())
    ours.load_state_dict(state)
    pieces = tokenizer.load(file)
    said = logits(ours, [tokenizer.cut(i, HEAD, TAIL) for i in pieces.encode([r.document.text for r in valid])])
    worst = float(np.abs(1 / (1 + np.exp(-said)) - theirs).max())
    print(f"{len(valid)} validation mails: P(spam) of fastai and of ours, by the same weights, differs by {worst:.1e}.")
    truth = np.array([row.document.label == "spam" for row in valid])
    rule = choose(
        said, np.zeros_like(said), truth, np.array(balance(valid)), np.array([kind(row) for row in valid])
    )
    export(
        {name: value.numpy() for name, value in state.items() if not name.endswith("num_batches_tracked")},
        file,
        out,
        id=out.name,
        golden=GOLDEN,
        calibration=(rule.a, rule.b),
        cutoffs=(rule.ham_cutoff, rule.spam_cutoff),
        cut=(HEAD, TAIL),
        metrics={
            "training": {
                "protocol": chosen.protocol,
                "rows": len(learned),
                "epochs": chosen.epochs + 3,
                "test": fingerprint(rows.test),
            },
            "valid": {"errors_at_half": round(float(np.mean((theirs > 0.5) != truth)), 4), "rows": len(valid)},
        },
        data=f"{chosen.protocol}, {len(learned)} examples of {len(rows.train)} training rows, by fastai",
        created=time.strftime("%Y-%m-%d"),
    )
    print(f"{out} is complete", flush=True)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
