"""What tests of training share."""

import pytest


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Curves take longer to draw than tiny runs take to train; one test draws them."""
    monkeypatch.setattr("safelight.training.loop.plot", lambda lines, path: None)
