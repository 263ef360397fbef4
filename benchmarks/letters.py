"""Writes images of letters: a set that no setting of the project was chosen on.

python -m benchmarks.letters DIR
python scripts/run_joint.py --config.name=letters --config.data.name= --config.data.dir=DIR

26 capital letters in the fonts that matplotlib brings, turned, sheared, scaled, moved, blurred and
noisy, 12x12 grey: DIR/train with 55 images of each and DIR/test with 100. The same images each time
with the same versions of Pillow and matplotlib.
"""

import string
import sys
from pathlib import Path
from typing import Any

import numpy as np

_SIDE, _DRAWN = 12, 64
_IMAGES = {"train": 55, "test": 100}
# Some of matplotlib's fonts have no letters.
_FONTS = ("DejaVuSans*", "DejaVuSerif*", "STIXGeneral*", "cmr10*", "cmss10*", "cmtt10*")


def write(folder: Path) -> None:
    """Writes both splits into class folders."""
    import matplotlib
    from PIL import ImageFont

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = sorted(file for pattern in _FONTS for file in fonts.glob(pattern + ".ttf"))
    faces = [ImageFont.truetype(str(file), 40) for file in files if "Display" not in file.name]
    rng = np.random.default_rng(0)
    for split, count in _IMAGES.items():
        for letter in string.ascii_uppercase:
            (folder / split / letter).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = drawn(letter, faces[rng.integers(len(faces))], rng)
                image.save(folder / split / letter / f"{i:03}.png")


def drawn(letter: str, face: Any, rng: np.random.Generator) -> Any:
    """One image of a letter in a font of Pillow."""
    from PIL import Image, ImageDraw, ImageFilter

    image = Image.new("L", (_DRAWN, _DRAWN))
    middle = _DRAWN / 2
    ImageDraw.Draw(image).text((middle, middle), letter, 255, font=face, anchor="mm")
    turn, shear = rng.uniform(-0.4, 0.4), rng.uniform(-0.3, 0.3)
    scale, moved = rng.uniform(0.65, 1.05), rng.uniform(-6, 6, 2)
    matrix = scale * np.array([[np.cos(turn), np.sin(turn) + shear], [-np.sin(turn), np.cos(turn)]])
    offset = middle - matrix @ (middle + moved)
    placed = (*matrix[0], offset[0], *matrix[1], offset[1])
    image = image.transform(image.size, Image.Transform.AFFINE, placed, Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))
    small = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), float)
    noisy = rng.uniform(0.3, 1.0) * small + rng.normal(0, rng.uniform(5, 25), small.shape)
    return Image.fromarray(np.clip(noisy + rng.uniform(0, 60), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: name one folder to write to")
    write(Path(sys.argv[1]).expanduser())
