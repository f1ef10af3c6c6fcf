"""The proof's road at the smallest size: everything is made, measured, told and kept. What it proves needs training."""

import json

import pytest
import torch

from emo_data.errors import UserError
from flows import proof as proofs
from flows.proof import NAMES, ProofSettings, proof
from tests.test_whole_road import small  # noqa: F401 (a fixture)

SETTINGS = ProofSettings(
    looks=2,
    clips=2,
    seconds=2.0,
    stage_steps=(3, 2, 2),
    sampling_steps=1,
    voices=2,
    voice_seconds=2.0,
    trials=1,
    trial_seconds=2.0,
    minute_seconds=2.0,
)
CPU = torch.device("cpu")


@pytest.mark.usefixtures("small")
def test_every_claim_is_judged_and_nothing_is_done_twice(tmp_path, capfd):
    out = tmp_path / "a proof"
    report = proof(out, SETTINGS, CPU)
    assert json.loads((out / "report.json").read_text()) == report
    assert [claim["letter"] for claim in report["claims"]] == list("abcdefg")
    assert set(report["seconds"]) == set(NAMES)
    # Three steps of training make no face: nothing that needs one may seem to hold.
    assert not any(claim["holds"] for claim in report["claims"])
    assert report["claims"][0]["found"]["seconds_with_a_face"] == 0 and report["claims"][0]["found"]["r"] is None
    assert 0.02 < report["claims"][2]["found"]["still_head_floor"] < 0.4
    page = (out / "report.md").read_text()
    for claim in report["claims"]:
        assert claim["says"] in page
        for picture in claim["pictures"]:
            assert (out / picture).is_file() and f"]({picture})" in page
    capfd.readouterr()
    assert proof(out, SETTINGS, CPU) == report
    assert capfd.readouterr().err.count("done before") == len(NAMES)
    with pytest.raises(UserError, match="other than an earlier proof"):
        proof(tmp_path, SETTINGS, CPU)


def test_a_claim_says_what_it_found():
    told = proofs._told({"r": 0.61234, "interval": (0.5, 0.7), "none": {}, "lost": None})
    assert told == "r: 0.612, interval: 0.5 to 0.7, none: none, lost: None"
