# One environment (.venv) for everything. PYTHON names the interpreter that makes it (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
NBVAL := --nbval-lax --nbval-cell-timeout 120 --nbval-kernel-name python3 -p no:cacheprovider
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.PHONY: demo test lab screenshots notebooks bench mutate fuzz faults clean


demo: .venv/ready        ## every notebook, headless, on the built-in faces
	$(BIN)/grefel demo

test: .venv/ready        ## the library's tests, the panels in Chromium, then the committed notebooks
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pytest -m "not browser" -n logical --maxprocesses 4 --dist loadfile
	$(BIN)/pytest -m browser
	GREFEL_PANELS=0 $(BIN)/pytest $(NBVAL) notebooks

lab: .venv/ready         ## JupyterLab in the project's folder, on the first notebook
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/01_data_exploration.ipynb

screenshots: .venv/ready ## the README's pictures of the panels, from a real JupyterLab (needs chromium)
	GREFEL_SCREENSHOTS=notebooks/pictures/panels $(BIN)/pytest tests/browser -k "not notebook"

notebooks: .venv/ready   ## run the committed notebooks again, in place
	GREFEL_PANELS=0 $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.kernel_name=python3 notebooks/*.ipynb
	$(BIN)/python notebooks/pictures/extract.py

bench: .venv/ready       ## speed, each as a ratio of two things measured in turn; about 20 minutes
	$(BIN)/python tests/benchmarks/run.py

mutate: .venv/ready      ## do the tests notice small faults? tests/README.md; MODULES="losses optim" for some
	$(BIN)/pip install --quiet --editable '.[mutate]'
	GREFEL_PANELS=0 OMP_NUM_THREADS=1 $(BIN)/python tests/mutate.py $(MODULES)

fuzz: .venv/ready        ## ten times as many damaged files as the tests try
	FUZZ=2000 $(BIN)/pytest tests/faults/test_fuzz.py

faults: .venv/ready      ## kill, fill the disk, flip bits, start twice; the table in tests/README.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/harness.py

.venv/ready: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed: make PYTHON=...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:                   ## remove the environment and the caches; runs and data stay
	rm -rf .venv .pytest_cache .ruff_cache .mutation data/cache *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
