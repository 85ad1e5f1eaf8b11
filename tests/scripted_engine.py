"""An engine without a model: it gives each response that a prompt shows the number in its text."""

import re

from grm_jax.sampling.engine import Completion
from grm_jax.sampling.scheduler import Buckets, unit_keys

SHOWN = re.compile(r"\[The Begin of Response[^\]]*\]\n?(.*?)\n?\[The End of Response", re.S)
CRITERIA = "Specific Criteria: what counts."


class ScriptedEngine:
    """Scores "good 7" with 7, plus 0 to 2 for all responses by the key of the sample.

    A response with "silent" in it leaves the sample without a box.

    Attributes:
      prompts: the text of every prompt that was asked.
    """

    digest = "scripted"

    def __init__(self, limit=4000):
        self.buckets = Buckets((limit,), (64,), samples=(1, 2, 4), samples_per_unit=8)
        self.prompts = []

    def run(self, params, unit, config, stage_key):
        _, wanted = unit_keys(stage_key, unit)
        self.prompts += [request.prompt.messages[0].content for request in unit.requests]
        return [
            Completion(request.prompt, sample, seed, (), (), (), True, self.answer(request, seed))
            for request, sample, seed in wanted
        ]

    def answer(self, request, seed):
        shown = SHOWN.findall(request.prompt.messages[0].content)
        assert len(shown) == len(request.prompt.order)
        more = seed[1] % 3
        box = ", ".join(str(int(re.search(r"\d+", text)[0]) + more) for text in shown)
        end = "none" if any("silent" in text for text in shown) else rf"\boxed{{{box}}}"
        given = request.prompt.given
        return ("" if given else f"{CRITERIA}\n") + f"Analysis: {shown}\nScores: {end}"
