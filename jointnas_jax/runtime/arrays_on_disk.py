"""Trees of arrays on disk, by Orbax; of several processes each writes and reads for itself."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as orbax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from jointnas_jax.files import OPEN_FILES, check_arrays_folder


def save_arrays(path: Path, tree: Any, notes: dict[str, Any] | None = None) -> None:
    """Writes a tree of arrays into a folder, replacing an earlier one, and reads it back.

    Args:
      path: path of the folder.
      tree: NumPy arrays.
      notes: such as JSON can hold.

    Raises:
      OSError: what can be read is not what was written. Besides it, whatever Orbax raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _reached(path) as folder:
        _save(folder, tree, notes)
        read = _load(folder, tree)
    # Orbax takes some failures for warnings.
    if not jax.tree.all(jax.tree.map(_same, tree, read)):
        raise OSError("what can be read there is not what was written")


def _save(path: Path, tree: Any, notes: dict[str, Any] | None) -> None:
    if jax.process_count() == 1:
        ocp.save(path, tree, overwrite=True, custom_metadata=notes)
        return
    # Version 1 of Orbax's interface compares paths among all processes, so it is the earlier one.
    kinds = orbax.type_handlers
    registry = kinds.create_type_handler_registry(
        (
            jax.Array,
            kinds.ArrayHandler(
                primary_host=None,
                replica_id=None,
                use_replica_parallel=False,
                enable_write_sharding_file=False,
            ),
        ),
        (np.ndarray, kinds.NumpyHandler()),
    )
    me = jax.process_index()
    alone = orbax.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    handler = orbax.PyTreeCheckpointHandler(
        type_handler_registry=registry, multiprocessing_options=alone
    )
    if me:  # Orbax writes NumPy arrays in process 0 only, and arrays of JAX that others could see
        mesh = Mesh(np.array([jax.local_devices()[0], jax.devices()[0]]), ("processes",))
        shared = NamedSharding(mesh, PartitionSpec())
        tree = jax.tree.map(
            lambda leaf: jax.make_array_from_callback(leaf.shape, shared, lambda i: leaf[i]), tree
        )
    with orbax.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(path, orbax.args.PyTreeSave(tree), force=True, custom_metadata=notes)


def load_arrays(path: Path, like: Any = None) -> Any:
    """Reads what `save_arrays` wrote, as arrays like those of another tree."""
    with _reached(path) as folder:
        return _load(folder, like)


def _load(path: Path, like: Any) -> Any:
    with _alone():
        return ocp.load(path, like)


def load_notes(path: Path) -> dict[str, Any]:
    """Reads the notes that `save_arrays` wrote."""
    with _reached(path) as folder, _alone():
        return ocp.metadata(folder).custom_metadata


@contextlib.contextmanager
def _reached(path: Path) -> Iterator[Path]:
    """Another path of a folder, by the number of its open parent, that Orbax can use.

    Orbax and what it calls take paths for patterns (`[x]`), URLs (`gs:`) or UTF-8 text, and turn
    backslashes into slashes.
    """
    path = path.resolve()
    if not OPEN_FILES.exists():
        check_arrays_folder(path)
        yield path
        return
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield OPEN_FILES / str(parent) / path.name
    finally:
        os.close(parent)


def _same(written: Any, read: Any) -> bool:
    written, read = np.asarray(written), np.asarray(read)
    same_kind = (written.shape, written.dtype) == (read.shape, read.dtype)
    return same_kind and written.tobytes() == read.tobytes()


def _alone() -> ocp.Context:
    """A context of Orbax in which this process waits for no other one."""
    context = ocp.Context()
    if jax.process_count() > 1:
        context.multiprocessing.primary_host = jax.process_index()
        context.multiprocessing.active_processes = {jax.process_index()}
        context.multiprocessing.barrier_sync_key_prefix = f"process{jax.process_index()}"
    return context
