"""What a benchmark writes: tables, figures, and a page of samples."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments import arms, counting, guiding
from experiments import run as runs
from experiments.counting import CountingRules, Line, Suite
from grm_jax.data.small_world import read_trajectory
from grm_jax.evaluation import plots
from grm_jax.evaluation.samples_page import Sample, samples_page
from grm_jax.evaluation.statistics import Resampled
from grm_jax.evaluation.tables import Cell, Column, Row, Table, to_terminal, write
from grm_jax.files import write_atomically

# What the figure of the training shows, where a stage has it.
HEALTH = (
    "loss", "entropy", "grad_norm", "reward_mean", "zero_signal_share", "kl", "logprob_gap_max",
    "parse_failure_share", "accuracy", "development_auc",
)  # fmt: skip
PAIRED = (
    "difference: 95 % bootstrap interval over comparisons; two-sided p-value of the bootstrap; "
    "neither is corrected for the number of differences"
)
LinesOf = dict[str, list[Line]]
# Lines of the trained baselines that the last stage is compared with.
BASELINES = ("LLM-as-a-Judge, greedy", "Bradley-Terry RM", "PairRM", "CLoud, greedy")


def _cell(interval) -> Cell:
    return Cell() if interval is None else Cell(interval.value, interval.low, interval.high)


def _single(line: Line, suite: Suite, *, by_subset: bool = False) -> Cell:
    if line.singles_MC is None:
        return Cell()
    subsets = [c.subset for c in suite.comparisons if c.n == 1] if by_subset else None
    return _cell(counting.single_auc(line.singles_MC, suite.labels, subsets))


def main_table(suites: Sequence[Suite], lines: LinesOf, notes: Sequence[str]) -> Table:
    """Accuracy of everything that was measured; one group of columns a suite."""
    several = len(suites) > 1
    columns = []
    for suite in suites:
        name = suite.name if several else ""
        if suite.choice_C.any():
            columns.append(Column("accuracy", group=name))
        if suite.metric.headline:
            columns.append(Column(suite.metric.headline, group=name))
        if suite.single_C.any():
            columns.append(Column("n = 1: AUC", group=name))
        columns += [Column("unparsed", group=name), Column("cut", group=name)]
    rows = []
    for i, line in enumerate(lines[suites[0].name]):
        cells = []
        for suite in suites:
            own = lines[suite.name][i]
            if suite.choice_C.any():
                cells.append(_cell(own.interval("accuracy")))
            if suite.metric.headline:
                cells.append(_cell(own.interval(suite.metric.headline)))
            if suite.single_C.any():
                cells.append(_single(own, suite))
            cells += [Cell(own.unparsed), Cell(own.cut)]
        rows.append(Row(line.label, tuple(cells), line.section))
    names = ", ".join(suite.name for suite in suites)
    return Table(f"Reward accuracy (%): {names}", columns, rows, notes, "method")


def suite_table(suite: Suite, lines: Sequence[Line], notes: Sequence[str]) -> Table | None:
    """Everything that one benchmark reports; None for a suite that reports one number."""
    names = [column.name for column in suite.metric.columns]
    columns = [Column(name) for name in names]
    several = suite.single_C.any() and len({c.subset for c in suite.comparisons}) > 1
    if several:
        columns += [Column("AUC, pooled"), Column("AUC, mean of subsets")]
    if not columns:
        return None
    rows = []
    for line in lines:
        cells = [_cell(line.interval(name)) for name in names]
        if several:
            cells += [_single(line, suite), _single(line, suite, by_subset=True)]
        rows.append(Row(line.label, tuple(cells), line.section))
    own = [suite.metric.note] if suite.metric.note else []
    title = f"{suite.name} (%): {suite.coverage}" if suite.coverage else f"{suite.name} (%)"
    return Table(title, columns, rows, [*own, *notes], "method")


def notes(suites: Sequence[Suite], rules: CountingRules, draw) -> list[str]:
    """What the numbers are."""
    tie = {"strict": "0", "half": "1/2", "uniform": "1 / number tied",
           "shuffle_argmax": "a random pick"}[rules.tie_policy]  # fmt: skip
    one = "one sample an order" if draw.order_policy == "both" else "one random order a comparison"
    silent = "1 / n" if rules.parse_policy == "chance" else "0"
    guided = ""
    if any(drawn.meta is not None for suite in suites for drawn in suite.drawn):
        k_metas, ks = (", ".join(map(str, x[1:])) for x in (rules.k_metas, rules.ks))
        guided = f"; MetaRM@k: of those the k_meta best by the meta RM, {k_metas} for k = {ks}"
    found = []
    for suite in suites:
        single = int(suite.single_C.sum())
        text = f"{suite.name}: {int(suite.choice_C.sum())} comparisons with n >= 2"
        if single:
            text += f", {single} with n = 1, reported apart"
        if tied := int((~suite.choice_C & ~suite.single_C).sum()):
            text += f", {tied} that people call a tie, which accuracy leaves out"
        if suite.coverage:
            whole = " of the benchmark" if " of " in suite.coverage else ""
            text += f"; {suite.coverage}{whole}"
        for drawn in suite.drawn:
            if drawn.meta is not None and (inside := guiding.within_auc(drawn)).pairs:
                text += f"; AUC of the meta RM inside comparisons {100 * inside.value:.1f}"
        cut = {t.uid for d in suite.drawn for own in d.groups for t in own if t.truncated}
        if cut:
            text += f"; texts of {len(cut)} comparisons shortened to fit the prompt"
        if unbalanced := draw.unbalanced(suite.comparisons):
            text += f"; {unbalanced}"
        found.append(text)
    found += [
        "accuracy: 95 % bootstrap interval over comparisons, those with one query together, never "
        f"over samples; aggregation {rules.aggregation!r}; tie policy {rules.tie_policy!r} (a tie "
        f"with the best earns {tie}); parser {rules.parse!r}; parse policy {rules.parse_policy!r} "
        f"(no verdict earns {silent})",
        f"greedy: temperature 0, {one}; samples: temperature "
        f"{draw.temperature:g}, order policy {draw.order_policy!r}",
        f"one sample and Voting@k: mean over {rules.num_subsets} random k-subsets of the samples "
        "drawn" + guided,
        "unparsed: share of samples without strict scores; cut: share that met the length limit"
        f" of {draw.max_new_tokens} tokens",
    ]
    if any(suite.others for suite in suites):
        found.append(
            "trained baselines: Bradley-Terry and CLoud score each response alone, PairRM each "
            "ordered pair, summed over opponents; the highest score decides a list. CLoud, "
            "Voting@k: k critiques of each response. LLM-as-a-Judge names one response, TokenProb "
            "adds up the probabilities of the names"
        )
    if any(suite.single_C.any() for suite in suites):
        found.append(
            "n = 1: ROC-AUC of the mean score against the truth; unparsed counts "
            f"{rules.single_middle:g}"
        )
    return found


def pairs(ks: Sequence[int], lines: Sequence[Line]) -> list[tuple[str, Line, Line]]:
    """The paired differences of a suite: (label, a, b), as far as both were measured."""
    at = {(line.section, line.label): line for line in lines}
    at |= {full: at[key] for key, full in counting.with_stages(at).items()}
    stages = [f"{name}, one sample" for name in counting.STAGE_NAMES.values()]
    singles = [
        line.label for line in lines
        if line.section == counting.SAMPLED and line.label in stages
    ]  # fmt: skip
    found = []

    def add(label, a, b):
        if a in at and b in at:
            found.append((label, at[a], at[b]))

    def sampled(label):
        return (counting.SAMPLED, label)

    ks = [k for k in ks if k > 1]
    voted = [8 if 8 in ks else ks[-1], ks[-1]] if singles and ks else []
    if voted:
        middle, top = voted
        stage = singles[-1].removesuffix(", one sample")  # the last stage is the one that votes
        last = (counting.GREEDY, f"{stage}, greedy")
        add(f"Voting@{middle} − {stage}, greedy", sampled(f"Voting@{middle}"), last)
        add(f"Voting@{middle} − {stage}, one sample", sampled(f"Voting@{middle}"),
            sampled(f"{stage}, one sample"))  # fmt: skip
        if top > middle:
            add(f"Voting@{top} − Voting@{middle}", sampled(f"Voting@{top}"),
                sampled(f"Voting@{middle}"))  # fmt: skip
        for other in BASELINES:
            add(f"{stage}, greedy − {other}", last, (counting.GREEDY, other))
            add(f"Voting@{middle} − {other}", sampled(f"Voting@{middle}"),
                (counting.GREEDY, other))  # fmt: skip
    for a, b in (("rft", "cold_start"), ("grpo", "rft")):
        after, before = counting.STAGE_NAMES[a], counting.STAGE_NAMES[b]
        for kind, section in (("greedy", counting.GREEDY), ("one sample", counting.SAMPLED)):
            add(f"{after} − {before}, {kind}", (section, f"{after}, {kind}"),
                (section, f"{before}, {kind}"))  # fmt: skip
        for k in dict.fromkeys(voted):
            add(f"{after} − {before}, Voting@{k}", sampled(f"{after}, Voting@{k}"),
                sampled(f"{before}, Voting@{k}"))  # fmt: skip
    for k in ks:
        add(f"MetaRM@{k} − Voting@{k}", sampled(f"MetaRM@{k}"), sampled(f"Voting@{k}"))
    own = {line.label: line for line in lines if line.section in counting.SECTIONS}
    for line in lines:
        if line.section not in counting.SECTIONS and line.label in own:
            found.append((f"{line.label}: full − {line.section}", own[line.label], line))
    return found


def differences_table(
    suites: Sequence[Suite], rules: CountingRules, lines: LinesOf
) -> Table:
    """Paired differences, comparison by comparison."""
    columns, cells = [], {}
    for suite in suites:
        name = suite.name if len(suites) > 1 else ""
        for number in ("accuracy", suite.metric.headline):
            if not number or (number == "accuracy" and not suite.choice_C.any()):
                continue
            short = "" if number == "accuracy" else f"{number}, "
            columns.append(Column(f"{short}difference", signed=True, group=name))
            columns.append(Column(f"{short}p", "p_value", digits=3, group=name))
            for label, a, b in pairs(rules.ks, lines[suite.name]):
                cells.setdefault(label, []).extend(_difference(a, b, number))
    rows = [Row(label, tuple(own)) for label, own in cells.items()]
    parts = [f"{suite.name}: {suite.coverage}" for suite in suites if suite.coverage]
    notes = [PAIRED, *parts]
    return Table("Paired differences of accuracy (points)", columns, rows, notes, "a − b")


def _difference(a: Line, b: Line, column: str = "accuracy") -> tuple[Cell, Cell]:
    """The difference with its interval, and its p-value."""
    if column not in a.measured or column not in b.measured:
        return Cell(), Cell()
    one, other = a.measured[column], b.measured[column]
    both = Resampled(
        np.concatenate([one.values_L, other.values_L]),
        np.concatenate([one.draws_BL, other.draws_BL], axis=1),
    )
    difference = both.difference(0, 1)
    return _cell(difference), Cell(difference.p_value)


def diagnostics_table(run: runs.Run, suite: Suite) -> Table:
    """Which part of a trajectory goes wrong, stage by stage; the small world knows the truth."""
    truths = [run.world.truth(comparison) for comparison in suite.comparisons]
    rows = []
    for drawn in suite.drawn:
        readings = [
            read_trajectory(t.text, truth, t.order, principles=drawn.principles)
            for truth, own in zip(truths, drawn.groups, strict=True)
            for t in own
        ]
        formed = [reading for reading in readings if reading.well_formed]
        cells = [Cell(len(formed) / len(readings))]
        for field in ("follows", "verdicts_right", "order_right"):
            values = [getattr(r, field) for r in formed if getattr(r, field) is not None]
            cells.append(Cell(float(np.mean(values))) if values else Cell())
        name = counting.greedy if drawn.greedy else counting.one_sample
        rows.append(Row(name(drawn.stage), (*cells, Cell(len(readings))), drawn.section))
    names = ("well formed", "scores follow", "verdicts right", "principles right")
    columns = [*(Column(name) for name in names), Column("trajectories", "count")]
    note = (
        "well formed: share of trajectories; the rest: share of the well-formed ones. Scores "
        "follow from the stated principles and verdicts; principles are right if they are the "
        "audience's three, in its order"
    )
    return Table("What the trajectories say (%)", columns, rows, [note], "trajectories of")


def scaling_figure(
    run: runs.Run, suites: Sequence[Suite], rules: CountingRules, lines: LinesOf, note: str
) -> None:
    """figures/scaling.png."""
    curves, levels = [], {}
    for suite in suites:
        at = {(line.section, line.label): line for line in lines[suite.name]}
        prefix = f"{suite.name}: " if len(suites) > 1 else ""
        for drawn in suite.drawn:
            if drawn.greedy:
                line = at[drawn.section, counting.greedy(drawn.stage)]
                keep = drawn.section == counting.GREEDY and len(suites) == 1
                if keep and line.credits_C is not None:
                    levels[line.label] = line.interval("accuracy")
        for section in (counting.SAMPLED, *counting.arms_in_figures(suite)):
            for kind in ("Voting", "MetaRM"):
                points = {k: at.get((section, f"{kind}@{k}")) for k in rules.ks}
                stages = [d.stage for d in suite.drawn if d.section == section and not d.greedy]
                if stages and kind == "Voting":
                    points[1] = at.get((section, counting.one_sample(stages[-1])))
                points = {k: p for k, p in points.items() if p and p.credits_C is not None}
                if not points:
                    continue
                name = {"Voting": "voting", "MetaRM": "guided by the meta RM"}[kind]
                name += "" if section in counting.SECTIONS else f", {section}"
                intervals = [p.interval("accuracy") for p in points.values()]
                curves.append(plots.Curve(prefix + name, list(points), intervals))
    if curves:
        plots.scaling(run.path("figures", "scaling.png"), curves, levels=levels, note=note)


def training_figure(run: runs.Run) -> None:
    """figures/training.png: the stages of this arm, if anything was trained in this workdir."""
    own = set(map(run.stage, arms.STAGES))
    stages: dict[str, list[dict]] = {}
    for record in run.metrics.read():
        if record["stage"] in own:
            stages.setdefault(record["stage"], []).append(record)
    if stages:
        plots.training(run.path("figures", "training.png"), stages, metrics=HEALTH)


def write_samples(
    run: runs.Run, suites: Sequence[Suite], rules: CountingRules, lines: LinesOf
) -> None:
    """samples.md: per suite comparisons that the last sampled stage got right and wrong."""
    chosen, each = [], (2 if len(suites) == 1 else 1)
    suites = [suite for suite in suites if not suite.private]
    for suite in suites:
        drawn = counting.last_sampled(suite)
        credits_C = np.full(len(suite.comparisons), np.nan)
        votes = [line for line in lines[suite.name] if line.section == drawn.section]
        one = counting.one_sample(drawn.stage)
        votes = [line for line in votes if line.label == one or line.label.startswith("Voting@")]
        if votes[-1].credits_C is not None:
            credits_C[suite.choice_C] = votes[-1].credits_C
        right = np.flatnonzero(credits_C == 1)[:each]
        wrong = np.flatnonzero(credits_C == 0)[:each]
        single = np.flatnonzero(suite.single_C)[:1]
        picked = sorted({*right, *wrong, *single}) or [0]
        for c in picked:
            meta = None if drawn.meta is None else drawn.meta[c]
            chosen.append(Sample(suite.comparisons[c], drawn.groups[c], meta))
    if not chosen:
        return
    note = (
        f"Samples of {counting.STAGE_NAMES[drawn.stage]}. Chosen by the verdict of voting over "
        "all samples: the first right ones and the first wrong ones of each suite, and the first "
        "single response. Equal numbers of right and wrong here say nothing about accuracy."
    )
    text = samples_page(
        chosen, note=note, max_trajectories=4 if len(suites) == 1 else 2,
        k_meta=dict(zip(rules.ks, rules.k_metas, strict=True)).get(len(chosen[0].trajectories)),
        aggregation=rules.aggregation, lenient=rules.parse == "lenient",
    )  # fmt: skip
    write_atomically(run.path("samples.md"), text.encode())


def failure_lines(suites: Sequence[Suite], lines: LinesOf) -> list[str]:
    """The parse-failure rates in words, so that nobody takes chance for judgement."""
    found, mostly = [], False
    for suite in suites:
        parts = []
        for line in lines[suite.name]:
            if line.unparsed:
                mostly |= line.unparsed >= 0.5
                where = "" if line.section in counting.SECTIONS else f" ({line.section})"
                parts.append(f"{line.unparsed:.1%} of {line.label}{where}")
        if parts:
            found.append(f"{suite.name}: no scores in the samples (strict): {'; '.join(parts)}")
    if mostly:
        found.append(
            "Where half of the samples or more have no scores, the accuracy is mostly what the "
            "parse policy gives for no verdict: it is not a judgement."
        )
    return found


def show(run: runs.Run, tables: Mapping[str, Table]) -> None:
    """Writes tables in all formats by their names, and prints them once all are written."""
    for name, table in tables.items():
        write(table, run.path("tables"), name)
    for table in tables.values():
        width = max(run.console.width, 60 + 14 * len(table.columns))
        print(to_terminal(table, width=width, color=run.console.is_terminal), flush=True)
