"""The tiny model of the tests of checkpoints."""

from tests.checkpoints.conftest import folder, model

__all__ = ["folder", "model"]
