# make demo: install, convert the checkpoint that comes with the tests, ask it about a picture
# make test: install, run the tests in two processes        make lint: ruff and mypy

# The first Python that is new enough (macOS's own is 3.9).
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
MINI = tests/reference/maverick-mini
OUT = demo/maverick-mini-e4r4
PICTURE = $(MINI)/golden/images/05_640x480_RGB.png

.PHONY: demo test lint clean

demo: .venv/app
	mkdir -p demo && test -d $(OUT) || .venv/bin/mlx-maverick convert $(MINI) --recipe e4r4 --out $(OUT)
	.venv/bin/mlx-maverick show $(OUT)
	.venv/bin/mlx-maverick generate --model $(OUT) --image $(PICTURE) \
		--prompt "What is in the picture?" --max-tokens 30 --seed 1 --verbose

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
	rm -rf .venv demo build dist *.egg-info
