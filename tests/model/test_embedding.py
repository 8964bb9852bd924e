"""Item tables, patches and their layout, against loops that follow the paper's words."""

import pytest
import torch

from bivrec.model.embedding import (
    ItemTable,
    MultiScaleEmbedding,
    PatchLayout,
    align_newest,
    by_residue,
    cut_patches,
)
from bivrec.settings import load_settings


def embedding_of(scales: list[int]) -> MultiScaleEmbedding:
    changes = {"model.scales": scales, "model.max_length": 24}
    return MultiScaleEmbedding(load_settings("planted", changes).model).eval()


def test_item_table_masks_what_is_missing():
    values, mask = torch.randn(5, 3), torch.tensor([True, True, False, True, False])
    table = ItemTable("multimodal", 5, {"text": (values, mask), "image": (values, ~mask)}, 4)
    torch.nn.init.normal_(table.missing["text"])
    torch.nn.init.normal_(table.missing["image"])
    vectors = table()
    for item in range(5):
        text = table.maps["text"](values[item]) if mask[item] else table.missing["text"]
        image = table.maps["image"](values[item]) if not mask[item] else table.missing["image"]
        assert torch.allclose(vectors[item], text + image, atol=1e-6)
    masked = torch.where(mask[:, None], values, 1e6)
    table.set_features({"text": (masked, mask), "image": (values, ~mask)})
    assert torch.equal(table(), vectors)  # what stands under a mask is never read


@pytest.mark.parametrize("inputs", ["id", "multimodal", "fused"])
def test_items_select_rows_of_the_projected_features(inputs):
    features = {"text": (torch.randn(9, 3), torch.arange(9) % 2 == 0)}
    table, items = ItemTable(inputs, 9, features, 4), torch.tensor([[3, 0, 3], [7, 8, 1]])
    whole, some = table.project_features(), table.project_features(items)
    assert all(torch.allclose(some[name], whole[name][items], atol=1e-6) for name in whole)
    assert (table.ids is None) == (inputs == "multimodal")
    assert len(table.maps) == (inputs != "id")


def test_a_fused_table_is_the_sum_of_ids_and_features():
    values, mask = torch.randn(9, 3), torch.ones(9, dtype=torch.bool)
    table = ItemTable("fused", 9, {"text": (values, mask), "image": (values, mask)}, 4)
    expected = table.ids + table.maps["text"](values) + table.maps["image"](values)
    assert torch.allclose(table(), expected, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_patches_by_loop(scale):
    items = torch.randn(2, 12, 3)
    patches = cut_patches(items, scale)
    assert patches.shape == (2, scale, 12 // scale, 3)
    for end in range(12):
        expected = items[:, max(0, end - scale + 1) : end + 1].sum(1)
        assert torch.allclose(patches[:, end % scale, end // scale], expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_each_prefix_owns_non_overlapping_patches(scale):
    """Cut the prefix that ends at t backwards: its patches end at t, t - scale, ..."""
    items = torch.randn(1, 12, 3)
    patches = cut_patches(items, scale)[0]
    for end in range(12):
        prefix, owned = items[0, : end + 1], []
        while len(prefix):
            owned.insert(0, prefix[-scale:].sum(0))
            prefix = prefix[:-scale]
        found = patches[end % scale, : end // scale + 1]
        assert torch.allclose(found, torch.stack(owned), atol=1e-5)


def test_a_layout_splits_scales_and_reads_them_at_prefixes():
    x, scales = torch.randn(2, 12, 3), (1, 2, 4)
    parts = [by_residue(x, scale) for scale in scales]
    mask = torch.ones(2, 36, dtype=torch.bool)
    layout = PatchLayout(mask, tuple((scale, 12 // scale) for scale in scales), True)
    split = layout.split(torch.cat([part.flatten(1, 2) for part in parts], 1))
    for part, found in zip(parts, split, strict=True):
        assert torch.equal(part, found) and torch.equal(layout.at_prefixes(found), x)


def test_padding_moves_to_the_front():
    items, lengths = torch.arange(1, 13).view(2, 6), [6, 2]
    aligned, mask = align_newest(items, torch.arange(6) < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        assert mask[row].tolist() == [False] * (6 - length) + [True] * length
        assert torch.equal(aligned[row, 6 - length :], items[row, :length])


def test_one_scale_is_the_single_scale_model():
    embedding, items = embedding_of([1]), torch.randn(2, 6, 32)
    patches, layout = embedding(items, torch.ones(2, 6, dtype=torch.bool))
    expected = embedding.norm(items) + embedding.position[:6] + embedding.scale[0]
    assert layout.shapes == ((1, 6),) and torch.allclose(patches, expected, atol=1e-5)


def test_every_patch_is_marked_with_its_position_and_scale():
    embedding, items = embedding_of([1, 2, 4]), torch.randn(1, 8, 32)
    mask = torch.arange(8)[None] < 6
    patches, layout = embedding(items, mask)
    real = items * mask[..., None]
    for number, (scale, part) in enumerate(zip((1, 2, 4), layout.split(patches))):
        for end in range(6):
            patch = real[0, max(0, end - scale + 1) : end + 1].sum(0)
            expected = embedding.norm(patch) + embedding.position[end] + embedding.scale[number]
            assert torch.allclose(part[0, end % scale, end // scale], expected, atol=1e-5)


def test_the_row_alone_has_the_patches_of_its_last_prefix():
    """Rows of 7, 4 and 1 items, padded behind for every prefix and in front for the row alone."""
    embedding, items = embedding_of([1, 2, 4]), torch.randint(50, (3, 8))
    table, lengths = torch.randn(50, 32), torch.tensor([7, 4, 1])
    mask = torch.arange(8) < lengths[:, None]
    every, layout = embedding(table[items], mask)
    items, mask = align_newest(items, mask)
    alone, alone_layout = embedding(table[items], mask, every_prefix=False)
    assert alone_layout.shapes == ((1, 8), (1, 4), (1, 2))
    both = zip((1, 2, 4), layout.split(every), alone_layout.split(alone))
    for number, (scale, part, own) in enumerate(both):
        real = alone_layout.split(alone_layout.mask)[number][:, 0]
        for row, length in enumerate(lengths.tolist()):
            last, count = length - 1, -(-length // scale)
            owned = part[row, last % scale, : last // scale + 1]
            assert real[row].sum() == count
            assert torch.allclose(own[row, 0, -count:], owned, atol=1e-5)
