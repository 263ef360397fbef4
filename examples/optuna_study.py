"""The searcher as a sampler in a study of Optuna's: a random forest of limited size, in seconds.

python examples/optuna_study.py
"""

import optuna
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

import jointnas_jax as jn

TRAIN_X, TEST_X, TRAIN_Y, TEST_Y = train_test_split(*load_digits(return_X_y=True), random_state=0)
MOST_NODES = 3000


def objective(trial: optuna.Trial) -> float:
    forest = RandomForestClassifier(
        n_estimators=trial.suggest_int("n_estimators", 2, 64, log=True),
        max_depth=trial.suggest_int("max_depth", 2, 16),
        max_features=trial.suggest_float("max_features", 0.05, 1.0),
        criterion=trial.suggest_categorical("criterion", ["gini", "entropy"]),
        random_state=0,
    ).fit(TRAIN_X, TRAIN_Y)
    # Known after training only, so a constraint and no budget.
    trial.set_user_attr("nodes", sum(tree.tree_.node_count for tree in forest.estimators_))
    return forest.score(TEST_X, TEST_Y)


def excess(trial: optuna.trial.FrozenTrial) -> list[float]:
    return [trial.user_attrs["nodes"] / MOST_NODES - 1]


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = jn.JointNASSampler(seed=0, constraints_func=excess)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=20)
    print(f"best: {study.best_params}")
    print(f"accuracy {study.best_value:.1%}, {study.best_trial.user_attrs['nodes']:,} nodes")


if __name__ == "__main__":
    main()
