"""How fast images are read: from array_record, and from a folder at first and afterwards.

python -m benchmarks.reading --out=r.json
python -m benchmarks.reading --images=photos --size=224

All of it in one run, on a machine that other work may share: what counts are ratios. Each round has
a cache of its own, and reads all images of all splits as a study does when it starts:

array_record      a prepared dataset of the same files, whose images are decoded
array_record kept  it again, from what the cache remembers of it
folder first      the folder: files are found, decoded, written into the cache, and read from it
folder            the folder again: files are found and compared with the cache
serial, threads, processes   decode the files and nothing else, the start of processes left out
"""

import concurrent.futures
import contextlib
import functools
import io
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from jointnas_jax.command_line import define_path, parse_flags, run_measurement
from jointnas_jax.data.image_file import describe_image

# Images that a process takes at once.
_CHUNK = 64
_CLASSES = 10


def write_photos(root: Path, count: int, side: int) -> Path:
    """Writes JPEG files of smooth noise, which compress as photos do, in folders of classes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        colours = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        smooth = np.asarray(colours.resize((side, side), Image.Resampling.BICUBIC), int)
        pixels = np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
        folder = root / f"class{i % _CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=90)
    return root


def describe(path: Path) -> tuple[int, int, int]:
    """Decodes a file."""
    return describe_image(io.BytesIO(path.read_bytes()), "it")


def measure(root: Path, *, size: int, rounds: int, workers: int) -> dict[str, Any]:
    """Reads the images of a folder in all ways.

    Args:
      root: folder of class folders.
      size: images are loaded at this size; 0: as they are.
      rounds: how often each is measured; the median counts.
      workers: threads, and processes.

    Returns:
      `images`, `seconds` by way, and ratios of them.
    """
    from jointnas_jax.data.folders import find_files
    from jointnas_jax.data.stored_images import write_images

    paths = sorted(path for path in root.rglob("*") if path.is_file())
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as home, _decoders(paths, workers) as decoders:
        with _cache(Path(home) / "cache"):
            prepared, _ = write_images(root, find_files(root), Path(home) / "data")
        for i in range(rounds):
            with _cache(Path(home) / f"cache{i}"):
                for way, images in (
                    ("array_record", prepared),
                    ("array_record kept", prepared),
                    ("folder first", root),
                    ("folder", root),
                ):
                    seconds.setdefault(way, []).append(
                        _seconds(functools.partial(_load, images, size))
                    )
            for way, decode in decoders.items():
                seconds.setdefault(way, []).append(_seconds(decode))
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    return {
        "images": len(paths),
        "workers": workers,
        "cores": os.cpu_count(),
        "seconds": medians,
        "folder / array_record": medians["folder"] / medians["array_record"],
        "folder first / array_record": medians["folder first"] / medians["array_record"],
        "processes / threads": medians["processes"] / medians["threads"],
    }


def _load(folder: Path, size: int) -> None:
    from jointnas_jax.data.source import open_dataset

    dataset = open_dataset(dict(name="", dir=str(folder), image_size=size))
    for split in dataset.split_names:
        dataset.load(split)


@contextlib.contextmanager
def _decoders(paths: Sequence[Path], workers: int) -> Iterator[dict[str, Callable[[], Any]]]:
    """Ways to decode all files, whose threads and processes are there already."""
    # Processes that are forked beside the threads of JAX may hang.
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as threads,
        concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as processes,
    ):
        list(processes.map(describe, paths[: 2 * workers]))
        yield {
            "serial": lambda: list(map(describe, paths)),
            "threads": lambda: list(threads.map(describe, paths)),
            "processes": lambda: list(processes.map(describe, paths, chunksize=_CHUNK)),
        }


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Uses a cache of its own."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(argv: list[str], flag_values: flags.FlagValues) -> dict[str, Any]:
    """Measures and prints; returns the report."""
    parse_flags(argv, flag_values)
    with tempfile.TemporaryDirectory() as home:
        root = Path(flag_values.images) if flag_values.images else Path(home) / "images"
        if not flag_values.images:
            write_photos(root, flag_values.count, flag_values.side)
        report = measure(
            root,
            size=flag_values.size,
            rounds=flag_values.rounds,
            workers=flag_values.workers or os.cpu_count() or 1,
        )
    for way, each in report["seconds"].items():
        print(f"  {way:18} {each:8.2f} s {report['images'] / each:10,.0f} images/s")
    for ratio in (name for name in report if "/" in name):
        print(f"  {ratio:34} {report[ratio]:.2f}")
    return report


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines the flags of the benchmark."""
    define_path("images", "", "Folder of class folders; '': JPEG files are made.", flag_values)
    whole = functools.partial(flags.DEFINE_integer, flag_values=flag_values, lower_bound=0)
    whole("count", 2000, "Files that are made.")
    whole("side", 224, "Pixels of their sides.")
    whole("size", 0, "Size that images are loaded at; 0: as they are.")
    whole("rounds", 3, "Rounds, of which the median counts.", lower_bound=1)
    whole("workers", 0, "Threads, and processes; 0: one for each core.")


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    sys.exit(run_measurement(__doc__, lambda argv: main(argv, flags.FLAGS)))
