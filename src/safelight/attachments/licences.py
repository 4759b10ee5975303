"""The licence of an attached file."""

from pathlib import Path

from safelight.governance.licences import PartLicence, read_licence
from safelight.weights.files import open_weights


def licence_of(part: str, path: Path) -> PartLicence:
    """The licence that a file states for what is attached to a model as ``part``."""
    return PartLicence(part, path.name, read_licence(open_weights(path).metadata, path))
