"""The record that names a row of a table, and the one place where it becomes words."""

import dataclasses
from collections.abc import Iterable

STAGES = {
    "random_weights": "random weights",
    "released": "released",
    "remote": "remote",
    "base": "base",
    "cold_start": "cold start",
    "rft": "RFT",
    "grpo": "GRPO",
}
BASELINES = {
    "bradley_terry": "Bradley-Terry RM",
    "pairrm": "PairRM",
    "cloud": "CLoud",
    "llm_judge": "LLM-as-a-Judge",
    "token_prob": "TokenProb",
}
NAMES = STAGES | BASELINES
# Sections of a table; every other one is that of an arm or of a rule.
BLIND = "content-blind baselines"
GREEDY = "greedy"
SAMPLED = "k samples"
VOTES = {"voting": "Voting", "guided": "MetaRM"}
CURVES = {"voting": "voting", "guided": "guided by the meta RM"}


@dataclasses.dataclass(frozen=True)
class Method:
    """How a verdict is made. Equal methods are the same row of every table and of every run.

    Attributes:
      stage: a key of `NAMES`; of a content-blind baseline, its name.
      arm: such as "kl_0"; "" for the run itself.
      kind: "blind", "scalar" (a head that scores without writing), "greedy", "voting" or "guided"
        (by the meta RM).
      k: samples of one verdict. One sample of "voting" is drawn at the temperature of votes.
      rule: a way to count that is not that of the run, such as "k_meta: 1"; "" for that of the run.
    """

    stage: str
    arm: str = ""
    kind: str = "voting"
    k: int = 1
    rule: str = ""

    @property
    def plain(self) -> bool:
        """Whether it is of the run itself, counted by the rules of the run."""
        return not self.arm and not self.rule

    @property
    def votes(self) -> bool:
        """Whether a verdict has more samples than one."""
        return self.k > 1

    @property
    def section(self) -> str:
        """The section of a table in which the row stands."""
        if self.kind == "blind":
            return BLIND
        if not self.plain:
            return self.rule or title(self.arm)
        return SAMPLED if self.kind in VOTES else GREEDY

    def label(self, *, named: bool = True) -> str:
        """The label of the row.

        Args:
          named: whether votes have the name of their stage, "GRPO, Voting@8" instead of "Voting@8".
        """
        if self.kind == "blind":
            return self.stage
        name = NAMES[self.stage]
        if self.kind == "scalar":
            return name
        if self.votes:
            text = f"{VOTES[self.kind]}@{self.k}"
            return f"{name}, {text}" if named else text
        return f"{name}, {'greedy' if self.kind == 'greedy' else 'one sample'}"


def title(arm: str) -> str:
    """An arm for people: `kl_0` is "kl 0"."""
    return arm.replace("_", " ")


def voter(methods: Iterable[Method]) -> str | None:
    """The last stage of the run itself that was sampled, whose votes are those of the run."""
    sampled = [
        method.stage for method in methods
        if method.plain and method.kind == "voting" and method.stage in STAGES
    ]  # fmt: skip
    return sampled[-1] if sampled else None
