"""One view from items to interests: embedding, Gaussian attention, Cluster attention."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from bivrec.model.attention import Block, GaussianAttention
from bivrec.model.clusters import ClusterAttention
from bivrec.model.embedding import MultiScaleEmbedding
from bivrec.settings import Model


class ViewEncoder(nn.Module):
    """Multi-scale interest embedding, then intra-view interest decomposition."""

    def __init__(self, settings: Model, causal: bool):
        super().__init__()
        self.causal = causal
        # a CUDA graph fixes the temperature, and cannot hold the gradient of a product with zeros
        self.recordable = settings.final_temperature is None and settings.newest != "per_interest"
        self.embedding = MultiScaleEmbedding(settings)
        self.blocks = nn.ModuleList(
            Block(
                GaussianAttention(
                    settings.dim, settings.num_heads, settings.kernel, settings.max_length
                ),
                settings.dim,
                settings.inner_dim,
                settings.dropout,
            )
            for _ in range(settings.num_layers)
        )
        self.clusters = ClusterAttention(settings)

    def forward(
        self,
        items: Float[Tensor, "batch position dim"],
        mask: Bool[Tensor, "batch position"],
        every_prefix: bool = True,
    ) -> tuple[Float[Tensor, "batch prefix interest dim"], Float[Tensor, "batch patch interest"]]:
        """The K interests after every prefix, or after the row alone, and the patches' logits.

        A `causal` view lets no patch attend to later ones, as prefixes need. With
        `every_prefix=False` the padding of `items` is in front.
        """
        x, layout = self.embedding(items, mask, every_prefix)
        for block in self.blocks:
            x = block(x, layout, self.causal)
        return self.clusters(x, layout)
