# The same commands that people and machines use. PYTHON may name another interpreter.
PYTHON ?= python

.PHONY: check test slow bench docs site

check:  ## style, formatting and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:  ## everything that is quick
	$(PYTHON) -m pytest -q -n auto --dist worksteal

slow:  ## what trains for minutes
	$(PYTHON) -m pytest -q -m slow

bench:  ## every benchmark, one after the other
	set -e; for file in $(sort $(wildcard benchmarks/*.py)); do $(PYTHON) $$file; done

docs:  ## the pages that are made from the code
	set -e; for file in $(sort $(wildcard scripts/docs*.py)); do $(PYTHON) $$file; done

site:  ## the documentation as a web site, in build/site; wants the extra "docs"
	$(PYTHON) -m mkdocs build -q
