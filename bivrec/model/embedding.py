"""Multi-scale interest embedding: items of a view, cut into patches at several scales, each summed and given its place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bivrec.settings import Modality, Model

FEATURE_CELLS = 1 << 18  # numbers in the features that a CPU projects at a time


class Dropout(nn.Module):
    """Dropout whose mask comes from random bytes, several times cheaper on a CPU than a draw a number; the rate is
    rounded to 1/256 and the scale follows the rounded rate, so the mean is exact."""

    def __init__(self, rate: float):
        super().__init__()
        self.dropped = round(rate * 256)
        self.generator = np.random.Generator(np.random.SFC64(torch.randint(1 << 62, ()).item()))

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not (self.training and self.dropped and x.numel()):
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.dropped / 256)
        kept = np.frombuffer(self.generator.bytes(x.numel()), "uint8") >= self.dropped
        return _Dropped.apply(x, torch.from_numpy(kept), 256 / (256 - self.dropped))


class _Dropped(torch.autograd.Function):
    """Numbers kept and scaled, or nought. Of the mask a byte a number stays; NumPy, which is many times faster at bytes than
    PyTorch, makes it, and the factors from it once for each direction."""

    @staticmethod
    def forward(ctx, x, kept, scale):
        ctx.save_for_backward(kept)
        ctx.scale = np.float32(scale)
        return x * _Dropped.factors(kept, ctx.scale, x)

    @staticmethod
    def backward(ctx, upstream):
        return upstream * _Dropped.factors(*ctx.saved_tensors, ctx.scale, upstream), None, None

    @staticmethod
    def factors(kept: Tensor, scale: np.float32, x: Tensor) -> Tensor:
        return (
            torch.from_numpy(np.multiply(kept.numpy(), scale, dtype="float32"))
            .view(x.shape)
            .to(x.dtype)
        )


def recompute(module: nn.Module, call: Callable, *inputs: Any) -> Any:
    """What a call of the module's gives, with nothing of it kept for the backward pass, which computes it again with the same
    dropout: slower by a third, for memory of the inputs alone."""
    generators = [
        part.generator.bit_generator for part in module.modules() if isinstance(part, Dropout)
    ]
    drawn = [generator.state for generator in generators]

    @contextmanager
    def again() -> Iterator[None]:
        now = [generator.state for generator in generators]
        for generator, state in zip(generators, drawn):
            generator.state = state
        try:
            yield
        finally:
            for generator, state in zip(generators, now):
                generator.state = state

    return checkpoint(
        call, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again())
    )


class Linear(nn.Linear):
    """A linear map that, where a CPU only scores, is taken by oneDNN, which adds the bias as it multiplies."""

    def forward(self, x: Float[Tensor, "*shape from"]) -> Float[Tensor, "*shape to"]:
        if (
            torch.is_inference_mode_enabled()
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and torch.backends.mkldnn.is_available()
        ):
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return super().forward(x)


class _Projected(torch.autograd.Function):
    """Features of items, of all unless told, through a linear map, a vector of its own where they are missing, and the gradients of
    both, in the features' type: on a CPU a block of items at a time, which stays in the cache, so that features gathered are never
    in memory together."""

    @staticmethod
    def forward(ctx, values, weight, missing, mask, items):
        ctx.save_for_backward(values, weight, mask, items)
        shape = values.shape[:1] if items is None else items.shape
        taken, across = (
            values.new_empty(shape.numel(), len(weight)),
            weight.T.to(values.dtype).contiguous(),
        )
        for here, block, absent in _Projected.blocks(values, mask, items):
            torch.mm(block, across, out=taken[here])
            if absent is not None:
                taken[here] = torch.where(absent, missing.to(taken.dtype), taken[here])
        return taken.view(*shape, len(weight)).to(weight.dtype)

    @staticmethod
    def backward(ctx, upstream):
        values, weight, mask, items = ctx.saved_tensors
        upstream, grad, missing_grad = (
            upstream.flatten(0, -2),
            torch.zeros_like(weight),
            weight.new_zeros(len(weight)),
        )
        for here, block, absent in _Projected.blocks(values, mask, items):
            part = upstream[here]
            if absent is not None:
                missing_grad += (part * absent).sum(0)
                part = part.masked_fill(absent, 0)
            if block.dtype == grad.dtype:
                grad.addmm_(part.T, block)
            else:
                grad += part.to(block.dtype).T @ block
        return None, grad, missing_grad, None, None

    @staticmethod
    def blocks(
        values: Tensor, mask: Tensor | None, items: Tensor | None
    ) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Which of the items, their features, and where these are missing (None: nowhere)."""
        wanted = len(values) if items is None else items.numel()
        count = max(1, wanted if values.is_cuda else FEATURE_CELLS // values.shape[1])
        for start in range(0, wanted, count):
            here = slice(start, min(start + count, wanted))
            block, real = (
                part
                if part is None
                else part[here]
                if items is None
                else part.index_select(0, items.flatten()[here])
                for part in (values, mask)
            )
            yield here, block, None if real is None else ~real[:, None]


class ItemTable(nn.Module):
    """One vector an item: learned (`id`), projected from its features (`multimodal`), or the sum of both (`fused`).

    The concatenated features of text and image go through one linear map, as in the paper; a missing modality adds a
    learned vector of its own in place of its features. Features are held, and projected, in the type `kind`.
    """

    def __init__(
        self,
        inputs: str,
        num_items: int,
        features: dict[Modality, tuple[Tensor, Tensor]],
        dim: int,
        kind: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.kind = kind
        self.ids = (
            nn.Parameter(torch.randn(num_items, dim).mul_(0.02))
            if inputs in ("id", "fused")
            else None
        )
        if inputs in ("multimodal", "fused"):
            self.maps = nn.ModuleDict(
                {
                    name: nn.Linear(values.shape[1], dim, bias=False)
                    for name, (values, _) in features.items()
                }
            )
            self.missing = nn.ParameterDict(
                {name: nn.Parameter(torch.zeros(dim)) for name in features}
            )
            self.set_features(features)

    def set_features(
        self,
        features: dict[
            Modality, tuple[Float[Tensor, "catalogue component"], Bool[Tensor, "catalogue"]]
        ],
    ) -> None:
        """Puts a catalogue's features in place: at the start, with noise, or another domain's."""
        self.whole = {
            name: bool(mask.all()) for name, (_, mask) in features.items()
        }  # nothing is missing
        for name, (values, mask) in features.items():
            self.register_buffer(f"{name}_values", values.to(self.kind), persistent=False)
            self.register_buffer(f"{name}_mask", mask, persistent=False)

    def parts(
        self, items: Int64[Tensor, "*row"] | None = None
    ) -> dict[Modality, Float[Tensor, "*row dim"]]:
        """Each modality's vectors of the items, of the whole catalogue unless told, before they are summed."""
        found = {}
        for name, project in getattr(self, "maps", {}).items():
            values, mask = getattr(self, f"{name}_values"), getattr(self, f"{name}_mask")
            found[name] = _Projected.apply(
                values,
                project.weight,
                self.missing[name],
                None if self.whole[name] else mask,
                items,
            )
        return found

    def forward(self, items: Int64[Tensor, "*row"] | None = None) -> Float[Tensor, "*row dim"]:
        ids = (
            []
            if self.ids is None
            else [self.ids if items is None else nn.functional.embedding(items, self.ids)]
        )
        first, *others = [*ids, *self.parts(items).values()]
        return sum(others, first)


def cut_patches(
    items: Float[Tensor, "batch position dim"], scales: tuple[int, ...], mean: bool = False
) -> Float[Tensor, "scale batch position dim"]:
    """At each position and scale, the sum (or mean) of the patch of `scale` items that ends there.

    The prefix that ends at t is cut from its newest item backwards, so its patches end at t, t - scale, t - 2 scale...:
    every prefix finds its own non-overlapping patches among these. The oldest patch may be incomplete.
    """
    if scales == (1,):
        return items[None]
    place = torch.arange(items.shape[1], device=items.device)
    behind = place[:, None] - place
    inside = torch.stack([(behind >= 0) & (behind < scale) for scale in scales]).to(items.dtype)
    if mean:
        inside = inside / inside.sum(-1, keepdim=True)
    return (inside.flatten(0, 1) @ items).unflatten(1, (len(scales), -1)).transpose(0, 1)


def cut_newest_patches(
    items: Float[Tensor, "batch age dim"],
    mask: Bool[Tensor, "batch age"],
    scales: tuple[int, ...],
    mean: bool = False,
) -> list[Float[Tensor, "batch patch dim"]]:
    """The patches of one prefix a row, a tensor a scale: only those that it is cut into, so its length over the scale of
    them. Items and patches come newest first; scales divide the number of ages."""
    items = items * mask[..., None].to(items.dtype)
    cut = [items.unflatten(1, (-1, scale)).sum(2) for scale in scales]
    if mean:
        cut = [
            part / mask.unflatten(1, (-1, scale)).sum(2, keepdim=True).clamp_min(1)
            for part, scale in zip(cut, scales)
        ]
    return cut


class MultiScaleEmbedding(nn.Module):
    """$x^s_t = \\mathrm{LN}(\\sum_{i \\in \\text{patch}} e_i) + P_t + S_s$ for each scale s: "additive concatenation" with learned
    embeddings of position and scale. The normalisation is ours: the length of a sum grows with its scale."""

    def __init__(self, settings: Model):
        super().__init__()
        self.scales, self.mean = settings.scales, settings.patch == "mean"
        self.norm = nn.LayerNorm(settings.dim)
        self.position = nn.Parameter(torch.randn(settings.max_length, settings.dim) * 0.02)
        self.scale = nn.Parameter(torch.randn(len(self.scales), settings.dim) * 0.02)
        self.dropout = Dropout(settings.dropout)

    def forward(
        self, items: Float[Tensor, "batch position dim"], mask: Bool[Tensor, "batch position"]
    ) -> Float[Tensor, "scale batch position dim"]:
        if self.scales != (1,):  # an item by itself passes nothing on
            items = items * mask[..., None].to(items.dtype)
        patches = cut_patches(items, self.scales, self.mean)
        return self.dropout(
            self.norm(patches) + (self.position[: items.shape[1]] + self.scale[:, None])[:, None]
        )

    def newest(
        self, items: Float[Tensor, "batch age dim"], mask: Bool[Tensor, "batch age"]
    ) -> tuple[Float[Tensor, "batch patch dim"], Bool[Tensor, "batch patch"]]:
        """The same of one prefix a row, whose items come newest first: its own patches, scale after scale, and which are real."""
        age = torch.cat(
            [torch.arange(0, items.shape[1], scale, device=items.device) for scale in self.scales]
        )
        which = torch.cat(
            [
                torch.full((items.shape[1] // scale,), n, device=items.device)
                for n, scale in enumerate(self.scales)
            ]
        )
        place = (mask.sum(1, keepdim=True) - 1 - age).clamp_min(0)
        patches = torch.cat(cut_newest_patches(items, mask, self.scales, self.mean), 1)
        return self.dropout(
            self.norm(patches) + nn.functional.embedding(place, self.position) + self.scale[which]
        ), mask[:, age]
