"""The options of a study: one dataclass per section, with default, rule and meaning of every field.

A config file is Python: `get_config()` starts from `default_config()`, fills in what differs and
returns an `ml_collections.ConfigDict`. Nothing here imports JAX, so a mistake is reported at once.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from jointnas_jax.errors import ConfigError, SpaceError, nearest, one_line, shown
from jointnas_jax.rules import (
    ADDRESS,
    ANY,
    DATABASE,
    DURATION,
    FLAG,
    NAME,
    PATH,
    PATH_OR_URL,
    POSITIVE,
    QUANTITY,
    RATES,
    SHARES,
    Rule,
    at_least,
    between,
    local_path,
    one_of,
    option,
    parse_limit,
    path_or_url,
    plain,
)
from jointnas_jax.space.joint import JointSpace
from jointnas_jax.space.prior import Prior
from jointnas_jax.space.recipe import OF_FINE_TUNING, Recipe

# Keys and values of earlier versions -> their replacement.
_SHARED = "the executor `shared` is gone: Ray hands out work, --config.executor=ray"
RETIRED = {
    "config.train.final_epochs": "it is now `config.train.winner_epochs`",
    "config.shared": _SHARED,
    "config.executor=shared": _SHARED,
}
COST_NAMES = ("flops", "params", "latency")
# So many classes may be answered for `top5`.
TOP = 5


@dataclasses.dataclass(frozen=True)
class BudgetConfig:
    """Limits on the costs of a candidate; "" is no limit.

    Attributes:
      flops: multiply-adds by the rule of `nets/cost.py`, such as "1.5M".
      params: weights of convolutions and classifier, such as "400K".
      latency: latency of one image on the present device, such as "2.5ms", the sum of its pieces';
        `scripts/profile.py table` measures these.
    """

    flops: str = option("", QUANTITY)
    params: str = option("", QUANTITY)
    latency: str = option("", DURATION)

    def limits(self) -> dict[str, int]:
        """Name of each limited cost -> limit; latency in nanoseconds."""
        return {
            name: parse_limit(name, getattr(self, name))
            for name in COST_NAMES
            if getattr(self, name)
        }


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The dataset.

    Attributes:
      name: TFDS name; `digits` is made from scikit-learn's when `dir` is empty.
      dir: a prepared TFDS folder, or the folder that holds `name`; empty: TFDS's data folder. Or a
        folder or a list of images, arrays, or a dataset of Hugging Face, see `docs/images.md`.
        Any of them may be a URL such as `gs://bucket/x`, which is copied into the cache once.
      train_split: split expression; validation images are taken out of it.
      val_split: which of them, such as `val` of `train+val`; empty: drawn at random.
      test_split: split expression; for the report of winners only.
      classes: number of random classes to use, 0 for all (paper: 200 of ImageNet in the search).
      class_seed: seed of the choice of classes.
      val_fraction: share of the training split, and of each class in it, to validate on.
      val_images: number of images to validate on; 0: `val_fraction` decides.
      memory_gb: decoded images of both splits up to this size stay in memory and on every device;
        larger datasets stay on disk and are read while candidates train.
      image_size: load images at this size, the largest square in their middle; 0: all images have
        one size and keep it.
      crop_padding: pixels by which a training image may shift.
      flip: mirror training images left-right at random.
      min_area: smallest share of a training image that a random crop keeps; 1: no such crops.
      transforms: RandAugment's transformations of each training image; 0 is off.
      strength: strength of the transformations, in [0, 1].
    """

    name: str = option("digits", PATH)
    dir: str = option("", PATH_OR_URL)
    train_split: str = option("train", ANY)
    val_split: str = option("", ANY)
    test_split: str = option("test", ANY)
    classes: int = option(0, between(0, 1_000_000))
    class_seed: int = option(0, between(0, 2**31 - 1))
    val_fraction: float = option(0.2, Rule("above 0 and below 1", lambda v: 0 < v < 1))
    val_images: int = option(0, between(0, 1_000_000_000))
    memory_gb: float = option(8.0, at_least(0))
    image_size: int = option(0, between(0, 4096))
    crop_padding: int = option(0, between(0, 64))
    flip: bool = option(False, FLAG)
    min_area: float = option(1.0, Rule("above 0, at most 1", lambda v: 0 < v <= 1))
    transforms: int = option(0, between(0, 16))
    strength: float = option(0.9, between(0, 1))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Training of candidates, whatever the recipe.

    Attributes:
      epochs: epochs of a candidate in the search; it may stop before, see `search.stopping`.
      winner_epochs: epochs of finalists, references and winners; the learning rate decays over all
        of them as much as over `epochs` in the search. 0: `epochs`. (Paper: 150 and 400.)
      batch_size: images per step; the incomplete last batch of an epoch is left out.
      lowering: lowering of convolutions, see `nets/conv.py`.
      dtype: dtype of feature maps, `float32` or `bfloat16`; `auto`: the latter on accelerators.
      program: `envelope`: candidates share programs compiled for their largest shapes; `exact`:
        one program for each architecture; `auto`: the faster one by forecast, see
        `execution/packing.py`.
      lanes: candidates that train at once on one device; 0: as many as fit its memory, on CPU one.
      data_parallel: devices share the batches of one candidate instead of training one each:
        `auto`, on accelerators where there is only one to train; `always`; `never`.
      init: trained model that candidates start from (fine-tuning): an import, an export, or the
        workdir of a study or training. Weights are taken over where name and place fit: of other
        widths the first channels, of other kernels the middle, of other classes all but the
        classifier. "": they start from scratch.
      teacher: folder of a trained model whose answers winners learn besides the labels
        (distillation); "" for none.
      teacher_share: share of its answers in the targets. (Paper: 0.8.)
      class_weights: weights of the classes in the loss: `none`, or `balanced`, by which each class
        counts alike however few images it has.
      fast_compile: compile exact programs in less time, to programs that run slower (CPU only);
        faster while a candidate trains for less than some ten seconds.
    """

    epochs: int = option(10, between(1, 100_000))
    winner_epochs: int = option(0, between(0, 100_000))
    batch_size: int = option(64, between(2, 65_536))
    lowering: str = option("auto", one_of("auto", "matmul", "conv", "diagonal"))
    dtype: str = option("float32", one_of("auto", "float32", "bfloat16"))
    program: str = option("auto", one_of("auto", "envelope", "exact"))
    lanes: int = option(0, between(0, 4096))
    data_parallel: str = option("auto", one_of("auto", "always", "never"))
    init: str = option("", PATH)
    teacher: str = option("", PATH)
    teacher_share: float = option(0.8, between(0, 1))
    class_weights: str = option("none", one_of("none", "balanced"))
    fast_compile: bool = option(False, FLAG)

    @property
    def epochs_of_winners(self) -> int:
        """Epochs of finalists, references and winners."""
        return self.winner_epochs or self.epochs


class _Settings:
    """Base of sections that users of the library make themselves: checked when they are made."""

    def __post_init__(self) -> None:
        """Raises `ConfigError` naming the field that breaks a rule."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # of a subclass
            value, path = getattr(self, field.name), f"{type(self).__name__}.{field.name}"
            if "rule" in field.metadata:
                object.__setattr__(self, field.name, _check_value(field, value, path))
            elif dataclasses.is_dataclass(field.type):
                check_settings(path, value, field.type)
            else:
                object.__setattr__(self, field.name, _check_mapping(value, path))


def check_settings(name: str, value: Any, kind: Any) -> Any:
    """Returns settings of one kind, by default for None; raises `ConfigError` for anything else."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise ConfigError(f"`{name}` must be a jn.{kind.__name__}, got {shown(value)}")
    return value


@dataclasses.dataclass(frozen=True)
class EvolutionConfig(_Settings):
    """The fine stage; the paper does not publish its sizes and rates.

    Attributes:
      population: survivors of a generation.
      children_per_parent: children of a generation per survivor.
      mutation: probabilities that a knob of a child mutates, for the best and the worst parent; one
        knob of every child always does.
      crossover: probabilities that a knob comes from the partner, for the best and worst parent.
      generations: most generations.
      min_gain: gain of the best score, in standard deviations of the trials' scores, below which a
        generation counts as saturated.
      patience: saturated generations in a row that end the evolution.
    """

    population: int = option(256, between(2, 1_000_000))
    children_per_parent: int = option(4, between(1, 1000))
    mutation: tuple = option((0.0, 0.15), RATES)
    crossover: tuple = option((0.0, 0.5), RATES)
    generations: int = option(200, between(1, 100_000))
    min_gain: float = option(1e-5, at_least(0))
    patience: int = option(10, between(1, 10_000))


@dataclasses.dataclass(frozen=True)
class PredictorConfig(_Settings):
    """The predictor. Epochs and Huber loss are the paper's (section 3.2); the rest is unpublished.

    Attributes:
      members: networks in the ensemble (paper: 1).
      process: put a Gaussian process beside the networks, and choose candidates by the improvement
        that it expects; without it by the predicted score, as in the paper.
      trend: the process expects, before anything is measured, that scores rise with the cost and
        fall towards both ends of each range, as of networks and recipes: see `docs/predictor.rst`.
        On in studies; another objective may know no such thing.
      targets: `straightened` scores, close to a normal distribution, or `raw` ones as in the paper.
      width: width of hidden layers.
      embedding: width of the encoder's output.
      huber_delta: error at which the loss turns from square to linear, in standard deviations.
      pretrain_samples: random architectures whose costs pretrain the encoder.
      pretrain_epochs: epochs over them.
      pretrain_lr: Adam's learning rate there.
      frozen_epochs: epochs of a fit with encoder and proxy head frozen.
      frozen_lr: Adam's learning rate there.
      full_epochs: epochs of a fit with the whole network.
      full_lr: Adam's learning rate there.
    """

    members: int = option(8, between(1, 256))
    process: bool = option(True, FLAG)
    trend: bool = option(False, FLAG)
    targets: str = option("straightened", one_of("straightened", "raw"))
    width: int = option(128, between(1, 8192))
    embedding: int = option(64, between(1, 8192))
    huber_delta: float = option(1.0, POSITIVE)
    pretrain_samples: int = option(4096, between(2, 10_000_000))
    pretrain_epochs: int = option(20, between(0, 10_000))
    pretrain_lr: float = option(3e-3, POSITIVE)
    frozen_epochs: int = option(50, between(0, 10_000))
    frozen_lr: float = option(1e-2, POSITIVE)
    full_epochs: int = option(50, between(0, 10_000))
    full_lr: float = option(3e-3, POSITIVE)


@dataclasses.dataclass(frozen=True)
class SearchConfig(_Settings):
    """Both stages of the search.

    Attributes:
      metric: what a study answers is told in: `accuracy`, `balanced_accuracy` (each class counts
        alike, however many images it has), or `top5`.
      score: by what candidates are compared: `brier` (1 - half the Brier score), `log_loss` (exp of
        minus it), both calibrated, with `balanced_accuracy` the mean of those of the classes; or
        `accuracy`, which is the metric itself, as in the paper. Of the validation images; more is
        better.
      pool_size: candidates of the quasi-Monte-Carlo pool.
      start_with_default: train the default candidate first, if it is within the budget; the paper
        does not. Of a front also the same, scaled down to a half and a quarter of its cost.
      enqueue: files of candidates to train first, separated by commas, such as `winner0.json` of
        other studies.
      trials_from: workdirs of earlier studies, separated by commas, or databases, `URL#STUDY`: on
        the same space or one that shares knobs. Their trials are learnt from as far as they
        foretell what candidates score here, and are no trials of this study.
      prior: which values of a knob are expected to be good: name of the knob -> a list of weights
        of its values, or `dict(centre=VALUE, width=SHARE)`, a share of its range.
      rounds: rounds of the coarse stage.
      per_round: candidates trained in a round.
      asynchronous: after the first round ask for a candidate whenever an actor of the executor
        `ray` is free, not when a round ends; `rounds` x `per_round` candidates in all.
      front: search the best score at each value of this cost, `flops`, `params` or `latency`, up to
        its budget, not the best of all; "" for that. The recipes of one architecture cost the same:
        in mode `recipe` there is no front.
      propose: source of candidates from the second round on: `evolution`, or the `pool` as in the
        paper.
      varied: share of the evolution's candidates in whose place the most promising of 64 random
        ones of the pool is taken. An evolution gives all candidates the values that the predictor
        likes; of others nothing is learnt.
      acquisition: value of a candidate there: the `improvement` that the Gaussian process expects,
        or the predicted score, the `mean`, as in the paper and always without the process.
      stopping: which candidates train for less than all epochs: `none`; `paper`, all those after
        the first round, for as long as its early-stop rule finds; `curve`, each for itself: it
        stops at a rung, and goes on when that promises more for the epochs left than a new one.
        See `docs/stopping.md` for what they save.
      rungs: shares of a training after which candidates stop or go on, with `curve`. Averaged
        weights are judged there.
      threshold: rank correlation at which the rule of `paper` holds (paper: 0.92). On a handful of
        candidates it is mostly chance.
      correlation: the kind of rank correlation.
      finalists: best candidates of the fine stage that are trained with all seeds, next to the best
        one of the coarse stage; of a front, members from both.
      winners: finalists, best first, that are retrained on the whole training split; of a front, at
        most so many members, spread over the cost.
      evolution: the fine stage.
    """

    metric: str = option("accuracy", one_of("accuracy", "balanced_accuracy", "top5"))
    score: str = option("brier", one_of("brier", "log_loss", "accuracy"))
    pool_size: int = option(4096, between(1, 10_000_000))
    start_with_default: bool = option(True, FLAG)
    enqueue: str = option("", ANY)
    trials_from: str = option("", ANY)
    prior: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    rounds: int = option(4, between(1, 1000))
    per_round: int = option(8, between(1, 100_000))
    asynchronous: bool = option(False, FLAG)
    front: str = option("", one_of("", *COST_NAMES))
    propose: str = option("evolution", one_of("evolution", "pool"))
    varied: float = option(0.0, between(0, 1))
    acquisition: str = option("improvement", one_of("improvement", "mean"))
    stopping: str = option("none", one_of("none", "paper", "curve"))
    rungs: tuple = option((0.5,), SHARES)
    threshold: float = option(0.92, between(-1, 1))
    correlation: str = option("spearman", one_of("spearman", "kendall"))
    finalists: int = option(3, between(1, 1000))
    winners: int = option(1, between(1, 1000))
    evolution: EvolutionConfig = dataclasses.field(default_factory=EvolutionConfig)


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """How a study runs, and its references.

    Attributes:
      seeds: trainings of every finalist and reference.
      random_reference: also train as many random candidates as the search trained, for comparison.
      devices: devices to use; 0: all of them, and on CPU one per core.
      storage: database of the trials as SQLAlchemy names it, such as `postgresql://host/name`;
        "": the file `trials.db` in the workdir. Put a password into `~/.pgpass` instead.
      extend: workdir of an earlier study of the same data, space, training and seed, such as one
        with fewer rounds: its trainings are taken from there where this one asks for them, but for
        those that failed.
      retry_failed: where an unfinished study goes on, trainings that failed train again, and the
        search goes on as if they had not failed; sound ones that it asks for again are kept.
      resume: `auto`: go on with an unfinished study in the workdir; `must`: there has to be one;
        `never`.
      other_machine: go on where another machine began, though results may differ in the last bits.
      checkpoint_minutes: least time between two saved states of a training, at the end of an epoch.
      trial_minutes: a training that takes longer after its first epoch fails; 0: no limit.
    """

    seeds: int = option(3, between(1, 1000))
    random_reference: bool = option(True, FLAG)
    devices: int = option(0, between(0, 4096))
    storage: str = option("", DATABASE)
    extend: str = option("", PATH)
    retry_failed: bool = option(False, FLAG)
    resume: str = option("auto", one_of("auto", "must", "never"))
    other_machine: bool = option(False, FLAG)
    checkpoint_minutes: float = option(10.0, at_least(0))
    trial_minutes: float = option(0.0, at_least(0))


@dataclasses.dataclass(frozen=True)
class RayConfig:
    """The actors of the executor `ray`; the cluster is `RAY_ADDRESS`, or one that starts here.

    Attributes:
      workers: number of actors; each trains one pack at a time.
      cpus: processors of an actor.
      gpus: GPUs of an actor; its programs run on all of them.
      tpus: TPU chips of an actor; its programs run on all of them.
      retries: how often another actor repeats the pack of one that died.
    """

    workers: int = option(1, between(1, 4096))
    cpus: int = option(1, between(0, 4096))
    gpus: int = option(0, between(0, 64))
    tpus: int = option(0, between(0, 64))
    retries: int = option(2, between(0, 100))


@dataclasses.dataclass(frozen=True)
class PodConfig:
    """The processes of the executor `pod`: the same command, once on every host.

    Attributes:
      coordinator: `host:port` of process 0, which the others connect to; "": it, the number of
        processes and that of this one are what the environment says (TPU VMs, Slurm, Open MPI).
      processes: how many there are.
      process: number of this one, from 0; process 0 owns the workdir.
      timeout: seconds without a heartbeat after which a process is dead, and the others end.
    """

    coordinator: str = option("", ADDRESS)
    processes: int = option(0, between(0, 4096))
    process: int = option(-1, between(-1, 4095))
    timeout: float = option(60.0, between(2, 3600))


@dataclasses.dataclass(frozen=True)
class Config:
    """A checked config.

    Attributes:
      name: name of the study and of its default workdir.
      seed: root of all random decisions.
      mode: `joint`; `recipe` (one architecture, AutoTrain); `arch` (one recipe).
      arch_file: the fixed architecture of mode `recipe`: a JSON file, or a published network such
        as `fbnetv3_b`; empty: the default candidate's.
      budget: limits on the costs.
      data: the dataset.
      space: the search space, see `space/joint.py`.
      default: the default candidate, a value for every knob.
      train: training of candidates.
      search: both stages.
      predictor: the predictor.
      study: how the study runs.
      executor: where the candidates of a study train: in this process (`local`), by the actors of
        a cluster (`ray`), or in the processes of several hosts (`pod`). One network alone trains
        here, or on the devices of all processes of a `pod`.
      ray: the actors.
      pod: the processes.
    """

    name: str = option("study", NAME)
    seed: int = option(0, between(0, 2**31 - 1))
    mode: str = option("joint", one_of("joint", "recipe", "arch"))
    arch_file: str = option("", PATH)
    budget: BudgetConfig = dataclasses.field(default_factory=BudgetConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    space: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    default: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    # `varied` was chosen on Fashion-MNIST, see `docs/predictor.rst`.
    search: SearchConfig = dataclasses.field(default_factory=lambda: SearchConfig(varied=0.4))
    predictor: PredictorConfig = dataclasses.field(
        default_factory=lambda: PredictorConfig(trend=True)
    )
    study: StudyConfig = dataclasses.field(default_factory=StudyConfig)
    executor: str = option("local", one_of("local", "ray", "pod"))
    ray: RayConfig = dataclasses.field(default_factory=RayConfig)
    pod: PodConfig = dataclasses.field(default_factory=PodConfig)

    @property
    def front(self) -> str:
        """The cost of the front that the study searches; "" for none: the recipes of one
        architecture cost the same.
        """
        return "" if self.mode == "recipe" else self.search.front

    @property
    def rung_epochs(self) -> tuple[int, ...]:
        """Epochs after which candidates stop or go on; the last ones are the end."""
        epochs = self.train.epochs
        shares = self.search.rungs if self.search.stopping == "curve" else ()
        early = sorted({round(share * epochs) for share in shares})
        return (*(e for e in early if 0 < e < epochs), epochs)

    @property
    def stop_threshold(self) -> float:
        """The rank correlation at which the paper's rule holds; 1, which it never does, without."""
        return self.search.threshold if self.search.stopping == "paper" else 1.0

    @property
    def candidates(self) -> int:
        """Candidates that the coarse stage trains, at most."""
        wanted, rungs = self.search.rounds * self.search.per_round, self.rung_epochs
        return wanted * rungs[-1] // rungs[0]

    def to_dict(self) -> dict[str, Any]:
        """Returns all sections as nested dicts."""
        return dataclasses.asdict(self)


def default_config() -> ConfigDict:
    """Returns the config that a config file starts from; `space` and `default` are empty."""
    return ConfigDict(Config().to_dict())


def check_config(config: ConfigDict | Mapping[str, Any]) -> Config:
    """Checks a whole config; looks at no file.

    Raises:
      ConfigError: unknown key, wrong type, or a value out of range.
      SpaceError: the `space` section breaks a rule.
    """
    checked = _check_section(Config, config, "config")
    _check_default(checked)
    _check_pod(checked.pod)
    search = checked.search
    if search.winners > search.finalists:
        raise ConfigError(
            "`config.search.winners` must be at most `config.search.finalists` = "
            f"{search.finalists}, got {search.winners}"
        )
    if checked.front and search.winners < 2:
        raise ConfigError(
            "`config.search.winners` must be at least 2 for a front over "
            f"`{checked.front}`, got {search.winners}; add --config.search.winners=3, and at least "
            'as many finalists, or search one candidate with --config.search.front=""'
        )
    if checked.front and not (checked.predictor.process and search.acquisition == "improvement"):
        raise ConfigError(
            "`config.search.front` needs the Gaussian process and the expected improvement, got "
            f"`config.predictor.process` = {checked.predictor.process} and "
            f"`config.search.acquisition` = `{search.acquisition}`; leave them as they are, or "
            'search the best candidate with --config.search.front=""'
        )
    _check_stopping(checked)
    _check_experience(checked)
    _check_fine_tuning(checked)
    if checked.arch_file and checked.mode != "recipe":
        raise ConfigError(
            "`config.arch_file` fixes the architecture of mode `recipe`, but "
            f"`config.mode` is `{checked.mode}`; add --config.mode=recipe"
        )
    if checked.train.dtype == "bfloat16" and checked.train.lowering == "matmul":
        raise ConfigError(
            "`config.train.lowering` = `matmul` sums up in the dtype of the maps, and bfloat16 is "
            "too coarse for it; use `auto` or `conv` with `config.train.dtype` = `bfloat16`"
        )
    return checked


def _check_stopping(config: Config) -> None:
    """Raises `ConfigError` if candidates cannot stop at rungs as they are asked for."""
    search = config.search
    if search.stopping != "curve":
        return
    if not (config.predictor.process and search.acquisition == "improvement"):
        raise ConfigError(
            "`config.search.stopping` = `curve` needs the Gaussian process and the expected "
            f"improvement, got `config.predictor.process` = {config.predictor.process} and "
            f"`config.search.acquisition` = `{search.acquisition}`; leave them as they are, or use "
            "`none` or `paper`"
        )
    if search.asynchronous:
        raise ConfigError(
            "`config.search.stopping` = `curve` goes in rounds, so `config.search.asynchronous` "
            "must be false; turn one of them off"
        )
    if len(config.rung_epochs) == 1:
        raise ConfigError(
            f"`config.search.rungs` must lie inside of a training of {config.train.epochs} epochs, "
            f"got {shown(list(search.rungs))}; train longer, or use --config.search.stopping=none"
        )


def _check_experience(config: Config) -> None:
    """Raises `ConfigError` if what is known beforehand cannot be used as it is asked for."""
    search = config.search
    space = JointSpace.from_config(config.space, image_channels=3, num_classes=2)
    Prior.of(space.knobs, search.prior, name="config.search.prior")
    if search.trials_from and not config.predictor.process:
        raise ConfigError(
            "`config.search.trials_from` needs the Gaussian process, got "
            "`config.predictor.process` = False; leave one of them out"
        )
    if config.study.retry_failed and search.asynchronous:
        raise ConfigError(
            "`config.study.retry_failed` is for studies in rounds, so `config.search.asynchronous` "
            "must be false: what came after a failure depends on it; leave it out"
        )


def _check_fine_tuning(config: Config) -> None:
    """Raises `ConfigError` if the recipe has parts of fine-tuning, and nothing is fine-tuned."""
    recipe = config.space.get("recipe", {})
    idle = Recipe().to_dict()
    used = [name for name in OF_FINE_TUNING if recipe.get(name, idle[name]) != idle[name]]
    if used and not config.train.init:
        raise ConfigError(
            f"`config.space.recipe.{used[0]}` is for trainings that start from given weights; name "
            "them with --config.train.init, or leave it out"
        )


def check_asking(config: Config) -> None:
    """Raises `ConfigError` if the executor of this run cannot ask asynchronously as the study does.

    Not in `check_config`: a workdir has the study's config, without the executor.
    """
    if config.search.asynchronous and config.executor != "ray":
        raise ConfigError(
            "`config.search.asynchronous` is for actors that become free one by one, so "
            f"`config.executor` must be `ray`, got `{config.executor}`; leave it out here: "
            "candidates of a round train side by side"
        )


def _check_pod(pod: PodConfig) -> None:
    """What is not from the environment must be whole."""
    given = (bool(pod.coordinator), pod.processes > 0, pod.process >= 0)
    if any(given) and not (all(given) and pod.process < pod.processes):
        raise ConfigError(
            "`config.pod` must have a `coordinator`, a number of `processes` and a `process` below "
            "it, or none of them where the environment says so, got "
            f"{shown(pod.coordinator)}, {pod.processes} and {pod.process}"
        )


def _check_default(config: Config) -> None:
    """Raises `ConfigError` if the default candidate is not in the space, for any dataset."""
    space = JointSpace.from_config(config.space, image_channels=3, num_classes=2)
    try:
        space.vector_from_values(config.default)
    except SpaceError as error:
        raise ConfigError(f"`config.default`, the default candidate: {error}") from error


def _check_section(kind: type, section: Any, path: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(section, Mapping | ConfigDict):
        raise ConfigError(f"`{path}` must be a section with {list(fields)}, got {shown(section)}")
    for key in section:
        if key not in fields:
            raise unknown_key(path, key, fields)
    values = {}
    for key, field in fields.items():
        value, here = section.get(key, None), f"{path}.{key}"
        if key not in section:
            continue
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            values[key] = _check_section(field.type, value, here)
        elif "rule" in field.metadata:
            values[key] = _check_value(field, value, here)
        else:
            values[key] = _check_mapping(value, here)
    return kind(**values)


def _check_mapping(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping | ConfigDict):
        raise ConfigError(f"`{path}` must be a dict, got {shown(value)}")
    return value.to_dict() if isinstance(value, ConfigDict) else dict(value)


def unknown_key(path: str, key: str, keys: Iterable[str]) -> ConfigError:
    """The error of an unknown key in a section at `path`, with its replacement or the nearest."""
    retired = RETIRED.get(f"{path}.{key}")
    hint = f": {retired}" if retired else nearest(key, keys)
    return ConfigError(f"`{path}` has no key `{one_line(key)}`{hint}")


def _check_value(field: dataclasses.Field, value: Any, path: str) -> Any:
    rule, kind, given = field.metadata["rule"], field.type, value
    assert isinstance(kind, type)
    value = plain(value)
    if kind is tuple and isinstance(value, list | tuple):
        value = tuple(map(plain, value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.nan  # which no rule allows
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(
            f"`{path}` must be of type {kind.__name__}, got {shown(given)} of type "
            f"{type(given).__name__}"
        )
    if not rule.holds(value):
        retired = RETIRED.get(f"{path}={given}") if isinstance(given, str) else None
        hint = f"; {retired}" if retired else ""
        raise ConfigError(f"`{path}` must be {rule.text}, got {shown(given)}{hint}")
    if rule is PATH_OR_URL and isinstance(value, str):
        return path_or_url(value, path)
    return local_path(value, path) if rule is PATH and isinstance(value, str) else value
