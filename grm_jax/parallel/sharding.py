"""From logical axis names to shardings of parameters and constraints on activations.

Nothing falls back to whole copies in silence: a name without a rule, a mesh axis that would split
two dimensions of an array, and a dimension that its mesh axes do not divide are errors that name
the array.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from grm_jax.parallel import processes
from grm_jax.parallel.mesh import Rules


def mesh_axes(sizes: Mapping[str, int], rules: Rules, name: str) -> tuple[str, ...]:
    """The axes of the rule for `name` that have more than one device.

    Raises:
      ValueError: for a name without a rule.
    """
    table = dict(rules)
    if name not in table:
        raise ValueError(f"logical axis {name!r} has no rule; known are {sorted(table)}")
    return tuple(axis for axis in table[name] if sizes.get(axis, 1) > 1)


def spec(
    sizes: Mapping[str, int],
    rules: Rules,
    names: Sequence[str | None],
    shape: Sequence[int],
    array: str,
) -> PartitionSpec:
    """How an array is split.

    Args:
      sizes: devices along each mesh axis.
      rules: of logical axes.
      names: logical axis of each dimension; None is never split.
      shape: of the array.
      array: what errors call it.

    Raises:
      ValueError: naming the array, for an unknown name, a collision or an indivisible dimension.
    """
    if len(names) != len(shape):
        raise ValueError(f"{array}: {len(names)} axis names for shape {tuple(shape)}")
    used: dict[str, str] = {}
    parts = []
    for name, size in zip(names, shape, strict=True):
        try:
            axes = () if name is None else mesh_axes(sizes, rules, name)
        except ValueError as error:
            raise ValueError(f"{array}: {error}") from error
        for axis in axes:
            if axis in used:
                raise ValueError(
                    f"{array}: mesh axis {axis!r} would split both {used[axis]!r} and {name!r}"
                )
            used[axis] = name
        devices = math.prod(sizes[axis] for axis in axes)
        if size % devices:
            raise ValueError(
                f"{array}: {name!r} has size {size}, which the {devices} devices of mesh "
                f"{'axis' if len(axes) == 1 else 'axes'} {'+'.join(axes)} do not divide"
            )
        parts.append(axes[0] if len(axes) == 1 else axes or None)
    while parts and parts[-1] is None:  # as jax writes the shardings of results: equal, not alike
        parts.pop()
    return PartitionSpec(*parts)


def shardings(mesh: jax.sharding.Mesh, rules: Rules, axes, shapes):
    """A `NamedSharding` for each leaf of `shapes`, whose logical names are a leaf of `axes`.

    Raises:
      ValueError: as `spec`, naming the leaf by its path.
    """

    def leaf_sharding(path, leaf, names):
        array = "/".join(str(getattr(part, "key", part)) for part in path)
        return NamedSharding(mesh, spec(mesh.shape, rules, names, leaf.shape, array))

    return jax.tree_util.tree_map_with_path(leaf_sharding, shapes, axes)


def current_mesh() -> jax.sharding.AbstractMesh | None:
    """The mesh of `jax.set_mesh` if it has more than one device, else None."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def parts(rules: Rules, name: str) -> int:
    """How many parts the current mesh splits a logical axis into; 1 without a mesh."""
    mesh = current_mesh()
    if mesh is None:
        return 1
    return math.prod(mesh.shape[axis] for axis in mesh_axes(mesh.shape, rules, name))


def constrain(rules: Rules, x: jax.Array, names: Sequence[str | None], array: str) -> jax.Array:
    """Fixes how an activation is split; the identity without a mesh.

    Raises:
      ValueError: as `spec`.
    """
    mesh = current_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, spec(mesh.shape, rules, names, x.shape, array))


def put(tree, sharding=None):
    """Host arrays to global ones; every process passes the same, and places its own part of it.

    Args:
      tree: arrays, of numpy or replicated ones.
      sharding: one for all leaves, or a tree of them. None puts arrays whole on every device of
        the mesh of `jax.set_mesh`, or on the default device without a mesh.
    """
    if not processes.several():
        return jax.device_put(tree, sharding)
    if sharding is None:
        sharding = NamedSharding(jax.sharding.get_mesh(), PartitionSpec())

    def place(x, sharding):
        if isinstance(x, jax.Array):
            return jax.jit(lambda x: x, out_shardings=sharding)(x)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda x: place(x, sharding), tree)
    return jax.tree.map(place, tree, sharding)


def reshard(tree, shardings, dtypes=None):
    """Moves arrays to other shardings on the same devices, and to other types if any are given.

    One program, nothing by way of the host. Leaves that are in place already are returned as they
    are, not copied.
    """
    leaves, structure = jax.tree.flatten(tree)
    wanted = structure.flatten_up_to(shardings)
    types = [x.dtype for x in leaves] if dtypes is None else structure.flatten_up_to(dtypes)
    places = [
        i for i, (x, s, dtype) in enumerate(zip(leaves, wanted, types, strict=True))
        if not (x.sharding.is_equivalent_to(s, x.ndim) and x.dtype == dtype)
    ]  # fmt: skip
    if places:
        move = jax.jit(
            lambda *xs: tuple(x.astype(types[i]) for x, i in zip(xs, places, strict=True)),
            out_shardings=tuple(wanted[i] for i in places),
        )
        for i, moved in zip(places, move(*(leaves[i] for i in places)), strict=True):
            leaves[i] = moved
    return jax.tree.unflatten(structure, leaves)


def fetch(tree):
    """Global arrays to numpy, whole, on every process."""
    if processes.several():
        tree = jax.tree.map(_replicated, tree)
    return jax.device_get(tree)


def _replicated(x):
    if not isinstance(x, jax.Array) or x.is_fully_replicated or x.is_fully_addressable:
        return x
    return jax.jit(lambda x: x, out_shardings=NamedSharding(x.sharding.mesh, PartitionSpec()))(x)
