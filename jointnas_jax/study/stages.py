"""The stages of a study, in the order in which `study/run.py` calls them."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jointnas_jax.config import Config
from jointnas_jax.errors import StudyError
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.predictor.fit import PredictorState
from jointnas_jax.problem.problem import PRETRAIN_STREAM, Problem
from jointnas_jax.space import Candidate
from jointnas_jax.strategy.accuracy_scale import accuracy_scale
from jointnas_jax.strategy.evolution import Evolution, counts, diverse
from jointnas_jax.strategy.pool import distinct
from jointnas_jax.strategy.searcher import Searcher
from jointnas_jax.study.coarse_stage import CoarseStage, Searched
from jointnas_jax.study.contender import Contender, References
from jointnas_jax.study.front import FrontRule
from jointnas_jax.study.study_files import StudyFiles
from jointnas_jax.study.trial_runner import TrialRunner, TrialSpec
from jointnas_jax.telemetry.progress import Progress

# Streams of the study's key. A key depends on the stream and an index, never on what was drawn
# before. Trainings have the key of their seed: two candidates differ in what they are, and not in
# their draws.
_PRETRAIN, _SEARCH, _EVOLVE, _TRAIN = range(4)


@dataclasses.dataclass(frozen=True)
class Stages:
    """The stages of a study, and what they share.

    Attributes:
      problem: its task.
      runner: trains, and stores every trial.
      files: its workdir.
      progress: progress of the run.
      searcher: searcher of the problem.
      rule: which members of a front count; None: the study searches the best candidate.
    """

    problem: Problem
    runner: TrialRunner
    files: StudyFiles
    progress: Progress
    searcher: Searcher
    rule: FrontRule | None

    @property
    def config(self) -> Config:
        """The config of the problem."""
        return self.problem.config

    def pretrain(self) -> PredictorState:
        """Pretrains the predictor's encoders on the costs of random architectures."""
        rng = np.random.default_rng((self.config.seed, PRETRAIN_STREAM))
        vectors = self.problem.space.sample(rng, self.config.predictor.pretrain_samples)
        return self.searcher.pretrain(vectors, self._key(_PRETRAIN, 0))

    def coarse(self, pool: np.ndarray, pretrained: PredictorState) -> Searched:
        """Runs the coarse stage, and writes its predictor for `search_budgets`."""
        stage = CoarseStage(
            self.problem,
            self.searcher,
            self.runner,
            self.progress,
            key=self._key(_TRAIN, 0),
        )
        searched = stage.run(pool, pretrained, self._key(_SEARCH, 0))
        self.files.predictor(lambda path: self.searcher.predictor.save(path, searched.fitted))
        return searched

    def evolve(self, searched: Searched) -> list[Evolution[np.ndarray]]:
        """Runs the fine stage from all trials and the pool, whose scores cost nothing."""
        evolutions = self.searcher.fine_stages(searched.state, self._key(_EVOLVE, 0))
        scale = accuracy_scale(self.runner.stored.values())
        made = counts(evolutions)
        best = max(float(e.scores[0]) for e in evolutions)
        self.progress.say(
            f"fine stage: {made['generations']} generations of {made['children']:,} children in "
            f"all, {made['duplicates']:,} of them duplicates; best prediction "
            f"{scale.accuracy(best):.2%}"
        )
        return evolutions

    def finalists(
        self, searched: Searched, evolutions: Sequence[Evolution[np.ndarray]]
    ) -> list[Contender]:
        """Picks the best of the fine stage, and the best measured candidate of the coarse stage.

        Of a front, members from both.
        """
        state, count = searched.state, self.config.search.finalists
        new = np.concatenate([np.asarray(e.population)[np.isfinite(e.scores)] for e in evolutions])
        if self.rule is None:
            measured = state.vectors[[np.nanargmax(state.scores)]]
            known = np.concatenate([measured, state.failed])
            new = new[~(new[:, None] == known).all(axis=2).any(axis=1)]
            evolved = diverse(new, count, max(1, measured.shape[1] // 6))
        else:
            measured = state.measured[0]
            # Without what failed, too, of which the predictor knows nothing.
            new = distinct(np.concatenate([state.vectors, new]))[len(state.vectors) :]
            both = self._predictions(searched, measured), self._predictions(searched, new)
            first, then = self.rule.members((measured, new), both, count)
            measured, evolved = measured[first], new[then]
        return [
            Contender(source, self.problem.candidate(vector), float(predicted))
            for source, vectors in (("fine stage", evolved), ("coarse stage", measured))
            for vector, predicted in zip(vectors, self._predictions(searched, vectors), strict=True)
        ]

    def references(self, trained: int, searched: Searched) -> References:
        """Finds what the search has to beat: the default candidate and the best by random search.

        Random search gets as many candidates as the search trained, all for the full epochs.
        Members of its front are picked by their scores, for it has no predictor.
        """
        default = self._contender("default candidate", self.problem.default, searched)
        if not self.config.study.random_reference:
            return References(default)
        vectors = self.problem.random_candidates(trained)
        candidates = [self.problem.candidate(vector) for vector in vectors]
        epochs = self.config.train.epochs
        jobs = [Job(candidate, self._key(_TRAIN, 0), epochs) for candidate in candidates]
        outcomes = self.runner.run([TrialSpec("random", job) for job in jobs])
        scores = np.array([math.nan if o.score is None else o.score for o in outcomes])
        chosen, source, outcome = [], f"best of {len(vectors)} random", "all failed"
        if np.isfinite(scores).any():  # or there is nothing to beat
            best = int(np.nanargmax(scores))
            chosen, outcome = [best], f"{outcomes[best].accuracy:.2%}"
            if self.rule:
                chosen = self.rule.best(vectors, scores, count=self.config.search.finalists)
                source = f"front of {len(vectors)} random"
        self.progress.say(f"best of {len(vectors)} random candidates: {outcome}")
        return References(
            default, [self._contender(source, candidates[i], searched) for i in chosen]
        )

    def validate(self, contenders: Sequence[Contender]) -> None:
        """Trains with all seeds, without the validation images, and measures accuracy on them."""
        trained = self._train_seeds(contenders, "validate")
        for contender, outcomes in zip(contenders, trained, strict=True):
            contender.validation = [outcome.accuracy for outcome in outcomes]
            contender.scores = [outcome.score for outcome in outcomes]

    def winners(self, finalists: Sequence[Contender]) -> list[Contender]:
        """The best finalists none of whose seeds failed, best first; of a front, its members.

        Raises `StudyError` if there is none.
        """
        sound = [f for f in finalists if math.isfinite(f.mean_score)]
        if not sound:
            raise StudyError(f"every finalist failed: {'; '.join(self.runner.reasons())}")
        return self._first(sound)

    def final_references(
        self, references: References, winners: Sequence[Contender], searched: Searched
    ) -> References:
        """The references that are retrained: of a front as many as winners, at their costs."""
        if self.rule is None:
            return references
        scaled = self.problem.scaled_default([w.cost(self.rule.cost) for w in winners])
        sound = [c for c in references.random if math.isfinite(c.mean_score)]
        return References(
            references.default,
            self._first(sound) if sound else references.random[:1],
            [self._contender("default candidate, scaled", c, searched) for c in scaled],
        )

    def retrain(self, winners: Sequence[Contender], references: References) -> None:
        """Trains on the whole training split with all seeds and measures test accuracy, once."""
        named = references.named()
        contenders = [*winners, *named.values()]
        folders = [self.files.winner(f"winner{i}", w.candidate) for i, w in enumerate(winners)]
        folders += [self.files.weights(name) for name in named]
        trained = self._train_seeds(contenders, "retrain", folders)
        for contender, outcomes in zip(contenders, trained, strict=True):
            contender.test = [outcome.accuracy for outcome in outcomes]
            contender.answers = [outcome.answers for outcome in outcomes]

    def _first(self, sound: Sequence[Contender]) -> list[Contender]:
        """The validated contenders that go on, best first; of a front there may be fewer.

        Beside the members of a front such that these beat by less than one standard error of the
        difference: the test images decide.
        """
        count, scores = self.config.search.winners, np.array([c.mean_score for c in sound])
        order = np.argsort(-scores, kind="stable")[:count]
        if self.rule:
            vectors = np.array([c.candidate.vector for c in sound])
            members = self.rule.best(vectors, scores, count=count, all_count=True)
            members += _nearly_members(sound, members, self.rule.cost)[: count - len(members)]
            order = np.array(sorted(members, key=lambda i: -scores[i]), int)
        return [sound[i] for i in order]

    def _predictions(self, searched: Searched, vectors: np.ndarray) -> np.ndarray:
        """Predicted scores, `float64[N]`."""
        if not len(vectors):
            return np.zeros(0)
        return self.searcher.predictor.predict(searched.fitted, vectors)[0]

    def _contender(self, source: str, candidate: Candidate, searched: Searched) -> Contender:
        assert candidate.vector is not None
        predicted = self._predictions(searched, candidate.vector[None])[0]
        return Contender(source, candidate, float(predicted))

    def _train_seeds(
        self, contenders: Sequence[Contender], stage: str, folders: Sequence[Path | None] = ()
    ) -> list[list[TrainResult]]:
        """Trains contenders for the epochs of winners, once per seed, the same seeds for all.

        What is known does not train again: what the search trained as long, with the first seed,
        and a contender that comes from two sources.

        Args:
          contenders: candidates to train.
          stage: `validate` or `retrain`.
          folders: folders for the weights of contenders, None in other processes than process 0;
            no folders: weights are not kept.

        Returns:
          The results of each contender by seed.
        """
        seeds, epochs = self.config.study.seeds, self.config.train.epochs_of_winners
        specs: dict[tuple[bytes, int], TrialSpec] = {}
        known: dict[tuple[bytes, int], TrainResult] = {}
        for contender, folder in itertools.zip_longest(contenders, folders):
            for seed in range(seeds):
                job = Job(
                    contender.candidate,
                    self._key(_TRAIN, seed),
                    epochs,
                    on_full_split=stage == "retrain",
                    kept=bool(folders),
                )
                weights, name = folder and folder / f"seed{seed}", (contender.identity, seed)
                searched = seed == 0 and stage == "validate" and self.runner.searched(job)
                if searched:
                    known[name] = searched
                elif name not in specs:
                    specs[name] = TrialSpec(stage, job, seed=seed, weights=weights)
        if specs:
            outcomes = self.runner.run(list(specs.values()))
            known |= dict(zip(specs, outcomes, strict=True))
        return [[known[c.identity, seed] for seed in range(seeds)] for c in contenders]

    def _key(self, stream: int, index: int) -> jax.Array:
        root = jax.random.key(self.config.seed)
        return jax.random.fold_in(jax.random.fold_in(root, stream), index)


def _nearly_members(sound: Sequence[Contender], members: Sequence[int], cost: str) -> list[int]:
    """Positions of contenders that members of a front beat within the noise, the nearest first."""
    scores = np.array([contender.scores for contender in sound], float)
    seeds = scores.shape[1]
    if seeds < 2:
        return []
    error = math.sqrt(2 * scores.var(axis=1, ddof=1).mean() / seeds)
    means = scores.mean(axis=1)
    behind = {}
    for i in set(range(len(sound))) - set(members):
        rivals = [m for m in members if sound[m].cost(cost) <= sound[i].cost(cost)]
        behind[i] = max((means[m] for m in rivals), default=means[i]) - means[i]
    return sorted((i for i, lack in behind.items() if lack <= error), key=lambda i: (behind[i], i))
