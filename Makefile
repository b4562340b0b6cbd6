# Every target sets up what it needs, so `make demo` and `make test` work on a fresh machine. A second call is instant.
#
#   PYTHON=python3.12 make setup          another interpreter (3.11 or newer)
#   CONSTRAINTS=my-pins.txt make setup    other versions
#   make test PYTEST_ARGS='-k assignment' some of the tests

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
CONSTRAINTS ?= constraints/linux-cu13.txt
EXTRAS ?= dev,dali-cu13
TESTS ?=
PYTEST_ARGS ?=
VENV := $(CURDIR)/.venv
V100 := $(CURDIR)/.venv-v100
STAMPS := $(VENV)/stamps
CXX_FILES := $(sort $(shell find csrc -type f))
SIMT_FILES := $(wildcard tests/simt/*.cpp tests/simt/*.h)
SHELL_FILES := .ci/run $(wildcard cluster/*.sh cluster/*.sbatch)

export PATH := $(VENV)/bin:$(PATH)
# Operators that DeepSpeed compiles at first use stay with the environment they were compiled for.
export TORCH_EXTENSIONS_DIR := $(VENV)/torch_extensions

# Without a GPU tests and linters want the CUDA sources, where there is a compiler for them, for one architecture: a check.
# `make setup` by itself compiles for all, since the GPUs may be in other machines.
ifeq ($(wildcard /dev/nvidia0),)
test test-slow lint: export TORCH_CUDA_ARCH_LIST ?= 9.0
endif

.PHONY: help setup demo small study study-gpu test test-slow fuzz soak test-v100 bench gpu-check gpu-site docs lint format clean

help:
	@echo "make setup      environment, compiled operators, DeepSpeed's communication operator"
	@echo "make demo       make a small data set, pre-train on it, evaluate"
	@echo "make small      train the small model that comes with the package again: hours on two cores"
	@echo "make study      what each part of the method adds, on Moving Shapes: hours, and may be stopped at any time"
	@echo "make study-gpu  the same on a GPU, with torch, torchvision and SciPy, without captions; build/gpu-site as gpu-check"
	@echo "make test       all tests but the slow ones"
	@echo "make test-slow  the slow ones: real installations, long runs"
	@echo "make fuzz       3,000 damaged videos through check, prepare, detect and training, whose verdicts must agree, and"
	@echo "                3,000 damaged pieces of shards through check and training; FUZZ_COUNT=, FUZZ_MEMBERS= of them;"
	@echo "                before that other values and bytes of every file that is read, and of operators' arguments"
	@echo "make soak       trainings that are killed, starved and disturbed for 30 minutes end as undisturbed ones do; SOAK_MINUTES=2"
	@echo "make test-v100  operators, models and training with the pins for V100, in an environment of its own (9 GB)"
	@echo "make bench      the operators and a step against their alternatives, on an idle machine"
	@echo "make gpu-check  everything that needs a GPU, with torch, torchvision, SciPy and pytest; PART=1 to 5 for one part of it"
	@echo "make gpu-site   packages and data for a GPU machine without a network: carry build/gpu-site along with the tree"
	@echo "make docs       the documentation as a site, in build/docs; its examples are run"
	@echo "make lint       style, types, shell scripts"
	@echo "make format     format Python and C++"
	@echo "make clean      remove what was built; the environment stays"

setup: $(STAMPS)/deepspeed

demo: setup
	stoa synth --out data/demo --families [horizontal,vertical,size,light] --siblings 2 --paraphrases 1 \
	  --num_train 8000 --seed 1 --workers 2
	deepspeed --num_gpus 1 train.py --deepspeed_config ds_configs/demo.json --recipe recipes/demo.yaml --init small
	stoa evaluate --run runs/demo --manifest data/demo/manifest.jsonl --hard data/demo/hard

# The model in stoa/small: about two hours on two cores. Its data and towers are those of the study, and so is its recipe,
# for longer than a row's.
small: setup
	stoa ablate recipes/study/plan.yaml --only data
	stoa ablate recipes/study/plan.yaml --only towers
	python train.py --deepspeed_config ds_configs/demo.json --recipe recipes/study/stoa_stgt.yaml \
	  --init runs/study/towers/checkpoints/step-00001100/model.safetensors --training.max_steps 1000 \
	  --model.objects.grounding false --model.actions.grounding false --objectives.align_loss nce \
	  --objectives.csal.from_step 650 --training.output_dir runs/small-pretrain
	stoa finetune --recipe recipes/finetune/small/shipped.yaml --deepspeed_config ds_configs/demo.json --run runs/small-pretrain
	stoa evaluate --run runs/small --task retrieval --manifest data/study/manifest.jsonl --hard data/study/hard \
	  --baseline false --decoder pyav
	stoa evaluate --run runs/small --task captioning --manifest data/study/manifest.jsonl --decoder pyav
	stoa evaluate --run runs/small --manifest data/study-questions/manifest.jsonl --questions data/study-questions/qa \
	  --decoder pyav
	stoa export --run runs/small --out runs/small-export --compact true
	cp runs/small-export/model.safetensors runs/small-export/config.json stoa/small/
	python benchmarks/small_card.py --run runs/small

study: setup
	stoa ablate recipes/study/plan.yaml --workers 2
	stoa ablate recipes/study/plan_stgt.yaml --workers 2

study-gpu:
	$(PYTHON) benchmarks/gpu_study.py

# Two more than there are cores: tests also wait, for timeouts and for processes that they have started.
TEST_PROCESSES := $(shell cores=$$(nproc); echo $$((cores < 7 ? cores + 2 : 8)))

# pytest exits with 5 when it collects nothing, which fails the target. Bytecode of the tests is kept: to make it takes
# a third of the time that they take to start.
test: setup
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= python -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist worksteal $(TESTS) $(PYTEST_ARGS)

test-slow: setup
	python -m pytest -m slow $(PYTEST_ARGS)

FUZZ_COUNT ?= 3000
FUZZ_MEMBERS ?= 3000
FUZZ_EXAMPLES ?= 1000
fuzz: setup
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) python -m pytest tests/resilience/test_generated_files.py tests/ops/test_operator_arguments.py
	python tests/fuzz.py --count $(FUZZ_COUNT) --members $(FUZZ_MEMBERS)

SOAK_MINUTES ?= 30
soak: setup
	OMP_NUM_THREADS=1 python tests/soak.py --minutes $(SOAK_MINUTES)

# An extension serves one torch and is built into the sources, so this environment has a copy of them. The times of the
# copies are those of the originals: what is up to date is not built again.
test-v100:
	mkdir -p $(V100)/src
	find $(V100)/src -type f -not -name '*.so' -not -path '*/build/*' -delete
	git ls-files -z --cached --others --exclude-standard | tar -c --null -T - --ignore-failed-read | tar -x -C $(V100)/src
	STOA_TEST_DATA="$${STOA_TEST_DATA:-$(CURDIR)/../shared/data}" TORCH_CUDA_ARCH_LIST=7.0 $(MAKE) -C $(V100)/src test \
	  VENV=$(V100) CONSTRAINTS=constraints/v100.txt EXTRAS=dev,dali-cu12 \
	  TESTS="tests/ops tests/models tests/objectives tests/training tests/resilience"

bench: setup
	python benchmarks/ops.py --out benchmarks/results/cpu.json
	python benchmarks/step.py --recipes recipes/base.yaml recipes/stoa.yaml --batch 2 --rounds 5

# No environment of ours: the torch of that machine is the one that is checked.
GPU_OUT ?= build/gpu-check
PART ?=
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py --out $(GPU_OUT) $(if $(PART),--part $(PART))

# Wheels stay packed, since unpacked they are twice the size; gpu_check.py unpacks those that the machine lacks. What
# comes with torch, torchvision or pytest is left out. DeepSpeed without compiled operators is pure Python.
GPU_SITE_PYTHON ?= 3.12
GPU_SITE_MIB := 56
GPU_SITE_PACKAGES := open_clip_torch timm ftfy wcwidth regex tqdm safetensors pyyaml huggingface_hub click httpx2 httpcore2 \
  anyio h11 idna truststore typing_extensions hjson pydantic pydantic_core annotated-types typing-inspection \
  jsonargparse docstring-parser av msgpack psutil py-cpuinfo einops
gpu-site: setup
	rm -rf build/gpu-site
	pip download --quiet --dest build/gpu-site/wheels --no-deps --only-binary=:all: --python-version $(GPU_SITE_PYTHON) \
	  -c $(CONSTRAINTS) $(GPU_SITE_PACKAGES)
	DS_BUILD_OPS=0 pip wheel --quiet --wheel-dir build/gpu-site/wheels --no-deps -c $(CONSTRAINTS) deepspeed
	stoa synth --out build/gpu-site/made --num_train 64 --num_val 0 --num_test 16 --num_galleries 0 --size 224
	stoa prepare --annotations build/gpu-site/made/manifest.jsonl --videos build/gpu-site/made --out build/gpu-site/data \
	  --spacy null --store.frames 12 --store.side 224 --store.jpeg_quality 60
	rm -rf build/gpu-site/made
	@mib=$$(du -sm --apparent-size build/gpu-site | cut -f1); echo "build/gpu-site: $$mib MiB"; \
	if ((mib > $(GPU_SITE_MIB))); then \
	  echo "build/gpu-site is over $(GPU_SITE_MIB) MiB; take something out of GPU_SITE_PACKAGES" >&2; exit 1; fi

# The sources are the Markdown files where they stand, README.md and cluster/README.md among them. Warnings are errors, so
# links into documents lead somewhere; those to other sites are not followed.
docs: setup
	OMP_NUM_THREADS=1 sphinx-build --nitpicky --fail-on-warning --keep-going --fresh-env --quiet \
	  --doctree-dir build/doctrees --conf-dir docs . build/docs

lint: $(STAMPS)/installed
	ruff check --no-cache .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror $(CXX_FILES) $(SIMT_FILES)
	shellcheck $(SHELL_FILES)

format: $(STAMPS)/installed
	ruff check --fix .
	ruff format .
	clang-format -i $(CXX_FILES) $(SIMT_FILES)

clean:
	rm -rf $(V100)/src $(V100)/stamps $(STAMPS) build dist stoa.egg-info stoa/_C*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# Names every missing system package in one line.
$(STAMPS)/system:
	@missing=""; \
	command -v $(PYTHON) > /dev/null || missing+=" python3"; \
	if command -v $(PYTHON) > /dev/null && ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "$(PYTHON) is older than 3.11; name another: PYTHON=python3.12 make" >&2; exit 1; \
	fi; \
	$(PYTHON) -c 'import ensurepip' 2> /dev/null || missing+=" python3-venv"; \
	headers="$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))' 2> /dev/null || true)"; \
	[[ -f "$$headers/Python.h" ]] || missing+=" python3-dev"; \
	command -v "$${CXX:-c++}" > /dev/null || missing+=" g++"; \
	if [[ -n "$$missing" ]]; then \
		echo "Missing system packages, install them with: apt-get install -y$$missing" >&2; exit 1; \
	fi
	@mkdir -p $(STAMPS) && touch $@

# pip comes first: that of Debian 12 (23.0) tries versions for longer than anybody waits. Then torch, so that the isolated
# build of stoa finds it and does not fetch one of its own.
$(STAMPS)/installed: pyproject.toml setup.py build_backend/stoa_build.py $(CONSTRAINTS) $(CXX_FILES) | $(STAMPS)/system
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --upgrade pip
	$(VENV)/bin/pip install -c $(CONSTRAINTS) torch
	STOA_FORCE_EXT=1 $(VENV)/bin/pip install -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@

# Without a GPU the first deepspeed.initialize compiles this operator, a minute in which a run looks like a hang.
# A lock that a killed build left behind would make the next one wait for ever.
$(STAMPS)/deepspeed: $(STAMPS)/installed
	rm -f $(TORCH_EXTENSIONS_DIR)/*/lock
	python -c "from deepspeed.accelerator import get_accelerator as get; \
	  get().device_name() == 'cpu' and get().create_op_builder('ShareMemCommBuilder').load(verbose=False)"
	@touch $@
