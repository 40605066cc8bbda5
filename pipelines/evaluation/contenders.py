"""Models that are judged beside each other, one a seed of pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from generation.errors import CrossviewError
from pipelines.evaluation.labels import label_and_path, require_folder_name
from training.checkpoint import load_model
from training.downstream.evaluation import untrained
from training.model.croco import CroCo, ModelConfig
from training.model.weights import weights_digest
from training.presets import PRESETS

SCRATCH = "scratch"
"""Label of the network that is not pre-trained."""
CONSTANT = "constant"
"""Label of what says the same of every example."""
_SEED = "{seed}"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What is recorded of a model before it is fine-tuned."""

    config: ModelConfig
    sha256: str

    @classmethod
    def of(cls, model: CroCo) -> Weights:
        """Describe a model."""
        return cls(config=model.config, sha256=weights_digest(model))


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model to be judged, under a label."""

    label: str
    path: str | None
    """What holds it; {seed} stands for the number of the seed. None: random weights."""
    weights: tuple[Weights, ...]
    """Of seeds 0, 1, ..."""

    def model(self, seed: int) -> CroCo:
        """Return the model that stands for a seed, new for every cell.

        Raises CrossviewError where it is no longer the one of weights.
        """
        if self.path is None:
            return untrained(self.weights[seed].config, seed)
        path = self.path.replace(_SEED, str(seed))
        model = load_model(path)
        if Weights.of(model) != self.weights[seed]:
            raise CrossviewError(
                f"{path}: other weights than when the evaluation began; give the same command "
                "again when their training is over"
            )
        return model


def contenders(texts: Sequence[str], *, seeds: int, scratch: str | bool) -> list[Contender]:
    """Turn [LABEL=]PATH texts into contenders.

    scratch adds random weights: of the shape of a preset's model or of what a path holds, or of the
    first's where it names neither. Every file is read once. Raises CrossviewError as named_weights
    does, and where a path holds no model.
    """
    read = cache(lambda path: Weights.of(load_model(path)))
    found: list[Contender] = []
    for label, pattern in named_weights(texts, scratch=scratch).items():
        if pattern is None:
            config = _shape_of(scratch) if isinstance(scratch, str) else found[0].weights[0].config
            weights = [Weights.of(untrained(config, seed)) for seed in range(seeds)]
        else:
            weights = [read(pattern.replace(_SEED, str(seed))) for seed in range(seeds)]
        found.append(Contender(label=label, path=pattern, weights=tuple(weights)))
    return found


def named_weights(texts: Sequence[str], *, scratch: str | bool) -> dict[str, str | None]:
    """Return the paths of [LABEL=]PATH texts by their labels, and SCRATCH, which has none.

    Raises CrossviewError where two have one label, or a label is none, and where there is nothing
    to judge, or nothing that says what shape SCRATCH has.
    """
    if not texts and not isinstance(scratch, str):
        raise CrossviewError(
            "nothing to judge: --weights PATH, or --scratch SHAPE for random weights alone"
        )
    named: list[tuple[str, str | None]] = []
    for text in texts:
        label, path = label_and_path("--weights", text)
        named.append((Path(text).resolve().name if label is None else label, path))
    if scratch:
        named.append((SCRATCH, None))
    labels = [label for label, _ in named]
    for label, path_of_first in named:
        if labels.count(label) > 1:
            raise CrossviewError(
                f"--weights: two models would be called {label!r}; give them names, as in "
                f"--weights first={path_of_first}"
            )
        if label == CONSTANT:
            raise CrossviewError(
                f"--weights: {CONSTANT!r} is the row of what needs no model; give it another name, "
                f"as in --weights mine={path_of_first}"
            )
        require_folder_name("--weights", label)
    return dict(named)


def _shape_of(preset_or_path: str) -> ModelConfig:
    if preset_or_path in PRESETS:
        return ModelConfig(**PRESETS[preset_or_path]["model"])
    try:
        return load_model(preset_or_path).config
    except CrossviewError as error:
        raise CrossviewError(
            f"--scratch: {error}; it is no preset either, which are {', '.join(PRESETS)}"
        ) from error
