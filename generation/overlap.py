"""Overlap levels: the bands of co-visibility that pairs are kept for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from generation.covisibility import (
    Covisibility,
    covisibility_a_in_b,
    measure_pair,
    official_covisibility,
)
from generation.errors import CrossviewError
from generation.view import View

FLAT_WIDTH = 0.1
"""Of a flat band, the share of its width within which a pair must meet the number drawn for it."""


@dataclass(frozen=True, kw_only=True)
class OverlapBand:
    """The co-visibility that a pair must have."""

    manifest: ClassVar[str] = "overlap_levels.yaml"
    """File of data_manifests with names that stand for what parse reads."""

    low: float = 0.4
    """Least co-visibility, 0 to 1."""
    high: float = 0.6
    """Greatest co-visibility, 0 to 1."""
    official: bool = False
    """Judge CroCo's published number instead of the visibility-tested one, and draw viewpoints as
    its generator does."""
    flat: bool = False
    """Spread the pairs evenly over the band; else they lie as the search finds them."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise CrossviewError(
                "overlap: expected LO-HI with 0 <= LO < HI <= 1, for example 0.4-0.6, "
                f"got {self.low}-{self.high}"
            )
        if self.official and self.flat:
            raise CrossviewError("overlap: an official band keeps what is found; it is never flat")

    @classmethod
    def parse(cls, text: str) -> OverlapBand:
        """Read `LO-HI`, `LO-HI:flat` or `official` (what the published generator keeps)."""
        if text == "official":
            return cls(low=0.5, high=1.0, official=True)
        match = re.fullmatch(r"\s*(\d*\.?\d+)\s*-\s*(\d*\.?\d+)\s*(:\s*flat\s*)?", text)
        if not match:
            raise CrossviewError(
                "overlap: expected LO-HI, for example 0.4-0.6 or 0.1-0.9:flat, or 'official', "
                f"got {text!r}"
            )
        return cls(low=float(match[1]), high=float(match[2]), flat=match[3] is not None)

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> OverlapBand | None:
        """Return the band in the configuration of a dataset's index; None where it has none."""
        band = config.get("pairs", {}).get("overlap")
        return cls(**band) if isinstance(band, dict) else None

    def __str__(self) -> str:
        if self.official:
            return "official"
        return f"{self.low:g}-{self.high:g}" + (":flat" if self.flat else "")

    def drawn(self, rng: np.random.Generator) -> OverlapBand:
        """Return the band for one pair: of a flat band, a narrow part drawn evenly from it."""
        if not self.flat:
            return self
        width = FLAT_WIDTH * (self.high - self.low)
        low = float(rng.uniform(self.low, self.high - width))
        return replace(self, low=low, high=low + width, flat=False)

    def measure(self, view1: View, view2: View) -> Covisibility | None:
        """Return all numbers of a pair of rendered views, or None where it is not in the band.

        The number that the band judges is measured first; the others only for a pair to keep.
        """
        if self.official:
            judged = official_covisibility(view1, view2)
            return measure_pair(view1, view2) if self.low <= judged <= self.high else None
        there = covisibility_a_in_b(view1, view2)
        if there < self.low:  # then the smaller of both directions is not in the band either
            return None
        back = covisibility_a_in_b(view2, view1)
        if not self.low <= min(there, back) <= self.high:
            return None
        return Covisibility(
            covisibility_1_in_2=there,
            covisibility_2_in_1=back,
            covisibility_official=official_covisibility(view1, view2),
        )
