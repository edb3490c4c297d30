"""ULMFiT's and AWD-LSTM's choices, each against its alternatives under an equal budget: tables for RESULTS.md.

    python -m training.ablate classifier dedup --seeds 3 --mails 6000 [--bf16] [--write]
    python -m training.ablate lm [--bf16] [--write]          the parts of AWD-LSTM, each left out
    python -m training.ablate finetune [--bf16] [--write]    rates of fine-tuning on mail
    python -m training.ablate … --smoke                      all of it in seconds, on made-up mail

Needs `training.prepare` and `training.lm`. Each run leaves a file in build/ablations, and is not made again: a command
that was stopped goes on. The linear models beside them learn from the same mails. Test rows are one of each
near-duplicate group, without wrong labels; no run chooses anything by them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import checkpoint, tokenizer
from mailtagger.ulmfit.batching import Stream
from mailtagger.ulmfit.classifier import fit_classifier, load_encoder, logits
from mailtagger.ulmfit.language_model import fit_language_model
from mailtagger.ulmfit.model import Classifier, Dropouts, LanguageModel, Pooling
from mailtagger.ulmfit.run import Schedule
from mailtagger.ulmfit.tokenizer import Tokenizer
from training import classifier, lm, tokenizers
from training.arguments import positive
from training.balance import balance
from training.baselines import BASELINES
from training.figures import Flags, Scores, replace_section, table
from training.labels import sound
from training.prepare import OUT, load
from training.splits import Row, Split, split

RUNS = Path("build/ablations")
RESULTS = Path("training/RESULTS.md")
LABELS = (100, 500, 1000)
TRIAL_TOKENS, TUNING_TOKENS = 250_000, 1_000_000
Log = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """How a classifier is trained; the defaults are ours."""

    encoder: str = lm.MAIL  # a language model of build/lm, or "" for none
    unfreezing: str = "gradual"
    discriminative: float = 2.6
    shape: str = "slanted"
    pooling: Pooling = "concat"
    labels: int = 0  # of them, 0 for all
    backward: bool = False


OURS = Setting()
QUESTIONS: dict[str, dict[str, Setting]] = {
    "what the encoder has read": {
        "nothing": replace(OURS, encoder=""),
        "general text": replace(OURS, encoder=lm.GENERAL),
        "general text, then mail": OURS,
    },
    "unfreezing": {
        "last layer only": replace(OURS, unfreezing="last"),
        "all from the start": replace(OURS, unfreezing="full"),
        "chain-thaw": replace(OURS, unfreezing="chain-thaw"),
        "gradual": OURS,
    },
    "rates of the layers": {"one for all": replace(OURS, discriminative=1.0), "discriminative, 2.6": OURS},
    "rates over time": {
        "cosine": replace(OURS, shape="cosine"),
        "one cycle": replace(OURS, shape="one-cycle"),
        "slanted triangular": OURS,
    },
    "pooling": {
        "last": replace(OURS, pooling="last"),
        "mean": replace(OURS, pooling="mean"),
        "concat (last, max, mean)": OURS,
    },
    "labels, from scratch": {f"{n:,}": replace(OURS, encoder="", labels=n) for n in LABELS},
    "labels, ULMFiT": {f"{n:,}": replace(OURS, labels=n) for n in LABELS},
    "direction": {
        "forward": OURS,
        "backward": replace(OURS, encoder=f"{lm.MAIL}-backward", backward=True),
    },
}


@dataclass(frozen=True)
class Budget:
    """What every run of a table may spend."""

    mails: int
    bf16: bool


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(
        prog="python -m training.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("kind", choices=("classifier", "lm", "finetune"))
    options.add_argument("protocol", nargs="?", default="dedup", help="of the classifier: dedup, lomo:1 …")
    options.add_argument("--seeds", type=positive, default=3)
    options.add_argument("--mails", type=positive, default=6000, help="that each classifier reads, again and again")
    options.add_argument("--tokens", type=positive, help="of an epoch of a language model")
    options.add_argument("--bf16", action="store_true", help="multiply in bf16, on a processor that can")
    options.add_argument("--write", action="store_true", help=f"the table into {RESULTS}")
    options.add_argument("--smoke", action="store_true", help="all of it in seconds, on made-up mail")
    chosen = options.parse_args(arguments)
    if chosen.smoke:
        lm.main(["--smoke"])
        lm.main("--backward --resume --size tiny --general-minutes 0 --epochs 1".split())
        chosen.seeds, chosen.mails, chosen.tokens = 1, 64, 2000
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    pieces = tokenizers.load(lm.LM / lm.TOKENIZER)
    match chosen.kind:
        case "classifier":
            budget = Budget(chosen.mails, chosen.bf16)
            text = classifiers(chosen.protocol, chosen.seeds, budget, pieces)
            name = f"ablations, {chosen.protocol}"
        case "lm":
            text = language_models(pieces, chosen.tokens or TRIAL_TOKENS, chosen.seeds, chosen.bf16)
            name = "ablations, language model"
        case _:
            text = tunings(pieces, chosen.tokens or TUNING_TOKENS, chosen.seeds, chosen.bf16)
            name = "ablations, fine-tuning the language model"
    print(text)
    if chosen.write:
        replace_section(RESULTS, name, text)


def classifiers(protocol: str, seeds: int, budget: Budget, pieces: Tokenizer) -> str:
    """The table of every question, errors and AUC as mean ± standard deviation over seeds."""
    rows = split(protocol, load(OUT))
    tests = sound(rows.test)
    truth = spam(tests)
    scores: dict[Setting, list[Scores]] = {}
    head = ["question", "answer", f"errors of {len(tests):,}", "AUC"]
    lines = []
    for question, answers in QUESTIONS.items():
        for answer, setting in answers.items():
            if setting.encoder and not (lm.LM / f"{setting.encoder}.safetensors").exists():
                continue
            if setting not in scores:
                scores[setting] = [_classifier(protocol, rows, tests, setting, s, budget, pieces) for s in range(seeds)]
            lines.append([question, answer, *cells(scores[setting], truth)])
        if question == "direction" and len(directions := list(answers.values())) == 2 and directions[1] in scores:
            both = [(a + b) / 2 for a, b in zip(*(scores[one] for one in directions), strict=True)]
            lines.append([question, "mean of both", *cells(both, truth)])
    for name, fit in BASELINES.items():
        for labels in (*LABELS, 0):
            found = []
            for seed in range(seeds if labels else 1):
                learned = drawn(rows, labels, seed)
                score = fit([row.document.text for row in learned], list(spam(learned)))
                found.append(score([row.document.text for row in tests]))
            lines.append([name, f"{labels:,} labels" if labels else "all labels", *cells(found, truth)])
    about = (
        f"Each run reads {budget.mails:,} mails, of {len(drawn(rows, 0, 0)):,} with labels where not said otherwise; "
        f"{seeds} seeds, mean ± standard deviation; the LSTM alone, at P = 0.5. `python -m training.ablate classifier "
        f"{protocol} --seeds {seeds} --mails {budget.mails}`"
    )
    return f"{about}\n\n{table(head, lines)}"


def _classifier(
    protocol: str, rows: Split, tests: Sequence[Row], setting: Setting, seed: int, budget: Budget,
    pieces: Tokenizer,
) -> Scores:
    """The logits of the test rows by a classifier so trained."""
    name = "-".join(str(v).replace("-", "") for v in (protocol.replace(":", ""), *asdict(setting).values(), seed))
    file = RUNS / f"{name}-{budget.mails}.json"

    def ids(some: Sequence[Row]) -> list[list[int]]:
        found = [tokenizer.cut(one) for one in pieces.encode([row.document.text for row in some])]
        return [one[::-1] for one in found] if setting.backward else found

    def run() -> list[float]:
        print(f"== {file.stem}", flush=True)
        learned = drawn(rows, setting.labels, seed)
        torch.manual_seed(seed)
        encoder = lm.LM / f"{setting.encoder or lm.MAIL}.safetensors"
        model = Classifier(classifier.sizes(encoder), Dropouts().scaled(0.6), setting.pooling)
        if setting.encoder:
            load_encoder(model, encoder)
        epochs = budget.mails / len(learned)
        structure = frozenset(pieces.piece_to_id(mark) for mark in tokenizer.STRUCTURE)
        fit_classifier(
            model, ids(learned), [float(x) for x in spam(learned)], balance(learned),
            Schedule(600, epochs, 5e-3, bf16=budget.bf16, shape=setting.shape, seed=seed),
            _say, classifier.noise(structure),
            unfreezing_scheme=setting.unfreezing, discriminative=setting.discriminative,
        )
        return [round(float(x), 5) for x in logits(model, ids(tests))]

    return np.array(once(file, run))


def drawn(rows: Split, labels: int, seed: int) -> list[Row]:
    """As many training rows, half of each label; each of a near-duplicate group of its own, none labelled wrong."""
    found = sound(rows.train)
    if not labels:
        return found
    order = np.random.default_rng(seed).permutation(len(found))
    halves = [[found[i] for i in order if found[i].document.label == label] for label in ("ham", "spam")]
    return [row for half in halves for row in half[: labels // 2]]


def language_models(pieces: Tokenizer, tokens: int, seeds: int, bf16: bool) -> str:
    """Perplexity of mail with each part of AWD-LSTM left out, from scratch."""
    stream, valid = _mail(pieces, tokens)
    plan, drop = Schedule(600, 6, 4e-3, batch=32, bf16=bf16), Dropouts()
    parts: dict[str, tuple[Schedule, Dropouts, dict[str, float], bool]] = {
        "all of it, AdamW": (plan, drop, {}, True),
        "without weight drop": (plan, replace(drop, weights=0), {}, True),
        "without variational dropout": (plan, replace(drop, inputs=0, hidden=0, output=0), {}, True),
        "without embedding dropout": (plan, replace(drop, embedding=0), {}, True),
        "without any dropout": (plan, drop.scaled(0), {}, True),
        "without activation regularisation": (plan, drop, {"alpha": 0.0}, True),
        "without temporal activation regularisation": (plan, drop, {"beta": 0.0}, True),
        "without tied weights": (plan, drop, {}, False),
        "windows all as long": (replace(plan, variable=False), drop, {}, True),
        "SGD": (replace(plan, optimizer="sgd", rate=10, shape="constant"), drop, {}, True),
        "ASGD": (replace(plan, optimizer="asgd", rate=10, shape="constant"), drop, {}, True),
        "NT-ASGD": (
            replace(plan, optimizer="nt-asgd", rate=10, shape="constant", checks=4, patience=3), drop, {}, True
        ),
    }
    sizes = classifier.sizes(lm.LM / f"{lm.GENERAL}.safetensors")
    lines = []
    for part, (schedule, dropouts, penalties, tied) in parts.items():

        def run(seed: int, plan=schedule, dropouts=dropouts, penalties=penalties, tied=tied) -> float:  # type: ignore[no-untyped-def]
            torch.manual_seed(seed)
            model = LanguageModel(sizes, dropouts, tied)
            plan = replace(plan, seed=seed)
            return fit_language_model(model, stream, valid, plan, RUNS / "trial.safetensors", _say, **penalties)

        lines.append([part, _spread(list(_seeded(f"lm-{part}-{len(stream)}", seeds, run)), "{:.1f}")])
    about = (
        f"Perplexity on {len(valid):,} pieces of other mail after 6 epochs of {len(stream):,}, from scratch, embedding "
        f"{sizes.embedding}, hidden {sizes.hidden} × {sizes.layers}; {seeds} seeds, mean ± standard deviation. "
        f"`python -m training.ablate lm --seeds {seeds}`"
    )
    return f"{about}\n\n{table(['language model', 'perplexity'], lines)}"


def tunings(pieces: Tokenizer, tokens: int, seeds: int, bf16: bool) -> str:
    """Perplexity of mail after fine-tuning the general language model, by how the rates go."""
    stream, valid = _mail(pieces, tokens)
    general = lm.opened(lm.LM / f"{lm.GENERAL}.safetensors", _say)
    sizes = checkpoint.sizes(general)
    lines = []
    for name, shape, scale, begun in (
        ("slanted triangular, discriminative 2.6", "slanted", 2.6, True),
        ("slanted triangular, one rate", "slanted", 1.0, True),
        ("one cycle, discriminative 2.6", "one-cycle", 2.6, True),
        ("one cycle, one rate", "one-cycle", 1.0, True),
        ("cosine, one rate", "cosine", 1.0, True),
        ("slanted triangular, one rate, from scratch", "slanted", 1.0, False),
    ):

        def run(seed: int, shape: str = shape, scale: float = scale, begun: bool = begun) -> float:
            torch.manual_seed(seed)
            model = LanguageModel(sizes, Dropouts().scaled(0.5))
            if begun:
                model.load_state_dict(general)
            plan = Schedule(600, 1, 3e-3, bf16=bf16, shape=shape, seed=seed)
            file = RUNS / "trial.safetensors"
            return fit_language_model(model, stream, valid, plan, file, _say, discriminative=scale)

        lines.append([name, _spread(list(_seeded(f"finetune-{name}-{len(stream)}", seeds, run)), "{:.1f}")])
    about = (
        f"Perplexity on {len(valid):,} pieces of mail that was held out, after one epoch of {len(stream):,}; {seeds} "
        f"seeds, mean ± standard deviation. `python -m training.ablate finetune --seeds {seeds}`"
    )
    return f"{about}\n\n{table(['fine-tuning on mail', 'perplexity'], lines)}"


def _mail(pieces: Tokenizer, tokens: int) -> tuple[Stream, Stream]:
    """Training mail of every corpus in no order, as many pieces, and a tenth as many of other such mail."""
    texts = [row.document.text[:3000] for row in split("default", load(OUT)).train if row.document.text]
    order = np.random.default_rng(0).permutation(len(texts))
    stream = tokenizer.stream(pieces, [texts[i] for i in order])
    tokens = min(tokens, len(stream) * 10 // 11)
    return stream[:tokens], stream[tokens : tokens + max(tokens // 10, 1)]


def _seeded(name: str, seeds: int, run: Callable[[int], float]) -> Iterator[float]:
    stem = name.replace(" ", "-").replace(",", "")
    for seed in range(seeds):
        print(f"== {name}, seed {seed}", flush=True)
        yield once(RUNS / f"{stem}-{seed}.json", lambda seed=seed: [run(seed)])[0]  # type: ignore[misc]


def once(file: Path, run: Callable[[], Any]) -> Any:
    """What a file remembers of a run, as JSON; made and remembered if there is none."""
    if not file.exists():
        file.with_suffix(".new").write_text(json.dumps(run()))
        file.with_suffix(".new").replace(file)
    return json.loads(file.read_text())


def cells(scores: Sequence[Scores], truth: Flags) -> list[str]:
    """Errors at 0 and AUC, as mean ± standard deviation over the runs whose scores these are."""
    errors = [float(np.mean((one >= 0) != truth)) for one in scores]
    return [_spread(errors, "{:.2%}"), _spread([float(roc_auc_score(truth, one)) for one in scores], "{:.4f}")]


def _spread(values: Sequence[float], form: str) -> str:
    mean = form.format(float(np.mean(values)))
    return f"{mean} ± {form.format(float(np.std(values, ddof=1)))}" if len(values) > 1 else mean


def spam(rows: Sequence[Row]) -> Flags:
    """Which of the rows are labelled spam."""
    return np.array([row.document.label == "spam" for row in rows], bool)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
