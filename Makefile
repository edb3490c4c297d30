# mailtagger. `make help` lists the targets; everything is installed into .venv, nothing outside it (but see `test`).

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
# The first interpreter of 3.11 or later that really starts; PYTHON=... on the command line overrides the search.
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUITABLE)' >/dev/null 2>&1 && { command -v $$p; break; }; done)
APT := apt-get install --no-install-recommends -y

# One thread for torch: two of each of four processes wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs

.DEFAULT_GOAL := help
FAULT_TOOLS := cyrus-common libsasl2-modules sasl2-bin faketime
.PHONY: help venv demo test test-faults ledger soak load check bench bench-train model dovecot cyrus clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

venv: $(VENV)/core ## the virtual environment with mailtagger in it (.venv/bin/mailtagger)

demo: $(VENV)/demo ## an IMAP server, sample mail, and mailtagger at work on it; KEEP=1 leaves the server up
	@$(BIN)/mailtagger demo $(if $(KEEP),--keep)

test: $(VENV)/dev dovecot ## the whole test suite; as root it installs Dovecot where that is missing
	@$(if $(ARGS),,$(PYTEST) -n 4 tests/faults)
	@$(PYTEST) $(or $(ARGS),-n 4 --ignore tests/faults)

test-faults: $(VENV)/train dovecot cyrus ## all 82 faults on Dovecot and Cyrus; writes docs/faults.md
	@$(PYTEST) -n 4 --faults all --faults-table docs/faults.md tests/faults $(ARGS)

ledger: $(VENV)/dev dovecot ## N messages through faults, kills and a user at work, then the account of each (SEED, SERVER, STRIP)
	@$(BIN)/python -m tests.ledger --messages $(or $(N),1000) $(if $(SEED),--seed $(SEED)) $(if $(SERVER),--server $(SERVER)) $(if $(STRIP),--strip $(STRIP)) $(ARGS)

soak: $(VENV)/dev dovecot ## MINUTES of steady mail with faults: memory, descriptors and threads must not grow
	@$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) $(ARGS)

load: $(VENV)/train dovecot ## 50 accounts and a folder of 100,000 messages: memory, throughput, latency
	@$(BIN)/python -m tests.load $(ARGS)

check: $(VENV)/dev ## lint and types
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/train ## speed and memory beside fastai, bogofilter and SpamAssassin, on the same messages
	@$(BIN)/python -m training.bench $(ARGS)

bench-train: $(VENV)/train ## tokens/s of training a language model beside fastai's and a plain nn.LSTM, on the same batches
	@$(BIN)/python -m training.bench_train $(ARGS)

model: build/models/$(ID)/meta.json ## the default model from raw corpora, stage by stage; goes on where it was stopped (-j2: two at once)

clean: ## removes .venv and what the tools left behind
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stages of `make model`. Each leaves a file, and a stage whose file is there is not run again.
ID ?= base-$(shell date +%Y%m%d)
FOLDS := $(addprefix build/models/cross-,1 2 3 4 5)
STAGE = OMP_NUM_THREADS=1 $(BIN)/python -m training
BF16 := $(shell grep -qs avx512_bf16 /proc/cpuinfo && echo --bf16)

build/corpora/about.json: mailtagger/clean.py mailtagger/parse.py | $(VENV)/train
	$(STAGE).prepare

build/lm/complete: build/corpora/about.json
	$(STAGE).lm --general-characters 200000000 --general-epochs 1.35 --epochs 2 --dropout 0.2 --general-minutes 600 --mail-minutes 600 \
		--resume $(BF16)
	@touch $@

build/models/cross-%/meta.json: build/lm/complete
	$(STAGE).classifier cross:$* --epochs 5 $(BF16) --out $(@D)

build/models/base/meta.json: build/lm/complete
	$(STAGE).classifier default --epochs 5 $(BF16) --out $(@D)

build/calibration.json: $(addsuffix /meta.json,$(FOLDS))
	$(STAGE).calibrate $(addprefix --model ,$(FOLDS)) --write

build/models/$(ID)/meta.json: build/models/base/meta.json build/calibration.json
	$(STAGE).classifier default --start build/models/base --epochs 0 --calibration build/calibration.json --out $(@D)

# A file in .venv marks each finished installation, so that the next `make` only looks at its date.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mailtagger needs Python 3.11 or later; on Debian or Ubuntu: apt-get install python3 python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/core: EXTRAS :=
$(VENV)/demo: EXTRAS := [demo]
$(VENV)/dev: EXTRAS := [demo,dev]
$(VENV)/train: EXTRAS := [train,study,report]

$(VENV)/core $(VENV)/demo $(VENV)/dev $(VENV)/train: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing mailtagger$(EXTRAS) into $(VENV) (this takes a minute, once)"
	@$(PIP) --editable '.$(EXTRAS)'
	@touch $@

dovecot:
	@command -v dovecot >/dev/null || PATH="$$PATH:/usr/sbin" command -v dovecot >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then export DEBIAN_FRONTEND=noninteractive; echo "Installing Dovecot for the tests"; \
		{ $(APT) dovecot-imapd >/dev/null 2>&1 || { apt-get update -qq && $(APT) dovecot-imapd >/dev/null; }; } || echo "Dovecot could not be installed; its tests will skip"; \
	else echo "Dovecot is not installed, its tests skip. To run them: sudo $(APT) dovecot-imapd"; fi

cyrus:
	@dpkg -s $(FAULT_TOOLS) >/dev/null 2>&1 || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then export DEBIAN_FRONTEND=noninteractive; echo "Installing Cyrus and faketime for the faults"; \
		{ $(APT) $(FAULT_TOOLS) >/dev/null 2>&1 || { apt-get update -qq && $(APT) $(FAULT_TOOLS) >/dev/null; }; } || echo "They could not be installed; their tests will skip"; \
	else echo "Cyrus or faketime is not installed, their tests skip. To run them: sudo $(APT) $(FAULT_TOOLS)"; fi
