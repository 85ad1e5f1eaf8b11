"""Rejection rules of rejective fine-tuning (paper section 3.1).

A teacher draws N_RFT = 3 *non-hinted* trajectories of every comparison and, optionally, one
*hinted* trajectory, whose prompt names the best response.

Kept from the paper: a trajectory that is not correct by Eq. 10 is rejected; when all N_RFT
non-hinted trajectories of a comparison are correct, it is too easy and all of them are rejected; a
hinted trajectory is rejected only if incorrect.

Left open by the paper, decided here:
- A trajectory without a strict parse is not correct; it has a reason of its own.
- A trajectory that hit the length limit (`finish == "length"`) is rejected even when its scores
  are right: as a training target it would teach never to stop. It still counts as correct when
  the rules decide whether a comparison was too easy.
- The hinted trajectory of a too easy comparison is kept (`hinted_of_too_easy`): the paper exempts
  hinted trajectories from that rule, and says nothing else about them.
- The hint only helps the sampler. A kept hinted trajectory is trained on under the prompt
  *without* the hint, in the order of presentation it was drawn in (`Trajectory.order`), because
  at test time there is no hint. Whoever builds the examples writes that prompt anew from the
  comparison; the record's `hinted` flag must not reach it.

Nothing is dropped silently: each trajectory has exactly one `Decision`.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from grm_jax.data.trajectory import Trajectory
from grm_jax.ranges import Checked, Count

KEPT = "kept"
OUTCOMES = (
    KEPT,
    "unparsed",  # no strict scores
    "incorrect",  # scores, and wrong by Eq. 10
    "unfinished",  # right, but hit the length limit
    "too_easy",  # every non-hinted trajectory of the comparison is right
    "hinted_unparsed",
    "hinted_incorrect",
    "hinted_unfinished",
    "hinted_too_easy",  # only with hinted_of_too_easy=False
    "not_used",  # non-hinted with use_non_hinted=False
    "hinted_not_used",  # hinted with use_hinted=False
)


@dataclasses.dataclass(frozen=True)
class RejectionRules(Checked):
    """Which trajectories become training examples.

    Attributes:
      num_samples: N_RFT, non-hinted trajectories drawn for each comparison.
      num_hinted: hinted trajectories drawn for each comparison that has any.
      drop_too_easy: reject the non-hinted trajectories of a comparison if all are correct.
      use_non_hinted: False for the ablation without non-hinted sampling.
      use_hinted: False for the ablation without hinted sampling.
      hinted_of_too_easy: keep the correct hinted trajectory of a too easy comparison.
      require_stop: reject trajectories that did not end by themselves.
    """

    num_samples: Count = 3
    num_hinted: Count = 1
    drop_too_easy: bool = True
    use_non_hinted: bool = True
    use_hinted: bool = True
    hinted_of_too_easy: bool = True
    require_stop: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.num_samples == 1 and self.drop_too_easy:
            raise ValueError(
                "num_samples: with one sample and drop_too_easy every correct trajectory is too "
                "easy and nothing would be kept"
            )


class Decision(NamedTuple):
    """A trajectory and its outcome, one of `OUTCOMES`."""

    trajectory: Trajectory
    outcome: str

    @property
    def kept(self) -> bool:
        """True for a training example."""
        return self.outcome == KEPT

    def to_json(self) -> str:
        """One line, without its end: the key of the trajectory, and what decided the outcome.

        "parse_reason" is "ok" or why there are no scores; "tokens" is 0 for drawn texts.
        """
        trajectory = self.trajectory
        record = trajectory.key._asdict() | {
            "outcome": self.outcome,
            "correct": trajectory.correct,
            "parse_reason": trajectory.parse_reason,
            "finish": trajectory.finish,
            "tokens": len(trajectory.token_ids),
        }
        return json.dumps(record, ensure_ascii=False)


class Rejection(NamedTuple):
    """The result of `reject`."""

    decisions: tuple[Decision, ...]  # one for each trajectory, in the order they were given
    # the trajectories that become training examples, in the same order
    kept: tuple[Trajectory, ...]
    counts: dict[str, int]  # trajectories by outcome, every outcome listed
    # numbers of comparisons: "total", "too_easy", and "used" (at least one kept trajectory)
    comparisons: dict[str, int]


def reject(trajectories: Iterable[Trajectory], rules: RejectionRules) -> Rejection:
    """Applies the rules to all trajectories of all comparisons.

    Args:
      trajectories: in any order; for each comparison `rules.num_samples` non-hinted trajectories
        or none, and at most `rules.num_hinted` hinted ones.
      rules: which trajectories become training examples.

    Raises:
      ValueError: naming the uid, when a comparison has another number of trajectories, the same
        sample twice, or a trajectory whose correctness is unknown.
    """
    trajectories = tuple(trajectories)
    by_uid: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        if trajectory.correct is None:
            raise ValueError(
                f"trajectory {trajectory.key}: field 'correct' is unknown, and rejection needs it"
            )
        by_uid.setdefault(trajectory.uid, []).append(trajectory)
    too_easy = {uid for uid, group in by_uid.items() if _too_easy(uid, group, rules)}

    decisions = tuple(
        Decision(trajectory, _outcome(trajectory, trajectory.uid in too_easy, rules))
        for trajectory in trajectories
    )
    kept = tuple(decision.trajectory for decision in decisions if decision.kept)
    counted = Counter(decision.outcome for decision in decisions)
    used = len({trajectory.uid for trajectory in kept})
    return Rejection(
        decisions,
        kept,
        counts={outcome: counted[outcome] for outcome in OUTCOMES},
        comparisons={"total": len(by_uid), "too_easy": len(too_easy), "used": used},
    )


def easy_comparisons(trajectories: Iterable[Trajectory], num_samples: int) -> tuple[set[str], int]:
    """Comparisons that one model gets right every time: RL drops them (paper section 3.2).

    Args:
      trajectories: of one model in one setting, at most once each; hinted ones do not count.
      num_samples: fewest trajectories of a comparison that can show that it is easy.

    Returns:
      The uids of comparisons with at least `num_samples` trajectories, all of them correct, and
      the number of comparisons with that many trajectories.

    Raises:
      ValueError: they are of several models or settings, or correctness is unknown.
    """
    right: dict[str, list[bool]] = {}
    origins = set()
    for trajectory in trajectories:
        if trajectory.hinted:
            continue
        origins.add((trajectory.fingerprint, trajectory.stage, trajectory.step))
        if len(origins) > 1:
            raise ValueError(f"trajectories of several models or settings: {sorted(origins)}")
        if trajectory.correct is None:
            raise ValueError(f"trajectory {trajectory.key}: field 'correct' is unknown")
        right.setdefault(trajectory.uid, []).append(trajectory.correct)
    judged = {uid: all(group) for uid, group in right.items() if len(group) >= num_samples}
    return {uid for uid, easy in judged.items() if easy}, len(judged)


def _too_easy(uid: str, trajectories: list[Trajectory], rules: RejectionRules) -> bool:
    plain = [t for t in trajectories if not t.hinted]
    hinted = [t for t in trajectories if t.hinted]
    for name, group, allowed in (
        ("non-hinted", plain, (0, rules.num_samples)),
        ("hinted", hinted, range(rules.num_hinted + 1)),
    ):
        if len({t.sample for t in group}) != len(group):
            raise ValueError(f"comparison {uid!r}: a {name} sample appears twice")
        if len(group) not in allowed:
            limit = "num_hinted" if name == "hinted" else "num_samples"
            raise ValueError(
                f"comparison {uid!r}: {len(group)} {name} trajectories, but rft.{limit} is "
                f"{getattr(rules, limit)}"
            )
    return rules.drop_too_easy and bool(plain) and all(t.correct for t in plain)


def _outcome(trajectory: Trajectory, too_easy: bool, rules: RejectionRules) -> str:
    prefix = "hinted_" if trajectory.hinted else ""
    if not (rules.use_hinted if trajectory.hinted else rules.use_non_hinted):
        return prefix + "not_used"
    if trajectory.scores is None:
        return prefix + "unparsed"
    if not trajectory.correct:
        return prefix + "incorrect"
    # Before the length rule: all trajectories of a comparison share this outcome.
    if too_easy and not (trajectory.hinted and rules.hinted_of_too_easy):
        return prefix + "too_easy"
    if rules.require_stop and trajectory.finish != "stop":
        return prefix + "unfinished"
    return KEPT
