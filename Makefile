# The common commands. `make` alone explains them; `crossview --help` knows many more options.

PYTHON ?= python3
VENV ?= .venv
LEVELS ?= low near-half high
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin

## Variables, given as NAME=VALUE:
##   SCENES      mesh files, folders, globs, procedural:FIRST-LAST; several between quotes
##   NUM_PAIRS   pairs in all; overlap-sweep: of each level
##   OVERLAP     band of co-visibility, for example 0.4-0.6, or a level's name
##   LEVELS      levels of overlap-sweep (default: low near-half high)
##   RENDERER    auto (gl on a GPU, else embree), embree, gl or habitat
##   DEPTH       1 to store depth maps too
##   DATA        folder of pairs to train on
##   CONFIG      YAML file (demo: a recipe); the other variables go first
##   SEED        same seed, same result
##   OUT         folder of the results
##   EXECUTOR    ray (all cores) or serial
##   ARGS        anything else for the command, for example ARGS="--set optim.max_steps=100"
##   PYTHON      the Python, 3.10 to 3.13, that makes .venv

# An option stands on the command line only where its variable is given. Single quotes keep globs
# whole for crossview, which expands them itself.
quote = '$(subst ','\'',$1)'
option = $(if $($2),$1 $(call quote,$($2)))
scenes = $(if $(SCENES),--scenes $(foreach scene,$(SCENES),$(call quote,$(scene))))
num_pairs = $(call option,--num-pairs,NUM_PAIRS)
overlap = $(call option,--overlap,OVERLAP)
depth = $(if $(filter-out 0 no false,$(DEPTH)),--depth)
data = $(call option,--data,DATA)
config = $(call option,--config,CONFIG)
seed = $(call option,--seed,SEED)
out = $(call option,--out,OUT)
executor = $(call option,--executor,EXECUTOR)
renderer = $(call option,--renderer,RENDERER)
follow-up = $(if $(OUT),--out $(call quote,$(OUT)/follow-up))
rendering = $(scenes) $(num_pairs) $(overlap) $(renderer) $(seed) $(out) $(executor)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo render-pairs overlap-sweep pretrain evidence bench bench-data bench-train test test-slow test-all lint types clean distclean

help: ## explain targets and variables
	@echo "make TARGET [NAME=VALUE ...]; the first one that needs it installs into $(VENV)"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' Makefile
	@sed -n 's/^## \{0,1\}//p' Makefile

demo: $(INSTALLED) ## render pairs, pre-train a tiny model, report: minutes on two cores
	$(BIN)/crossview run $(if $(CONFIG),$(call quote,$(CONFIG)),demo) $(strip $(rendering) $(ARGS))

render-pairs: $(INSTALLED) ## render pairs of SCENES into shards in OUT
	$(BIN)/crossview render-pairs $(strip $(config) $(depth) $(rendering) $(ARGS))

overlap-sweep: $(INSTALLED) ## one dataset a level of overlap, the same first views in all
	$(BIN)/crossview render-pairs --levels $(LEVELS) $(strip $(config) $(depth) $(rendering) $(ARGS))

pretrain: $(INSTALLED) ## pre-train CroCo on the shards in DATA, into OUT
	$(BIN)/crossview pretrain $(strip $(config) $(data) $(seed) $(out) $(ARGS))

evidence: $(INSTALLED) ## what pre-training is worth: hours of study, resumable; fills RESULTS.md, docs
	$(BIN)/crossview study evidence --report . $(strip $(out) $(ARGS))
	$(BIN)/crossview study follow-up $(strip $(ARGS) --report docs/follow-up $(follow-up))

bench: $(INSTALLED) ## measure how fast pairs are made
	$(BIN)/crossview bench $(strip $(scenes) $(num_pairs) $(renderer) $(ARGS))

bench-data: $(INSTALLED) ## measure how fast pairs come from shards to batches
	$(BIN)/crossview bench-data $(strip $(data) $(num_pairs) $(ARGS))

bench-train: $(INSTALLED) ## measure how fast a model is trained; ARGS="--preset base"
	$(BIN)/crossview bench-train $(strip $(config) $(data) $(ARGS))

test: $(INSTALLED) ## run the tests, but for the slow ones
	$(BIN)/pytest -m 'not slow' $(ARGS)

test-slow: $(INSTALLED) ## run the slow tests, which kill, hang and fill what they can
	$(BIN)/pytest -m slow $(ARGS)

test-all: test test-slow ## run all tests; -j 2 runs both kinds at a time

lint: $(INSTALLED) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## check types
	$(BIN)/mypy

clean: ## remove caches and build outputs; results and .venv stay
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache

distclean: clean ## remove .venv too
	rm -rf '$(VENV)'

# The stamp is touched last: a failed install leaves none, or one that is older than these files.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@
