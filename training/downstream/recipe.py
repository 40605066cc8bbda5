"""How a network is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from generation.bounds import require, require_choices
from training.model.croco import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long a network is fine-tuned, and how."""

    resize: tuple[int, int] | None = None
    """(height, width) that every example, its truth with it, is made just large enough to cover, in
    its own shape; None: as it is."""
    crop: tuple[int, int] | None = None
    """(height, width) of random crops to train on and of tiles to predict on, multiples of the
    patch size; None: the size that the model was pre-trained on."""
    head: Literal["dpt", "linear"] = "dpt"
    """Of depth, flow, stereo and Taskonomy: linear maps each patch's last token to its pixels."""
    head_width: int = 256
    """Channels of a DPT head, a multiple of 8; published: 256."""
    epochs: float = 1.0
    """Passes over the training examples, at least one step, unless max_steps says otherwise; 0: no
    training at all."""
    max_steps: int | None = None
    """Steps of training; None: as epochs says."""
    batch_size: int = 16
    """Examples a step."""
    lr: float = 1.0e-4
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup: float = 0.05
    """Share of the run in which the rate rises linearly from 0."""
    weight_decay: float = 0.05
    """Decoupled; not on biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    clip_norm: float | None = 1.0
    """Largest norm of all gradients together; None: no clipping."""
    layer_decay: float = 1.0
    """The rate of each block of the encoder is this times that of the next one."""
    drop_path: float = 0.0
    """Chance that the last block of the encoder is skipped in training, rising linearly from 0."""
    frozen: bool = False
    """Train the head alone: a probe."""
    ema: float | None = None
    """Decay a step of a moving average of the weights, which is then judged; None: none."""
    seen_only: bool = False
    """Train flow and disparity on pixels not known to be occluded alone; their match may lie beyond
    the crop."""
    flip: bool = False
    """Mirror half of the training samples, where the task allows it."""
    flip_test: bool = False
    """Predict the mirrored image too, and take the mean, where the task allows it."""
    jitter: float = 0.0
    """Brightness, contrast and saturation are changed by factors of 1 - jitter to 1 + jitter."""
    tile_overlap: float = 0.5
    """Share of a tile that the next one covers too, where an image is larger than the crop."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """As in pre-training; there is no tf32."""

    def __post_init__(self) -> None:
        require_choices(self)
        holds = self.head_width >= 8 and self.head_width % 8 == 0
        require(holds, "head_width", self.head_width, "a multiple of 8")
        for name in ("resize", "crop"):
            size = getattr(self, name)
            holds = size is None or min(size) >= 1
            require(holds, name, size, "a height and a width of at least 1 pixel")
        require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "0 or more, below 1")
        if self.clip_norm is not None:
            require(self.clip_norm > 0, "clip_norm", self.clip_norm, "above 0")
        require(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        if self.max_steps is not None:
            require(self.max_steps >= 0, "max_steps", self.max_steps, "0 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.lr > 0, "lr", self.lr, "above 0")
        require(0 <= self.min_lr <= self.lr, "min_lr", self.min_lr, f"0 to lr = {self.lr}")
        for name in ("warmup", "drop_path", "tile_overlap"):
            value = getattr(self, name)
            require(0 <= value < 1, name, value, "0 or more, below 1")
        require(0 <= self.jitter <= 1, "jitter", self.jitter, "0 to 1")
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "above 0, at most 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        if self.ema is not None:
            require(0 < self.ema < 1, "ema", self.ema, "above 0, below 1")

    def refuse_linear(self, task: str) -> None:
        """Raise CrossviewError for head = 'linear', for a task with one head of its own."""
        allowed = "dpt, which stands for the one head that this task has"
        require(self.head == "dpt", f"{task}: head", self.head, allowed)

    @property
    def crop_size(self) -> tuple[int, int]:
        """Return the crop of a recipe that for_model has filled in."""
        assert self.crop is not None
        return self.crop

    def for_model(self, config: ModelConfig) -> Recipe:
        """Return the recipe with the crop filled in. Raises CrossviewError where none fits."""
        size, patch = config.image_size, config.patch_size
        crop = self.crop or (size, size)
        holds = crop[0] % patch == 0 and crop[1] % patch == 0
        require(holds, "crop", crop, f"multiples of the model's patch_size = {patch}")
        return replace(self, crop=crop)

    def num_steps(self, num_examples: int) -> int:
        """Return the length of the run in steps."""
        if self.epochs == 0:
            return 0
        if self.max_steps is not None:
            return self.max_steps
        return max(1, round(self.epochs * num_examples / self.batch_size))
