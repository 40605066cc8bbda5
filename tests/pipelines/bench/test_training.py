"""bench-train: what it counts, and that it measures a real run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.bench.training import bench_train, flops_a_pair, peak_tflops
from pipelines.cli import main
from pipelines.pretraining.configuration import pretrain_config

README = " ".join((Path(__file__).parents[3] / "README.md").read_text().split())

SMALL = {
    "model": {"image_size": 32, "enc_dim": 48, "enc_depth": 2, "enc_heads": 3, "dec_dim": 32,
              "dec_depth": 2, "dec_heads": 2},
    "optim": {"batch_size": 4},
}  # fmt: skip


def product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def test_operations_are_those_of_the_matrix_products():
    """By hand: 4 patches of 16 x 16 x 3, of which 1 is visible, and backward twice forward."""
    config = pretrain_config(SMALL | {"data": {"path": "unused"}}, source="test")
    enc, dec, patch = 48, 32, 16 * 16 * 3

    def block(dim: int, tokens: int, heads_dim: int) -> int:
        attention = 2 * product(tokens, heads_dim, tokens)
        return product(tokens, dim, (3 + 1 + 8) * dim) + attention

    encoder = sum(product(4, patch, enc) + 2 * block(enc, tokens, enc) for tokens in (1, 4))
    cross = product(4, dec, 2 * dec) + product(4, dec, 2 * dec) + 2 * product(4, dec, 4)
    decoder = product(1, enc, dec) + product(4, enc, dec)
    decoder += 2 * (block(dec, 4, dec) + cross) + product(4, dec, patch)
    forward = encoder + decoder
    images = 2 * product(4, patch, enc)  # nobody asks for the gradient of an image
    assert flops_a_pair(config) == pytest.approx(3 * forward - images, rel=0.01)


def test_the_paper_s_model_takes_some_160_billion():
    config = pretrain_config({"preset": "croco_v1", "data": {"path": "unused"}}, source="test")
    assert 150e9 < flops_a_pair(config) < 165e9


def test_a_step_of_mae_costs_what_the_readme_says_of_v1_s():
    mae, croco = (
        flops_a_pair(pretrain_config({"preset": name, "data": {"path": "unused"}}, source="test"))
        for name in ("mae", "croco_v1")
    )
    costs = f"a step costs {mae / croco:.2f} of v1's"
    assert f"({costs}: equal compute is {croco / mae:.2f} times the steps)" in README


def test_a_real_run_is_measured():
    text = bench_train(SMALL, 8)
    assert "pairs/s" in text
    for part in ("augment", "forward", "backward", "optimizer"):
        assert part in text


def test_a_peak_is_known_or_measured():
    peak, source = peak_tflops(torch.device("cpu"), "float32")
    assert 0.001 < peak < 100
    assert source == "product of 2048 x 2048 matrices"


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989), ("NVIDIA H200 NVL", 835), ("NVIDIA H100 80GB HBM3", 989)],
)
def test_a_peak_of_the_data_sheet_is_that_of_the_board(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(torch.device("cuda", 0), "bfloat16") == (peak, "data sheet")


def test_a_slice_of_a_board_has_not_its_peak(monkeypatch):
    slice_of = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: slice_of)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch, "randn", lambda *size, device: torch.ones(64, 64))
    assert peak_tflops(torch.device("cuda", 0), "bfloat16")[1].startswith("product of")


def test_too_few_steps_are_refused(capsys: pytest.CaptureFixture):
    assert main(["bench-train", "--preset", "tiny", "--steps", "2"]) == 2
    assert "expected at least 4" in capsys.readouterr().err
