"""P2's U-Net: as printed in the course report, and what its parts promise."""

from __future__ import annotations

import re
from pathlib import Path

from p2_diffusion.model import NULL_LABEL, ResidualBlock, UNet, sinusoids

import pytest
import torch

PRINTED = Path(__file__).parent / "printed" / "UNet.txt"


def narrow(**options: object) -> UNet:
    """A small U-Net whose zero-initialized layers are random, so that its output depends on everything."""
    torch.manual_seed(0)
    defaults = {"num_timesteps": 8, "channels": 32, "channel_mults": (1, 2), "attention_levels": (1,)}
    model = UNet(**(defaults | {"num_res_blocks": 1, "dropout": 0.0} | options)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_prints_as_in_the_original_report() -> None:
    model = UNet()
    # Newer torch also prints the bias of norm layers.
    printed = re.sub(r"(GroupNorm[^\n]*?), bias=True", r"\1", str(model))
    assert printed.splitlines() == PRINTED.read_text().splitlines()
    assert sum(parameter.numel() for parameter in model.parameters()) == 33_293_187


@pytest.mark.parametrize(
    "options", [{"channel_mults": (1, 2, 2), "attention_levels": (0, 2)}, {"num_res_blocks": 2, "num_groups": 8}]
)
def test_narrow_configurations_keep_the_shape_of_the_image(options: dict[str, object]) -> None:
    x = torch.randn(3, 3, 28, 28)
    output = narrow(**options)(x, torch.tensor([0, 4, 7]), torch.tensor([0, 1, 10]))
    assert output.shape == x.shape
    assert output.std() > 0


def test_starts_by_predicting_zero() -> None:
    model = UNet(num_timesteps=4, channels=32, channel_mults=(1, 1), num_res_blocks=1)
    output = model(torch.randn(2, 3, 28, 28), torch.tensor([0, 3]), torch.tensor([1, 2]))
    assert not output.any()


def test_time_embedding_starts_as_sinusoids_and_is_trained() -> None:
    embedding = UNet(num_timesteps=50, channels=32).time_embedding.time_embedding[0].weight
    assert torch.equal(embedding, sinusoids(50, 32))
    assert embedding.requires_grad
    position, frequency = 7, 10000 ** (-2 * 3 / 32)
    expected = torch.tensor([position * frequency]).double()
    torch.testing.assert_close(embedding[position, 3].double(), expected.sin()[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(embedding[position, 16 + 3].double(), expected.cos()[0], atol=1e-5, rtol=0)


def test_null_label_is_a_row_of_zeros_that_training_leaves_alone() -> None:
    model = narrow().train()
    embedding = model.cond_embedding.conditional_embedding[0].weight
    assert not embedding[NULL_LABEL].any()
    x = torch.randn(2, 3, 28, 28)
    model(x, torch.tensor([1, 2]), torch.tensor([NULL_LABEL, 3])).square().mean().backward()
    assert not embedding.grad[NULL_LABEL].any()
    assert embedding.grad[3].any()


def test_time_and_label_change_the_output() -> None:
    model, x = narrow(), torch.randn(1, 3, 28, 28)
    base = model(x, torch.tensor([1]), torch.tensor([1]))
    assert not torch.allclose(base, model(x, torch.tensor([6]), torch.tensor([1])))
    assert not torch.allclose(base, model(x, torch.tensor([1]), torch.tensor([2])))


def test_group_norm_over_single_channels_removes_the_time() -> None:
    x, label = torch.randn(2, 32, 6, 6), torch.zeros(2, 8)
    early, late = torch.randn(2, 2, 8)
    for num_groups, depends_on_time in ((32, False), (8, True)):
        block = ResidualBlock(32, 32, 8, 0.0, False, num_groups)
        assert torch.allclose(block(x, early, label), block(x, late, label), atol=1e-5) is not depends_on_time


def test_attention_is_softmax_attention_over_pixels() -> None:
    block = narrow().middleblocks[0].attention
    x = torch.randn(2, 64, 5, 3)
    h = block.group_norm(x)
    q, k, v = (proj(h).flatten(2).transpose(1, 2) for proj in (block.proj_q, block.proj_k, block.proj_v))
    weights = (q @ k.transpose(1, 2) / 64**0.5).softmax(-1)
    expected = x + block.proj((weights @ v).transpose(1, 2).reshape(x.shape))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)
