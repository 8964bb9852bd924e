"""One view from items to interests."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from bivrec.model.attention import Block, GaussianAttention
from bivrec.model.clusters import ClusterAttention
from bivrec.model.embedding import MultiScaleEmbedding
from bivrec.settings import Model


class ViewEncoder(nn.Module):
    """One view from items to interests: multi-scale embedding, Gaussian attention, Cluster attention."""

    def __init__(self, settings: Model):
        super().__init__()
        self.embedding = MultiScaleEmbedding(settings)
        attentions = (
            GaussianAttention(
                settings.dim, settings.num_heads, settings.kernel, settings.max_length
            )
            for _ in range(settings.num_layers)
        )
        self.blocks = nn.ModuleList(
            [
                Block(attention, settings.dim, settings.inner_dim, settings.dropout)
                for attention in attentions
            ]
        )
        self.clusters = ClusterAttention(settings)

    def forward(
        self,
        items: Float[Tensor, "batch position dim"],
        mask: Bool[Tensor, "batch position"],
        causal: bool = True,
    ) -> tuple[
        Float[Tensor, "batch position interest dim"], Float[Tensor, "scale batch position interest"]
    ]:
        """The K interests after every position; and each patch's noise-free scores for the tokens."""
        x = self.embedding(items, mask)
        for block in self.blocks:
            x = block(x, mask, self.embedding.scales, causal)
        return self.clusters(x, mask, self.embedding.scales)

    def newest(
        self, items: Float[Tensor, "batch age dim"], mask: Bool[Tensor, "batch age"], causal: bool
    ) -> tuple[
        Float[Tensor, "batch interest dim"],
        Float[Tensor, "batch patch interest"],
        Bool[Tensor, "batch patch"],
    ]:
        """The K interests after one prefix a row, whose items come newest first; its own patches' scores; which are real.
        Nothing else is computed: at scales 1, 2, 4 that is 7 patches of 12."""
        sizes = [items.shape[1] // scale for scale in self.embedding.scales]
        x, real = self.embedding.newest(items, mask)
        for block in self.blocks:
            x = block(x, real, sizes, causal, attend=block.attention.among)
        return *self.clusters.newest(x, real, sizes), real
