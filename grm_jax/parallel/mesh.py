"""Meshes with the four axes of this project, and the rules that map logical axes to them.

    data    batches are split, parameters are whole
    fsdp    batches are split, and so are parameters and their optimizer state
    tensor  heads, feed-forward width and vocabulary are split
    expert  batches are split, and each part keeps some of the routed experts

A mesh always has all four; an axis of size 1 splits nothing. So one table of rules serves every
mesh, and a config changes single entries of it.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax

from grm_jax.ranges import Checked, Count, split

AXES = ("data", "fsdp", "tensor", "expert")

# Each logical axis of a parameter or an activation, and the mesh axes that split it.
Rules = tuple[tuple[str, tuple[str, ...]], ...]

RULES: Rules = (
    # parameters
    ("layers", ()),
    ("vocab", ("tensor",)),
    ("embed", ("fsdp",)),
    ("heads", ("tensor",)),
    ("kv_heads", ("tensor",)),
    ("head_dim", ()),
    ("latent", ()),
    ("mlp", ("tensor",)),
    ("experts", ("expert",)),
    ("expert_mlp", ("tensor",)),
    ("lora", ()),
    # activations: rows of a batch, or prompts
    ("batch", ("data", "fsdp", "expert")),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig(Checked):
    """Sizes of the mesh axes, and where the rules differ from `RULES`.

    Attributes:
      data: parts of a batch, each with all parameters.
      fsdp: parts of parameters, along their width.
      tensor: parts of heads, feed-forward width and vocabulary.
      expert: parts of the routed experts.
      rules: changed rules, "name=axis+axis" separated by commas; "name=" splits nothing.
      rollout_rules: further changes, for parameters while they are sampled from. A rollout reads
        every weight once a token, so it pays to split them other than an update does.
    """

    data: Count = 1
    fsdp: Count = 1
    tensor: Count = 1
    expert: Count = 1
    rules: str = ""
    rollout_rules: str = ""

    def __post_init__(self):
        super().__post_init__()
        for rollout in (False, True):
            self.table(rollout=rollout)

    @property
    def size(self) -> int:
        """Devices of the mesh."""
        return math.prod(getattr(self, axis) for axis in AXES)

    def parts(self, name: str, *, rollout: bool = False) -> int:
        """How many parts a logical axis is split into."""
        return math.prod(getattr(self, axis) for axis in dict(self.table(rollout=rollout))[name])

    def table(self, *, rollout: bool = False) -> Rules:
        """`RULES` with the changes of this config.

        Raises:
          ValueError: for an entry that does not read "name=axis+axis", or an unknown name or axis.
        """
        table = dict(RULES)
        for field in ("rules", "rollout_rules")[: 1 + rollout]:
            for entry in split(getattr(self, field)):
                name, equals, value = (part.strip() for part in entry.partition("="))
                axes = tuple(split(value.replace("+", ",")))
                if not equals or name not in table or set(axes) - set(AXES):
                    raise ValueError(
                        f"{field}: {entry!r} must read name=axis+axis, with a name of "
                        f"{sorted(table)} and axes of {AXES}"
                    )
                table[name] = axes
        return tuple(table.items())


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh over all given devices (all there are for None).

    Raises:
      ValueError: if the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = tuple(getattr(config, axis) for axis in AXES)
    if config.size != len(devices):
        product = " * ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
        raise ValueError(f"mesh: {product} = {config.size} devices wanted, {len(devices)} found")
    # Auto: the compiler propagates what the constraints do not say. The default, explicit, would
    # type every array by its sharding.
    return jax.make_mesh(
        sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES), devices=devices
    )
