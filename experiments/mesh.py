"""Where the arrays of a run lie: on one device, or by rules on a mesh of several.

A batch is split along ``data`` and ``fsdp``; weights, their masks and what else is shaped like them
(optimizer slots, memories) along ``fsdp`` and ``model``, by ``spec_of``. Seeds are not split.
Vectors and counts are on every device.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_BATCH, _WEIGHTS = ("data", "fsdp"), ("fsdp", "model")
AXES = ("data", "fsdp", "model")


@dataclasses.dataclass(frozen=True)
class Devices:
    """Which devices a run is on. What is not given is one device of one process."""

    mesh: str = ""
    """Axes and their sizes, as data=4,model=2 or fsdp=8: a batch is split along data and fsdp,
    weights and masks along fsdp and model. The product is the number of all devices, of all
    processes. On a CPU it also sets how many there are, unless JAX_NUM_CPU_DEVICES does."""
    mesh_axes: Literal["auto", "explicit"] = "auto"
    """Axis types of JAX: where results lie is XLA's choice, or a part of their types."""
    distributed: bool = False
    """One of several processes, which find each other by what SLURM, Kubernetes, Open MPI or a TPU
    pod says in the environment."""
    coordinator: str = ""
    """Where that is not known: HOST:PORT of process 0, the same in all processes."""
    num_processes: int | None = None
    """How many processes there are, with --coordinator."""
    process_id: int | None = None
    """Which of them this is, from 0, with --coordinator."""


ONE_PROCESS = Devices()


def parse(text: str) -> dict[str, int]:
    """The axes of a mesh.

    Args:
      text: Such as ``data=4,model=2``.

    Returns:
      Name to size, in that order; empty for an empty text.

    Raises:
      ValueError: one line with the value, what it may be, and the remedy.

    Example:
      >>> parse("data=4,model=2")
      {'data': 4, 'model': 2}
    """
    sizes: dict[str, int] = {}
    for part in text.split(",") if text else []:
        name, _, size = part.strip().partition("=")
        if name not in AXES:
            raise ValueError(
                f"mesh has an axis {name!r}; give {', '.join(AXES)}, as data=4,model=2"
            )
        if name in sizes:
            raise ValueError(f"mesh has {name} twice; give each axis once, as data=4,model=2")
        if not (size.isascii() and size.isdecimal() and int(size)):
            raise ValueError(f"mesh has {name}={size}; give a number of devices, 1 or more")
        sizes[name] = int(size)
    return sizes


def check(devices: Devices, batch_size: int) -> None:
    """Refuse what cannot be, before any device is asked for.

    Args:
      devices: What was given.
      batch_size: Examples a step.

    Raises:
      ValueError: one line with the value, what it may be, and the remedy.
    """
    sizes = parse(devices.mesh)
    shares = math.prod(sizes.get(name, 1) for name in _BATCH)
    if batch_size % shares:
        raise ValueError(
            f"batch_size is {batch_size}; the mesh {devices.mesh} splits it in {shares}: give a "
            f"multiple, such as {shares * max(batch_size // shares, 1)}"
        )
    if devices.mesh_axes == "explicit" and not sizes:
        raise ValueError("mesh_axes is explicit and there is no mesh; give one, as --mesh data=4")
    number, index = devices.num_processes, devices.process_id
    if not devices.coordinator:
        if (number, index) != (None, None):
            raise ValueError("num_processes and process_id come with --coordinator HOST:PORT")
    elif number is None or index is None or not 0 <= index < number:
        raise ValueError(
            f"coordinator comes with --num-processes N and --process-id I, I in [0, N); they are "
            f"{number} and {index}"
        )
    elif not devices.coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"coordinator is {devices.coordinator!r}; give HOST:PORT of process 0")
    if (devices.distributed or devices.coordinator) and not sizes:
        raise ValueError("several processes take a mesh of all their devices, as --mesh data=16")


def use_cpu_devices(devices: Devices) -> None:
    """As many devices on a CPU, where nothing else says so and no backend has started.

    Args:
      devices: What was given; with ``distributed`` nothing is done, for the processes are unknown.
    """
    number = math.prod(parse(devices.mesh).values()) // (devices.num_processes or 1)
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if (
        number <= 1
        or devices.distributed
        or said
        or getattr(jax.config, "jax_num_cpu_devices", -1) >= 0
    ):
        return
    try:
        jax.config.update("jax_num_cpu_devices", number)
    except RuntimeError:  # the backend has started: the mesh is checked against what there is
        return
    # Devices that share cores wait for each other; with several programs in flight too long.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def spec_of(shape: tuple[int, ...], sizes: Mapping[str, int]) -> P:
    """Each axis along the largest dimension that is still free and divisible by it.

    Args:
      shape: Of a weight.
      sizes: The axes of the mesh, or some of them.

    Returns:
      The specification; empty where nothing fits.

    Example:
      >>> spec_of((784, 300), {"fsdp": 2, "model": 2})
      P('fsdp', 'model')
    """
    spec: list[str | None] = [None] * len(shape)
    for name, size in sizes.items():
        fits = [i for i, n in enumerate(shape) if spec[i] is None and n % size == 0]
        if fits:
            spec[max(fits, key=shape.__getitem__)] = name
    return P(*spec)


class Layout(NamedTuple):
    """Where arrays lie, and how a step is compiled for that.

    Attributes:
      mesh: The devices, with Auto axes; ``None``: one device, and nothing is said.
      explicit: Is a step compiled with Explicit axes?
    """

    mesh: Mesh | None = None
    explicit: bool = False

    @property
    def everywhere(self) -> Any:
        """The sharding of what every device holds, or ``None``."""
        return None if self.mesh is None else NamedSharding(self.mesh, P())

    def places(self, tree: Any, params: Any) -> Any:
        """The sharding of each leaf: what is shaped like a weight lies like it.

        Args:
          tree: Pytree of abstract arrays, those like weights with a leading seed axis.
          params: The parameters among them.

        Returns:
          Pytree of shardings, or ``None`` on one device.

        Raises:
          ValueError: if the mesh is to split weights and fits none.
        """
        mesh = self.mesh
        if mesh is None:
            return None
        sizes = {name: mesh.shape[name] for name in _WEIGHTS if name in mesh.shape}
        weights = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 2}
        specs = {shape: P(None, *spec_of(shape[1:], sizes)) for shape in weights}
        for name, size in sizes.items():
            if size > 1 and not any(name in spec for spec in specs.values()):
                shapes = ", ".join(sorted("x".join(map(str, shape[1:])) for shape in weights))
                raise ValueError(
                    f"mesh has {name}={size}, which divides no free dimension of any weight "
                    f"({shapes}): give another size, or split the batch with data={size}"
                )
        return jax.tree.map(lambda leaf: NamedSharding(mesh, specs.get(leaf.shape, P())), tree)

    def placed(self, tree: Any, places: Any) -> Any:
        """What a checkpoint is restored as.

        Args:
          tree: Pytree of abstract arrays.
          places: Of ``places``.

        Returns:
          The same with shardings; without a mesh as it came.
        """
        if places is None:
            return tree
        return jax.tree.map(lambda leaf, place: leaf.update(sharding=place), tree, places)

    def share(self, array: Any, axis: int) -> Any:
        """Split an array's examples; every process places those of its own devices.

        Args:
          array: On the host, the same in every process.
          axis: Of the examples.

        Returns:
          On the mesh; on every device where it is not divisible, and as it came without a mesh.
        """
        if self.mesh is None:
            return array
        names = tuple(name for name in _BATCH if name in self.mesh.shape)
        shares = math.prod(self.mesh.shape[name] for name in names)
        spec: list[Any] = [None] * array.ndim
        spec[axis] = names if names and array.shape[axis] % shares == 0 else None
        place = NamedSharding(self.mesh, P(*spec))
        return jax.make_array_from_callback(array.shape, place, lambda index: array[index])

    def local(self, array: jax.Array) -> jax.Array:
        """Of what every device holds, the copy of this process: nothing waits for another.

        Args:
          array: On every device.

        Returns:
          On one device; without a mesh as it came.
        """
        return array if self.mesh is None else array.addressable_data(0)

    def hold(self, tree: Any, places: Any) -> Any:
        """Inside a program: each leaf where it belongs.

        Args:
          tree: Pytree of arrays.
          places: Pytree of shardings, or ``None``.

        Returns:
          The same arrays.
        """
        if places is None:
            return tree
        if self.explicit:
            return jax.tree.map(lambda x, place: jax.sharding.reshard(x, place.spec), tree, places)
        return jax.tree.map(jax.lax.with_sharding_constraint, tree, places)

    def auto(self, function: Any, like: Any = None) -> Any:
        """A function that XLA lays out, in a program whose axes may be Explicit.

        Args:
          function: ``(*arrays) -> (pytree, other)``; without ``like``, any.
          like: Where the leaves of that pytree belong, as shardings with a leading seed axis; all
            other results are on every device.

        Returns:
          The function; under Auto axes the same one.
        """
        if not self.explicit:
            return function
        first = jax.tree.map(lambda place: P(*place.spec[1:]), like)
        return jax.sharding.auto_axes(function, out_sharding=(first, P()) if like else P())

    def step(self, function: Any, places: Any) -> Any:
        """Compile steps: ``(learner, rows) -> (learner, other)``.

        Args:
          function: It takes the learner over.
          places: Of the learner.

        Returns:
          The compiled function.
        """
        mesh = self.mesh
        if mesh is None:
            return jax.jit(function, donate_argnums=0)
        if not self.explicit:
            return jax.jit(function, donate_argnums=0, out_shardings=(places, self.everywhere))
        typed = Mesh(
            mesh.devices, mesh.axis_names, axis_types=(AxisType.Explicit,) * mesh.devices.ndim
        )
        on = lambda where, tree: jax.device_put(
            tree, jax.tree.map(lambda x: NamedSharding(where, x.sharding.spec), tree)
        )
        compiled = jax.jit(function, donate_argnums=0)

        def run(*arguments: Any) -> Any:
            with jax.set_mesh(typed):
                found = compiled(*on(typed, arguments))
            return on(mesh, found)

        return run


ONE_DEVICE = Layout()


def layout_of(devices: Devices) -> Layout:
    """The layout that was asked for, on the devices there are.

    Args:
      devices: What was given.

    Returns:
      The layout.

    Raises:
      ValueError: if the mesh has another number of devices.
    """
    sizes = parse(devices.mesh)
    if not sizes:
        return ONE_DEVICE
    return Layout(mesh_of(sizes), devices.mesh_axes == "explicit")


def mesh_of(sizes: Mapping[str, int], devices: Any = None) -> Mesh:
    """A mesh with Auto axes.

    Args:
      sizes: Name to size.
      devices: Which; default: all.

    Returns:
      The mesh.

    Raises:
      ValueError: if it has another number of devices.
    """
    devices, number = devices or jax.devices(), math.prod(sizes.values())
    if number != len(devices):
        text = ",".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(
            f"mesh is {text}, {number} devices, where there are {len(devices)} "
            f"({devices[0].platform}, {jax.process_count()} processes): give sizes whose product "
            f"is {len(devices)}, or on a CPU JAX_NUM_CPU_DEVICES for each process"
        )
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=devices)
