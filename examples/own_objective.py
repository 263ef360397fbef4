"""The search on an objective of your own: a support vector machine for digits, in seconds.

python examples/own_objective.py
"""

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

import jointnas_jax as jn

SPACE = jn.Space(
    jn.Knob.integer("components", 2, 64),
    jn.Knob.choice("kernel", ["rbf", "poly"]),
    jn.Knob.real("C", 1e-2, 1e3, log=True),
    jn.Knob.real("gamma", 1e-6, 1e-1, log=True),
)
IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES, LABELS = IMAGES[::3], LABELS[::3]


def evaluate(candidates: list[dict]) -> list[float]:
    return [accuracy(**candidate) for candidate in candidates]


def accuracy(components: int, kernel: str, C: float, gamma: float) -> float:
    model = make_pipeline(PCA(components), SVC(kernel=kernel, C=C, gamma=gamma))
    return cross_val_score(model, IMAGES, LABELS, cv=3).mean()


def costs(knobs: dict) -> dict:
    return {"components": knobs["components"]}


def main() -> None:
    result = jn.search(
        SPACE,
        evaluate,
        evaluations=16,
        per_round=4,
        costs=costs,
        budget={"components": 16},
        progress=print,
    )
    print(f"best: {result.candidate}")
    print(f"accuracy {result.score:.1%}; {result.report_card.verdict()}")


if __name__ == "__main__":
    main()
