"""The callables that trainers want: groups by prompt, None or a counted number for no score."""

import numpy as np
import pytest
from scripted_engine import ScriptedEngine
from tiny_release import write_release

from grm_jax.reward.callables import TRLReward, TunixReward, VerlReward
from grm_jax.reward.judging import GRMReward
from grm_jax.sampling.config import DrawConfig
from grm_jax.text.chat_templates import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "policy"
    write_release(folder)
    return load_tokenizer(folder)


@pytest.fixture
def reward(tokenizer):
    draw = DrawConfig(k=2, max_new_tokens=64, form="compact", binary_singles=False)
    return GRMReward(ScriptedEngine(), tokenizer, draw)


PROMPTS = ["p", "q", "p", "q"]  # not side by side
COMPLETIONS = ["good 1", "good 5", "good 4", "silent 2"]


def test_trl_gets_the_scores_of_groups_and_none_for_no_score(reward):
    asked = TRLReward(reward)
    scores = asked(prompts=PROMPTS, completions=COMPLETIONS, trainer_state=None, label=[1, 2, 3, 4])
    assert scores[1] is None and scores[3] is None  # one silent response silences its group
    assert scores[2] - scores[0] == 3
    told = reward.score("p", ["good 1", "good 4"])
    assert (scores[0], scores[2]) == told.scores
    assert dict(asked.counts) == {"asked": 4, "silent": 2}
    assert asked.__name__ == "grm_reward"


def test_one_by_one_a_silent_completion_stands_alone(reward):
    scores = TRLReward(reward, pointwise=True)(prompts=PROMPTS, completions=COMPLETIONS)
    assert scores[3] is None and scores[1] == reward.score("q", ["good 5"]).scores[0]


def test_conversations_are_the_same_as_texts(reward):
    asked = TRLReward(reward, k=3, seed=5)
    plain = asked(prompts=["p", "p"], completions=["good 1", "good 4"])
    turns = [[{"role": "assistant", "content": text}] for text in ("good 1", "good 4")]
    user = [{"role": "user", "content": "p"}]
    assert asked(prompts=[user, user], completions=turns) == plain
    assert plain == list(reward.score("p", ["good 1", "good 4"], k=3, seed=5).scores)


def test_columns_with_principles_and_references_are_shown(reward):
    columns = {"principles": ["Be brief.", None], "reference": ["the right 9", "the right 9"]}
    scores = TRLReward(reward)(prompts=["p", "p"], completions=["good 1", "good 4"], **columns)
    alone = reward.score("p", ["good 1"], principles="Be brief.", reference="the right 9")
    assert scores[0] == alone.scores[0]  # other principles make another group
    assert all("the right 9" in text for text in reward.engine.prompts)


def test_tunix_gets_a_counted_number_for_every_completion(reward):
    asked = TunixReward(reward)
    scores = asked(PROMPTS, COMPLETIONS, answer=["a"] * 4)
    assert scores.dtype == np.float32 and scores.shape == (4,)
    assert scores[1] == scores[3] == (scores[0] + scores[2]) / 2  # of the batch: no advantage
    assert dict(asked.counts) == {"asked": 4, "silent": 2, "filled": 2}
    np.testing.assert_array_equal(TunixReward(reward)(["p"], ["silent 1"]), np.float32([5.5]))
    one_by_one = TunixReward(reward, pointwise=True)(PROMPTS, COMPLETIONS)
    assert one_by_one[3] == one_by_one[1]  # the mean of its group


def test_verl_asks_for_one_sample_a_call(reward):
    asked = VerlReward(reward, show_truth=True)
    told = asked("set", "good 4", 42, {"prompt": "p", "index": 3}, reward_router_address="x")
    expected = reward.score("p", ["good 4"], reference="42").scores[0]
    assert told == {"score": expected, "silent": 0.0}
    turns = np.array([{"role": "user", "content": "p"}], object)
    assert asked("set", "good 4", 42, {"prompt": turns}) == told
    assert asked("set", "silent 4", None, {"prompt": "p"}) == {"score": 5.5, "silent": 1.0}
    assert asked.counts["filled"] == 1
    with pytest.raises(ValueError, match="extra_info: 'prompt' is missing"):
        asked("set", "good 4", "", {"question": "p"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completions": ["a"]}, "completions: 1 for 2 prompts"),
        ({"completions": ["a", []]}, r"completions\[1\]: expected a text, or one message"),
        ({"completions": ["a", [{"role": "assistant"}]]}, r"completions\[1\].content: expected"),
        ({"prompts": ["p", 3]}, r"prompts\[1\]: field 'messages': expected a list, got int"),
        ({"reference": "x"}, "reference: expected a list of 2 texts"),
        ({"principles": ["x", 1]}, r"principles\[1\]: expected a text, got int"),
    ],
)
def test_bad_calls_name_the_field_and_the_row(reward, changes, message):
    call = {"prompts": ["p", "p"], "completions": ["good 1", "good 2"]} | changes
    with pytest.raises(ValueError, match=message):
        TRLReward(reward)(**call)


def test_nothing_asked_is_nothing_told(reward):
    assert TRLReward(reward)(prompts=[], completions=[]) == []
    assert TunixReward(reward)([], []).shape == (0,)
