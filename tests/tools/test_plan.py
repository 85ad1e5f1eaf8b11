"""The planner: what it reads off compiled programs, a small plan, and what it refuses."""

import json
import re
import subprocess
import sys

import jax
import pytest
from ml_collections import ConfigDict

from configs import gemma2_27b, small_world
from experiments import schema
from grm_jax.parallel.mesh import MeshConfig
from tools import plan
from tools.planning import gpus, hlo, programs, topologies
from tools.planning.hlo import Collective

# A loop of 3 turns inside one of 2, a loop that data end, a kernel with a brace of its own at the
# start of a line, a fused reduce-scatter, an asynchronous gather of one array and one of two.
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
  %s.1 = (f32[8], f32[16]) all-gather-start(%x), metadata={op_name="reduce"}
  %d.1 = f32[16] all-gather-done(%s.1)
  %t.0 = f32[7]{0} transpose(%x), dimensions={0}
  ROOT %t.2 = (s32[], f32[8]) tuple(%i, %x)
}

%data (p.4: (pred[], f32[8])) -> pred[] {
  ROOT %b.1 = pred[] get-tuple-element(%p.4), index=0
}

%turn (p.5: (pred[], f32[8])) -> (pred[], f32[8]) {
  %copy.7 = f32[32,8]{0,1} copy(%cache), backend_config={"estimated_cycles":"5"}
  %copy.8 = bf16[5] fusion(%x), kind=kLoop, calls=%wrapped_transpose_computation.2
  ROOT %t.3 = (pred[], f32[8]) tuple(%i, %x)
}

ENTRY %main.1 (a: f32[8]) -> f32[8] {
  %copy.1 = f32[999,999] copy(%a)
  %w.2 = (s32[], f32[8]) while(%t), condition=%x, body=%known, backend_config={"known_trip_count":{"n":"2"}}
  %w.3 = (pred[], f32[8]) while(%t), condition=%data, body=%turn
  %f.1 = bf16[10]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.3.clone
  %s.2 = ((f32[1]{0:T(8,128)(2,1)}, f32[4]), (f32[2]{0:T(8,128)}, f32[8])) all-gather-start(%a)
  %r.0 = (f32[1], f32[2]) all-reduce-start(%a), to_apply=%add
  ROOT %r.1 = f32[8] all-reduce(%a), to_apply=%add
}
"""  # noqa: E501


def test_facts_of_a_program():
    facts = hlo.read(TEXT)
    assert facts.collectives == {
        "all-gather": Collective(2 * 3 + 2 + 1, 2 * 3 * 4 * 128 * 2 + 2 * 16 * 4 + 10 * 4),
        "all-reduce": Collective(2, 32 + 12),
        "reduce-scatter": Collective(1, 20),
    }
    assert facts.cycles == 2 * 3 * 10 + 5
    assert facts.copies == 32 * 8 * 4 + 5 * 2  # the larger one is in no loop
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.read("nothing")


BRANCHES = """
%cheap (p: f32[8]) -> f32[8] {{
  ROOT %c.1 = f32[8] add(%p, %p), backend_config={{"estimated_cycles":"{cheap}"}}
}}

%dear (p: f32[8]) -> f32[8] {{
  %r.1 = f32[8] all-reduce(%p), to_apply=%add
  ROOT %c.2 = f32[8] copy(%r.1), backend_config={{"estimated_cycles":"{dear}"}}
}}

ENTRY %main (a: f32[8]) -> f32[8] {{
  ROOT %b.1 = f32[8] conditional(%i, %a, %a), {branches}
}}
"""


@pytest.mark.parametrize(
    "branches",
    ["branch_computations={%cheap, %dear}", "true_computation=%dear, false_computation=%cheap"],
)
def test_of_a_conditional_the_dearer_branch_counts(branches):
    def facts(cheap, dear):
        return hlo.read(BRANCHES.format(cheap=cheap, dear=dear, branches=branches))

    both = {"all-reduce": Collective(1, 32)}
    assert facts(cheap=3, dear=4) == (both, 4, 0)
    assert facts(cheap=4, dear=3) == ({}, 4, 0)  # cycles say more than collectives
    assert facts(cheap=0, dear=0) == (both, 0, 0)


def test_copies_of_a_loop_in_a_loop_count_with_its_turns():
    inner = TEXT.replace("all-gather(%x)", "copy(%x)")
    assert hlo.read(inner).copies == 3 * 4 * 128 * 2 + 7 * 4


def test_topologies():
    pod = topologies.parse("v5p:4x4x4")
    assert (pod.chips, pod.devices) == (64, 64)
    assert pod.title == "64 v5p chips, `v5p:4x4x4`, sold as v5p-128"
    two = topologies.parse("tpu7x:2x2x1", slices=2)
    assert (two.chips, two.devices) == (8, 16) and "2 slices of" in two.title
    for name, message in (("v9:2x2", "KIND one of"), ("v5e:2x2x2", "has 2 dim"), ("v5e", "KIND")):
        with pytest.raises(ValueError, match=message):
            topologies.parse(name)
    with pytest.raises(ValueError, match="'h100:8': GPUs come in no slices"):
        topologies.parse("h100:8", slices=2)
    with pytest.raises(ValueError, match=r"64 devices, and config.mesh \(data 1, fsdp 3.*takes 3"):
        topologies.mesh(pod, MeshConfig(fsdp=3), "cpu")


@pytest.mark.parametrize(("plugin", "platform"), [(None, "cpu"), ("jax-cuda12-plugin 1", "cuda")])
def test_cards_take_the_plugin_of_cuda_or_a_stand_in(plugin, platform, monkeypatch):
    monkeypatch.setattr(gpus, "plugin", lambda: plugin)
    assert topologies.compiler(topologies.parse("h200:8")) == platform


def test_cards_fill_hosts():
    with pytest.raises(ValueError, match="h100:12: more than 8 cards are whole hosts"):
        topologies.mesh(topologies.parse("h100:12"), MeshConfig(fsdp=12), "cuda")


def test_a_program_larger_than_a_card_does_not_fit():
    """The compiler takes anything, so the planner has to compare."""
    needs_cuda()
    topology = topologies.parse("h200:1")
    mesh = topologies.mesh(topology, MeshConfig(), "cuda")
    assert [device.device_kind for device in mesh.devices.flat] == ["NVIDIA H200"]
    whole = jax.ShapeDtypeStruct((2**36,), "float32", sharding=jax.NamedSharding(mesh, jax.P()))
    double = jax.jit(lambda x: 2 * x)
    program = programs.Program("double", lambda: double.lower(whole), "", 1, 2**36, 2**39)
    record = plan.measure(program, "cuda", gpus.OPTIONS)
    assert record["peak"] == 2 * record["arguments"] == 2**39
    assert plan.verdict(record, topology.chip) == "does not fit, by 379.2 GiB"


def test_a_plan_needs_a_shape_and_no_weights():
    config = plan.planned(gemma2_27b.get_config())
    assert config.model.variant == "gemma2_27b"
    assert "released" not in config and "benchmark" not in config
    assert schema.check(config).released is None
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


# `tools.plan` as it is where no plugin for CUDA is installed.
STAND_IN = """
import runpy
from tools.planning import gpus
gpus.plugin = lambda: None
runpy.run_module("tools.plan", run_name="__main__", alter_sys=True)
"""


def run_plan(tmp_path, *flags, start=("-m", "tools.plan")):
    done = subprocess.run(
        [sys.executable, *start, f"--cache={tmp_path}", "--effort=-1", *flags],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def records_in(folder):
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


def needs_cuda():
    if gpus.plugin() is None:
        pytest.skip("needs XLA's CUDA compiler: the extra 'cuda' installs it")


SMALL = ("--config=configs/small_world.py:ci", "--config.mesh.fsdp=2", "--topology=h100:2")


@pytest.mark.slow
def test_a_small_plan_and_its_cache(tmp_path):
    flags = (*SMALL, "--stages=rft,decode,grpo_update")
    code, out, error = run_plan(tmp_path, *flags, start=("-c", STAND_IN))
    assert code == 0, error
    for part in ("rft: compiling 4 rows of 344 in 1 pieces", "all-gather", "hours for these",
                 "Compiled for CPU devices in their place"):  # fmt: skip
        assert part in out
    records = records_in(tmp_path)
    assert len(records) == 3 and all(record["peak"] > record["arguments"] for record in records)
    assert (tmp_path / "h100-2.png").stat().st_size > 5000
    code, again, _ = run_plan(tmp_path, *flags, start=("-c", STAND_IN))
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
def test_a_small_plan_for_cards(tmp_path):
    needs_cuda()
    code, out, error = run_plan(tmp_path, *SMALL, "--stages=rft")
    assert code == 0, error
    assert "2 h100 cards, `h100:2`, 75.15 GiB a device" in out
    assert "Compiled for CUDA without a card" in out and "fits, 75.1 GiB left" in out
    (record,) = records_in(tmp_path)
    assert record["peak"] > record["arguments"] + record["temporaries"] > 2 * record["arguments"]
    # Some arguments are two moments of each parameter; parameters are gathered twice at most.
    assert 1 / 4 < record["collectives"]["all-gather"][1] / record["arguments"] < 2


@pytest.mark.slow
def test_a_small_plan_for_two_slices(tmp_path):
    pytest.importorskip("libtpu", reason="needs libtpu: the extra 'tpu' installs it")
    flags = (SMALL[0], "--topology=v5e:2x2", "--slices=2", "--stages=rft", "--config.mesh.tensor=2")
    code, out, error = run_plan(tmp_path, *flags, "--config.mesh.data=2", "--config.mesh.fsdp=2")
    assert code == 0, error
    assert "8 v5e chips, 2 slices of `v5e:2x2`" in out and "fits" in out
    (record,) = records_in(tmp_path)
    assert record["collectives"]["all-reduce"][0] > 0
    code, _, error = run_plan(tmp_path, *flags, "--config.mesh.fsdp=4")
    assert code == 1 and "config.mesh.data: 1 is no multiple of 2 slices" in error


@pytest.mark.slow
def test_decoding_on_a_tpu_copies_no_cache(tmp_path):
    pytest.importorskip("libtpu", reason="needs libtpu: the extra 'tpu' installs it")
    code, out, error = run_plan(
        tmp_path, "--config=configs/gemma2_2b.py", "--topology=v6e:1x1", "--stages=decode",
        "--config.grpo.buckets.samples_per_unit=32",
    )  # fmt: skip
    assert code == 0, error
    (record,) = records_in(tmp_path)
    # Keys of 26 layers, 8 prompts of 4 samples, 1,024 tokens, 4 heads of 256 in bfloat16.
    cache = 26 * 8 * 4 * 1024 * 4 * 256 * 2
    assert record["arguments"] > 2 * cache  # and the values
    assert 0 < record["copies"] < cache / 50  # of all copies in one turn
