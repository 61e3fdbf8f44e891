"""The U-Net of the report: predicts noise (or v) from a noisy image, its timestep and its class label.

Sources: Ho et al., "Denoising Diffusion Probabilistic Models", 2020, appendix B (residual blocks, attention,
embeddings); Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, section 3.2 (the null label).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from common.cli import UserError
from common.device import Movable, to_device

import torch
from torch import nn
from torch.nn import functional as F

MODEL = "p2_diffusion/unet"
ARCHITECTURE = ("channels", "channel_mults", "attention_levels", "num_res_blocks", "num_groups")
NULL_LABEL = 0  # row 0 of the label embedding means "no label"; digit d is row d + 1


class Swish(nn.Module):
    """x * sigmoid(x). Source: Ramachandran et al., "Searching for Activation Functions", 2017."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x)


class ModuleList(nn.ModuleList):
    """A list that prints every entry; newer torch folds equal neighbors into one line."""

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)


def embedding_mlp(embedding: nn.Embedding, embedding_dim: int) -> nn.Sequential:
    """Return ``embedding`` and two linear layers: int64 (N,) -> (N, embedding_dim)."""
    widen, mix = nn.Linear(embedding.embedding_dim, embedding_dim), nn.Linear(embedding_dim, embedding_dim)
    return nn.Sequential(embedding, widen, Swish(), mix)


class TimeEmbedding(nn.Module):
    """Learned embedding of the timesteps 0..T-1, initialized as the sinusoids of Vaswani et al., 2017, section 3.5."""

    def __init__(self, num_timesteps: int, channels: int, embedding_dim: int) -> None:
        super().__init__()
        table = nn.Embedding.from_pretrained(sinusoids(num_timesteps, channels), freeze=False)
        self.time_embedding = embedding_mlp(table, embedding_dim)

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.time_embedding(timesteps)


class ConditionalEmbedding(nn.Module):
    """Embedding of the class label: row 0 is the null label (kept at zero), rows 1 to 10 the digits."""

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        table = nn.Embedding(11, channels, padding_idx=NULL_LABEL)
        self.conditional_embedding = embedding_mlp(table, embedding_dim)

    def forward(self, class_labels: torch.Tensor) -> torch.Tensor:
        return self.conditional_embedding(class_labels)


class DownSample(nn.Module):
    """(N, C, H, W) -> (N, C, H/2, W/2): the sum of two strided convolutions of different kernel sizes.

    The sum is linear, hence equivalent to one 5x5 convolution; the course report prints both.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 5, stride=2, padding=2)

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return self.conv_1(x) + self.conv_2(x)


class UpSample(nn.Module):
    """(N, C, H, W) -> (N, C, 2H, 2W): a transposed convolution, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.convtrans = nn.ConvTranspose2d(channels, channels, 5, stride=2, padding=2, output_padding=1)

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return self.conv(self.convtrans(x))


class AttentionBlock(nn.Module):
    """Single-head self-attention over all pixels, added to its input (N, C, H, W)."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(num_groups, channels)
        self.proj_q = nn.Conv2d(channels, channels, 1)
        self.proj_k = nn.Conv2d(channels, channels, 1)
        self.proj_v = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.group_norm(x)
        # (N, one head, H * W, C): torch 2.11 fuses four dimensions only
        projections = (self.proj_q, self.proj_k, self.proj_v)
        q, k, v = (projection(h).flatten(2).transpose(1, 2).unsqueeze(1) for projection in projections)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class ResidualBlock(nn.Module):
    """Two convolutions with the timestep and label embeddings added between them, then optional attention."""

    def __init__(
        self, in_channels: int, out_channels: int, embedding_dim: int, dropout: float, attention: bool, num_groups: int
    ) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            nn.GroupNorm(num_groups, in_channels), Swish(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.time_embedding_proj = nn.Sequential(Swish(), nn.Linear(embedding_dim, out_channels))
        self.cond_proj = nn.Sequential(Swish(), nn.Linear(embedding_dim, out_channels))
        self.block2 = nn.Sequential(
            nn.GroupNorm(num_groups, out_channels),
            Swish(),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = AttentionBlock(out_channels, num_groups) if attention else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Map (N, in_channels, H, W) and two (N, embedding_dim) to (N, out_channels, H, W)."""
        h = self.block1(x)
        h = h + (self.time_embedding_proj(time) + self.cond_proj(label))[:, :, None, None]
        return self.attention(self.block2(h) + self.shortcut(x))


class UNet(nn.Module):
    """U-Net with skip concatenation; the defaults are the network that the course report prints.

    The arguments are fields of a TrainConfig. Each level but the first halves the resolution; on the way up it has one
    residual block more. Where ``num_groups`` equals the width of a level, every channel is normalized alone, which
    removes the timestep and label embeddings again: they are constant over its pixels.
    """

    def __init__(
        self,
        num_timesteps: int = 200,
        channels: int = 128,
        channel_mults: Sequence[int] = (1, 2, 2),
        attention_levels: Sequence[int] = (0, 1, 2),
        num_res_blocks: int = 2,
        dropout: float = 0.15,
        num_groups: int = 32,
    ) -> None:
        super().__init__()

        def residual_block(in_channels: int, out_channels: int, attention: bool) -> ResidualBlock:
            return ResidualBlock(in_channels, out_channels, embedding_dim, dropout, attention, num_groups)

        embedding_dim = 4 * channels
        self.time_embedding = TimeEmbedding(num_timesteps, channels, embedding_dim)
        self.cond_embedding = ConditionalEmbedding(channels, embedding_dim)
        self.head = nn.Conv2d(3, channels, 3, padding=1)

        self.downblocks = ModuleList()
        skip_widths = [channels]
        width = channels
        for level, mult in enumerate(channel_mults):
            for _ in range(num_res_blocks):
                self.downblocks.append(residual_block(width, channels * mult, level in attention_levels))
                width = channels * mult
                skip_widths.append(width)
            if level < len(channel_mults) - 1:
                self.downblocks.append(DownSample(width))
                skip_widths.append(width)

        self.middleblocks = ModuleList(residual_block(width, width, attention) for attention in (True, False))

        self.upblocks = ModuleList()
        for level, mult in reversed(list(enumerate(channel_mults))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(residual_block(width + skip_widths.pop(), channels * mult, False))
                width = channels * mult
            if level > 0:
                self.upblocks.append(UpSample(width))

        self.tail = nn.Sequential(nn.GroupNorm(num_groups, width), Swish(), nn.Conv2d(width, 3, 3, padding=1))

        # Every residual branch and the output start at zero (Ho et al., 2020, released code; appendix B).
        last = [module.block2[-1] for module in self.modules() if isinstance(module, ResidualBlock)]
        last += [module.proj for module in self.modules() if isinstance(module, AttentionBlock)]
        for layer in [*last, self.tail[-1]]:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Predict noise or v, (N, 3, H, W), from noisy images (N, 3, H, W).

        ``timesteps`` are int64 (N,), 0..T-1; ``class_labels`` int64 (N,), 0 for no label, digit + 1 otherwise.
        """
        time, label = self.time_embedding(timesteps), self.cond_embedding(class_labels)
        h = self.head(x)
        skips = [h]
        for block in self.downblocks:
            h = block(h, time, label)
            skips.append(h)
        for block in self.middleblocks:
            h = block(h, time, label)
        for block in self.upblocks:
            if isinstance(block, ResidualBlock):
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, time, label)
        return self.tail(h)


def sinusoids(num_timesteps: int, channels: int) -> torch.Tensor:
    """Return the sinusoidal position embedding, float32 (num_timesteps, channels), sines first, then cosines."""
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(0, channels, 2) / channels)
    angles = torch.arange(num_timesteps)[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def build_model(config: Mapping[str, Any]) -> UNet:
    """Return the U-Net of a TrainConfig's fields; a UserError says which of them do not go together."""
    levels = len(config["channel_mults"])
    if not 1 <= levels <= 3 or not set(config["attention_levels"]) <= set(range(levels)):
        raise UserError("--channel-mults: must have 1 to 3 levels, --attention-levels be among 0 to their number - 1")
    if config["num_groups"] >= config["channels"]:
        raise UserError("--num-groups: must be fewer than --channels, or the embeddings of the first level are lost")
    return UNet(config["timesteps"], dropout=config["dropout"], **{name: config[name] for name in ARCHITECTURE})


def to_unet_device(thing: Movable, device: torch.device) -> Movable:
    """Move the U-Net, or images for it, to ``device``; on CPUs its GroupNorm and attention are slow channels_last."""
    return to_device(thing, device, channels_last=device.type == "cuda")
