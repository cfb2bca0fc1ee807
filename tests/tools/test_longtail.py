"""The generated long tail, and what tells how hard a set is."""

from dataclasses import asdict

import numpy as np
import pytest
from ctr import clicklog, longtail, train
from ctr.datasets import TEST, TRAIN
from reproduce.difficulty import difficulty
from reproduce.training import Sizes, fit

from sharkstore.metrics import auc, log_losses

SHRINK = 200


@pytest.fixture(scope="module")
def log():
    return longtail.generate(SHRINK)


@pytest.fixture(scope="module")
def model(log):
    return fit(log[0], 0, Sizes(dim=4, hidden=(8,), batch=256, rate=1e-2, epochs=2))


@pytest.fixture(scope="module")
def hard(log, model):
    return difficulty(log[0], model, log[1])


def test_the_tables_have_more_than_a_million_rows_and_three_fields_say_nothing():
    assert sum(field.rows for field in longtail.FIELDS) > 1_000_000
    assert sum(field.signal == 0 for field in longtail.FIELDS) == 3


def test_the_known_logits_are_what_labels_were_drawn_from(log):
    data, known = log
    assert known.shape == data.labels.shape
    clicked = 1 / (1 + np.exp(-known.astype(np.float64)))
    # 15 000 draws: the mean label is within 4 standard errors of the mean chance
    assert abs(data.labels.mean() - clicked.mean()) < 4 * 0.5 / len(known) ** 0.5
    entropy = -(clicked * np.log(clicked) + (1 - clicked) * np.log1p(-clicked)).mean()
    assert log_losses(data.labels, known).mean() == pytest.approx(entropy, rel=0.03)


def test_a_generated_log_is_the_known_one_without_its_logits():
    fields = longtail.FIELDS[-3:]
    known, _ = clicklog.generate_known(3, 100, fields)
    plain = clicklog.generate(3, 100, fields)
    np.testing.assert_array_equal(plain.ids, known.ids)
    np.testing.assert_array_equal(plain.labels, known.labels)


def test_no_model_ranks_better_than_the_known_logits(hard):
    assert 0.55 < hard.auc < hard.bound < 0.95


def test_without_its_large_tables_the_model_knows_less(log, model):
    hard = difficulty(log[0], model, log[1], large=1000)
    assert hard.large == ("user", "item", "page")
    assert hard.without_large < hard.auc - 0.005


def test_shares_of_unseen_and_rare_are_counted(log, hard):
    data, _ = log
    trained, met = data.part(TRAIN)[0], data.part(TEST)[0]
    unseen = rare = rows = 0
    for column, count in enumerate(data.cardinalities):
        seen = {}
        for one in trained[:, column].tolist():
            seen[one] = seen.get(one, 0) + 1
        unseen += sum(one not in seen for one in met[:, column].tolist())
        rare += sum(seen.get(one, 0) <= 5 for one in met[:, column].tolist())
        rows += count - len(seen)
    assert hard.unseen_lookups == pytest.approx(unseen / met.size)
    assert hard.rare_lookups == pytest.approx(rare / met.size)
    assert hard.unseen_rows == pytest.approx(rows / sum(data.cardinalities))


def test_the_model_is_itself_again_after_its_difficulty_was_measured(log, model):
    data, known = log
    before = train.predict(model, data.part(TEST)[0])
    first = difficulty(data, model, known, large=24)
    np.testing.assert_array_equal(train.predict(model, data.part(TEST)[0]), before)
    assert asdict(first)["auc"] == auc(data.part(TEST)[1], before)


def test_a_set_whose_logits_are_not_known_has_no_bound(log, model):
    assert difficulty(log[0], model, None).bound is None
