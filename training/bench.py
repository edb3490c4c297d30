"""Speed and memory beside other filters, from one run on the same messages: `python -m training.bench`.

Each filter runs in a process of its own, pinned to one core: twice over one message, then over all of them. The second
run tells what starting costs; the speed is that of the other messages, by the difference in CPU time between the third
and the second, so that what else the machine does is not counted. Memory is the peak of the process. bogofilter is
taught with other mail first. fastai gets mailtagger's own weights and tokens, and the answers of the two are compared.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mailtagger import artifact
from mailtagger.artifact import Artifact
from mailtagger.clean import clean
from mailtagger.errors import MailtaggerError
from mailtagger.files import read
from mailtagger.parse import parse
from mailtagger.score import Scorer
from training import corpora

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "mailtagger" / "demo_mail"
RAW_CORPORA = ("spamassassin", "phishing", "modern_ham_a")
TAUGHT = 1000
CONFIG = """
state_dir: {state}
model: {model}
accounts: [{{name: bench, host: localhost, username: bench}}]
"""


@dataclass(frozen=True)
class Filter:
    """A program that judges mail: how it is called on a directory of messages, or how to get it."""

    name: str
    command: list[str]
    reads: str = ""  # what goes to its standard input: "names" of the files, or an "mbox" of them
    ends: tuple[int, ...] = (0,)  # the exit statuses of a good end
    missing: str = ""


@dataclass(frozen=True)
class Run:
    """One process: CPU seconds, peak of resident memory in MB, and what it printed."""

    seconds: float
    megabytes: float
    output: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(prog="python -m training.bench", description=__doc__.partition("\n")[0])
    options.add_argument("--messages", type=Path, help="a directory of raw messages instead of $MAILTAGGER_CORPORA")
    options.add_argument("--model", type=Path, help="a model directory instead of the packaged one")
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--fastai", type=Path, help=argparse.SUPPRESS)  # the worker: a directory of messages
    given = options.parse_args(arguments)
    if given.count < 2:
        options.error("--count takes 2 or more: the first message tells what starting costs")
    model = artifact.load(given.model or artifact.find(None))
    if given.fastai:
        predict_with_fastai(model, given.fastai)
        return
    with tempfile.TemporaryDirectory(prefix="mailtagger-bench-") as aside:
        bench(model, Path(aside), *choose(given.messages, given.count, given.seed))


def choose(directory: Path | None, count: int, seed: int) -> tuple[list[bytes], list[tuple[str, bytes]], str]:
    """The messages to judge, other labelled ones to teach bogofilter with, and a sentence on where they come from."""
    if directory is None and os.environ.get("MAILTAGGER_CORPORA"):
        known = [raw for name in RAW_CORPORA for raw in corpora.raws(name, corpora.home())]
        drawn = random.Random(seed).sample(known, min(len(known), count + TAUGHT))
        labelled = [(raw.label, raw.content) for raw in drawn if isinstance(raw.content, bytes)]
        where = f"drawn from {', '.join(RAW_CORPORA)} with seed {seed}"
        return [raw for _, raw in labelled[:count]], labelled[count:], where
    found = [source.raw for source in read([str(directory or SAMPLES)]) if not source.error]
    if not found:
        raise MailtaggerError(f"There is no message in {directory or SAMPLES}.", "--messages names another directory.")
    random.Random(seed).shuffle(found)
    raws = [found[i % len(found)] for i in range(count)]
    where = f"{len(found)} different ones from {directory or SAMPLES}"
    return raws, [(("ham", "spam")[i % 2], raw) for i, raw in enumerate(found)], where


def bench(model: Artifact, aside: Path, raws: list[bytes], taught: list[tuple[str, bytes]], where: str) -> None:
    """Runs every filter that is installed, and prints what each cost."""
    for name, some in (("one", raws[:1]), ("all", raws)):
        (aside / name).mkdir()
        for i, raw in enumerate(some):
            (aside / name / f"{i:05}.eml").write_bytes(raw)
    core = max(os.sched_getaffinity(0))
    sizes = sorted(len(raw) for raw in raws)
    print(f"{len(raws)} messages, {where}; median {sizes[len(sizes) // 2] / 1000:.1f} kB.")
    print(f"Model {model.id}; one core of {_processor()}.\n")
    print(f"{'':36}{'mails/s':>9}{'× mailtagger':>14}{'start, s':>10}{'peak MB':>9}")
    answers: dict[str, str] = {}
    base = 0.0
    for contestant in _filters(model, aside, taught):
        if contestant.missing:
            print(f"{contestant.name:36}not installed: {contestant.missing}")
            continue
        _run(contestant, aside, "one", core)
        one, every = (_run(contestant, aside, name, core) for name in ("one", "all"))
        speed = (len(raws) - 1) / max(every.seconds - one.seconds, 0.01)
        base = base or speed
        answers[contestant.name.split()[0]] = every.output
        print(
            f"{contestant.name:36}{speed:9.1f}{speed / base:14.3f}{one.seconds:10.2f}{every.megabytes:9.0f}", flush=True
        )
    if {"mailtagger", "fastai"} <= answers.keys():
        _compare(answers["mailtagger"], answers["fastai"])


def _filters(model: Artifact, aside: Path, taught: list[tuple[str, bytes]]) -> Iterator[Filter]:
    config = aside / "config.yaml"
    config.write_text(CONFIG.format(state=aside / "state", model=model.path))
    python = [sys.executable, "-m"]
    yield Filter("mailtagger score", [*python, "mailtagger", "--config", str(config), "score", "--json", "DIR"])
    there = importlib.util.find_spec("fastai")
    yield Filter(
        f"fastai {version('fastai')} Learner.predict" if there else "fastai Learner.predict",
        [*python, "training.bench", "--model", str(model.path), "--fastai", "DIR"],
        missing="" if there else "`make bench` installs it, or pip install 'mailtagger[train]' -c constraints.txt",
    )
    words = aside / "words"
    if shutil.which("bogofilter"):
        words.mkdir()
        for label, switch in (("ham", "-n"), ("spam", "-s")):
            mbox = b"".join(_in_mbox(raw) for of, raw in taught if of == label)
            subprocess.run(["bogofilter", "-C", "-d", str(words), "-M", switch], input=mbox, check=True)
    bogofilter = ["bogofilter", "-C", "-d", str(words), "-T", "-b"]
    yield Filter("bogofilter, all in one process", bogofilter, "names", (0, 1, 2), _absent("bogofilter"))
    spamassassin = ["spamassassin", "-L", "-t", "-x", "--mbox"]
    yield Filter("SpamAssassin -L, all in one process", spamassassin, "mbox", missing=_absent("spamassassin"))


def _absent(program: str) -> str:
    return "" if shutil.which(program) else f"apt-get install {program}"


def _run(contestant: Filter, aside: Path, messages: str, core: int) -> Run:
    """One process over the messages in a directory, pinned to a core."""
    files = sorted((aside / messages).iterdir())
    match contestant.reads:
        case "names":
            given = "".join(f"{file}\n" for file in files).encode()
        case "mbox":
            given = b"".join(_in_mbox(file.read_bytes()) for file in files)
        case _:
            given = b""
    stdin, stdout = aside / "stdin", aside / "stdout"
    stdin.write_bytes(given)
    home = {"HOME": str(aside), "OMP_NUM_THREADS": "1"}
    command = [str(aside / messages) if part == "DIR" else part for part in contestant.command]
    with stdin.open("rb") as source, stdout.open("wb") as target:
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=target,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **home},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        peak = Peak(process.pid)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in contestant.ends:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {said.decode(errors='replace')[-500:]}")
    return Run(usage.ru_utime + usage.ru_stime, peak.stop(), stdout.read_text(errors="replace"))


class Peak:
    """The highest resident memory of a process; the kernel's own ru_maxrss begins with that of the parent."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._megabytes = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            try:
                lines = self._status.read_text().splitlines()
            except OSError:
                return
            for line in lines:
                if line.startswith("VmHWM:"):
                    self._megabytes = int(line.split()[1]) / 1024

    def stop(self) -> float:
        """The peak in MB."""
        self._ended.set()
        self._thread.join()
        return self._megabytes


def _in_mbox(raw: bytes) -> bytes:
    body = raw.replace(b"\r\n", b"\n")
    body = body.partition(b"\n")[2] if body.startswith(b"From ") else body
    return b"From bench@localhost Thu Jan  1 00:00:00 1970\n" + body.replace(b"\nFrom ", b"\n>From ") + b"\n\n"


def _compare(ours: str, theirs: str) -> None:
    scores = [json.loads(line)["score"] for line in ours.splitlines()]
    others = [json.loads(line) for line in theirs.splitlines()]
    both = [(a, b) for a, b in zip(scores, others, strict=True) if a is not None and b is not None]
    worst = max(abs(a - b) for a, b in both)
    mean = sum(abs(a - b) for a, b in both) / len(both)
    print(f"\nP(spam) of mailtagger (int8) and fastai (fp32) differs by {mean:.4f} on average, {worst:.4f} at most.")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "this machine"


def predict_with_fastai(model: Artifact, directory: Path) -> None:
    """Prints P(spam) for each message of a directory: fastai's, with the artifact's weights and tokens, and what the
    artifact's linear part makes of it, which fastai has no name for."""
    from safetensors.numpy import load

    from mailtagger.ulmfit.export import linear_part
    from mailtagger.ulmfit.linear import bounded

    scorer, beside = Scorer(model), linear_part(load(model.read(artifact.WEIGHTS)))
    learner, calibration = _learner(model, scorer), model.meta.calibration

    def probability(text: str) -> float:
        p = float(np.clip(float(learner.predict(text)[2][1]), 1e-7, 1 - 1e-7))
        if not beside:
            return p
        part, mix = beside
        lstm = (np.log(p / (1 - p)) - calibration.b) / calibration.a
        return scorer.probability(float(bounded(lstm) + mix * part.logits([scorer.ids(text).tolist()])[0]))

    with learner.no_bar(), learner.no_logging():
        for file in sorted(directory.iterdir()):
            text = clean(parse(file.read_bytes()))
            print(json.dumps(probability(text) if text.strip() else None))


def _learner(model: Artifact, scorer: Scorer) -> Any:
    """A fastai text classifier, AWD_LSTM, that computes what the artifact does."""
    import torch
    from fastai.text import all as fastai
    from safetensors.torch import load
    from sentencepiece import SentencePieceProcessor

    from mailtagger.ulmfit.fastai_weights import classifier_to_fastai

    torch.set_num_threads(1)
    state = {name: value.float() for name, value in load(model.read(artifact.WEIGHTS)).items()}
    state["head.linear1.weight"] *= model.meta.calibration.a
    state["head.linear1.bias"] = state["head.linear1.bias"] * model.meta.calibration.a + model.meta.calibration.b
    pieces = SentencePieceProcessor(model_proto=model.read(artifact.TOKENIZER))
    words = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]

    class Pieces:
        """The scorer's tokens in fastai's form."""

        def __call__(self, texts: list[str]) -> Iterator[list[str]]:
            return ([words[i] for i in scorer.ids(text)] for text in texts)

    block = fastai.DataBlock(
        blocks=(
            fastai.TextBlock(fastai.Tokenizer(Pieces(), rules=[]), vocab=words),
            fastai.CategoryBlock(vocab=["ham", "spam"]),
        ),
        get_x=fastai.ItemGetter(0),
        get_y=fastai.ItemGetter(1),
    )
    loaders = block.dataloaders([("hello", "ham"), ("order now", "spam")] * 2, bs=2, num_workers=0)
    embedding, hidden = (state[f"encoder.{name}"].shape[1] for name in ("embedding.weight", "lstm.0.weight_hh"))
    layers = sum(name.endswith(".weight_ih") for name in state)
    config = {**fastai.awd_lstm_clas_config, "emb_sz": embedding, "n_hid": hidden, "n_layers": layers}
    learner = fastai.text_classifier_learner(
        loaders, fastai.AWD_LSTM, config=config, pretrained=False, loss_func=fastai.CrossEntropyLossFlat(), path="."
    )
    learner.model.load_state_dict(classifier_to_fastai(state))
    learner.model.eval()
    return learner


if __name__ == "__main__":
    try:
        main()
    except MailtaggerError as error:
        sys.exit(str(error))
