"""The pages say what the code does: their lengths, links, commands, flags and paths."""

from __future__ import annotations

import functools
import importlib
import json
import pathlib
import re
import textwrap
from typing import NamedTuple

import pytest
from absl import flags
from ml_collections import ConfigDict

from experiments import command_line
from experiments.config import build, complete, shown

# ml_collections loads config files in the old way of Python.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "BUILD_NOTES.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = [
    path.stem for path in sorted((ROOT / "configs").glob("*.py"))
    if "def get_config(" in path.read_text()
]  # fmt: skip
MOST_WORDS = {"README.md": 900, "BUILD_NOTES.md": 3000}
_BLOCK = re.compile(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+")  # indented code
_PLACEHOLDERS = {"S": "1", "KIND": "pairrm"}  # others, such as DIR, are texts already
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?:grm_jax|experiments|configs|tools|tests|docs)/[\w/.\-]+\.\w+")


class Command(NamedTuple):
    """A command line of a page; `file` is its --config, "" for none or a placeholder."""

    page: str
    module: str
    file: str
    flags: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page}: python -m {self.module} --config={self.file} {self.flags}"


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def code(text: str) -> list[str]:
    """The code of a page, its lines joined: each indented line, each span between backticks."""
    blocks = [block.replace("\\\n", " ") for block in _BLOCK.findall(text)]
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return lines + [span.replace("\n", " ") for span in _SPAN.findall(_BLOCK.sub("", text))]


def commands_of(page: str, text: str) -> list[Command]:
    found = []
    for line in code(text):
        for part in line.split("python -m ")[1:]:
            module, _, rest = part.partition(" ")
            if module in ("pip", "pytest", "experiments.NAME"):
                continue
            given = dict(
                (name, value.strip("'\""))
                for name, value in re.findall(r"--(\w[\w.\-]*)(?:=(\S*))?", rest.split(" # ")[0])
            )
            file = given.pop("config", "")
            file = "" if re.search(r"FILE|\.\.\.", file) else file
            found.append(Command(page, module, file, given))
    return found


@functools.cache
def commands() -> list[Command]:
    return [one for page in PAGES for one in commands_of(name_of(page), page.read_text())]


def parsed(file: str, given: dict[str, str]):
    """The config of a file with flags."""
    argv = ["program", f"--config={file}"]
    argv += [f"--{name}={_PLACEHOLDERS.get(value, value)}" for name, value in given.items()]
    values = flags.FlagValues()
    holder = command_line.define_config(values, sys_argv=argv)
    values(argv)
    return holder.value


@functools.cache
def all_fields() -> set[str]:
    """Every field of every section, as `a.b`."""
    configs = [importlib.import_module(f"configs.{name}").get_config() for name in CONFIGS]
    configs[0] = ConfigDict(configs[0].to_dict() | {"data": {"overlap": "allow"}})
    return {line.name for config in configs for line in shown(config, {}, {}, ())}


@functools.cache
def slugs(path: pathlib.Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", path.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", MOST_WORDS)
def test_pages_for_everybody_are_short(name):
    assert len((ROOT / name).read_text().split()) <= MOST_WORDS[name]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere_in_the_clone(page):
    text = _SPAN.sub("", _BLOCK.sub("", page.read_text()))
    for link in _LINK.findall(text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{link} is outside the clone"
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in slugs(target), f"{link}: no such heading"


def test_every_page_can_be_reached_from_readme():
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = (link.partition("#")[0] for link in _LINK.findall(page.read_text()))
        todo += [(page.parent / link).resolve() for link in links if link and ":" not in link]
    assert set(PAGES) <= seen


def test_there_are_commands_to_check():
    assert len(commands()) > 50
    assert {one.module for one in commands()} >= {"experiments.spct", "tools.plan"}


@pytest.mark.parametrize("module", sorted({one.module for one in commands()}))
def test_programs_of_commands_exist_and_know_the_flags(module):
    path = ROOT / f"{module.replace('.', '/')}.py"
    assert path.is_file(), module
    shared = ("experiments/run", "experiments/launch", "experiments/command_line")
    shared += ("tools/random_model", "tools/outputs") if module.startswith("tools.") else ()
    source = path.read_text() + "".join((ROOT / f"{name}.py").read_text() for name in shared)
    for command in commands():
        for name in command.flags if command.module == module else ():
            if not name.startswith("config."):
                known = rf"""("--|(DEFINE_\w+|_OptionalValue)\(\s*"){name.removeprefix("no-")}\""""
                assert re.search(known, source), f"{command}: --{name}"


@pytest.mark.parametrize("command", [one for one in commands() if one.file], ids=str)
def test_configs_of_commands_load_with_their_flags(command):
    dotted = {name: value for name, value in command.flags.items() if name.startswith("config.")}
    build(parsed(command.file, dotted))


def test_every_flag_that_a_page_names_is_a_field():
    for page in PAGES:
        for span in code(page.read_text()):
            for name in re.findall(r"--config\.([\w.]+)=", span):
                assert name in all_fields() or name.startswith("ablate.arms."), (page.name, name)


def test_wrong_commands_are_found():
    text = "Run\n\n    python -m experiments.grpo --config=configs/small_world.py:demo \\\n"
    (command,) = commands_of("x", text + "        --config.grpo.advantag=dr_grpo  # remark\n")
    assert command.flags == {"config.grpo.advantag": "dr_grpo"}
    with pytest.raises(AttributeError, match="advantag"):
        parsed(command.file, command.flags)
    (command,) = commands_of("x", "as `python -m experiments.grpo\n--config=configs/x.py` does")
    with pytest.raises(Exception, match="x.py"):
        build(parsed(command.file, command.flags))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_are_there(page):
    if page.parent.name == "lab":
        return  # what there was
    for span in _SPAN.findall(page.read_text()):
        for path in _PATH.findall(span):
            assert "NAME" in path or (ROOT / path).exists(), path


def test_the_tree_has_every_module():
    """Of the library and of the experiments, without the files that are one of many of a kind."""
    tree = max(_BLOCK.findall((ROOT / "docs" / "architecture.md").read_text()), key=len)
    named = set(re.findall(r"\w+\.py", tree))
    named |= {f"{name}.py" for name in re.findall(r"\w+", tree.partition("experiments/")[2])}
    many = {"benchmarks", "training_sets", "families"}
    modules = [*(ROOT / "grm_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    for path in modules:
        if path.name != "__init__.py" and path.parent.name not in many:
            assert path.name in named, f"{path.relative_to(ROOT)} is not in the tree"
    there = {path.name for path in (*modules, *(ROOT / "configs").glob("*.py"))}
    assert set(re.findall(r"\w+\.py", tree)) <= there


@pytest.mark.parametrize("name", CONFIGS)
def test_no_config_names_a_path_outside_the_clone(name):
    module = importlib.import_module(f"configs.{name}")

    def texts(section: ConfigDict, dotted: str):
        for key, value in section.items():
            if isinstance(value, ConfigDict):
                yield from texts(value, f"{dotted}.{key}")
            elif isinstance(value, str):
                yield f"{dotted}.{key}", value

    for variant in module.VARIANTS:
        for dotted, value in texts(complete(module.get_config(variant)), f"{name}:{variant}"):
            for part in re.split("[,:]", value):
                assert not re.match(r"/|~|.*\.\./", part), f"{dotted} = {value!r}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_path_outside_the_clone(page):
    for span in code(page.read_text()):
        assert not re.search(r"(?<![\w./])(\.\./|~/)|=/\w", span), span


def test_the_benchmark_of_the_page_is_one(tmp_path):
    """The file that extending.md shows whole can be imported, and reads a row."""
    text = (ROOT / "docs/extending.md").read_text()
    begin = text.index("       from grm_jax.benchmarks.files")
    file = textwrap.dedent(text[begin : text.index("   The best response must not", begin)])
    module: dict = {}
    exec(file, module)
    row = {"id": "1", "prompt": "q", "chosen": "a", "rejected": "b", "subset": "law"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    ((_, comparison),) = module["read"](tmp_path)
    assert comparison.responses[comparison.best] == "a" and comparison.subset == "law"
    assert module["SUITES"][0].rows == {"maths": 120, "law": 80}


def test_the_core_can_be_read_in_one_evening():
    page = (ROOT / "docs/architecture.md").read_text()
    links = _LINK.findall(page.partition("## Read these in one evening")[2])
    files = {(ROOT / "docs" / link).resolve() for link in links}
    assert len(files) > 25
    assert sum(len(file.read_text().splitlines()) for file in files) <= 6000
