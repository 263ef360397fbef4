"""The joint space of architectures and recipes: candidates <-> index vectors.

A *slot* is one field of a network or recipe, such as `stage2_kernel_first` or `lr`. Each slot holds
a fixed value or a knob; one knob may fill several slots (a tie). An index vector has one entry per
knob, architecture knobs first: `int32[K]`, entry j in `range(len(knobs[j].values))`.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jointnas_jax.errors import SpaceError, nearest, one_line, shown
from jointnas_jax.rules import plain
from jointnas_jax.space.arch import (
    MOST_STAGES,
    ArchSpec,
    Head,
    Stage,
    Stem,
    check_slot,
    side,
    stage_count,
)
from jointnas_jax.space.knobs import Knob, Value, parse_knob, same
from jointnas_jax.space.recipe import Recipe, check_recipe_slot
from jointnas_jax.space.vectors import VectorSpace

Slots = Mapping[str, Knob | Value]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An architecture and the recipe it is trained with.

    Candidates are equal, and print alike, wherever they come from.

    Attributes:
      arch: the architecture.
      recipe: the recipe.
      vector: `int32[K]` in the space that decoded it; None of a candidate from elsewhere.
      costs: name -> integer cost, see `Problem.candidate`; None where nobody has counted.
    """

    arch: ArchSpec
    recipe: Recipe
    vector: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
    costs: dict[str, int] | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises `SpaceError` if a part is of another type."""
        if not isinstance(self.arch, ArchSpec) or not isinstance(self.recipe, Recipe):
            raise SpaceError(
                "a candidate is made of an ArchSpec and a Recipe, got "
                f"{shown((self.arch, self.recipe))}; Candidate.from_dict reads plain data"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, ready for JSON."""
        return {"arch": self.arch.to_dict(), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, data: Any) -> "Candidate":
        """Inverse of `to_dict`; raises `SpaceError` naming what breaks a rule."""
        if not isinstance(data, dict) or set(data) != {"arch", "recipe"}:
            raise SpaceError(f"a candidate has the fields `arch` and `recipe`, got {shown(data)}")
        return cls(ArchSpec.from_dict(data["arch"]), Recipe.from_dict(data["recipe"]))


@dataclasses.dataclass(frozen=True)
class JointSpace(VectorSpace):
    """All candidates a study may train; see the module docstring for slots and vectors."""

    arch_slots: Slots
    recipe_slots: Slots
    image_channels: int
    num_classes: int
    arch_knobs: tuple[Knob, ...] = dataclasses.field(init=False, repr=False, compare=False)
    recipe_knobs: tuple[Knob, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises `SpaceError` if a part is of another type."""
        if not all(isinstance(slots, Mapping) for slots in (self.arch_slots, self.recipe_slots)):
            raise SpaceError(
                "the slots of a joint space must be dicts, got "
                f"{shown((self.arch_slots, self.recipe_slots))}; JointSpace.from_config reads a "
                "description"
            )
        object.__setattr__(self, "image_channels", plain(self.image_channels))
        object.__setattr__(self, "num_classes", plain(self.num_classes))
        check_slot("image_channels", self.image_channels)
        check_slot("num_classes", self.num_classes)
        object.__setattr__(self, "arch_knobs", _distinct_knobs(self.arch_slots))
        object.__setattr__(self, "recipe_knobs", _distinct_knobs(self.recipe_slots))

    @classmethod
    def from_config(
        cls, description: Mapping[str, Any], image_channels: int, num_classes: int
    ) -> "JointSpace":
        """Reads the `space` section of a config; raises `SpaceError` naming the entry at fault."""
        arch_slots, recipe_slots = read_slots(description)
        return cls(
            arch_slots=arch_slots,
            recipe_slots=recipe_slots,
            image_channels=image_channels,
            num_classes=num_classes,
        )

    @classmethod
    def fixed(cls, candidate: Candidate) -> "JointSpace":
        """Returns the space of one candidate; it has no knob."""
        _check_type("candidate", candidate, Candidate)
        arch, recipe = candidate.arch, candidate.recipe
        return cls(
            arch_slots=arch.to_slots(),
            recipe_slots=recipe.to_dict(),
            image_channels=arch.image_channels,
            num_classes=arch.num_classes,
        )

    def decode(self, vector: np.ndarray) -> Candidate:
        """Returns the candidate of one index vector `int[K]`; raises `SpaceError` outside."""
        vector = self.check_one(vector)
        arch = ArchSpec.from_slots(
            self._fill(self.arch_slots, vector), self.image_channels, self.num_classes
        )
        recipe = Recipe(**self._fill(self.recipe_slots, vector))
        return Candidate(arch, recipe, vector=vector.astype(np.int32))

    def encode(self, candidate: Candidate) -> np.ndarray:
        """Returns the canonical index vector `int32[K]`; raises `SpaceError` outside the space."""
        _check_type("candidate", candidate, Candidate)
        arch = candidate.arch
        slots = arch.to_slots()
        if slots.keys() != self.arch_slots.keys():
            raise SpaceError(
                f"the space has {stage_count(self.arch_slots)} stages, "
                f"the candidate {len(arch.stages)}"
            )
        dataset = (self.image_channels, self.num_classes)
        if (arch.image_channels, arch.num_classes) != dataset:
            raise SpaceError(
                f"the space is for (image_channels, num_classes) = {dataset}, got "
                f"{(arch.image_channels, arch.num_classes)}"
            )
        vector = np.full(len(self.knobs), -1, np.int32)
        sources = {**self.arch_slots, **self.recipe_slots}
        for slot, value in {**slots, **candidate.recipe.to_dict()}.items():
            source = sources[slot]
            if not isinstance(source, Knob):
                if not same(value, source):
                    raise SpaceError(f"the space fixes `{slot}` at {source!r}, got {shown(value)}")
                continue
            position, index = self.positions[source.name], source.index(value)
            if vector[position] not in (-1, index):
                raise SpaceError(
                    f"knob `{source.name}` is tied: `{slot}` = {shown(value)} contradicts "
                    f"{source.values[vector[position]]!r} elsewhere"
                )
            vector[position] = index
        return self.canonical(vector)

    @functools.cached_property
    def inactive_rules(self) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
        """Which knobs act on nothing, and when.

        `(j, ((d, i), ...))`: knob j describes blocks 2, 3, ... of some stages only, and acts on
        nothing where knob d has index i (one block) for each of them.
        """
        rules = []
        for knob in self.arch_knobs:
            uses = [slot for slot, source in self.arch_slots.items() if source is knob]
            depths = [self.arch_slots.get(f"{slot.partition('_')[0]}_depth") for slot in uses]
            one_block = tuple(
                (self.positions[depth.name], depth.index(1))
                for depth in depths
                if isinstance(depth, Knob) and 1 in depth.values
            )
            if len(one_block) == len(uses) and all(slot.endswith("_rest") for slot in uses):
                rules.append((self.positions[knob.name], one_block))
        return tuple(rules)

    def canonical(self, vectors: Any) -> Any:
        """Sets knobs that act on nothing to index 0, so that equal networks have equal vectors.

        From `int32[..., K]`, a NumPy or JAX array, to one alike, also under `jit`.
        """
        if not self.inactive_rules:
            return vectors
        xp = vectors.__array_namespace__()
        columns = [vectors[..., j] for j in range(len(self.knobs))]
        for knob, conditions in self.inactive_rules:
            active = xp.stack([columns[d] != i for d, i in conditions]).any(axis=0)
            columns[knob] = columns[knob] * active.astype(vectors.dtype)
        return xp.stack(columns, axis=-1)

    def with_fixed_arch(self, arch: ArchSpec) -> "JointSpace":
        """Returns the space of recipes for one architecture (AutoTrain, paper section 4.1)."""
        _check_type("arch", arch, ArchSpec)
        return dataclasses.replace(
            self,
            arch_slots=arch.to_slots(),
            image_channels=arch.image_channels,
            num_classes=arch.num_classes,
        )

    def with_fixed_recipe(self, recipe: Recipe) -> "JointSpace":
        """Returns the space of architectures, all trained with one recipe."""
        _check_type("recipe", recipe, Recipe)
        return dataclasses.replace(self, recipe_slots=recipe.to_dict())

    def _fill(self, slots: Slots, vector: np.ndarray) -> dict[str, Any]:
        return {
            slot: source.values[vector[self.positions[source.name]]]
            if isinstance(source, Knob)
            else source
            for slot, source in slots.items()
        }


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise SpaceError(f"`{name}` must be of type {kind.__name__}, got {shown(value)}")


def read_arch(path: Path) -> ArchSpec:
    """Reads the architecture of a candidate's file; raises as `read_candidate` does."""
    return read_candidate(path)[0]


def read_candidate(path: Path) -> tuple[ArchSpec, Recipe | None]:
    """Reads a candidate, or an architecture alone, from a JSON file.

    Raises `SpaceError` if the file cannot be read or breaks a rule.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpaceError(f"`{path}` is not a readable JSON file: {one_line(error)}") from error
    parts = data if isinstance(data, dict) and "arch" in data else {"arch": data}
    try:
        recipe = Recipe.from_dict(parts["recipe"]) if "recipe" in parts else None
        return ArchSpec.from_dict(parts["arch"]), recipe
    except SpaceError as error:
        raise SpaceError(f"`{path}`: {error}") from error


def read_slots(description: Mapping[str, Any]) -> tuple[Slots, Slots]:
    """Reads the `space` section of a config, without a dataset, into architecture and recipe slots.

    Raises `SpaceError` if an entry breaks a rule.
    """
    sections = ("resolution", "stem", "stages", "head", "recipe")
    _check_names("space", description, sections)
    missing = [s for s in sections[:4] if s not in description]
    if missing:
        raise SpaceError(f"`space` lacks {missing}; it has {shown(list(description))}")
    stages = description["stages"]
    if not isinstance(stages, tuple | list) or not 0 < len(stages) <= MOST_STAGES:
        raise SpaceError(
            f"`space.stages` must be a non-empty tuple of up to {MOST_STAGES} stages, got "
            f"{shown(stages)}"
        )
    raw = {"resolution": description["resolution"]}
    raw |= _read_section("stem", Stem, description["stem"])
    for s, stage in enumerate(stages, start=1):
        raw |= _read_section(f"stage{s}", Stage, stage)
    raw |= _read_section("head", Head, description["head"])
    recipe = description.get("recipe", {})
    raw_recipe = Recipe().to_dict()
    _check_names("space.recipe", recipe, raw_recipe)
    arch_slots = _resolve(raw, check_slot)
    for slot, source in arch_slots.items():
        stage, _, field = slot.partition("_")
        depth = arch_slots.get(f"{stage}_depth")
        if (
            field.endswith("_rest")
            and isinstance(source, Knob)
            and same(depth, 1)
            and source.name == slot
        ):
            raise SpaceError(f"knob `{slot}` can never act: `{stage}` has one block")
    _check_maps(arch_slots)
    return arch_slots, _resolve(raw_recipe | dict(recipe), check_recipe_slot)


def _check_maps(slots: Slots) -> None:
    """Raises `SpaceError` if a stage leaves nothing of the map of the smallest image."""

    def values(slot: str) -> tuple[Any, ...]:
        return getattr(slots[slot], "values", (slots[slot],))

    size = side(min(values("resolution")), max(values("stem_stride")))
    for s in range(1, stage_count(slots) + 1):
        size = side(size, max(values(f"stage{s}_stride")), max(values(f"stage{s}_trim")))
        if size < 1:
            raise SpaceError(
                f"`stage{s}_trim` leaves nothing of the map of the smallest `resolution`, "
                f"{min(values('resolution'))}; raise that one, or drop a stride or trim"
            )


def _read_section(name: str, kind: type, section: Any) -> dict[str, Any]:
    """Returns slot -> description; `kernel` and `expand` of a stage fill `_first` and `_rest`."""
    fields = {f.name: f.default for f in dataclasses.fields(kind)}
    split = {"kernel", "expand"} if kind is Stage else set()
    entries = {f.removesuffix("_first").removesuffix("_rest") for f in fields} if split else fields
    _check_names(name, section, entries)
    slots: dict[str, Any] = {}
    for field in section:
        value = section[field]
        if field in split and isinstance(value, Mapping):
            _check_names(f"{name}.{field}", value, ("first", "rest"))
            if len(value) != 2:
                raise SpaceError(
                    f"`{name}.{field}` must have both `first` and `rest`, got {shown(value)}"
                )
            slots |= {
                f"{name}_{field}_first": value["first"],
                f"{name}_{field}_rest": value["rest"],
            }
        elif field in split:
            tied = isinstance(value, str)  # each half to that of another stage
            slots |= {
                f"{name}_{field}_first": value,
                f"{name}_{field}_rest": value if tied else f"={name}_{field}_first",
            }
        else:
            slots[f"{name}_{field}"] = value
    for field, default in fields.items():
        if f"{name}_{field}" not in slots:
            if default is dataclasses.MISSING:
                raise SpaceError(f"`{name}` lacks `{field}`; it has {list(section)}")
            slots[f"{name}_{field}"] = default
    return slots


def _resolve(raw: dict[str, Any], check: Callable[[str, Any], None]) -> dict[str, Knob | Value]:
    """Turns descriptions into knobs and values, and ties (`"=slot"`) into shared knobs."""
    slots: dict[str, Knob | Value] = {}
    for slot, description in raw.items():
        if isinstance(description, str) and description.startswith("="):
            slots[slot] = _tied(slot, description[1:], slots)
            _check_values(slot, slots[slot], check)
            continue
        # A knob that serves the first and the other blocks alike carries the plain name.
        plain = slot.removesuffix("_first")
        shared = plain != slot and raw.get(f"{plain}_rest") == f"={slot}"
        source = parse_knob(plain if shared else slot, description)
        _check_values(slot, source, check)
        # A single choice is no choice.
        slots[slot] = (
            source.values[0] if isinstance(source, Knob) and len(source.values) == 1 else source
        )
    return slots


def _check_values(slot: str, source: Knob | Value, check: Callable[[str, Any], None]) -> None:
    for value in source.values if isinstance(source, Knob) else (source,):
        check(slot, value)


def _tied(slot: str, other: str, slots: dict[str, Knob | Value]) -> Knob | Value:
    suffix = "_rest" if slot.endswith("_rest") else "_first"
    for name in (other, other + suffix):
        if name in slots:
            return slots[name]
    raise SpaceError(
        f"`{slot}` is tied to `{one_line(other)}`, which must come before it{nearest(other, slots)}"
    )


def _check_names(where: str, section: Any, entries: Collection[str]) -> None:
    if not isinstance(section, Mapping):
        raise SpaceError(f"`{where}` must be a dict of {sorted(entries)}, got {shown(section)}")
    for name in section:
        if name not in entries:
            raise SpaceError(f"`{where}` has no entry `{one_line(name)}`{nearest(name, entries)}")


def _distinct_knobs(slots: Slots) -> tuple[Knob, ...]:
    return tuple({s.name: s for s in slots.values() if isinstance(s, Knob)}.values())
