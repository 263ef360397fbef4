"""Every public function with anything for any argument: it works, or raises one line of ours."""

import copy
import inspect
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from small import PREDICTOR

import jointnas_jax as jn
from jointnas_jax.errors import InputError, InterruptedStudyError, JointNASError, SpaceError

SPACE = jn.Space(jn.Knob.choice("opt", ["sgd", "adam"]), jn.Knob.integer("layers", 1, 8))
# Whatever takes time is small.
SEARCH = jn.SearchConfig(pool_size=16)
EVOLUTION = jn.EvolutionConfig(population=8, generations=2)
TRIALS = [{"opt": "sgd", "layers": 3}, {"opt": "adam", "layers": 5}]
FITTED = jn.Predictor.fit(SPACE, TRIALS, [1.0, 2.0], settings=PREDICTOR)
JOINT = jn.JointSpace.from_config(
    dict(
        resolution=[8, 12],
        stem=dict(channels=8, stride=1),
        stages=(dict(channels=8, depth=1, kernel=[3, 5]),),
        head=dict(channels=16, expand=1),
        recipe=dict(lr=(0.01, 0.03, 0.01)),
    ),
    1,
    10,
)
CANDIDATE = JOINT.decode(np.zeros(3, np.int32))


def scores(candidates):
    return [float(c["layers"]) for c in candidates]


def size(knobs):
    return {"size": knobs["layers"]}


class Hostile:
    """Raises whatever is asked of it."""

    def __repr__(self):
        raise RuntimeError("no\ntext")

    def __eq__(self, other):
        raise RuntimeError("no\nequality")

    __hash__ = None

    def __float__(self):
        raise RuntimeError("no\nnumber")


JUNK = {
    "None": None,
    "True": True,
    "minus one": -1,
    "half": 0.5,
    "a huge integer": 10**400,
    "64 bits": 2**64,
    "nan": float("nan"),
    "inf": float("inf"),
    "no text": "",
    "text": "x",
    "lines": "a\n\0b",
    "bytes": b"ab",
    "a list": [1, 2],
    "ragged": [[1], [1, 2]],
    "an empty list": [],
    "a dict": {"size": 1},
    "a nested dict": {1: {2: [3]}},
    "an array": np.arange(3.0),
    "a matrix": np.ones((2, 2), int),
    "an array of JAX": jnp.arange(2),
    "a function": lambda *_: None,
    "a class": type("Anything", (), {"__init__": lambda self, *_: None}),
    "an object": object(),
    "a hostile object": Hostile(),
    "a complex number": 1j,
    "another space": JOINT,
    "a candidate": CANDIDATE,
}

# Name -> the function and arguments that work.
FUNCTIONS = {
    "search": (
        jn.search,
        dict(
            space=SPACE,
            evaluate=scores,
            evaluations=1,
            per_round=1,
            costs=size,
            budget={"size": 4},
            front=None,
            rungs=(),
            noisy=False,
            prior=None,
            seed=0,
            progress=None,
            settings=SEARCH,
            predictor=PREDICTOR,
        ),
    ),
    "evolve": (
        jn.evolve,
        dict(
            space=SPACE,
            score=lambda k: k["layers"] * 1.0,
            start=TRIALS,
            costs=size,
            budget={"size": 4},
            seed=0,
            settings=EVOLUTION,
        ),
    ),
    "Predictor.fit": (
        jn.Predictor.fit,
        dict(
            space=SPACE,
            candidates=TRIALS,
            scores=[1.0, 2.0],
            costs=size,
            settings=PREDICTOR,
            seed=0,
        ),
    ),
    "Predictor.predict": (FITTED.predict, dict(candidates=TRIALS)),
    "Predictor.score_fn": (FITTED.score_fn, dict(vectors=np.zeros((1, 2), np.int32))),
    "JointNASSampler": (
        jn.JointNASSampler,
        dict(
            seed=0,
            n_startup_trials=4,
            constraints_func=None,
            most_trials=16,
            cost=None,
            cost_objective=1,
            prior=None,
        ),
    ),
    "JointNASPruner": (
        jn.JointNASPruner,
        dict(
            chance=0.1,
            n_startup_trials=4,
            n_warmup_steps=0,
            interval_steps=1,
            cost=None,
            cost_objective=1,
        ),
    ),
    "Knob": (jn.Knob, dict(name="k", values=(1, 2), ordinal=True)),
    "Knob.choice": (jn.Knob.choice, dict(name="k", values=["a", "b"])),
    "Knob.integer": (jn.Knob.integer, dict(name="k", low=1, high=9, step=2, log=False)),
    "Knob.real": (jn.Knob.real, dict(name="k", low=1.0, high=2.0, step=0.5, log=False)),
    "Knob.index": (SPACE.knobs[1].index, dict(value=3)),
    "Space": (lambda knob: jn.Space(knob), dict(knob=SPACE.knobs[0])),
    "Space.decode": (SPACE.decode, dict(vector=[0, 1])),
    "Space.encode": (SPACE.encode, dict(candidate=TRIALS[0])),
    "JointSpace": (
        jn.JointSpace,
        dict(
            arch_slots=JOINT.arch_slots,
            recipe_slots=JOINT.recipe_slots,
            image_channels=1,
            num_classes=10,
        ),
    ),
    "JointSpace.from_config": (
        jn.JointSpace.from_config,
        dict(
            description=dict(
                resolution=8,
                stem=dict(channels=8, stride=1),
                stages=(dict(channels=8, depth=[1, 2]),),
                head=dict(channels=16),
            ),
            image_channels=1,
            num_classes=10,
        ),
    ),
    "JointSpace.fixed": (jn.JointSpace.fixed, dict(candidate=CANDIDATE)),
    "JointSpace.decode": (JOINT.decode, dict(vector=[0, 0, 0])),
    "JointSpace.encode": (JOINT.encode, dict(candidate=CANDIDATE)),
    "JointSpace.with_fixed_arch": (JOINT.with_fixed_arch, dict(arch=CANDIDATE.arch)),
    "JointSpace.with_fixed_recipe": (JOINT.with_fixed_recipe, dict(recipe=CANDIDATE.recipe)),
    "Candidate": (jn.Candidate, dict(arch=CANDIDATE.arch, recipe=CANDIDATE.recipe)),
    "Candidate.from_dict": (jn.Candidate.from_dict, dict(data=CANDIDATE.to_dict())),
    "PredictorConfig": (jn.PredictorConfig, vars(PREDICTOR)),
    "EvolutionConfig": (jn.EvolutionConfig, vars(EVOLUTION)),
    "SearchConfig": (jn.SearchConfig, vars(SEARCH)),
}
# Functions that have no valid arguments here: a study takes minutes, and a model is its result.
FILES = {
    "run_study": (jn.run_study, dict(config={}, workdir="runs/x", overwrite=False, quiet=True)),
    "load": (jn.load, dict(path="runs/x", winner=0, seed=None)),
    "trials": (jn.trials, dict(workdir="runs/x")),
}
CASES = [
    (name, argument)
    for name, (_, arguments) in (FUNCTIONS | FILES).items()
    for argument in arguments
]
# No function of ours: an error, and what functions return.
RETURNED = {"JointNASError", "Result", "Trial", "default_config"}


def test_every_public_function_is_tried_with_every_argument():
    tried = FUNCTIONS | FILES
    assert {name.partition(".")[0] for name in tried} | RETURNED == set(jn.__all__)
    for name, (function, arguments) in tried.items():
        optional = {"vector", "costs"} if name == "Candidate" else set()
        assert set(arguments) | optional == set(inspect.signature(function).parameters), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_asked_with_works(name):
    function, arguments = FUNCTIONS[name]
    function(**arguments)


@pytest.mark.parametrize(("name", "argument"), CASES)
@pytest.mark.filterwarnings("error")
def test_anything_for_an_argument_works_or_is_refused_in_one_line(name, argument, tmp_path):
    function, arguments = (FUNCTIONS | FILES)[name]
    if "path" in arguments:
        arguments = arguments | {"path": tmp_path}
    default = inspect.signature(function).parameters[argument].default
    for what, junk in JUNK.items():
        if junk is default:  # of usual size, and slow
            continue
        try:
            function(**arguments | {argument: junk})
        except JointNASError as error:
            assert "\n" not in str(error)
            assert str(error)
        except Exception as error:
            raise AssertionError(f"{what} raises {error!r}") from error


NUMBERS = {
    "NumPy": (np.int64, np.float64, np.bool_),
    "NumPy's small": (np.int8, np.float32, np.bool_),
    "arrays of NumPy": (np.array, np.array, np.array),
    "JAX": (jnp.int32, jnp.float32, jnp.bool_),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_numpy_and_jax_are_numbers(kind):
    whole, real, truth = NUMBERS[kind]
    assert jn.Knob.integer("k", whole(1), whole(5), step=whole(2)).values == (1, 3, 5)
    assert jn.Knob.real("k", real(0), real(1), step=real(0.5)).values == (0.0, 0.5, 1.0)
    mixed = jn.Knob.choice("k", [whole(1), real(0.5), truth(True)])
    assert [type(value) for value in mixed.values] == [int, float, bool]
    assert [mixed.index(v) for v in (whole(1), real(0.5), truth(True))] == [0, 1, 2]
    assert jn.Knob.choice("k", np.arange(3)).values == (0, 1, 2)
    space = jn.Space(jn.Knob.integer("layers", 1, 8), mixed)
    assert space.encode({"layers": whole(3), "k": truth(True)}).tolist() == [2, 2]
    assert jn.JointNASSampler(seed=whole(3), most_trials=whole(8))
    settings = jn.PredictorConfig(members=whole(2), full_lr=real(0.5), process=truth(False))
    assert settings == jn.PredictorConfig(members=2, full_lr=0.5, process=False)
    assert jn.EvolutionConfig(mutation=[real(0), real(0.5)]).mutation == (0.0, 0.5)
    small = dict(settings=SEARCH, predictor=PREDICTOR, costs=size)
    evaluate = lambda candidates: [real(c["layers"]) for c in candidates]
    found = [
        jn.search(SPACE, evaluate, evaluations=number(1), seed=number(3), budget=limit, **small)
        for number, limit in ((whole, {"size": whole(4)}), (int, {"size": 4}))
    ]
    assert found[0].trials == found[1].trials


def test_a_predictor_of_another_space_is_refused_with_both_named():
    others = {
        r"\['width'\]": jn.Space(jn.Knob.integer("width", 1, 3)),
        r"`layers` in \[1, 2, 3\]": jn.Space(SPACE.knobs[0], jn.Knob.integer("layers", 1, 3)),
        r"\['layers', 'opt'\]": jn.Space(*SPACE.knobs[::-1]),
        "'resolution'": JOINT,
    }
    for words, other in others.items():
        with pytest.raises(SpaceError, match=f"another space: it learnt .*`space` has .*{words}"):
            jn.evolve(other, FITTED, settings=EVOLUTION)


def test_a_predictor_of_an_equal_space_is_taken():
    jn.evolve(jn.Space(*SPACE.knobs), FITTED, settings=EVOLUTION)


def test_scores_above_32_bits_win():
    """The evolution has 32 bits, and a large score is no failure."""
    found = jn.evolve(SPACE, lambda k: k["layers"] * 1e300, settings=EVOLUTION)
    assert found.candidates[0]["layers"] > 1
    lost = jn.evolve(SPACE, lambda k: np.where(k["layers"] > 4, 1, -1e300), settings=EVOLUTION)
    assert lost.candidates[0]["layers"] > 4


@pytest.fixture(scope="module")
def found():
    return jn.search(SPACE, scores, evaluations=3, costs=size, settings=SEARCH, predictor=PREDICTOR)


HELD = {
    "Space": lambda found: SPACE,
    "JointSpace": lambda found: JOINT,
    "Knob": lambda found: SPACE.knobs[0],
    "Candidate": lambda found: CANDIDATE,
    "SearchConfig": lambda found: SEARCH,
    "default_config": lambda found: jn.default_config(),
    "Trial": lambda found: found.best,
    "trials": lambda found: found.trials,
    "ReportCard": lambda found: found.report_card,
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("way", [lambda it: pickle.loads(pickle.dumps(it)), copy.deepcopy])
def test_what_users_hold_can_be_pickled_and_copied(name, way, found):
    held = HELD[name](found)
    assert str(way(held)) == str(held)
    assert name == "ReportCard" or way(held) == held  # nan is not itself


def test_a_space_out_of_a_pickle_does_what_it_did():
    for space, candidate in ((SPACE, TRIALS[0]), (JOINT, CANDIDATE)):
        again = pickle.loads(pickle.dumps(space))
        np.testing.assert_array_equal(again.encode(candidate), space.encode(candidate))


def test_a_predictor_out_of_a_pickle_predicts_the_same(found):
    """That of a result, which knows costs, too."""
    again = pickle.loads(pickle.dumps(found))
    assert again.trials == found.trials
    for one, other in ((again.predictor, found.predictor), (copy.deepcopy(FITTED), FITTED)):
        np.testing.assert_array_equal(one.predict(TRIALS), other.predict(TRIALS))
    assert jn.evolve(SPACE, again.predictor, settings=EVOLUTION).candidates


def test_a_sampler_out_of_a_pickle_has_its_settings():
    sampler = jn.JointNASSampler(seed=3, constraints_func=size)
    assert vars(pickle.loads(pickle.dumps(sampler))) == vars(sampler)


@pytest.mark.parametrize("error", [SpaceError("wrong"), InterruptedStudyError()])
def test_errors_can_be_pickled(error):
    """Libraries that share work among processes send them."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    assert isinstance(again, InputError) == isinstance(error, InputError)
