"""A model directory: what is in it, whether it may be trusted, and how one takes the place of another.

    models/current → base-20261124          one symlink, swapped in one step; `previous` remembers the one before
    models/base-20261124/meta.json           what it is, and the sha256 of every file beside it
                         model.int8.onnx     the graph that scores
                         tokenizer.model     sentencepiece
                         weights.safetensors where training goes on from; no pickle anywhere
                         model.fp32.onnx     the reference; may be absent

`load` believes nothing it has not read: only these names, only plain files, only bytes with the recorded sha256, only
operators that an ULMFiT graph has, and only under the cleaning rules that the model learned with.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from sentencepiece import SentencePieceProcessor

from mailtagger.clean import RULES_HASH
from mailtagger.errors import ModelError
from mailtagger.graph import embedding_rows
from mailtagger.graph import pieces as pieces_of
from mailtagger.state import private_directory

FORMAT: Literal[1] = 1
CURRENT, PREVIOUS = "current", "previous"
META = "meta.json"
GRAPH = "model.int8.onnx"
REFERENCE = "model.fp32.onnx"
TOKENIZER = "tokenizer.model"
WEIGHTS = "weights.safetensors"
NEEDED = frozenset({GRAPH, TOKENIZER, WEIGHTS})
MAX_BYTES = 1 << 29  # the seed's full size, 60k words × 400, is 190 MB in fp32
MAX_META = MAX_HEADER = 1 << 20  # HEADER: of the weights
MAX_WORDS = 1 << 16
PACKAGED = Path(__file__).parent / "models"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Within = Annotated[float, Field(ge=-1000, le=1000)]
# An id is a directory's name: one that can neither lead out of models/ nor be hidden there.
ID_PATTERN = r"^[a-z0-9][a-z0-9.-]{0,63}$"
Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Cutoffs(_Record):
    """The model's own policy: ham below `ham`, spam from `spam` on."""

    ham: Share
    spam: Share


class Calibration(_Record):
    """P(spam) = σ(a·logit + b), fitted on held-out foreign mail."""

    a: Within
    b: Within


class Cut(_Record):
    """Long mail: the first `head` and the last `tail` tokens."""

    head: Annotated[int, Field(ge=1, le=4096)]
    tail: Annotated[int, Field(ge=1, le=4096)]


class Golden(_Record):
    """A cleaned text and the P(spam) that this model gave it when it was made."""

    text: str
    p: Share


class Meta(_Record):
    """meta.json."""

    format: Literal[1]
    id: Id
    created: str
    cleaning: Sha256
    tokenizer: Sha256
    vocabulary: Annotated[int, Field(ge=2, le=MAX_WORDS)]
    labels: tuple[Literal["ham"], Literal["spam"]] = ("ham", "spam")
    cut: Cut
    calibration: Calibration
    cutoffs: Cutoffs
    metrics: dict[str, Any]
    parent: Id | None
    data: str
    files: dict[str, Sha256]
    golden: Annotated[tuple[Golden, ...], Field(min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _fits(self) -> "Meta":
        if not NEEDED <= self.files.keys() <= NEEDED | {REFERENCE}:
            raise ValueError(f"files must be {', '.join(sorted(NEEDED))} and at most {REFERENCE} beside them")
        if self.id in (CURRENT, PREVIOUS):
            raise ValueError(f"a model cannot be named {self.id}")
        if not self.cutoffs.ham <= self.cutoffs.spam:
            raise ValueError("cutoffs.ham lies above cutoffs.spam")
        return self


@dataclass(frozen=True)
class Artifact:
    """A model directory whose description has been read and, when it comes from `load`, verified."""

    path: Path
    meta: Meta

    @property
    def id(self) -> str:
        return self.meta.id

    def read(self, name: str) -> bytes:
        """The bytes of one of its files, which are those that meta.json speaks of: what is checked is what is used."""
        content = _plain(self.path / name, MAX_BYTES)
        if hashlib.sha256(content).hexdigest() != self.meta.files[name]:
            raise unusable(self.path, f"{name} is not the file that {META} describes")
        return content


def load(directory: Path) -> Artifact:
    """The artifact in `directory`, every file of it verified; ModelError says what is wrong with it."""
    path = directory.resolve()
    artifact = Artifact(path, _meta(path))
    meta = artifact.meta
    if meta.cleaning != RULES_HASH:
        raise unusable(path, "it was trained under other cleaning rules than this version of mailtagger has")
    if (path / REFERENCE).exists():
        if REFERENCE not in meta.files:
            raise unusable(path, f"{META} does not know its {REFERENCE}")
        artifact.read(REFERENCE)
    if int.from_bytes(artifact.read(WEIGHTS)[:8], "little") > MAX_HEADER:  # safetensors begins with its header's length
        raise unusable(path, f"{WEIGHTS} has no header of a sensible length")
    if meta.tokenizer != meta.files[TOKENIZER]:
        raise unusable(path, "it was trained with another tokeniser")
    try:
        tokenizer = artifact.read(TOKENIZER)
        if (pieces := pieces_of(tokenizer)) == meta.vocabulary:  # or there is no need to open it
            pieces = SentencePieceProcessor(model_proto=tokenizer).get_piece_size()
        rows = embedding_rows(artifact.read(GRAPH))
    except RuntimeError as error:
        raise unusable(path, f"{TOKENIZER} is no sentencepiece model") from error
    except ValueError as error:
        raise unusable(path, str(error)) from error
    if not pieces == rows == meta.vocabulary:
        raise unusable(
            path, f"it speaks of {meta.vocabulary} words, its tokeniser of {pieces}, its embedding of {rows}"
        )
    return artifact


def find(state_dir: Path | None, named: Path | None = None) -> Path:
    """The directory of the model in use: the one that is named, or that `current` points to, or the packaged one."""
    if named is not None:
        return named
    if state_dir is not None:
        current = state_dir / "models" / CURRENT
        if current.is_symlink() or current.exists():
            return _pointed(current)
    shipped = _directories(PACKAGED)
    if not shipped:
        raise ModelError(f"There is no model in {PACKAGED}.", "Install mailtagger again, or name one with `model:`.")
    return shipped[-1]


def available(state_dir: Path | None) -> list[Path]:
    """The model directories that can be named: those in the package, then those of the state directory."""
    return _directories(PACKAGED) + (_directories(state_dir / "models") if state_dir is not None else [])


def install(source: Path, state_dir: Path, prove: Callable[[Artifact], object]) -> Artifact:
    """The model of `source`, now `current` in `state_dir`, after `prove` (score.open_scorer) took the copy.

    Written aside, synced, verified where it lies, renamed, and only then pointed to: whoever reads `current` meanwhile
    finds the old model or the new one, whole.
    """
    wanted = load(source)
    models = state_dir / "models"
    private_directory(models)
    target = models / wanted.id
    if target.exists():
        if load(target).meta != wanted.meta:
            raise ModelError(f"Another model named {wanted.id} is there already.", "Give the new one an id of its own.")
        prove(load(target))
    else:
        aside = models / f".{wanted.id}"
        if aside.exists():  # an installation that was interrupted
            shutil.rmtree(aside)
        aside.mkdir()
        for name in [META, *wanted.meta.files]:
            if (wanted.path / name).exists():
                _write(aside / name, _plain(wanted.path / name, MAX_BYTES))
        _sync(aside)
        prove(load(aside))
        aside.rename(target)
    _point(models, target.name)
    return load(target)


def rollback(state_dir: Path) -> Artifact:
    """The model that was in use before this one, in use again: `previous`, or the packaged one where this one is the
    first that was installed. A second time it goes back to this one."""
    models = state_dir / "models"
    current, previous = models / CURRENT, models / PREVIOUS
    before = previous.readlink() if previous.is_symlink() else None
    now = current.readlink() if current.is_symlink() else None
    if before is None and now is None:
        raise ModelError(f"There is no earlier model in {models}.", "`mailtagger models list` shows which there are.")
    if before is None or before == now:
        artifact = load(find(None))
        _link(previous, str(now))
        current.unlink()
        _sync(models)
        return artifact
    artifact = load(_pointed(previous))
    _point(models, artifact.path.name)
    return artifact


def describe(directory: Path, **fields: Any) -> Artifact:
    """A description of the files that lie in `directory`, under the present cleaning rules; `write` makes it stay."""
    files = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
        for name in sorted(NEEDED | {REFERENCE})
        if (directory / name).exists()
    }
    return Artifact(
        directory.resolve(), Meta(format=FORMAT, cleaning=RULES_HASH, tokenizer=files[TOKENIZER], files=files, **fields)
    )


def write(artifact: Artifact) -> None:
    """meta.json, which makes a directory of files an artifact; written last and in one step."""
    aside = artifact.path / f".{META}"
    _write(aside, (artifact.meta.model_dump_json(indent=1) + "\n").encode())
    aside.replace(artifact.path / META)
    _sync(artifact.path)


def _meta(path: Path) -> Meta:
    try:
        text = _plain(path / META, MAX_META)
        version = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise unusable(path, f"{META} cannot be read") from error
    if version != FORMAT:
        raise ModelError(
            f"The model in {path} has format {version!r:.20}, and this version of mailtagger reads format {FORMAT}.",
            "Use the model that comes with it, or train one with it.",
        )
    try:
        return Meta.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ascii(".".join(str(step) for step in first["loc"]))[1:-1][:80]
        raise unusable(path, f"{META}: {where}: {first['msg']}" if where else f"{META}: {first['msg']}") from error


def _plain(file: Path, limit: int) -> bytes:
    """The bytes of a regular file; links are not followed, and a pipe does not make us wait."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise unusable(file.parent, f"{file.name} is not a plain file")
            if status.st_size > limit:
                raise unusable(file.parent, f"{file.name} is larger than {limit >> 20} MB")
            return opened.read(limit)
    except FileNotFoundError as error:
        raise unusable(file.parent, f"it has no {file.name}") from error
    except OSError as error:
        raise unusable(file.parent, f"{file.name} cannot be read ({error.strerror})") from error


def _directories(models: Path) -> list[Path]:
    found = models.glob("[!.]*") if models.is_dir() else []
    return sorted(d for d in found if not d.is_symlink() and (d / META).is_file())


def _pointed(link: Path) -> Path:
    """The directory beside `link` that it names; it never leads out of models/."""
    target = link.parent / link.readlink() if link.is_symlink() else link
    if target.parent != link.parent or target.name == ".." or target.is_symlink() or not (target / META).is_file():
        raise ModelError(
            f"{link} does not point to a model beside it.", f"To go back to the packaged model, remove it: rm {link}"
        )
    return target


def _point(models: Path, name: str) -> None:
    """`current` points to `name`, and `previous` to what it pointed to before, each in one step; where the packaged
    model was in use there is no `previous`."""
    current, previous = models / CURRENT, models / PREVIOUS
    before = current.readlink() if current.is_symlink() else None
    if before == Path(name):
        return
    if before is None:
        previous.unlink(missing_ok=True)
    else:
        _link(previous, str(before))
    _link(current, name)
    _sync(models)


def _link(link: Path, name: str) -> None:
    aside = link.with_name(f".{link.name}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(name)
    aside.replace(link)


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unusable(path: Path, why: str) -> ModelError:
    """The error for the model in `path`; `why` completes the sentence."""
    return ModelError(
        f"The model in {path} cannot be used: {why}.",
        "`mailtagger models list` shows the others; with neither `model:` nor models/current the packaged one is used.",
    )
