# From a fresh clone: `make book` renders the book, `make test` checks everything. `make` alone lists what there is.

PY    := .venv/bin/python
BOOK  := .venv/bin/jupyter-book build . -W -n --keep-going
# tools/bootstrap.py chooses the Python for .venv; to start it, any that runs will do.
START  = $(shell for p in $(PYTHON) python3 python3.11 python3.12 python3.13 python3.14 python; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1 && echo $$p && break; done)
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup book test check test-elsewhere serve lab notebooks lint clean

help:       ## show this list
	@echo "make ..."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:      ## make .venv and install what is pinned; the others call this
	@$(if $(START),$(START) tools/bootstrap.py,echo "No Python was found. Install Python 3.11 to 3.14 (Debian: apt install python3 python3-venv)." >&2; exit 1)

# A page with a warning must warn again at the next build: Sphinx would remember the page and forget the warning.
book: setup ## render the book from the notebooks' stored outputs; a warning is an error
	@$(BOOK) || { rm -rf _build; echo "The book was not built: see the WARNING lines above." >&2; exit 1; }
	@echo "Open  $(CURDIR)/_build/html/index.html"
	@echo "or run  make serve  and open  http://127.0.0.1:8000"

# Two notebooks at once have four threads on two cores: a thread that has nothing to do must not spin.
test: setup ## run every test: package, notebooks, book, browser
	OMP_WAIT_POLICY=passive $(PY) -m pytest tests notebooks $(NBVAL) -n 2 --dist loadfile --no-loadscope-reorder -q -rfEs --durations=20

check: lint ## in under three minutes: style, the core, the files floor, one notebook
	OMP_WAIT_POLICY=passive $(PY) -m pytest tests/core tests/files notebooks/05_rmsnorm.ipynb $(NBVAL) -n 2 -q

# Tests whose results depend on the order and the rounding of sums, and the notebooks.
ARITHMETIC := tests/core tests/checkpoint tests/generation tests/fast tests/parallel tests/training/test_training.py \
	tests/training/test_faster.py tests/bench tests/plots tests/exercises
# The kernels of torch, oneDNN and MKL, and MKL's order of summing.
OLDER := "default SSE41 SSE4_2 COMPATIBLE" "avx2 AVX2 AVX2 AVX2"
ELSEWHERE ?= $(ARITHMETIC) notebooks
test-elsewhere: setup ## run what depends on arithmetic as on two older processors, with one thread
	@failed=0; for kernels in $(OLDER); do set -- $$kernels; \
	ATEN_CPU_CAPABILITY=$$1 ONEDNN_MAX_CPU_ISA=$$2 MKL_ENABLE_INSTRUCTIONS=$$3 MKL_CBWR=$$4 OMP_NUM_THREADS=1 \
	$(PY) -m pytest -p elsewhere $(ELSEWHERE) $(NBVAL) -n 2 --dist worksteal -q -rfEs || failed=1; done; exit $$failed

serve: book ## show the rendered book on this machine, http://127.0.0.1:8000
	$(PY) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

# Trusted, JupyterLab shows the sharper of the two pictures that each figure is stored as.
lab: setup  ## open the chapters in JupyterLab
	.venv/bin/jupyter trust notebooks/*.ipynb
	.venv/bin/jupyter lab notebooks

notebooks: setup ## run all chapters in clean kernels and store their outputs
	$(PY) tools/notebooks.py

lint: setup ## check the code's style and the notebooks' form
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) tools/notebooks.py --check

clean:      ## remove what was built; .venv stays
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
