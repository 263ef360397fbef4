"""Envelopes of whole spaces."""

from jointnas_jax.nets.envelope import Envelope, ranges_of
from jointnas_jax.space import ArchSpec, JointSpace


def envelope_of_space(space: JointSpace, arch: ArchSpec) -> Envelope:
    """The envelope of all architectures of a space that can share one with `arch`."""
    return Envelope.of(ranges_of(space, arch), space.image_channels, space.num_classes)
