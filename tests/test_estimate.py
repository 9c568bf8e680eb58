"""The estimate of a GPU's step, against what can be worked out on paper."""

import pytest

from grefel_lib import estimate
from grefel_lib.config import Config


def test_vit_base_costs_three_times_the_published_forward():
    cost = estimate.step(Config())
    # 17.6 billion multiply-adds forward (Dosovitskiy et al.), as much again twice backward
    assert cost["flops"] == pytest.approx(3 * 2 * 17.6e9, rel=0.03)
    assert cost["weights"] == pytest.approx(86e6, rel=0.02)


def test_activations_are_what_the_layers_of_a_block_keep():
    cost = estimate.step(Config())
    # for each of 197 tokens: two norms, fused q, k, v and its result, the hidden layer twice
    numbers = 2 * 2 + 3 + 1 + 2 * 4
    assert cost["kept_bytes"] == pytest.approx(12 * numbers * 197 * 768 * 2, rel=0.08)


def test_a_linear_head_costs_less_and_a_larger_batch_more_memory():
    config = Config(backbone="test_vit", image_size=64)
    linear = estimate.step(config.replace(head="linear"))
    assert linear["flops"] < estimate.step(config)["flops"]
    small, large = (estimate.on_gpus(config.replace(batch_size=b), faces=1000) for b in (8, 64))
    assert (small["memory (GB)"] <= large["memory (GB)"]).all()
    assert (small["expect images/s"] <= large["expect images/s"]).all()


def test_nothing_is_expected_beyond_what_memory_can_move():
    table = estimate.on_gpus(Config(), faces=28_000)
    assert (table["expect images/s"] <= table["traffic allows"]).all()
    assert (table["expect images/s"] < table["arithmetic allows"]).all()
