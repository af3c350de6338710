# `make report` and `make test` set everything up on a fresh machine; both start at once where the
# set-up exists.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA ?= digits
OUT ?= report
# The tests are many small arrays: a process for each core and one thread in each is quickest.
WORKERS ?= auto

.PHONY: report test slow check notebooks clean

report: $(READY)
	$(BIN)/python -m pplvae report $(DATA) --out $(OUT)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not gpu" $(ARGS)

slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

notebooks: $(READY)
	$(BIN)/jupytext --to ipynb --update-metadata '{"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}' --execute notebooks/*.py

# torch goes first and alone, pinned, so that a CPU build at hand is taken; where pip knows of none,
# point it to PyTorch's CPU index first, or it brings gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) $(OUT)
