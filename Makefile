# make demo   train a real LoRA with the built-in tiny base, on the CPU or GPU found here
# make test   the tests, side by side, two more at once than there are cores
# make test-long   those that take longer: whole runs killed and gone on with, the demo, clusters
# make lint   style and types
# make messages   take new texts into the catalogues of translations
# make image-test   build the image and test it (needs Docker)
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# Tests wait on servers and child processes longer than they compute (2,237 s for 807 s of CPU).
TEST_PROCESSES ?= $(shell expr `getconf _NPROCESSORS_ONLN` + 2)
# Compiling all of torch and its like takes 50 s; what is imported is compiled then.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: demo test test-long image image-test image-test-only lint format messages clean

demo: $(VENV)/.demo
	$(BIN)/tenner demo

test: $(VENV)/.dev
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal -m 'not long' $(PYTEST_ARGS)

test-long: $(VENV)/.dev $(VENV)/.sky
	SKY_PYTHON=$(VENV)/sky/bin/python $(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal -m long $(PYTEST_ARGS)

image:
	DOCKER_BUILDKIT=1 docker build $(IMAGE_ARGS) -t tenner:slim .

image-test: image
	TENNER_IMAGE=tenner:slim $(MAKE) image-test-only

image-test-only: $(VENV)/.image $(VENV)/.sky
	SKY_PYTHON=$(VENV)/sky/bin/python $(BIN)/pytest tests/image

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run docker/*.sh configs/*/*.sh
	$(BIN)/zizmor --quiet --offline .github/workflows .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec configs/compose/compose.yaml

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

messages: $(VENV)/.dev
	$(BIN)/python -m scripts.catalogues

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tenner needs Python 3.11 or newer; try: make PYTHON=python3.11 demo")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing tenner and PyTorch into $(VENV), once: a few minutes"
	$(PIP) $(TORCH)
	$(PIP) -e '.[train]'
	@touch $@

# SkyPilot pins what other tools here use newer, so it has an environment of its own.
$(VENV)/.sky: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/sky
	$(VENV)/sky/bin/python -m pip install --quiet --disable-pip-version-check skypilot==0.14.1
	@touch $@

# What the image's tests need: no torch, which is in the image.
$(VENV)/.image: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) docker hypothesis pytest pytest-socket pytest-timeout pyyaml
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing tenner, PyTorch and the test tools into $(VENV), once: a few minutes"
	$(PIP) $(TORCH)
	$(PIP) -e '.[train,s3,hub,dataset,caption,ray,dev]'
	@touch $@
