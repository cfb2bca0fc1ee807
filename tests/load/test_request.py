"""Requests: many tables in one call."""

import numpy as np
import pytest
from strategies import SAMPLE, assert_same_bits

from sharkstore.errors import ArgumentError, ClosedError, IdError, UnknownTableError

USER, ITEM, TINY = "emb.user.weight", "emb.item.weight", "emb.tiny.weight"
KEYS = [USER, TINY, ITEM, USER]
DIMS = [SAMPLE[key].shape[1] for key in KEYS]
VALUES = np.array([5, 199, 7, 0, 0, 129, 0, 3, 3])
OFFSETS = np.array([0, 2, 3, 3, 5, 6, 7, 7, 9])  # a batch of 2


def test_bags_stand_key_after_key_in_each_row(store):
    got = store.embedding_bags(KEYS, VALUES, OFFSETS)
    user, tiny, item = SAMPLE[USER], SAMPLE[TINY], SAMPLE[ITEM]
    first = [user[5] + user[199], np.zeros(2, np.float32), item[129], np.zeros(7, np.float32)]
    second = [user[7], tiny[0] + tiny[0], item[0], user[3] + user[3]]
    assert_same_bits(got, np.stack([np.concatenate(first), np.concatenate(second)]))


@pytest.mark.parametrize("offsets", [OFFSETS, OFFSETS[::2]], ids=["of bags", "of keys"])
def test_lookups_give_the_rows_of_each_key(store, offsets):
    got = store.lookups(KEYS, VALUES, offsets)
    for key, rows, ids in zip(KEYS, got, np.split(VALUES, OFFSETS[2:-1:2]), strict=True):
        assert_same_bits(rows, SAMPLE[key][ids])


def test_a_batch_of_nothing_gives_no_rows(store):
    assert store.embedding_bags(KEYS, VALUES[:0], [0]).shape == (0, sum(DIMS))
    assert [rows.shape for rows in store.lookups(KEYS, [], [0])] == [(0, dim) for dim in DIMS]


def test_an_unknown_table_is_named(store):
    with pytest.raises(UnknownTableError, match=r"'emb.users'.*did you mean emb.user.weight"):
        store.embedding_bags(["emb.users"], [0], [0, 1])


@pytest.mark.parametrize("keys", [[], USER], ids=["none", "one name"])
def test_keys_must_be_names(store, keys):
    with pytest.raises(ArgumentError):
        store.embedding_bags(keys, [0], [0, 1])


def test_offsets_must_be_as_many_for_each_key(store):
    with pytest.raises(ArgumentError, match=r"4 keys \* batch \+ 1 \(got 8\)"):
        store.embedding_bags(KEYS, VALUES, OFFSETS[:-1])


def test_an_id_outside_names_the_key(store):
    with pytest.raises(IdError, match=f"'{TINY}': id 1 "):
        store.embedding_bags(KEYS, [0, 1, 0, 0], [0, 1, 2, 3, 4])


def test_a_closed_store_answers_no_requests(store):
    request = store.request(KEYS)
    store.close()
    for call in (lambda: request(VALUES, OFFSETS), lambda: store.request(KEYS)):
        with pytest.raises(ClosedError):
            call()
