"""Arms of an ablation: a config with a few fields changed, and which stages it shares with others.

An arm is one entry of a config, its name and the fields that it changes:

    config.ablate.arms = {"kl_0": "grpo.kl_coef=0.0", "group_2": "grpo.group_size=2; ..."}

A stage depends on the sections of its own and of the stages below it. Arms in which these are
equal share the stage: it bears the name of the first of them, the run itself before its arms and
these by the alphabet, so that it is trained once.
"""

import ast
import json
import re
from collections.abc import Mapping

import ml_collections

MAIN = ""  # the run itself, as an arm

# Stages that each stage is made from, itself included.
_FROM = {
    "base": ("base",),
    "cold_start": ("base", "cold_start"),
    "rft": ("base", "cold_start", "rft"),
    "grpo": ("base", "cold_start", "rft", "grpo"),
    "meta_rm": ("base", "cold_start", "rft", "grpo", "meta_rm"),
}
# Sections that may change between runs on one workdir: they decide no parameters of these stages,
# up to rounding. Each kind of baseline has its own parameters, and keeps its section beside them.
FREE_SECTIONS = ("ablate", "baseline", "benchmark", "mesh")
# Sections that may differ between arms; models, devices and seeds may not.
_MAY_CHANGE = ("template", *_FROM, "benchmark")


def changed(config: ml_collections.ConfigDict, arm: str) -> ml_collections.FrozenConfigDict:
    """The config of an arm.

    Raises:
      ValueError: there is no such arm, or a change of a field that is not there, or of another
        type, or that arms may not change.
    """
    if arm == MAIN:
        return ml_collections.FrozenConfigDict(config)
    known = config.get("ablate", {}).get("arms", {})
    if arm not in known:
        raise ValueError(f"config.ablate.arms: no arm {arm!r}; there are {sorted(known)}")
    where = f"config.ablate.arms.{arm}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", arm):
        raise ValueError(f"{where}: a name has small letters, digits and underscores")
    if not isinstance(known[arm], str):
        raise ValueError(f"{where}: expected 'field=value; ...', got {known[arm]!r}")
    new = ml_collections.ConfigDict(config).copy_and_resolve_references()
    for change in filter(None, (part.strip() for part in known[arm].split(";"))):
        _apply(new, change, where)
    return ml_collections.FrozenConfigDict(new)


def _apply(config: ml_collections.ConfigDict, change: str, where: str) -> None:
    dotted, equals, text = change.partition("=")
    *parents, field = dotted.strip().split(".")
    if not equals or not parents:
        raise ValueError(f"{where}: expected section.field=value, got {change!r}")
    if parents[0] not in _MAY_CHANGE:
        raise ValueError(f"{where}: arms may change {_MAY_CHANGE}, not {dotted.strip()!r}")
    section = config
    for parent in parents:
        if parent not in section:
            raise ValueError(f"{where}: config.{'.'.join(parents)} is no section")
        section = section[parent]
    with section.unlocked(), section.ignore_type():
        # A field at its default is not written in the config; whether it exists, the schema knows.
        section[field] = _value(text.strip(), section.get(field))


def _value(text: str, before):
    """A string where a string was, otherwise what Python reads."""
    if isinstance(before, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def deciding(config: Mapping, stage: str) -> str:
    """What decides the parameters of a stage, as JSON: equal texts are equal stages."""
    needed = _FROM[stage]
    if stage == "grpo" and config["grpo"]["loop"].get("start", "rft") == "cold_start":
        needed = tuple(name for name in needed if name != "rft")
    skipped = {*_FROM, *FREE_SECTIONS} - {*needed}
    if stage == "base":
        skipped.add("template")  # general data have none
    sections = json.loads(ml_collections.FrozenConfigDict(config).to_json())
    return json.dumps({k: v for k, v in sections.items() if k not in skipped}, sort_keys=True)


def title(arm: str) -> str:
    """An arm for people: `kl_0` is "kl 0"."""
    return arm.replace("_", " ")
