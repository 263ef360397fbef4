"""Scripts and configs are part of the wheel, inside the package; all else is in `setup.cfg`."""

from setuptools import find_packages, setup

SHIPPED = ("scripts", "configs")

setup(
    packages=[*find_packages(include=["jointnas_jax*"]), *(f"jointnas_jax.{n}" for n in SHIPPED)],
    package_dir={f"jointnas_jax.{name}": name for name in SHIPPED},
)
