"""Where papers and programs differ, the page of the algorithm says so, and what it says is what is built."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.algorithms.agents import FRAMES, MODULES, learner, loss, small

from retorq.nn.cores import Cosines
from retorq.nn.noisy import NoisyLinear
from retorq.running.evaluate import PROTOCOLS
from retorq.running.scores import reference

PAGES = Path(__file__).parents[1] / "docs" / "algorithms"
# Page: a word of the topic, and one of what is chosen, in one row of a table.
TOLD = {
    "README": [
        ("no-ops", "0 to 30"),
        ("bilinear", "averaging areas"),
        ("time limit", "bootstraps"),
        ("Video Pinball", "| 0 |"),
        ("best weights", "final weights"),
    ],
    "dqn": [
        ("largest weight", "of the batch"),
        ("β", "0.4 to 1"),
        ("Huber's loss", "the weight times the loss"),
        ("priorities of zero", "floor"),
        ("draws", "strata"),
        ("target period", "2,500 updates"),
        ("limit on the gradient", "`clip_gradient` 10"),
        ("Double DQN is evaluated", "0.001"),
        ("output bias", "one per action"),
        ("rank-based", "proportional"),
        ("5-minute", "30 minutes"),
    ],
    "c51": [("limit on the gradient", "10"), ("projection with a hole", "triangular kernel")],
    "noisy_dqn": [
        ("σ₀", "0.5: `noisy_sigma`"),
        ("in evaluation", "off"),
        ("noise itself", "normal"),
        ("biases", "noisy"),
    ],
    "qr_dqn": [("201", "200"), ("division by κ", "yes"), ("limit on the gradient", "10")],
    "iqn": [
        ("first cosine", "from 1"),
        ("K |", "32"),
        ("warm-up", "50,000"),
        ("n |", "1"),
        ("division by κ", "yes"),
    ],
    "rainbow": [
        ("target period, warm-up", "8,000 and 20,000 steps"),
        ("priority |", "KL"),
        ("largest importance weight", "of the batch"),
        ("β |", "0.4 to 1"),
        ("σ₀", "0.5"),
        ("noise in evaluation", "off"),
        ("limit on the gradient", "10"),
        ("what the name means", "six parts"),
    ],
    "drqn": [
        ("ADADELTA", "Adam"),
        ("−1", "no such reward"),
        ("5 times", "4 times"),
        ("starts at the second row", "at the first"),
        ("shorter than a sequence", "masked"),
    ],
    "r2d2": [
        ("importance weights", "0.6"),
        ("stacked frames", "| 4 |"),
        ("overlap", "40 rows"),
        ("loss over time", "sum"),
        ("last reward", "as it is"),
        ("first priorities", "of the actors' errors"),
        ("last rows of a sequence", "full return"),
        ("after a game's end", "masked"),
        ("first rows of a game", "they have"),
    ],
    "recurrent_iqn": [
        ("time limit", "bootstraps"),
        ("own 20 rows", "one unroll per network"),
        ("every `state_period`-th row", "memory"),
        ("highest priority seen so far", "1"),
    ],
}


@pytest.mark.parametrize("page", TOLD)
def test_disagreements_are_told_with_the_choice(page):
    rows = [line for line in (PAGES / f"{page}.md").read_text().splitlines() if line.startswith("|")]
    missing = [(topic, ours) for topic, ours in TOLD[page] if not any(topic in row and ours in row for row in rows)]
    assert missing == []


def test_munchausen_is_told_with_the_traps_of_its_program():
    dqn, iqn = ((PAGES / f"{name}.md").read_text() for name in ("dqn", "iqn"))
    assert re.search(r"authors' constructor \(α = 1, l₀ = −10\) are not the paper's", dqn)
    assert re.search(r"probabilities to a sampler that expects logits.*M-IQN acts ε-greedily", iqn, re.DOTALL)
    assert "218%" in iqn
    assert "237.8%" in iqn


def test_what_is_told_is_what_is_built():
    assert Cosines(3, 4).multiples.tolist() == pytest.approx([torch.pi * i for i in (1, 2, 3, 4)])
    assert reference("ALE/VideoPinball-v5") == (0.0, 17667.9)
    assert PROTOCOLS["nature_2015"].epsilon == 0.05
    for agent in ("c51", "qr_dqn", "iqn", "rainbow", "dqn"):
        assert learner("clip_gradient")(MODULES[agent].make(small(agent), FRAMES)) == 10.0
    noisy = MODULES["rainbow"].make(small("rainbow"), FRAMES)
    layers = [m for m in noisy.network.modules() if isinstance(m, NoisyLinear)]
    assert len(layers) == 3  # both streams' hidden layers are one matrix
    assert loss(noisy).error == "td"  # the divergence; the cross-entropy only if asked for
    assert loss(MODULES["rainbow"].make(replace(small("rainbow"), priority_error="loss"), FRAMES)).error == "loss"
