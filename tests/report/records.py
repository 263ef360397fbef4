"""Studies as the report reads them, without a training."""

import dataclasses
from pathlib import Path

import numpy as np

from jointnas_jax.command_line import load_config
from jointnas_jax.config import check_config
from jointnas_jax.nets.cost import CostTable, count
from jointnas_jax.report.record import StudyRecord
from jointnas_jax.space import JointSpace

DIGITS = Path(__file__).parent.parent.parent / "configs" / "digits.py"
EPOCHS = 10
# Of three trainings; the 8 is taken for a 1 in one image of ten.
CLASSES = dict(
    images=[30] * 10,
    accuracy=[1.0] * 8 + [0.9, 1.0],
    confusions=[[8, 1, 3]],
)


def config_of(mode="joint", **sections):
    config = load_config(str(DIGITS), ["report"])
    config.mode, config.train.epochs, config.search.front = mode, EPOCHS, ""
    for section, values in sections.items():
        config[section].update(values)
    return check_config(config)


def searched_space(config):
    """The space that the mode leaves, and the default candidate."""
    space = JointSpace.from_config(config.space, 1, 10)
    default = space.decode(space.vector_from_values(config.default))
    if config.mode == "recipe":
        return space.with_fixed_arch(default.arch), default
    if config.mode == "arch":
        return space.with_fixed_recipe(default.recipe), default
    return space, default


def trials_of(config, stage, total, per_round=None, fails=lambda number: False, seed=0, first=0):
    """Trials whose score grows with `lr` and FLOPs, and a little with chance."""
    space, _ = searched_space(config)
    rng = np.random.default_rng(seed)
    vectors = space.sample(rng, total)
    costs = CostTable.of(space)(vectors)
    noise = rng.normal(0, 0.002, total)
    trials = []
    for i, vector in enumerate(vectors):
        knobs, failed = space.values(vector), fails(i)
        end = 0.9 + 2 * knobs.get("lr", 0.01) + 5e-8 * int(costs[i, 0]) + noise[i]
        curve = [] if failed else [float(end * (1 - 0.5**e)) for e in range(1, EPOCHS + 1)]
        number = i // per_round + 1 if per_round else None
        names = dataclasses.asdict(count(space.decode(vector).arch)) if total < 200 else {}
        trials.append(
            dict(
                number=first + i,
                stage=stage,
                round=number,
                seed=None,
                knobs=knobs,
                costs=names or dict(flops=int(costs[i, 0]), params=int(costs[i, 1])),
                predicted=float(end + noise[-i]) if number and number > 1 else None,
                epochs=EPOCHS,
                accuracies=tuple(curve),
                score=curve[-1] if curve else None,
                status="FAILED" if failed else "COMPLETED",
                reason="loss is nan" if failed else None,
                pack="exact",
                seconds=1.5,
            )
        )
    return trials


def entry(config, source, candidate, mean, knobs):
    costs = dataclasses.asdict(count(candidate.arch))
    stats = dict(seeds=[mean - 0.01, mean, mean + 0.01], mean=mean, std=0.01)
    return dict(
        source=source,
        knobs=knobs,
        candidate=candidate.to_dict(),
        costs=costs,
        within_budget=costs["flops"] <= config.budget.limits()["flops"],
        predicted=mean,
        validation=stats,
        test=stats,
    )


def result_of(config, trials, random=True):
    """What a finished study would say of trials."""
    space, default = searched_space(config)
    best = max((t for t in trials if t["score"] is not None), key=lambda t: t["score"])
    found = space.decode(space.vector_from_values(best["knobs"]))
    references = {"default": entry(config, "default candidate", default, 0.93, {})}
    if random:
        references["random"] = entry(config, "best of 8 random", default, 0.92, {})
    verdict = dict(difference=0.015, standard_error=0.01, verdict="is ahead, within the noise, of")
    rounds = sorted({t["round"] for t in trials if t["round"]})
    card = dict(verdict="the predictor ranks candidates roughly")
    return dict(
        name=config.name,
        dataset=dict(name="digits/1.0.0", labels=[str(i) for i in range(10)]),
        epochs=dict(search=EPOCHS, final=20),
        winners=[entry(config, "fine stage", found, 0.945, best["knobs"]) | dict(classes=CLASSES)],
        references=references,
        reliability=dict(noise=0.01, deviation=0.02, correlation=0.75, trainings=3),
        comparison=dict.fromkeys(references, verdict),
        rounds=[dict(round=number, report_card=card) for number in rounds],
        early_stop=dict(
            epochs=6,
            of=EPOCHS,
            threshold=0.92,
            correlation="spearman",
            by_epoch=[None, 0.1, 0.4, 0.6, 0.9, 0.95, 0.9, 0.97, 0.99, 1.0],
        ),
        seconds={"coarse stage": 30.0, "fine stage": 0.4},
        compilations=dict(programs=5, by_stage={"coarse stage": 4, "fine stage": 1}, seconds=9.0),
    )


def record_of(mode="joint", finished=True, random=True, fails=lambda number: False, **changes):
    """A study of three rounds of 8 candidates, and as many random ones."""
    config = config_of(mode, search=dict(per_round=8, stopping="paper"))
    trials = trials_of(config, "coarse", 24, 8, fails)
    if random:
        trials += trials_of(config, "random", 24, seed=1, first=24)
    result = result_of(config, trials, random) if finished else None
    return dataclasses.replace(StudyRecord(Path("runs/a b"), config, trials, result), **changes)
