"""Imports point one way, and importing the library needs no optional package.

The rule: experiments -> reward -> evaluation -> sampling | learning -> models -> parallel, and all
of them -> data -> text -> files; evaluation -> benchmarks -> data; voting needs none of these,
models and parallel neither text nor data. Above the library: tools -> experiments -> grm_jax, and
tools -> configs, which are data and import each other only. The checks read the source with `ast`,
so imports inside functions count as well.
"""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
import textwrap
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ("experiments", "configs", "tools", "tests")
# What each folder of programs may import of the clone. Configs are data, and tests see everything.
PROGRAMS_ALLOWED = {
    "configs": {"configs"},
    "experiments": {"experiments", "grm_jax"},
    "tools": {"tools", "experiments", "configs", "grm_jax"},
}

# What each part of the library may import of the library, itself included.
_COMPUTE = {"files", "ranges", "text", "data", "models", "parallel"}
ALLOWED = {
    "": set(),  # grm_jax/__init__.py
    "files": {"files"},
    "text": {"files", "text"},
    "ranges": set(),
    "data": {"files", "ranges", "text", "data"},
    "benchmarks": {"files", "ranges", "text", "data", "benchmarks"},
    "parallel": {"files", "ranges", "parallel"},
    "models": {"files", "ranges", "parallel", "models"},
    "voting": {"voting"},
    "sampling": _COMPUTE | {"sampling"},
    "learning": _COMPUTE | {"learning"},
    "evaluation": _COMPUTE | {"benchmarks", "sampling", "learning", "voting", "evaluation"},
    "reward": _COMPUTE | {"sampling", "learning", "voting", "evaluation", "reward"},
}
WITHOUT_JAX = ("text", "data", "benchmarks")
JAX_FAMILY = {"jax", "jaxlib", "flax", "optax", "orbax"}
PIPELINE = "grm_jax.data.pipeline"
# Never at the top of a library file: optional, or only wanted by programs and pipelines.
LAZY = {"grain", "httpx", "ml_collections", "openai", "pyarrow", "huggingface_hub", "libtpu"}
# Never in the library at all, and in the rest only behind importorskip or inside a function.
TORCH_FAMILY = {"torch", "transformers", "tensorflow"}
EXPERIMENTS = [
    f"experiments.{name}" for name in
    ("sft", "rft", "grpo", "meta_rm", "baseline", "benchmark", "ablate", "spct")
]  # fmt: skip


class Import(NamedTuple):
    """One import: the importing module, the imported name, its line, and whether it runs at once.

    `from a.b import c` is recorded as `a.b.c`, since c may be a module.
    """

    importer: str
    name: str
    line: int
    top_level: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.name}"


def read_imports(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    """Every import of `source`, relative ones resolved against the dotted name `module`."""
    found = []

    def visit(node: ast.AST, top_level: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(module, a.name, node.lineno, top_level) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + (1 if is_package else 0)]
                base = ".".join([*parents, base] if base else parents)
            found.extend(
                Import(module, f"{base}.{a.name}", node.lineno, top_level) for a in node.names
            )
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, top_level and not inside)

    visit(ast.parse(source), True)
    return found


def layer(name: str) -> str:
    """`grm_jax.models.heads` -> `models`; `grm_jax.__version__` -> ``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and not parts[1].startswith("__") else ""


def layering_errors(imports: list[Import]) -> list[str]:
    """What in the library's imports breaks the rules of this file, one line each."""
    errors = []
    for item in imports:
        here = layer(item.importer)
        if here not in ALLOWED:
            errors.append(f"{item}: the layer {here!r} of the importer is not in the rule")
            continue
        top = item.name.split(".")[0]
        if top == "grm_jax" and layer(item.name) and layer(item.name) not in ALLOWED[here]:
            errors.append(f"{item}: {here or 'grm_jax itself'} may not import {layer(item.name)}")
        if top in PROGRAMS:
            errors.append(f"{item}: the library may not import programs")
        if top in JAX_FAMILY and here in WITHOUT_JAX and item.importer != PIPELINE:
            errors.append(f"{item}: {here} knows nothing of jax")
        if top in TORCH_FAMILY:
            errors.append(f"{item}: the library may not import {top}")
        if item.top_level and top in LAZY and item.importer != PIPELINE:
            errors.append(f"{item}: {top} may not be imported at the top of a file")
    return errors


def import_cycle(imports: list[Import], modules: set[str]) -> list[str]:
    """One circle of imports that run at once, as a list of module names; [] where there is none."""
    edges: dict[str, set[str]] = {module: set() for module in modules}
    for item in imports:
        if not item.top_level:
            continue
        target = item.name if item.name in modules else item.name.rpartition(".")[0]
        if target in modules and target != item.importer:
            edges[item.importer].add(target)
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges[module]):
            if circle := walk(target, [*path, module]):
                return circle
        done.add(module)
        return []

    for module in sorted(modules):
        if circle := walk(module, []):
            return circle
    return []


def module_name(path: pathlib.Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_under(folder: str) -> list[Import]:
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        found += read_imports(source, module_name(path), is_package=path.name == "__init__.py")
    return found


def modules_under(folder: str) -> set[str]:
    return {module_name(path) for path in (ROOT / folder).rglob("*.py")}


LIBRARY = modules_under("grm_jax")


def test_library_obeys_the_layering_rule():
    assert layering_errors(imports_under("grm_jax")) == []


def program_errors(imports: list[Import]) -> list[str]:
    """What in the imports of programs points up, one line each."""
    errors = []
    for item in imports:
        here, top = item.importer.split(".")[0], item.name.split(".")[0]
        if top in ("grm_jax", *PROGRAMS) and top not in PROGRAMS_ALLOWED[here]:
            errors.append(f"{item}: {here} may not import {top}")
    return errors


@pytest.mark.parametrize("folder", PROGRAMS_ALLOWED)
def test_programs_obey_the_layering_rule(folder):
    assert program_errors(imports_under(folder)) == []


def test_there_is_no_import_circle():
    folders = ("grm_jax", *PROGRAMS_ALLOWED)
    imports = [item for folder in folders for item in imports_under(folder)]
    assert import_cycle(imports, set().union(*map(modules_under, folders))) == []


def test_every_folder_of_the_library_is_installed():
    """setup.cfg finds packages by their __init__.py; a folder without one would be left out."""
    folders = {path.parent for path in (ROOT / "grm_jax").rglob("*.py")}
    missing = [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()]
    assert missing == []


def test_no_main_imports_a_main_and_experiments_have_no_import_circle():
    """What several experiments need is in modules that cannot be run."""
    imports = imports_under("experiments")
    modules = {module_name(path) for path in (ROOT / "experiments").rglob("*.py")}
    mains = {
        module_name(path) for path in (ROOT / "experiments").glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }  # fmt: skip
    assert mains == set(EXPERIMENTS)
    found = [str(i) for i in imports if {i.name, i.name.rpartition(".")[0]} & mains]
    assert found == []
    assert import_cycle(imports, modules) == []


@pytest.mark.parametrize("folder", PROGRAMS)
def test_programs_import_torch_only_when_they_use_it(folder):
    offenders = [
        str(item)
        for item in imports_under(folder)
        if item.top_level and item.name.split(".")[0] in TORCH_FAMILY
    ]
    assert offenders == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("configs.small_world", "from experiments import config", "may not import experiments"),
        ("configs.small_world", "import grm_jax.ranges", "configs may not import grm_jax"),
        ("experiments.grpo", "from tools.bench import peaks", "may not import tools"),
        ("experiments.grpo", "def f():\n    import configs.recipes", "may not import configs"),
        ("tools.bench.train", "from tests.harness import browser", "may not import tests"),
    ],
)
def test_program_errors_sees_each_offence(module, source, message):
    (error,) = program_errors(read_imports(source, module))
    assert message in error
    allowed = "import tools.outputs\nfrom configs import recipes\nfrom grm_jax import voting"
    assert program_errors(read_imports(allowed, "tools.plan")) == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("grm_jax.text.prompts", "import jax.numpy as jnp", "knows nothing of jax"),
        ("grm_jax.data.comparison", "def f():\n    import jax", "knows nothing of jax"),
        ("grm_jax.data.comparison", "from flax import linen", "knows nothing of jax"),
        ("grm_jax.benchmarks.rmb", "from grm_jax.evaluation import rules", "import evaluation"),
        ("grm_jax.data.mixture", "from grm_jax import benchmarks", "may not import benchmarks"),
        ("grm_jax.text.prompts", "from grm_jax.data import comparison", "may not import data"),
        ("grm_jax.models.heads", "from grm_jax.sampling import keys", "may not import sampling"),
        ("grm_jax.models.heads", "from ..learning import sft", "may not import learning"),
        ("grm_jax.sampling.draw", "from grm_jax.learning import sft", "may not import learning"),
        ("grm_jax.learning.grpo", "def f():\n    from grm_jax.sampling.keys import x", "sampling"),
        ("grm_jax.learning.grpo", "import grm_jax.voting", "may not import voting"),
        ("grm_jax.voting", "from experiments import rft", "may not import programs"),
        ("grm_jax.voting", "import grm_jax.evaluation.ballots", "may not import evaluation"),
        ("grm_jax.models.hub", "from grm_jax.text import tokenizers", "may not import text"),
        ("grm_jax.parallel.mesh", "from grm_jax.models import config", "may not import models"),
        ("grm_jax.learning.sft", "import grain", "may not be imported at the top"),
        ("grm_jax.models.config", "import ml_collections", "may not be imported at the top"),
        ("grm_jax.models.hub", "def f():\n    import torch", "may not import torch"),
        ("grm_jax", "from . import models", "may not import models"),
        ("grm_jax.serving.http", "import json", "not in the rule"),
    ],
)
def test_layering_errors_sees_each_offence(module, source, message):
    errors = layering_errors(read_imports(source, module, is_package=module == "grm_jax"))
    assert len(errors) == 1
    assert message in errors[0]


def test_layering_errors_lets_the_allowed_pass():
    allowed = {
        "grm_jax.data.pipeline": "import grain\nimport jax\nfrom grm_jax.text import tokenizers",
        "grm_jax.learning.sft": "def f():\n    import grain",
        "grm_jax.models.heads": "import jax\nfrom grm_jax.parallel import mesh",
        "grm_jax.evaluation.tables": "from grm_jax import __version__, voting",
        "grm_jax.sampling.draw": "from .keys import fold\nfrom ..models import transformer",
    }
    for module, source in allowed.items():
        assert layering_errors(read_imports(source, module)) == []


def test_import_cycle_sees_a_circle_and_ignores_lazy_imports():
    modules = {"grm_jax.a", "grm_jax.b", "grm_jax.c"}
    chain = [
        *read_imports("from grm_jax import b", "grm_jax.a"),
        *read_imports("from grm_jax.c import name", "grm_jax.b"),
    ]
    assert import_cycle(chain, modules) == []
    back = read_imports("import grm_jax.a", "grm_jax.c")
    circle = import_cycle(chain + back, modules)
    assert circle == ["grm_jax.a", "grm_jax.b", "grm_jax.c", "grm_jax.a"]
    lazy = read_imports("def f():\n    import grm_jax.a", "grm_jax.c")
    assert import_cycle(chain + lazy, modules) == []


def import_without(blocked: list[str], modules: list[str]) -> subprocess.CompletedProcess[str]:
    """Import `modules` in a new process in which every name of `blocked` cannot be imported."""
    script = f"""
        import importlib, sys
        for name in {blocked!r}:
            sys.modules[name] = None
        for name in {modules!r}:
            try:
                importlib.import_module(name)
            except Exception as error:
                raise SystemExit(f"{{name}}: {{type(error).__name__}}: {{error}}")
        print("imported", len({modules!r}))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_library_imports_without_grain_and_ml_collections():
    modules = sorted(LIBRARY - {PIPELINE})
    done = import_without(["grain", "ml_collections"], modules)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["imported", str(len(modules))]


def test_text_data_and_benchmarks_import_without_jax():
    modules = sorted(m for m in LIBRARY - {PIPELINE} if layer(m) in WITHOUT_JAX)
    done = import_without(sorted(JAX_FAMILY | {"grain", "ml_collections"}), modules)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["imported", str(len(modules))]


def test_the_help_of_an_experiment_waits_neither_for_jax_nor_for_scipy():
    slow = sorted(JAX_FAMILY | {"grain", "scipy", "matplotlib"})
    done = import_without(slow, EXPERIMENTS)
    assert done.returncode == 0, done.stderr


def test_benches_of_speed_import_on_a_bare_gpu_machine():
    optional = ["grain", "ml_collections", "tokamax", "torch", "transformers"]
    done = import_without(optional, ["tools.bench.sampling", "tools.bench.train"])
    assert done.returncode == 0, done.stderr


def test_import_without_reports_what_is_missing():
    done = import_without(["colorsys"], ["json", "colorsys"])
    assert done.returncode != 0
    assert "colorsys: ModuleNotFoundError" in done.stderr


# Absolute folders of somebody's machine, and the addresses of a private package index. Split, so
# that this file does not match itself.
PRIVATE = re.compile(
    r"(?<![\w.\-/})$])/(?:" + "|".join(["root", "home", "work", "tmp", "opt", "Users"]) + r")/\w"
    r"|file:" + r"//|--(?:extra-)?index-url|--find-links"
)
TEXT_SUFFIXES = {".py", ".md", ".cfg", ".toml", ".txt", ".json", ".yml", ".yaml", ".sh", ""}


def committed_texts() -> list[pathlib.Path]:
    """The text files of the clone: those at its root and in the folders that it is made of."""
    paths = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in ("grm_jax", *PROGRAMS, "constraints", "docs", ".ci"):
        paths += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [
        path
        for path in sorted(paths)
        if path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts
    ]


def test_no_file_names_a_private_path():
    paths = committed_texts()
    assert ROOT / "Makefile" in paths
    assert ROOT / "grm_jax" / "__init__.py" in paths
    offenders = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        if path != pathlib.Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if PRIVATE.search(line)
    ]
    assert offenders == []


# Jitted kernels, and the front of one: their arguments are arrays and static settings.
KERNELS = {"attend", "splash", "apply_experts", "decode", "accuracy_curve"}


def test_no_function_but_a_kernel_takes_more_than_seven_arguments():
    many = []
    for folder in ("grm_jax", "experiments", "tools", "configs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [argument.arg for argument in given if argument.arg not in ("self", "cls")]
                if len(names) > 7 and node.name not in KERNELS:
                    many.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}{names}")
    assert many == []


def test_private_paths_are_recognised():
    for text in ("open('/root/x')", "see /home/ada/run", "--workdir=/tmp/a", "file:///opt/wheels"):
        assert PRIVATE.search(text), text
    for text in ("../shared/data", "runs/work/x", "$(HOME)/work/x", "a/tmp/b", "/root of it"):
        assert not PRIVATE.search(text), text


def test_constraints_are_exact_pins_without_torch():
    files = sorted((ROOT / "constraints").glob("*.txt"))
    assert [path.name for path in files] == ["jax0.10-py311.txt", "jax0.11-py312.txt"]
    for path in files:
        lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
        assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9.]+", line) for line in lines)
        pins = dict(line.lower().split("==") for line in lines)
        assert pins["jax"].startswith(path.name[len("jax") :].split("-")[0] + ".")
        assert pins["jax"] == pins["jaxlib"]
        assert "torch" not in pins
