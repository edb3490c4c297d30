"""Our weights ↔ those of fastai's AWD_LSTM, its decoder and its PoolingLinearClassifier: the same logits both ways.

Gates (PyTorch's order), pooling (last, maximum, mean) and each dense layer (normalise, drop, multiply) are alike.
What differs beside names:

- fastai holds the recurrent weights beside their LSTM, and tied weights under each of their names;
- its dense layers have no bias: ours becomes a shift of the normalisation before it, which is exact as long as the
  layer's rows are independent;
- it has a logit for ham and one for spam under a softmax: z is (0, z) there, and their difference is ours;
- it pads with id 1, whatever the vocabulary says. That is START here, which stands in no text, so that ids stay.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mailtagger.errors import ModelError

State = Mapping[str, Tensor]

EMBEDDING, BIAS, DECODER = "encoder.embedding.weight", "bias", "decoder"
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def language_model_to_fastai(state: State) -> dict[str, Tensor]:
    """Our LanguageModel's state → that of `get_language_model(AWD_LSTM, …)`."""
    decoder = {"1.decoder.weight": state.get(DECODER, state[EMBEDDING]), "1.decoder.bias": state[BIAS]}
    return encoder_to_fastai(state, "0.") | decoder


def language_model_from_fastai(theirs: State) -> dict[str, Tensor]:
    """And back; ModelError where it is not an AWD_LSTM with its decoder. A decoder that is not tied stays so."""
    state = _encoder(theirs, "0.", {"1.decoder.weight", "1.decoder.bias"})
    state[BIAS] = theirs["1.decoder.bias"]
    if not torch.equal(theirs["1.decoder.weight"], state[EMBEDDING]):
        state[DECODER] = theirs["1.decoder.weight"]
    return state


def classifier_to_fastai(state: State) -> dict[str, Tensor]:
    """Our Classifier's state → that of `get_text_classifier(AWD_LSTM, …, 2)` whose dropout rates are not zero."""
    theirs = encoder_to_fastai(state, "0.module.")
    for i in range(2):
        norm, weight, bias = f"head.norm{i}.", state[f"head.linear{i}.weight"], state[f"head.linear{i}.bias"]
        theirs |= {f"1.layers.{i}.0.{name}": state.get(norm + name, torch.tensor(0)) for name in NORM}
        theirs[f"1.layers.{i}.0.bias"] = state[norm + "bias"] + _shift(weight, bias)
        theirs[f"1.layers.{i}.2.weight"] = weight if i == 0 else torch.cat([torch.zeros_like(weight), weight])
    return theirs


def classifier_from_fastai(theirs: State) -> dict[str, Tensor]:
    """And back; ModelError where the head has other layers than two, or another number of classes."""
    head = {name for name in theirs if name.startswith("1.")}
    weights = [[n for n in head if n.startswith(f"1.layers.{i}.") and theirs[n].ndim == 2] for i in range(2)]
    names = {f"1.layers.{i}.0.{name}" for i in range(2) for name in NORM} | {n for found in weights for n in found}
    if head != names or any(len(found) != 1 for found in weights) or len(theirs[weights[1][0]]) != 2:
        raise ModelError(
            "This is no fastai text classifier with two dense layers and two classes.",
            "`text_classifier_learner(dls, AWD_LSTM)` makes one, with ham before spam in its vocabulary.",
        )
    state = _encoder(theirs, "0.module.", head)
    for i in range(2):
        weight = theirs[weights[i][0]]
        state |= {f"head.norm{i}.{name}": theirs[f"1.layers.{i}.0.{name}"] for name in NORM}
        state[f"head.linear{i}.weight"] = weight if i == 0 else weight[1:] - weight[:1]
        state[f"head.linear{i}.bias"] = weight.new_zeros(len(state[f"head.linear{i}.weight"]))
    return state


def encoder_to_fastai(state: State, prefix: str = "") -> dict[str, Tensor]:
    """The encoder in our LanguageModel's or Classifier's state → AWD_LSTM's, its names after `prefix`."""
    layers = sum(name.startswith("encoder.lstm.") and name.endswith(".weight_hh") for name in state)
    embedding = {f"{prefix}{name}.weight": state[EMBEDDING] for name in ("encoder", "encoder_dp.emb")}
    return embedding | {theirs: state[ours] for ours, theirs in _recurrent(prefix, layers)}


def _encoder(theirs: State, prefix: str, beside: set[str]) -> dict[str, Tensor]:
    """The encoder's part of our state; ModelError if a name is missing, or unknown here and not `beside` it."""
    layers = sum(name.startswith(f"{prefix}rnns.") and name.endswith(".weight_hh_l0_raw") for name in theirs)
    names = dict(_recurrent(prefix, layers)) | {EMBEDDING: f"{prefix}encoder.weight"}
    copies = {f"{prefix}rnns.{i}.module.weight_hh_l0" for i in range(layers)}  # dropped out; files until 2020 have them
    needed = {*names.values(), *beside}
    odd = sorted(needed - theirs.keys()) or sorted(theirs.keys() - needed - copies - {f"{prefix}encoder_dp.emb.weight"})
    if odd or not layers:
        raise ModelError(
            "These are not the weights of a fastai AWD_LSTM of one direction"
            + (f": {odd[0]!a:.80} is missing, or means nothing there." if odd else "."),
            "QRNN, Transformer and bidirectional models have no counterpart here.",
        )
    return {ours: theirs[name] for ours, name in names.items()}


def _recurrent(prefix: str, layers: int) -> Iterator[tuple[str, str]]:
    """Our names of the LSTMs' weights, and fastai's."""
    for i in range(layers):
        yield f"encoder.lstm.{i}.weight_hh", f"{prefix}rnns.{i}.weight_hh_l0_raw"
        for name in ("weight_ih", "bias_ih", "bias_hh"):
            yield f"encoder.lstm.{i}.{name}", f"{prefix}rnns.{i}.module.{name}_l0"


def _shift(weight: Tensor, bias: Tensor) -> Tensor:
    """What is added to a layer's input in the place of its bias: the smallest x with weight · x = bias."""
    wide = weight.double()
    shift = torch.linalg.pinv(wide) @ bias.double()
    if not torch.allclose(wide @ shift, bias.double(), atol=1e-6):
        raise ModelError(
            "The head's rows depend on one another, so that fastai's layers without bias cannot stand for it.",
            "Train the head further.",
        )
    return shift.to(weight.dtype)
