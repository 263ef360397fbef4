"""Model cards of networks of which less is known."""

from jointnas_jax.report.card import model_card
from jointnas_jax.space import ArchSpec, Head, Stage, Stem

ARCH = ArchSpec(8, 1, 3, Stem(8), (Stage(8, 1, expand_first=2),), Head(16, expand=1))
IMPORTED = {
    "formats": ["stablehlo"],
    "batch_size": 0,
    "arch": ARCH.to_dict(),
    "image_size": [8, 8],
    "crop": 0.95,
    "pixels": {"mean": [100.0], "std": [50.0]},
    "labels": ["owl", "a|b*c\n\x1b[2J", "yak"],
    "facts": {},
}


def test_a_card_says_what_is_not_known():
    card = model_card(IMPORTED)
    for words in ("Not measured.", "## Recipe\n\nNot known.", "accuracy was not measured"):
        assert words in card
    assert "## Search" not in card
    assert "None" not in card


def test_images_of_the_networks_size_are_not_resized():
    card = model_card(IMPORTED)
    assert "nothing is resized" in card
    assert "the middle, 95% of the shorter side" in card
    fixed = model_card(IMPORTED | {"image_size": [9, 8], "batch_size": 16, "crop": None})
    assert "resized to 8 x 8" in fixed
    assert "N is 16 in the programs" in fixed
    assert "brought to 9 x 8 (the whole image" in fixed


def test_only_the_formats_that_are_there_are_explained():
    card = model_card(IMPORTED)
    assert "model.stablehlo" in card
    assert "model.onnx" not in card


def test_names_from_outside_are_no_markdown():
    (line,) = [line for line in model_card(IMPORTED).splitlines() if "owl" in line]
    assert r"owl, a\|b\*c ?\[2J, yak" in line


def test_of_many_classes_the_first_are_named():
    labels = [f"class{i}" for i in range(1000)]
    arch = ARCH.to_dict() | {"num_classes": 1000}
    card = model_card(IMPORTED | {"labels": labels, "arch": arch})
    assert "class19, and 980 more" in card
    assert "class20" not in card


def test_the_training_of_one_candidate_has_one_accuracy():
    facts = {
        "study": "digits",
        "dataset": {"name": "digits/1.0.0", "image_shape": [8, 8, 1]},
        "data": {
            **{"train_split": "train[:`9|0%]", "test_split": "test", "val_fraction": 0.2},
            **{"crop_padding": 1, "flip": True, "min_area": 0.25, "transforms": 2},
        },
        "train": {"batch_size": 32, "teacher": ""},
        "recipe": {"lr": 0.02},
        "epochs": {"search": 3, "final": 3},
        "accuracy": 0.9,
        "seconds": 12.0,
    }
    card = model_card(IMPORTED | {"facts": facts})
    assert "90.00% on the test images, of one training." in card
    assert r"`train[:'9\|0%]`, all of it" in card
    assert "searched on" not in card
    assert (
        "shifts by up to 1 px, mirroring, crops of at least 25% of the area, RandAugment, 2" in card
    )
    assert "| batch size | 32 |" in card
    assert "teacher" not in card
    assert "per epoch of" not in card
