# The notebook cycle and the checks. Run inside an environment with `pip install -e ".[dev]"`.
.PHONY: help page readme export test lint ci

help:    ## this list
	@grep -E '^[a-z]+: .*##|^[a-z]+: *##' Makefile | sed 's/ *##/\t/'

page:    ## make page PAGE=nbs/optimizers/02_idbd.ipynb: format, execute, clean, export, test
	tools/page $(PAGE)

readme:  ## README.md from nbs/index.ipynb
	python tools/readme.py

export:  ## the modules from the pages, and clean pages
	nbdev_export
	nbdev_clean

test:    ## tests and pages
	pytest

lint:    ## what a machine can see without running the code
	ruff check .
	ruff format --check .
	mypy

ci:      ## everything, from an empty environment
	.ci/run
