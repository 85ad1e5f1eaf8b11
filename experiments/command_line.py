"""The flags of a program that takes a config: `--config`, its fields, and `--show_config`.

    --config=configs/small_world.py:demo --config.grpo.advantage=dr_grpo
    --config.grpo.clip_high=None   a field that may be None
    --show_config            prints every field with its value, origin and meaning, and ends
    --show_config=grpo       prints the fields of one section

Only the fields of the sections that the config has are flags.

The sections are those of the library, which needs jax. `--help` must not wait for it, so whatever
knows them is imported by the functions that have a config.
"""

import dataclasses
import traceback
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from grm_jax.ranges import split


class BadVariant(Exception):
    """A config file refuses the variant that was asked for."""


class _ConfigFile(flags.ArgumentParser):
    """Lays every default under the values of a file, before flags for single fields are parsed."""

    def __init__(self, of_file: flags.ArgumentParser):
        self.of_file = of_file

    def parse(self, path: str) -> ConfigDict:
        """The locked config of "file.py:variant"; the parser's placeholder if there is no file.

        Raises:
          BadVariant: the file refuses its variant.
        """
        from experiments.config import complete

        try:
            loaded = self.of_file.parse(path)
        except ValueError as error:
            reason = str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
            raise BadVariant(f"{path}: {reason}") from error
        return complete(loaded).lock() if isinstance(loaded, ConfigDict) else loaded

    def flag_type(self) -> str:
        """For the help."""
        return self.of_file.flag_type()


class _OrNone(flags.ArgumentParser):
    """A field that may be None: accepts the word "None", unless it would mean the default."""

    def __init__(self, of_value: flags.ArgumentParser, default: Any):
        self.of_value, self.default = of_value, default

    def parse(self, argument: Any) -> Any:
        """The value; None for the word."""
        if argument != "None":
            return self.of_value.parse(argument)
        if self.default is not None:
            raise ValueError(f"None is no value: it stands for the default, {self.default!r}")
        return None

    def flag_type(self) -> str:
        """For the help."""
        return self.of_value.flag_type()


class _OptionalValue(flags.Flag):
    """A flag whose value may be left out, and is then "true"."""

    def __init__(self, name: str, help_string: str):
        parser, serializer = flags.ArgumentParser(), flags.ArgumentSerializer()
        super().__init__(parser, serializer, name, None, help_string, boolean=True)


def define_config(values: flags.FlagValues = flags.FLAGS, **options) -> flags.FlagHolder:
    """Defines `--config` and `--show_config`; `options` as of `DEFINE_config_file`."""
    show = _OptionalValue("show_config", "Print the config, or a section of it, and end.")
    flags.DEFINE_flag(show, values)
    holder = config_flags.DEFINE_config_file(
        "config", None, "configs/<file>.py[:variant]", values, **options
    )
    flag = values["config"]
    flag.parser, parse = _ConfigFile(flag.parser), flag.parse

    def parse_then_allow_none(path: str) -> None:
        from experiments.config import shown

        parse(path)  # defines the flags of fields
        for line in shown(flag.value, {}, {}, ()) if isinstance(flag.value, ConfigDict) else ():
            if line.field.optional and (name := f"config.{line.name}") in values:
                default = None if line.field.default is dataclasses.MISSING else line.field.default
                values[name].parser = _OrNone(values[name].parser, default)

    flag.parse = parse_then_allow_none
    return holder


def require(*names: str) -> None:
    """Makes flags required; `--show_config` needs only the config."""
    flags.mark_flag_as_required("config")
    for name in names:
        flags.register_multi_flags_validator(
            [name, "show_config"],
            lambda values, name=name: values[name] is not None or values["show_config"] is not None,
            message=f"Flag --{name} must have a value other than None.",
        )


def unknown_field(error: AttributeError | KeyError, argv: Sequence[str]) -> str | None:
    """The message about a flag whose section or field the config lacks; None for other errors."""
    from experiments.config import fields
    from experiments.sections import Config

    cause = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    if not isinstance(cause, KeyError) or "ml_collections" not in place:
        return None  # an error of the config file itself
    reason = " ".join(str(cause.args[0]).split()).replace(" Did you mean", "; did you mean")
    name = reason.split()[0].strip("'\";")
    flags_of_it = [arg.partition("=")[0] for arg in argv if arg.startswith("--config.")]
    meant = [flag for flag in flags_of_it if name in flag.split(".")]
    if name in {field.name for field in fields(Config) if field.kind == "section"}:
        return (
            f"{', '.join(meant)}: {name} is off, for the config has no section {name!r}; a section "
            "in the config file switches it on"
        )
    return (
        f"{', '.join(meant) or '--config'}: no field or section {reason}; --show_config prints "
        "all there are, but those that the run decides itself"
    )


def require_in_use() -> None:
    """Raises ValueError for a flag of a stage that `config.stages` switches off."""
    from experiments.sections import TRAINED_STAGES

    flag = flags.FLAGS["config"]
    on = split(flag.value.get("stages") or "")
    for name in config_flags.get_override_values(flag) if on else ():
        section = name.partition(".")[0]
        if section in TRAINED_STAGES and section not in on:
            raise ValueError(
                f"--config.{name}: {section} is off: config.stages={','.join(on)} leaves it out"
            )


def show_config() -> bool:
    """Prints the config and returns True if `--show_config` asks for it.

    Raises:
      ValueError: the config has no such section; or, after it was printed, a field has a value that
        it cannot have.
    """
    wanted = flags.FLAGS.show_config
    if wanted is None or wanted == "false":
        return False
    from experiments.config import build, in_use, shown

    flag = flags.FLAGS["config"]
    path = config_flags.get_config_filename(flag)
    file = flag.parser.of_file.parse(path)
    try:
        plain = flag.parser.of_file.parse(path.partition(":")[0])
    except (TypeError, ValueError):  # a file whose variants are all named
        plain = file
    lines = shown(flag.value, file, plain, config_flags.get_override_values(flag))
    if wanted not in ("true", ""):
        lines = [line for line in lines if f"{line.name}.".startswith(f"{wanted}.")]
    if not lines:
        raise ValueError(f"--show_config={wanted}: no such section; there are {[*flag.value]}")
    for line in lines:
        print(f"config.{line.name} = {line.value!r}    ({line.origin})\n        {line.doc}")
    require_in_use()
    build(in_use(flag.value))
    return True
