"""Chunks of codebooks: where they lie, and what is written in them."""

import google_crc32c
import numpy as np
import pytest
from strategies import random_codebook

from sharkstore.encodings import parse_encoding
from sharkstore.plan.model import Plan, TablePlan, TierPlan
from sharkstore.write.chunks import Inputs, chunk_tasks, fill_chunk
from sharkstore.write.layout import plan_metadata
from sharkstore.write.writer import ChunkWriter

PROVENANCE = {"tool": "test", "source": {"name": "test"}}


def metadata_of(*encodings, rows=100, dim=19, target=1 << 25):
    """Metadata of a store of the table `emb` in these tiers."""
    tiers = tuple(TierPlan(parse_encoding(name), rows) for name in encodings)
    whole = rows * len(tiers)
    table = TablePlan("emb", whole, dim, "float32", "store", "id", tiers)
    return plan_metadata(Plan((table,)), {}, PROVENANCE, {}, target)


def test_codebooks_have_a_place_and_bytes():
    (table,) = metadata_of("pq4", "int8", "pq8.5.f32").tables
    assert [tier.codebook and tier.codebook.path for tier in table.tiers] == [
        "tables/emb/0.codebook",
        None,
        "tables/emb/2.codebook",
    ]
    assert table.tiers[0].codebook.shape == (5, 256, 4)
    assert table.tiers[2].codebook.shape == (3, 5, 8)
    stored = 100 * (5 + 21 + 3) + 5 * 32
    assert table.nbytes == stored + 5 * 256 * 4 * 2 + 3 * 5 * 8 * 4


@pytest.mark.parametrize(
    ("encoding", "told"), [("int8", "1.0"), ("int4", "1.1"), ("pq4", "1.2"), ("pq2.3", "1.2")]
)
def test_a_store_names_the_first_version_that_has_its_encodings(encoding, told):
    assert metadata_of("f32", encoding).format == told


def test_a_codebook_is_one_chunk_however_small_chunks_are():
    metadata = metadata_of("pq4", "pq2.9", rows=40_000, dim=256, target=1 << 12)
    books = [tier.codebook for tier in metadata.tables[0].tiers]
    assert [book.chunks for book in books] == [1, 1]
    assert metadata.tables[0].tiers[0].array.chunks > 1


@pytest.mark.parametrize("encoding", ["pq4", "pq2.7", "pq8.5.f32"])
def test_a_chunk_of_a_codebook_is_its_values(tmp_path, encoding):
    metadata = metadata_of("int8", encoding)
    tier = metadata.tables[0].tiers[1]
    book = random_codebook(tier.encoding, 19, np.random.default_rng(0))
    inputs = Inputs(None, metadata, {}, {}, {}, {tier.codebook.path: book})
    (task,) = (one for one in chunk_tasks(metadata) if one.array == tier.codebook)
    with ChunkWriter(tier.codebook.chunk_bytes) as writer:
        path = tmp_path / "chunk"
        chunk = writer.chunk(str(path), tier.codebook.chunk_bytes)
        fill_chunk(task, inputs, chunk)
        crc = chunk.close()
    assert path.read_bytes() == book.tobytes() + crc.to_bytes(4, "little")
    assert crc == google_crc32c.value(book.tobytes())
