"""A model trained on clicks, and its store: generated clicks, and real ones where they lie near."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOP = Path(__file__).resolve().parents[2]
SETS = [TOP.parent / "shared" / "data" / name for name in ("adult", "kuairand_sub")]
WRITE_LOG = """
import sys, json, pathlib
import numpy as np
from ctr import clicklog
from ctr.clicklog import Field
log = clicklog.generate(0, 20000, [Field("user", 3000), Field("item", 500), Field("hour", 24, 0)])
folder = pathlib.Path(sys.argv[1])
np.savez(folder / "encoded.npz", X=log.ids, y=log.labels, fields=np.array(log.fields),
         card=np.array(log.cardinalities), split=log.split)
(folder / "meta.json").write_text(json.dumps({"name": "generated"}))
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    subprocess.run([sys.executable, "-c", WRITE_LOG, folder], check=True, cwd=TOP / "tools")
    return folder


def quality(folder):
    """The figures of one run, which must meet their requirements."""
    command = [sys.executable, TOP / "tools" / "quality.py", folder, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_model_on_generated_clicks_is_neither_guessing_nor_sure(generated):
    found = quality(generated)
    assert 0.55 < found["auc_before"] < 0.95
    assert found["ratio"] < 0.33


@pytest.mark.parametrize("folder", [None, *(one for one in SETS if one.is_dir())], ids=str)
def test_a_store_keeps_logits_and_auc_of_a_model(generated, folder):
    found = quality(folder or generated)
    assert all(found["met"].values())
    assert found["largest_of_range"] <= 0.01
    assert abs(found["auc_change"]) <= 0.001


def test_auc_is_that_of_all_pairs():
    code = """
import numpy as np
from ctr.train import auc
rng = np.random.default_rng(0)
labels, scores = rng.integers(0, 2, 300), rng.integers(0, 20, 300) / 4
above = scores[labels == 1][:, None] - scores[labels == 0][None, :]
print(auc(labels, scores) - ((above > 0) + 0.5 * (above == 0)).mean())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP / "tools"
    )
    assert np.isclose(float(done.stdout), 0, atol=1e-12)
