"""Samplers: from noise to clean, as generators of ``Step``. The ``noisy`` of the last step is the clean result.

A file a family; every public dataclass in it is a kind, which says ``about`` itself. They see levels only, so that
one formula serves every schedule. ``Step.index`` counts from 0; ``Step.estimate`` is what the step set out from.
"""
