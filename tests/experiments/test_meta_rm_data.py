"""What the meta RM is trained on and chosen on."""

import contextlib
import types

from configs import small_world
from experiments.config import build
from experiments.stages import meta_rm
from grm_jax.data.trajectory import Trajectory


def trajectory(uid, sample, stage, *, scores=(1, 2)):
    return Trajectory(
        fingerprint="f0", stage=stage, step=0, uid=uid, sample=sample, seed=(0, 1), order=(0, 1),
        token_ids=(1,), logprobs=(-1.0,), sampling_logprobs=(-1.0,), text="t", scores=scores,
        parse_reason="ok" if scores else "no_box", lenient_scores=None, finish="stop",
        correct=scores is not None and sample % 2 == 0,
    )  # fmt: skip


def test_the_checkpoint_is_chosen_on_what_is_voted_on(monkeypatch):
    uids = [f"u{i}" for i in range(40)]
    of_rft, of_grpo = (
        [trajectory(uid, s, stage) for uid in uids for s in range(4)]
        for stage in ("rft_arm", "meta_rm_arm")
    )
    of_grpo.append(trajectory(uids[0], 4, "meta_rm_arm", scores=None))
    store = types.SimpleNamespace(
        iterate=lambda stage: iter([t for t in of_rft if t.stage == stage])
    )
    monkeypatch.setattr(meta_rm, "TrajectoryStore", lambda *_, **__: contextlib.nullcontext(store))
    monkeypatch.setattr(meta_rm.drawing, "draw_stage", lambda *_, **__: list(of_grpo))
    monkeypatch.setattr(meta_rm, "_rows", lambda run, examples, by_uid, row_length: [*examples])
    fields = small_world.get_config("ci")
    fields.meta_rm.loop.batch_size, fields.meta_rm.only_mixed = 1, True
    config = build(fields)
    run = types.SimpleNamespace(
        workdir=types.SimpleNamespace(path=lambda *_: None), say=lambda text: None,
        stage=lambda name: f"{name}_arm",
        load_params=lambda stage: {},
        engine=lambda name, buckets: None, config=config,
        comparisons=lambda *_, **__: [types.SimpleNamespace(uid=uid) for uid in uids],
    )  # fmt: skip
    rows, development = meta_rm._data(run)
    held_out = {uid for uid in uids if meta_rm.heads.held_out(uid)}
    assert 0 < len(held_out) < len(uids)
    assert {row.trajectory.uid for row in development} == held_out
    assert {row.trajectory.stage for row in development} == {"meta_rm_arm"}
    assert all(row.trajectory.scores for row in development)
    assert {row.trajectory.stage for row in rows} == {"rft_arm", "meta_rm_arm"}
    assert not held_out & {row.trajectory.uid for row in rows}
