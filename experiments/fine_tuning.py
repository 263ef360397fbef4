"""Does fine-tuning pay with few images, and does a searched recipe beat the usual one?

python -m experiments.fine_tuning --config=configs/finetune.py --config.data.name=fashion_mnist \\
    --config.data.dir=DIR --images=10,30,100 --out=fine_tuning.json

The config's default network is trained on half of the classes. Then some images of each other class
are drawn, and the network is trained on them: from scratch, with the default recipe but for what is
of fine-tuning, for three times the epochs; fine-tuned with the default recipe; and fine-tuned with
the recipe that a search of --evaluations trainings finds on 70 % of these images, judged by the
rest. Test accuracy on all test images of these classes. A unit is a seed: classes, images and
draws.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.verdict import judge, number
from jointnas_jax.command_line import integers, parse_config, run_measurement, text_table
from jointnas_jax.config import Config

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "finetune.py"
# Epochs from scratch, as a multiple of those of fine-tuning.
_LONGER = 3
_VALIDATION = 0.3
WAYS = ("scratch", "usual", "searched")


def compare(
    config: Config, sizes: Sequence[int], seeds: int, *, evaluations: int, pretrained_on: int
) -> list[dict[str, Any]]:
    """Trains in all ways; a row for each number of images a class.

    Raises:
      InputError: bad config or data, before anything trains.
    """
    accuracies = {size: [] for size in sizes}  # type: dict[int, list[list[float]]]
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            task = _Task(config, Path(folder) / "model", seed, pretrained_on)
            for size in sizes:
                accuracies[size].append(task.ways(size, evaluations))
                print(f"seed {seed}, {size} images a class: {accuracies[size][-1]}", flush=True)
    rows = []
    for size, found in accuracies.items():
        values = np.array(found)
        rows.append(
            {
                "images": size,
                **dict(zip(WAYS, values.mean(0).tolist(), strict=True)),
                "over_scratch": _verdict(values[:, 1] - values[:, 0]),
                "over_usual": _verdict(values[:, 2] - values[:, 1]),
                "accuracies": values.tolist(),
            }
        )
    return rows


def _verdict(differences: np.ndarray) -> dict[str, Any]:
    """What the differences of the seeds say, as JSON can hold it."""
    fields = judge(differences)._asdict()
    return {name: v if isinstance(v, str) else number(v) for name, v in fields.items()}


class _Task:
    """Half of the classes, of which a network knows the other half."""

    def __init__(self, config: Config, folder: Path, seed: int, pretrained_on: int):
        import jax

        from jointnas_jax.data.source import open_dataset
        from jointnas_jax.models.model import Model, save_model
        from jointnas_jax.space import Candidate, Recipe

        self._rng = np.random.default_rng(seed)
        self._config, self._folder, self._seed = config, folder, seed
        dataset = open_dataset(dataclasses.asdict(config.data))
        halves = np.array_split(self._rng.permutation(dataset.num_classes), 2)
        known, self._new = (
            dataclasses.replace(
                dataset,
                classes=tuple(sorted(half.tolist())),
                labels=tuple(dataset.labels[c] for c in sorted(half.tolist())),
            )
            for half in halves
        )
        self._key = jax.random.key(seed)
        train, test = known.load(config.data.train_split), known.load(config.data.test_split)
        train = _some(train, self._rng.permutation(len(train))[:pretrained_on])
        recipe = Recipe(lr=0.01, lr_end=0.05, warmup=0.1, ema_decay=0.98)
        outcome, executor = self._train(
            dataclasses.replace(config, train=dataclasses.replace(config.train, init="")),
            known.num_classes,
            (train, test),
            [recipe],
            config.train.epochs,
        )
        candidate: Candidate = self._candidate(known.num_classes, recipe)
        model = Model(
            arch=candidate.arch,
            variables=outcome[0].variables,
            image_size=known.image_shape[:2],
            crop=None,
            labels=known.labels,
            mean=tuple(executor.pixels["mean"]),
            std=tuple(executor.pixels["std"]),
        )
        save_model(model, folder)

    def ways(self, size: int, evaluations: int) -> list[float]:
        """Test accuracy of each of `WAYS` with so many images of each class."""
        from jointnas_jax.data.division import carve_validation
        from jointnas_jax.execution.job import Job

        train, test = self._new.load("train"), self._new.load("test")
        order = self._rng.permutation(len(train))
        chosen = np.concatenate(
            [order[train.labels[order] == c][:size] for c in range(self._new.num_classes)]
        )
        few = _some(train, np.sort(chosen))
        classes, train_config = self._new.num_classes, self._config.train
        tuned = dataclasses.replace(
            self._config,
            train=dataclasses.replace(train_config, init=str(self._folder), batch_size=16),
        )
        scratch = dataclasses.replace(tuned, train=dataclasses.replace(tuned.train, init=""))
        usual = self._space(classes).decode(self._vector(classes)).recipe
        plain = dataclasses.replace(usual, body_lr=1.0, frozen=0.0)
        epochs = train_config.epochs
        first, _ = self._train(scratch, classes, (few, test), [plain], _LONGER * epochs)
        held = carve_validation(few.labels, _VALIDATION, self._seed)
        space = self._space(classes)
        space = space.with_fixed_arch(space.decode(self._vector(classes)).arch)
        executor = self._executor(tuned, classes, (few, test), held)

        def evaluate(vectors: np.ndarray) -> np.ndarray:
            jobs = [Job(space.decode(vector), self._key, epochs) for vector in vectors]
            scores = [outcome.score for outcome in executor.run(jobs)]
            return np.array([np.nan if score is None else score for score in scores])

        found = _search(space, evaluate, evaluations, self._seed)
        recipes = [usual, space.decode(found).recipe]
        rest, _ = self._train(tuned, classes, (few, test), recipes, epochs)
        return [outcome.accuracy or 0.0 for outcome in [*first, *rest]]

    def _space(self, classes: int) -> Any:
        from jointnas_jax.space import JointSpace

        channels = self._new.image_shape[2]
        return JointSpace.from_config(self._config.space, channels, classes)

    def _vector(self, classes: int) -> np.ndarray:
        return self._space(classes).vector_from_values(self._config.default)

    def _candidate(self, classes: int, recipe: Any) -> Any:
        default = self._space(classes).decode(self._vector(classes))
        return dataclasses.replace(default, recipe=recipe, vector=None)

    def _executor(
        self, config: Config, classes: int, images: tuple[Any, Any], held: np.ndarray
    ) -> Any:
        from jointnas_jax.execution.local import LocalExecutor

        return LocalExecutor(config, self._space(classes), (images[0], held, images[1]))

    def _train(
        self,
        config: Config,
        classes: int,
        images: tuple[Any, Any],
        recipes: Sequence[Any],
        epochs: int,
    ) -> tuple[list[Any], Any]:
        """Trains on all images with each recipe; the outcomes have test accuracies."""
        from jointnas_jax.execution.job import Job

        held = np.arange(len(images[0])) < classes
        executor = self._executor(config, classes, images, held)
        jobs = [
            Job(self._candidate(classes, recipe), self._key, epochs, on_full_split=True, kept=True)
            for recipe in recipes
        ]
        return executor.run(jobs), executor


def _some(split: Any, rows: np.ndarray) -> Any:
    return dataclasses.replace(split, images=split.images[rows], labels=split.labels[rows])


def _search(space: Any, evaluate: Any, evaluations: int, seed: int) -> np.ndarray:
    """The best recipe of a search, as a vector."""
    from jointnas_jax.config import PredictorConfig, SearchConfig
    from jointnas_jax.strategy.searcher import Searcher

    settings = SearchConfig(per_round=4, pool_size=1024)
    searcher = Searcher(space, evaluations, settings, PredictorConfig(trend=True), noisy=True)
    trace = searcher.run(evaluate, seed)
    return trace.state.vectors[trace.best[-1]]


def main(argv: list[str]) -> dict[str, Any]:
    """Tries it; returns the report."""
    config = parse_config(argv, str(DEFAULT_CONFIG), flags.FLAGS)
    values = flags.FLAGS
    sizes = integers("images", values.images, low=2, high=10**6)
    rows = compare(
        config,
        sizes,
        values.seeds,
        evaluations=values.evaluations,
        pretrained_on=values.pretrained_on,
    )
    layout = {"images": "{images}"} | {way: f"{{{way}:.3f}}" for way in WAYS}
    print(text_table(rows, layout))
    return {"rows": rows}


if __name__ == "__main__":
    flags.DEFINE_list("images", ["10", "30", "100"], "Images of each class to fine-tune on.")
    flags.DEFINE_integer("seeds", 3, "Repetitions.", 1)
    flags.DEFINE_integer("evaluations", 16, "Trainings of the search for a recipe.", 2)
    flags.DEFINE_integer("pretrained_on", 10_000, "Images of the known classes.", 64)
    sys.exit(run_measurement(__doc__, main))
