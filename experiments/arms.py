"""Arms of an ablation: configs with a few fields changed, and the stages that they share.

An arm is one entry of a config, its name and the fields that it changes:

    config.ablate.arms = {"kl_0": "grpo.kl_coef=0.0", "group_2": "grpo.group_size=2; ..."}

A stage depends on its own section and on those of the stages before it. Arms whose sections are
identical share one trained stage, stored under the name of the first such arm (the main run first,
then alphabetically).
"""

import ast
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping

import ml_collections

from experiments.config import claimed, complete, differing_fields, filled
from experiments.schema import check
from grm_jax.evaluation.method import title
from grm_jax.files import read_json
from grm_jax.ranges import split
from grm_jax.sampling.remote import Server

MAIN = ""  # the run itself, as an arm

# The stages that each stage builds on, itself included.
_FROM = {
    "base": ("base",),
    "cold_start": ("base", "cold_start"),
    "rft": ("base", "cold_start", "rft"),
    "grpo": ("base", "cold_start", "rft", "grpo"),
    "meta_rm": ("base", "cold_start", "rft", "grpo", "meta_rm"),
}
STAGES = tuple(_FROM)
# Sections that may change between runs on one workdir: they decide no parameters of these stages,
# up to rounding. Each kind of baseline keeps its section with its own parameters.
FREE_SECTIONS = ("ablate", "baseline", "benchmark", "mesh")
# Fields that decide how a server is asked, but not its answers.
_HOW_ASKED = {f"engine_{field.name}" for field in dataclasses.fields(Server)} - {
    "engine_url", "engine_model", "engine_extra",
}  # fmt: skip
# Arms may change their training and the samples that a benchmark draws. Models, devices, data,
# seeds and the counting of votes are those of the run.
_MAY_CHANGE = ("template.principles", "base.", "cold_start.", "rft.", "grpo.", "benchmark.draw.",
               "benchmark.principles", "benchmark.reference")  # fmt: skip
# Names of sections of tables, and of other files of a stage.
_RESERVED = ("greedy", "k_samples", "decisions")


def changed(config: ml_collections.ConfigDict, arm: str) -> ml_collections.FrozenConfigDict:
    """The config of an arm; the config as it is for `MAIN`.

    Raises:
      ValueError: there is no such arm, it changes nothing, or it changes a field that is unknown or
        that arms may not change.
    """
    if arm == MAIN:
        return ml_collections.FrozenConfigDict(config)
    known = config.get("ablate", {}).get("arms", {})
    if arm not in known:
        raise ValueError(f"config.ablate.arms: no arm {arm!r}; there are {sorted(known)}")
    where = f"config.ablate.arms.{arm}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", arm) or arm in _RESERVED:
        raise ValueError(
            f"{where}: a name has small letters, digits and underscores, and is none of {_RESERVED}"
        )
    if not isinstance(known[arm], str):
        raise ValueError(f"{where}: expected 'field=value; ...', got {known[arm]!r}")
    new = complete(config)
    for change in filter(None, (part.strip() for part in known[arm].split(";"))):
        _apply(new, change, where)
    if claimed(new) == claimed(config):
        raise ValueError(f"{where}: {known[arm]!r} changes nothing")
    return ml_collections.FrozenConfigDict(new)


def every(
    config: ml_collections.ConfigDict, *, all_arms: bool = True
) -> dict[str, ml_collections.FrozenConfigDict]:
    """Checked configs of the run itself, as arm `MAIN`, and of its arms.

    Args:
      config: of the run.
      all_arms: False leaves out arms that cannot be run, or change nothing, unless
        `benchmark.arms` names them: a flag may have the value of an arm.

    Raises:
      ValueError: naming the arm, and the field that it makes impossible.
    """
    config = ml_collections.FrozenConfigDict(complete(config))
    checked = {MAIN: config}
    measured = split((config.get("benchmark") or {}).get("arms") or "")
    for name in config.get("ablate", {}).get("arms", {}):
        try:
            new = changed(config, name)
            try:
                check(new)
            except ValueError as error:
                raise ValueError(f"config.ablate.arms.{name}: {error}") from error
            checked[name] = new
        except ValueError:
            if all_arms or name in measured:
                raise
    for name in measured:
        if name not in checked:
            raise ValueError(
                f"config.benchmark.arms: no arm {name!r} in config.ablate.arms; there are "
                f"{[*checked][1:]}"
            )
    return checked


def _apply(config: ml_collections.ConfigDict, change: str, where: str) -> None:
    dotted, equals, text = (part.strip() for part in change.partition("="))
    *parents, field = dotted.split(".")
    if not equals or not parents:
        raise ValueError(f"{where}: expected section.field=value, got {change!r}")
    if not dotted.startswith(_MAY_CHANGE) or dotted == "benchmark.draw.k":
        raise ValueError(f"{where}: arms may change {', '.join(_MAY_CHANGE)} and not {dotted!r}")
    section = config
    for parent in parents:
        section = section.get(parent) if isinstance(section, ml_collections.ConfigDict) else None
    if not isinstance(section, ml_collections.ConfigDict):
        raise ValueError(f"{where}: config.{'.'.join(parents)} is no section")
    if isinstance(section.get(field), ml_collections.ConfigDict):
        raise ValueError(f"{where}: config.{dotted} is a section, not a field")
    with section.unlocked(), section.ignore_type():
        section[field] = _value(text, section.get(field))


def _value(text: str, before):
    """The text where the field holds a string, else the Python literal that it spells."""
    if isinstance(before, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def decisive(sections: Mapping) -> dict:
    """The sections and fields of a workdir's config that no run on it may change."""
    fixed = {name: section for name, section in sections.items() if name not in FREE_SECTIONS}
    if isinstance(rft := fixed.get("rft"), Mapping):
        fixed["rft"] = {name: value for name, value in rft.items() if name not in _HOW_ASKED}
    return fixed


def deciding(config: ml_collections.ConfigDict, stage: str) -> str:
    """The sections that decide the parameters of a stage, as JSON: equal texts are equal stages."""
    needed = _FROM[stage]
    loop = config["grpo"]["loop"] if stage == "grpo" else {}
    if loop.get("start", "rft") == "cold_start" and not loop.get("easy_for"):
        needed = tuple(name for name in needed if name != "rft")
    skipped = {*_FROM} - {*needed}
    if stage == "base":
        skipped.add("template")  # general data have none
    sections = decisive(claimed(config))
    return json.dumps({k: v for k, v in sections.items() if k not in skipped}, sort_keys=True)


def stage_name(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    every: Mapping[str, ml_collections.ConfigDict],
    stage: str,
) -> str:
    """Name of a stage on disk, made from the first arm that trains it in this way.

    A stage that was begun keeps its name, whichever arms are added later.

    Args:
      folder: of the workdir, with <name>.json for each stage that was begun, as `deciding` gave it.
      config: of the run, or of an arm of it.
      every: the configs of the run and of its arms by their names, in order.
      stage: its name in the config.

    Raises:
      ValueError: there is a stage of this name that another config decided.
    """
    if stage not in STAGES or stage not in config:
        return stage
    decided = deciding(config, stage)
    names = [
        f"{stage}_{arm}" if arm else stage for arm, other in every.items()
        if stage in other and deciding(other, stage) == decided
    ]  # fmt: skip
    paths = [folder / f"{name}.json" for name in names]
    begun = {
        name: read_json(path) for name, path in zip(names, paths, strict=True) if path.exists()
    }
    for name, before in begun.items():
        if decisive(claimed(before)) == json.loads(decided):
            return name
    if names[0] in begun:
        different = differing_fields(filled(decisive(begun[names[0]])), filled(json.loads(decided)))
        raise ValueError(
            f"{folder.parent}: stage {names[0]!r} was made with another config; give the arm "
            f"another name, or the run another --workdir: {'; '.join(different)}"
        )
    return names[0]


def measuring(config: Mapping) -> dict:
    """The sections and fields that decide the figures of a run."""
    sections = claimed(config)
    return decisive(sections) | {"benchmark": measured(sections.get("benchmark", {}))}


def comparable(config: Mapping) -> str:
    """Digest of `measuring` without seeds: runs with equal digests may be averaged."""
    sections = measuring(config)
    sections.pop("seed", None)
    sections.get("small_world", {}).pop("world_seed", None)
    text = json.dumps(sections, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def definitions(config: Mapping) -> dict[str, str]:
    """The changes of the measured arms, by their titles."""
    names = split(config["benchmark"].get("arms") or "")
    return {title(name): config["ablate"]["arms"][name] for name in names}


def measured(benchmark: Mapping) -> dict:
    """The fields of a section `benchmark` that decide its figures.

    Arms may be added later, and are compared with the same run; limits decide when a run fails, and
    places and sizes of batches only how it proceeds.
    """
    skipped = {"arms", "count_all", "max_unparsed", "max_cut", "buckets", "data_dir", "engine_url"}
    return {name: value for name, value in benchmark.items() if name not in skipped | _HOW_ASKED}
