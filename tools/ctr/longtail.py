"""A click log with long tails: popular heads, tables of more than a million rows in all."""

from __future__ import annotations

from dataclasses import replace

from ctr.clicklog import F32, Field, generate_known
from ctr.datasets import Dataset

NAME = "longtail"
SAMPLES = 3_000_000

# A quarter of the fields say nothing: some tables are worth less than their bytes.
FIELDS = (
    Field("user", 600_000),
    Field("item", 400_000),
    Field("page", 200_000, 0),
    Field("query", 100_000),
    Field("author", 50_000),
    Field("word", 20_000),
    Field("campaign", 5_000, 0),
    Field("place", 5_000),
    Field("topic", 1_000),
    Field("day", 300, 0),
    Field("device", 100),
    Field("hour", 24),
)
LEAST_ROWS = 24


def generate(shrink: int = 1) -> tuple[Dataset, F32]:
    """The log, and the logits that its labels were drawn from, float32 (samples,).

    Args:
        shrink: divides samples and rows, for trials.
    """
    fields = [replace(one, rows=max(one.rows // shrink, LEAST_ROWS)) for one in FIELDS]
    return generate_known(0, SAMPLES // shrink, fields, name=NAME)
