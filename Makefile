# make demo and make test each set up all they need, on any machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The GPU build of ONNX Runtime where an NVIDIA driver answers, else the CPU build: never both.
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
# What the demo needs; and what tests, checks and benchmarks need beside it.
STAMP := $(VENV)/.installed-$(DEVICE)
DEV_STAMP := $(VENV)/.installed-dev-$(DEVICE)
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# A build of PyTorch without CUDA; pip's default index has none for x86, PyTorch's own index has, which
# PIP_EXTRA_INDEX_URL can name.
TORCH_CPU := $(shell sed -n 's/^torch==.*/&+cpu/p' constraints.txt)
# How many processes share the tests; those marked `alone` follow, one by one, from the files that
# have such: to collect them all takes half a minute.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
SHARED := -n $(JOBS) --dist worksteal
ALONE := $(shell grep -rl mark.alone tests --include='test_*.py')

.PHONY: demo wheel release docs test test-slow test-gpu-build test-timm test-arm64 check check-workflows setup dev \
	clean peers benchmark readme-table

demo: $(STAMP)
	$(BIN)/vit-export demo --fp16 -o demo.onnx
	$(BIN)/vit-infer examples/ -m demo.onnx -k 3 --format table

# dist/vit_engine-VERSION-py3-none-any.whl, which is all that another machine needs
wheel:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -f dist/vit_engine-*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# What a release has: the wheel and the source in dist/, and in sbom.cdx.json what the wheel brings
# along for CPUs and the server
release: .venv-release/.installed
	rm -rf dist .venv-sbom
	.venv-release/bin/python -m build --quiet --outdir dist .
	.venv-release/bin/twine check --strict dist/*
	$(PYTHON) -m venv --without-pip .venv-sbom
	.venv-release/bin/python -m pip --python .venv-sbom install --quiet --constraint constraints.txt \
		"$$(echo dist/*.whl)[cpu,openvino,serve]"
	.venv-release/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.cdx.json .venv-sbom

# The README, docs/ and the pages beside them as site/index.html; a warning or a dead link is an error
docs: .venv-docs/.installed
	rm -rf site
	.venv-docs/bin/sphinx-build -c docs --fail-on-warning --keep-going --quiet . site
	cp site/README.html site/index.html

test: dev
	$(BIN)/pytest $(SHARED) -m 'not hub and not slow and not alone'
	$(BIN)/pytest -m 'alone and not hub and not slow' $(ALONE)

# Kills, fuzzing, Ray: minutes
test-slow: dev
	$(BIN)/pytest $(SHARED) -m 'slow and not hub and not alone'
	$(BIN)/pytest -m 'slow and alone and not hub' $(ALONE)

# ONNX Runtime's GPU build in an environment of its own, on a GPU that computes nothing
test-gpu-build: dev .venv-gpu/.installed
	VIT_GPU_PYTHON=$(CURDIR)/.venv-gpu/bin/python $(BIN)/pytest tests/providers/test_cuda.py

# Without NVIDIA's libraries, which tests/support/standin stands for
.venv-gpu/.installed: pyproject.toml constraints.txt
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --constraint constraints.txt --editable . onnxruntime-gpu \
		|| { echo 'onnxruntime-gpu could not be installed: nothing guards the GPU path' >&2; exit 1; }
	touch $@

# timm's models against timm itself, open_clip's against open_clip, in an environment of their own
test-timm: dev .venv-timm/.installed
	.venv-timm/bin/python -m pytest $(SHARED) -k 'timm or open_clip or state_dict' \
		tests/export/test_timm.py tests/export/test_open_clip.py tests/export/test_open_clip_text.py \
		tests/export/test_state_dict.py tests/export/test_preprocessor.py

# It shows .venv's packages. torchvision, which timm needs, must not get into .venv: there transformers
# would import it, and beside a CPU build of torch that takes what tests/support/standin has.
.venv-timm/.installed: $(DEV_STAMP) tests/support/standin/torchvision_operators.py
	test -x .venv-timm/bin/python || $(PYTHON) -m venv .venv-timm
	.venv-timm/bin/python -m pip install --quiet --no-deps --constraint constraints.txt \
		timm torchvision open_clip_torch ftfy wcwidth || { echo 'timm could not be installed: nothing guards its models' >&2; exit 1; }
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r); site.addsitedir(%r)" \
		% (sysconfig.get_path("purelib"), "$(CURDIR)/tests/support/standin")); print("import torchvision_operators")' \
		> "$$(.venv-timm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	.venv-timm/bin/python -c 'import open_clip, timm, vit_export'
	touch $@

# Parity and scores on arm64's wheels under emulation: minutes
ARM64 := $(CURDIR)/.arm64
# qemu shows the host's /proc/cpuinfo, on which ONNX Runtime's search for features fails: this one is read
# in its place, and says what QEMU_CPU has.
test-arm64: $(ARM64)/.installed
	QEMU_LD_PREFIX=$(ARM64) QEMU_CPU=neoverse-n1 PYTHONPATH=runtime:$(ARM64)/site PYTHONDONTWRITEBYTECODE=1 \
		$(ARM64)/usr/bin/python3.11 -m pytest -p no:cacheprovider -o addopts= --import-mode=importlib \
		tests/outputs/test_parity.py tests/outputs/test_scores.py

$(ARM64)/.installed: constraints.txt
	@command -v mmdebstrap >/dev/null && command -v qemu-aarch64-static >/dev/null \
		|| { echo 'needs root and apt-get install mmdebstrap qemu-user-static binfmt-support' >&2; exit 1; }
	@grep -q enabled /proc/sys/fs/binfmt_misc/qemu-aarch64 \
		|| { echo 'needs root and: mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; update-binfmts --enable qemu-aarch64' >&2; exit 1; }
	rm -rf $(ARM64)
	mmdebstrap --variant=extract --arch=arm64 --include=python3,libstdc++6 bookworm $(ARM64)
	mkdir -p $(ARM64)/proc
	for core in 0 1; do printf 'processor\t: %s\nBogoMIPS\t: 50.00\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n' \
		$$core 'fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp'; done \
		> $(ARM64)/proc/cpuinfo
	$(PYTHON) -m pip install --quiet --target $(ARM64)/site --only-binary=:all: --python-version 3.11 \
		--implementation cp --abi cp311 $(foreach tag,2_28 2_27 2_17,--platform manylinux_$(tag)_aarch64) \
		--platform manylinux2014_aarch64 --constraint constraints.txt onnxruntime numpy pillow pytest hypothesis
	touch $@

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Workflows, and the files that images are made of
check-workflows: .venv-workflows/.installed
	.venv-workflows/bin/zizmor --offline --quiet .github
	.venv-workflows/bin/actionlint
	.venv-workflows/bin/hadolint deploy/Containerfile.*

# Speed and accuracy beside eager PyTorch, torch.compile, Optimum and OpenVINO; QUICK=--quick
benchmark: dev peers
	$(BIN)/python benchmarks/compare.py $(QUICK)

# The tables of docs/benchmarks.md and the chart of the README, from benchmarks/results
readme-table: dev
	$(BIN)/python benchmarks/readme_table.py

# zentorch wants a PyTorch of its own, and is for x86-64 alone
peers: .venv-peers/.installed
	$(MAKE) .venv-zentorch/.installed || echo 'zentorch could not be installed: its row is empty' >&2

# Environments for one purpose each, made of a file of requirements
.venv-peers/.installed: benchmarks/peers.txt
.venv-zentorch/.installed: benchmarks/zentorch.txt
.venv-docs/.installed: .github/requirements/docs.txt
.venv-release/.installed: .github/requirements/release.txt
.venv-workflows/.installed: .github/requirements/workflows.txt
$(patsubst %,.venv-%/.installed,peers zentorch docs release workflows): .venv-%/.installed:
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	rm -f $@
	.venv-$*/bin/python -m pip install --quiet --requirement $<
	touch $@

setup dev: $(DEV_STAMP)

$(DEV_STAMP): $(STAMP)
	$(PIP) --editable '.[$(DEVICE),dev]'
	touch $@

$(STAMP): pyproject.toml constraints.txt
	rm -f $(VENV)/.installed-*
	test -x $(BIN)/python || $(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}; make PYTHON=python3.12"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(DEVICE),cpu)
	$(PIP) --no-deps $(TORCH_CPU) 2>/dev/null \
		|| echo 'pip finds no $(TORCH_CPU): installing the build that it finds, of gigabytes where it has CUDA' >&2
endif
	$(PIP) --editable '.[$(DEVICE),export]'
	touch $@

clean:
	rm -rf $(VENV) .venv-gpu .venv-timm .venv-docs .venv-release .venv-sbom .venv-workflows site demo.onnx .mypy_cache .ruff_cache .pytest_cache .hypothesis
