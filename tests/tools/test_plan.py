"""The planner: what it reads off compiled programs, a small plan, and what it refuses."""

import json
import os
import re
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from configs import gemma2_27b, small_world
from grm_jax.parallel.mesh import MeshConfig
from tools import plan
from tools.planning import hlo, topologies
from tools.planning.hlo import Collective

# A loop of 3 turns inside one of 2, a loop that data end, a kernel with a brace of its own at the
# start of a line, a fused reduce-scatter, and an asynchronous gather.
TEXT = """
HloModule made_up

%below.1 (p.1: (s32[], f32[8])) -> pred[] {
  %p.1 = (s32[], f32[8]) parameter(0)
  %c.1 = s32[]{:T(128)} constant(3)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[] compare(%i.1, %c.1), direction=LT, metadata={}
}

%inner (p.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %g.1 = bf16[4,128]{1,0} all-gather(%x), backend_config={"estimated_cycles":"10"}
  %k.1 = f32[8] custom-call(%x), backend_config={"text": "
}}, more"}
  ROOT %t.1 = (s32[], f32[8]) tuple(%i, %x)
}

%known (p.3: (s32[], f32[8])) -> (s32[], f32[8]) {
  %w.1 = (s32[], f32[8]) while(%t), condition=%below.1, body=%inner, metadata={}
  %s.1 = (f32[8], f32[16]) all-gather-start(%x), metadata={}
  %d.1 = f32[16] all-gather-done(%s.1)
  ROOT %t.2 = (s32[], f32[8]) tuple(%i, %x)
}

%data (p.4: (pred[], f32[8])) -> pred[] {
  ROOT %b.1 = pred[] get-tuple-element(%p.4), index=0
}

%turn (p.5: (pred[], f32[8])) -> (pred[], f32[8]) {
  %copy.7 = f32[32,8]{0,1} copy(%cache), backend_config={"estimated_cycles":"5"}
  ROOT %t.3 = (pred[], f32[8]) tuple(%i, %x)
}

ENTRY %main.1 (a: f32[8]) -> f32[8] {
  %copy.1 = f32[999,999] copy(%a)
  %w.2 = (s32[], f32[8]) while(%t), condition=%x, body=%known, backend_config={"known_trip_count":{"n":"2"}}
  %w.3 = (pred[], f32[8]) while(%t), condition=%data, body=%turn
  %f.1 = bf16[10]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.3.clone
  ROOT %r.1 = f32[8] all-reduce(%a), to_apply=%add
}
"""  # noqa: E501


def test_facts_of_a_program():
    facts = hlo.read(TEXT)
    assert facts.collectives == {
        "all-gather": Collective(2 * 3 + 2, 2 * 3 * 4 * 128 * 2 + 2 * 16 * 4),
        "all-reduce": Collective(1, 32),
        "reduce-scatter": Collective(1, 20),
    }
    assert facts.cycles == 2 * 3 * 10 + 5
    assert facts.copies == 32 * 8 * 4  # the larger one is in no loop
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.read("nothing")


def test_topologies():
    pod = topologies.parse("v5p:4x4x4")
    assert (pod.chips, pod.devices) == (64, 64)
    assert pod.title == "64 v5p chips, `v5p:4x4x4`, sold as v5p-128"
    two = topologies.parse("tpu7x:2x2x1", slices=2)
    assert (two.chips, two.devices) == (8, 16) and "2 slices of" in two.title
    assert topologies.compiler(topologies.parse("h200:8")) == "cpu"
    for name, message in (("v9:2x2", "KIND one of"), ("v5e:2x2x2", "has 2 dim"), ("v5e", "KIND")):
        with pytest.raises(ValueError, match=message):
            topologies.parse(name)
    with pytest.raises(ValueError, match=r"64 devices, and config.mesh \(data 1, fsdp 3.*takes 3"):
        topologies.mesh(pod, MeshConfig(fsdp=3), "cpu")


def test_a_plan_needs_a_shape_and_no_weights():
    config = plan.planned(gemma2_27b.get_config())
    assert config.model.variant == "gemma2_27b"
    assert "released" not in config and "benchmark" not in config
    with pytest.raises(ValueError, match=r"config\.released\.variant: name the published shape"):
        plan.planned(gemma2_27b.get_config("runlocal"))


def test_keys_change_with_what_decides_a_result():
    config, pod = small_world.get_config("ci"), topologies.parse("h100:2")
    first = plan.key(config, pod, "cpu", "decode", 0.0)
    assert first == plan.key(config, pod, "cpu", "decode", 0.0)
    other = ConfigDict(config.to_dict())
    other.grpo.micro_batches = 2
    keys = {plan.key(other, pod, "cpu", "decode", 0.0), plan.key(config, pod, "cpu", "rft", 0.0),
            plan.key(config, topologies.parse("h100:4"), "cpu", "decode", 0.0), first}  # fmt: skip
    assert len(keys) == 4


def test_verdicts():
    chip = topologies.CHIPS["v5e"]
    assert plan.verdict({"peak": 10.75 * 2**30}, chip) == "fits, 5.0 GiB left"
    assert plan.verdict({"peak": 16.75 * 2**30}, chip) == "does not fit, by 1.0 GiB"
    full = {"error": "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
                     "HLO temporaries (19.31G) exceeds available HBM (15.75G)."}  # fmt: skip
    assert plan.verdict(full, chip) == "does not fit, 19.31 of 15.75 GiB"
    bound, seconds = plan.seconds(
        {"flops": 8 * 197e12, "bytes": 1}, topologies.parse("v5e:2x4"), 0.5, 0.5
    )
    assert (bound, seconds) == ("compute", 2.0)


def run_plan(tmp_path, *flags, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "tools.plan", f"--cache={tmp_path}", "--effort=-1", *flags],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


SMALL = ("--config=configs/small_world.py:ci", "--config.mesh.fsdp=2", "--topology=h100:2")


@pytest.mark.slow
def test_a_small_plan_and_its_cache(tmp_path):
    flags = (*SMALL, "--stages=rft,decode,grpo_update")
    code, out, error = run_plan(tmp_path, *flags)
    assert code == 0, error
    for part in ("rft: compiling 4 rows of 344 in 1 pieces", "all-gather", "hours for these",
                 "Compiled for CPU devices in their place"):  # fmt: skip
        assert part in out
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len(records) == 3 and all(record["peak"] > record["arguments"] for record in records)
    assert (tmp_path / "h100-2.png").stat().st_size > 5000
    code, again, _ = run_plan(tmp_path, *flags)
    assert code == 0 and "compiling" not in again
    assert again in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((*SMALL[:2], "--topology=v9:2x2"), r"topology 'v9:2x2': expected KIND"),
        ((*SMALL[:1], "--topology=h100:8"), r"8 devices, and config\.mesh .* takes 1"),
        ((*SMALL, "--stages=grpo,rft"), r"--stages: 'grpo' is none of"),
        ((*SMALL[:1], "--config.mesh.fsdp=64", "--topology=h100:64"), r"config\.\S+: .* multiple"),
    ],
)
def test_what_is_refused_ends_in_one_line(tmp_path, flags, message):
    code, _, error = run_plan(tmp_path, *flags)
    assert code == 1 and re.search(f"^error: .*{message}", error, re.MULTILINE), error
    assert "Traceback" not in error


@pytest.mark.slow
def test_decoding_on_a_tpu_copies_no_cache(tmp_path):
    pytest.importorskip("libtpu", reason="needs libtpu: the extra 'tpu' installs it")
    code, out, error = run_plan(
        tmp_path, "--config=configs/gemma2_2b.py", "--topology=v6e:1x1", "--stages=decode",
        "--config.grpo.buckets.samples_per_unit=32",
    )  # fmt: skip
    assert code == 0, error
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    # Keys of 26 layers, 8 prompts of 4 samples, 1,024 tokens, 4 heads of 256 in bfloat16.
    cache = 26 * 8 * 4 * 1024 * 4 * 256 * 2
    assert record["arguments"] > 2 * cache  # and the values
    assert record["loop_copy"] < cache / 4
