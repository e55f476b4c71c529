# The two commands: `make demo` and `make test`. `make help` lists the rest.
# All state is under build/. MESON_ARGS, PYTEST_ARGS and CC are passed on.

BUILD   ?= build
PREFIX  ?= /usr/local
PYTHON  := /usr/bin/python3
SECONDS ?= 60

.PHONY: all demo test quick bench interop tidy fuzz soak deps install uninstall clean help

all: deps ## build everything
	@tests/run build

demo: all ## boot real VMs and show the main job (KEEP=1 leaves it running)
	@$(BUILD)/src/ctl/outrigger demo $(if $(KEEP),--keep)

test: deps ## run every test
	@tests/run test

quick: deps ## the tests that need neither root nor minutes
	@tests/run quick

bench: all ## benchmarks against peers (ONLY=part)
	@$(PYTHON) bench/run.py $(if $(ONLY),--only $(ONLY))

interop: all ## tests against slow or heavy peers
	@tools/deps tools/deps-interop.txt
	@tests/run interop

tidy: deps ## clang-tidy over src/ (minutes)
	@tests/run tidy

fuzz: deps ## fuzz every target for SECONDS each
	@tests/run fuzz $(SECONDS)

soak: deps ## faults under load for SECONDS, asan then tsan (FLAVOUR=, SEED= to replay)
	@tests/run soak $(SECONDS)

install: all ## install under PREFIX (default /usr/local), DESTDIR before it
	@meson configure $(BUILD) -Dprefix=$(PREFIX) && ninja -C $(BUILD) > /dev/null
	@meson install -C $(BUILD) --no-rebuild --quiet $(if $(DESTDIR),--destdir $(DESTDIR))

uninstall: ## remove what the last install put there
	@ninja -C $(BUILD) uninstall

deps: ## install the Debian packages that are missing
	@tools/deps

clean: ## remove build/
	rm -rf build build-*

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile
