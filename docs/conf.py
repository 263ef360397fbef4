"""Settings of the documentation: `sphinx-build -W -b html docs docs/_build`."""

import jointnas_jax

project = "jointnas_jax"
copyright = "the authors of jointnas_jax; Apache-2.0"
release = jointnas_jax.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
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
