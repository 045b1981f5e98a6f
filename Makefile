# make demo: install, convert the model that comes along, ask it about a picture
# make test: install, run the tests in two processes        make lint: ruff and mypy

# The first Python that is new enough (macOS's own is 3.9).
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
OUT = demo-e4r4
WEIGHTS = mlx_maverick/models/demo/model.safetensors

.PHONY: demo test lint clean

demo: $(OUT)/maverick.json
	.venv/bin/mlx-maverick show $(OUT)
	.venv/bin/mlx-maverick generate --model $(OUT) --image demo \
		--prompt "What is in the picture?" --temp 0 --verbose

$(OUT)/maverick.json: $(WEIGHTS) | .venv/app
	rm -rf $(OUT)
	.venv/bin/mlx-maverick convert demo --recipe e4r4 --out $(OUT)

test: .venv/dev
	.venv/bin/python -m pytest -n 2 --dist loadfile

lint: .venv/dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: brew install python@3.13"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/app: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet --editable .
	touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/app

clean:
	rm -rf .venv $(OUT) build dist *.egg-info
