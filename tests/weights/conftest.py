"""The small models that reading and writing are tried on."""

from checkpoints.conftest import folder, model  # noqa: F401
