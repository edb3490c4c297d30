"""A training run as it stands, on disk: what a killed run goes on from as if it had never stopped. No pickle: tensors
as safetensors, all else as JSON in its header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mailtagger.errors import MailtaggerError

FORMAT = 1
SUFFIX = ".run.safetensors"  # beside what the run will have made; gone when that is there


def write(
    file: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Replace `file` in one step by the weights, the optimiser's memory, torch's generator, and what else is given."""
    held = {f"model.{k}": v for k, v in model.state_dict().items()}
    memory = optimizer.state_dict()["state"]
    held |= {
        f"optimizer.{i}.{k}": torch.as_tensor(v) for i, of in memory.items() for k, v in of.items() if v is not None
    }
    held |= {f"run.{k}": v for k, v in tensors.items()} | {"generator": torch.get_rng_state()}
    if torch.cuda.is_available():
        held["generator.cuda"] = torch.cuda.get_rng_state()
    aside = file.with_name(file.name + ".new")
    held = {k: v.detach().cpu().clone() for k, v in held.items()}
    save_file(held, aside, metadata={"format": str(FORMAT), "numbers": json.dumps(dict(numbers))})
    aside.replace(file)


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and numbers of a snapshot; MailtaggerError if it is none, or of another format."""
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
            if about.get("format") != str(FORMAT):
                raise MailtaggerError(f"{file} is of another version than {FORMAT}.", "Start again without --resume.")
            return {name: opened.get_tensor(name) for name in opened.keys()}, json.loads(about["numbers"])  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise MailtaggerError(f"{file} is no snapshot of a run ({error}).", "Start again without --resume.") from error


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix` and a dot, by the rest of their names."""
    return {k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")}


def restore(tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser its memory and torch its generator back."""
    memory: dict[int, dict[str, Tensor]] = {}
    for name, value in part(tensors, "optimizer").items():
        i, _, key = name.partition(".")
        memory.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": memory})
    torch.set_rng_state(tensors["generator"])
    if "generator.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["generator.cuda"])
