# retorq: every target sets up what it needs by itself, in the private environment .venv.
# Variables: PYTHON (an interpreter, 3.11 or newer); GAME, AGENT, PRESET, RUN and ARGS for `make train`; ARGS and JOBS (how
# many tests at once) for the tests.

PYTHON ?= python3
VENV   ?= .venv
GAME   ?= ALE/Pong-v5
AGENT  ?= recurrent_iqn
PRESET ?= laptop
RUN    ?= runs/pong
ARGS   ?=
JOBS   ?= 2

BIN   := $(VENV)/bin
# On a terminal pip shows what it downloads; elsewhere it only reports errors.
QUIET := $(shell test -t 2 || echo --quiet --quiet)
# --no-compile: byte code is made when a module is first imported; making it for all of torch costs more than it saves.
INSTALL := $(BIN)/python -m pip install $(QUIET) --no-compile --disable-pip-version-check --constraint constraints.txt --editable
# Where byte code is not kept, each program compiles all of PyTorch that it imports anew, for seconds.
export PYTHONDONTWRITEBYTECODE :=
# Tests run many small tensors; more threads only wait for each other.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Two at a time, a whole file each: many tests wait for processes of their own. In the order of the folders: by the
# number of tests, the files with few but long ones would come last, when there is nothing left to do beside them.
PYTEST = $(TEST_ENV) $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help train test check format slow bench peers clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

# What goes on with the run, in the words that began it: the program names it at its end.
said = $(if $(filter-out file,$(origin $(1))), $(1)=$(if $(word 2,$($(1))),'$($(1))',$($(1))))
train: export RETORQ_AGAIN = make train$(call said,GAME)$(call said,AGENT)$(call said,PRESET)$(call said,RUN)$(call said,ARGS)
train: $(VENV)/.ready-train ## learn Atari Pong into runs/pong; Ctrl-C saves, the same command goes on
	@# Ctrl-C reaches this shell and make, too: both must wait for the program, and neither has to say more than it did.
	@# 75: stopped and resumable; 130: stopped before there was anything to save.
	@trap : INT; $(BIN)/retorq train $(GAME) --agent $(AGENT) --preset $(PRESET) --run $(RUN) $(ARGS); \
		case $$? in (0|75|130) ;; (*) exit $$? ;; esac

test: $(VENV)/.ready-test ## the fast tests
	$(PYTEST) $(ARGS)

check: $(VENV)/.ready-test ## format, lint, types, layers, fast tests: what a change must pass
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) $(ARGS)

format: $(VENV)/.ready-test ## rewrite the sources in the project's format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

slow: $(VENV)/.ready-test ## the slow tests: agents that must learn their tasks
	$(PYTEST) -m slow $(ARGS)

bench: $(VENV)/.ready-train ## measure this machine; every number has its csv in benchmarks/
	$(BIN)/retorq bench all --out benchmarks/results $(ARGS)

peers: $(VENV)/.ready-train ## measure beside Stable-Baselines3, which gets an environment of its own (.venv-peers)
	$(BIN)/python benchmarks/against_sb3.py $(ARGS)

clean: ## remove the environment, caches and builds; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "retorq needs Python 3.11 or newer; $(PYTHON) was not found: install it, or name another with make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "retorq needs Python 3.11 or newer, and $(PYTHON) is %d.%d: install a newer one and name it with make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "setting up $(VENV) (once; PyTorch is the large part)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.ready-train: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing retorq with the versions of constraints.txt"
	@$(INSTALL) '.[atari,video,log]'
	@touch $@

$(VENV)/.ready-test: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing retorq and its development tools with the versions of constraints.txt"
	@$(INSTALL) '.[all,dev]'
	@# It brings jax, and beneath it a package of which there are nightly versions alone: the other tests must not fall with it.
	@$(INSTALL) '.[oracle]' || echo "rlax could not be installed: the tests that compare with it will be skipped" >&2
	@touch $@ $(VENV)/.ready-train
