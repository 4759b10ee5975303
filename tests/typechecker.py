"""What checks shapes in signatures while the tests run: an int is a float, as everywhere."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
