"""Multi-scale interest embedding: a history cut into patches at several scales."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.functional import pad as pad_zeros

from bivrec.settings import Modality, Model


class ItemTable(nn.Module):
    """One vector per item: learned (`id`), projected features (`multimodal`), or the sum (`fused`).

    The concatenated features of text and image go through one linear map, as in the paper,
    written here as the sum of one map per modality. A missing modality contributes a learned
    vector.
    """

    def __init__(
        self, inputs: str, num_items: int, features: dict[Modality, tuple[Tensor, Tensor]], dim: int
    ):
        super().__init__()
        ids = torch.randn(num_items, dim).mul_(0.02) if inputs in ("id", "fused") else None
        self.ids = None if ids is None else nn.Parameter(ids)
        features = features if inputs in ("multimodal", "fused") else {}
        self.maps = nn.ModuleDict(
            {name: nn.Linear(x.shape[1], dim, bias=False) for name, (x, _) in features.items()}
        )
        self.missing = nn.ParameterDict({name: torch.zeros(dim) for name in features})
        self.set_features(features)

    def set_features(
        self,
        features: dict[
            Modality, tuple[Float[Tensor, "catalogue feature"], Bool[Tensor, "catalogue"]]
        ],
    ) -> None:
        """Installs a catalogue's frozen features and the masks of the items that have them."""
        for name, (values, mask) in features.items():
            self.register_buffer(f"{name}_values", values, persistent=False)
            self.register_buffer(f"{name}_mask", mask, persistent=False)

    def project_features(
        self, items: Int64[Tensor, "*row"] | None = None
    ) -> dict[Modality, Float[Tensor, "*row dim"]]:
        """Each modality's vectors; `items=None` means the whole catalogue."""
        projected = {}
        for name, project in self.maps.items():
            values, mask = getattr(self, f"{name}_values"), getattr(self, f"{name}_mask")
            if items is not None:
                values, mask = values[items], mask[items]
            projected[name] = torch.where(mask[..., None], project(values), self.missing[name])
        return projected

    def forward(self) -> Float[Tensor, "catalogue dim"]:
        """The vectors of the whole catalogue."""
        parts = list(self.project_features().values())
        if self.ids is not None:
            parts.insert(0, self.ids)
        return sum(parts[1:], parts[0])


@dataclass(frozen=True)
class PatchLayout:
    """How the patches of all scales lie one after the other on one axis.

    At scale s, prefixes whose ends differ by a multiple of s share patches. The patches that end at
    positions r, r + s, r + 2s, ... are therefore one sequence, that of residue r, and the prefix
    that ends at t owns the patches of residue t mod s that end at or before t. `shapes` holds, by
    scale, the number of residues and of patches in each: (s, T / s) for every prefix of a row of T
    items, (1, T / s) for the whole row alone.
    """

    mask: Bool[Tensor, "batch patch"]
    shapes: tuple[tuple[int, int], ...]
    every_prefix: bool

    def split(self, x: Tensor) -> list[Tensor]:
        """[batch patch *rest] to [batch residue patch *rest], one tensor per scale."""
        parts = x.split([residues * patches for residues, patches in self.shapes], 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes)]

    def at_prefixes(self, x: Float[Tensor, "batch residue patch *rest"]) -> Tensor:
        """The value of each prefix's newest patch, [batch prefix *rest]; the row alone is one."""
        return x.transpose(1, 2).flatten(1, 2) if self.every_prefix else x[:, 0, -1:]


def by_residue(
    x: Shaped[Tensor, "batch position *rest"], scale: int
) -> Shaped[Tensor, "batch residue patch *rest"]:
    """Positions 0, 1, ... as residues t mod scale and, within each, patches t // scale."""
    return x.unflatten(1, (-1, scale)).transpose(1, 2)


def cut_patches(
    items: Float[Tensor, "batch position dim"], scale: int
) -> Float[Tensor, "batch residue patch dim"]:
    r"""$p^s_t = \sum_{i = t - s + 1}^{t} e_i$, the patch of s items that ends at each position.

    The prefix that ends at t is cut from its newest item backwards, so that its non-overlapping
    patches end at t, t - s, t - 2s, ...; the oldest may be incomplete.
    """
    padded = pad_zeros(items, (0, 0, scale - 1, 0))
    length = items.shape[1]
    return by_residue(sum(padded[:, lag : lag + length] for lag in range(scale)), scale)


def align_newest(
    items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"]
) -> tuple[Int64[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
    """The same rows with their padding in front, so that every row ends with its newest item."""
    num_positions = items.shape[1]
    padding = num_positions - mask.sum(1, keepdim=True)
    source = torch.arange(num_positions, device=items.device) - padding
    return items.gather(1, source.clamp_min(0)), source >= 0


class MultiScaleEmbedding(nn.Module):
    r"""$x^s_t = \mathrm{LN}(p^s_t) + P_t + S_s$ for every scale s.

    Paper: items of a patch are joined by "additive concatenation"; learned embeddings mark position
    and scale. Deviation: the layer normalisation is ours, since a sum grows with its scale.
    """

    def __init__(self, settings: Model):
        super().__init__()
        self.scales = settings.scales
        self.norm = nn.LayerNorm(settings.dim)
        self.position = nn.Parameter(torch.randn(settings.max_length, settings.dim) * 0.02)
        self.scale = nn.Parameter(torch.randn(len(self.scales), settings.dim) * 0.02)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(
        self,
        items: Float[Tensor, "batch position dim"],
        mask: Bool[Tensor, "batch position"],
        every_prefix: bool = True,
    ) -> tuple[Float[Tensor, "batch patch dim"], PatchLayout]:
        """Patches of every prefix, or of the row alone, whose padding is then in front."""
        items = items * mask[..., None].to(items.dtype)
        position = embedding((mask.cumsum(1) - 1).clamp_min(0), self.position)
        patches, masks = [], []
        for scale, embedded in zip(self.scales, self.scale):
            x = self.norm(cut_patches(items, scale)) + by_residue(position, scale) + embedded
            residues = slice(None) if every_prefix else slice(-1, None)  # the row ends in the last
            patches.append(x[:, residues])
            masks.append(by_residue(mask, scale)[:, residues])
        shapes = tuple(tuple(x.shape[1:3]) for x in patches)
        layout = PatchLayout(torch.cat([x.flatten(1) for x in masks], 1), shapes, every_prefix)
        return self.dropout(torch.cat([x.flatten(1, 2) for x in patches], 1)), layout
