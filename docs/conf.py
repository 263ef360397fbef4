"""Settings of the documentation: `sphinx-build -W -b html docs docs/_build`."""

import dataclasses
import inspect
import re
from pathlib import Path

import jointnas_jax
from jointnas_jax.config import Config

project = "jointnas_jax"
copyright = "the authors of jointnas_jax; Apache-2.0"
release = jointnas_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
# Docstrings write code between single backticks.
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
# Fields are part of the text: as objects of their own they would be there twice.
napoleon_use_ivar = True
html_theme = "furo"
html_title = f"jointnas_jax {release}"

_SETTINGS = Path(__file__).parent / "settings.md"


def settings() -> str:
    """A page with every option of a config: default, rule, meaning, from `config.py`."""
    lines = ["# All settings", "", "`--config.SECTION.NAME=VALUE`, or in a config file.", ""]
    sections = {"": Config} | {
        field.name: field.type
        for field in dataclasses.fields(Config)
        if dataclasses.is_dataclass(field.type)
    }
    for name, kind in sections.items():
        lines += [f"## `config{'.' * bool(name)}{name}`", ""]
        lines += ["| option | default | must be | meaning |", "|---|---|---|---|"]
        meanings = _meanings(kind)
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(field.type):
                continue  # a section of its own
            if "rule" in field.metadata:
                default, rule = f"`{field.default!r}`", field.metadata["rule"].text
            else:
                default, rule = "", "a dict, in a config file"
            row = [f"`{field.name}`", default, rule, meanings.get(field.name, "")]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        lines.append("")
    return "\n".join(lines)


def _meanings(kind: type) -> dict[str, str]:
    """The text of each attribute in a docstring; several may share one."""
    text = inspect.getdoc(kind) or ""
    found: dict[str, str] = {}
    for match in re.finditer(r"^  (\w[\w, ]*): (.*(?:\n    .*)*)", text, re.MULTILINE):
        meaning = re.sub(r"\s+", " ", match[2]).strip()
        found |= dict.fromkeys(re.split(r", ", match[1]), meaning)
    return found


_SETTINGS.write_text(settings(), encoding="utf-8")
