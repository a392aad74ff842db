# Everything a person does with this tree has a target here; `make` alone explains them.
# The build proper is CMake + Ninja (CMakeLists.txt, CMakePresets.json); this file only calls it.

PREFIX  ?= /usr/local
SECONDS ?= 60
JOBS    ?= $(shell nproc)
CTEST    = ctest --test-dir build --output-on-failure -j $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help demo test build bench fuzz soak format lint install clean

help: ## this list
	@echo "Veridem: AI compute that can be checked. Targets:"
	@echo
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18
	@echo
	@echo "On Debian 12, demo and test need only git and make: they install what is missing"
	@echo "(scripts/debian-packages.txt says what and why; sudo is asked for only when not root)."
	@echo "Settings: PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) SECONDS=$(SECONDS) JOBS=$(JOBS)"

demo: ## a whole network on this machine, a cheat caught and slashed; < 8 min the first time
	@scripts/setup build test
	@scripts/build
	@scripts/fetch-model
	@scripts/demo

test: ## everything CI runs: unit, fuzz smoke, sanitizers, processes; < 15 min with set-up
	@scripts/setup build test cross
	@scripts/build
	@scripts/fetch-model
	@scripts/fetch-model gemma3
	@$(CTEST)

build: ## build/veridem, optimised
	@scripts/setup build
	@scripts/build
	@echo "build: build/veridem is made; build/veridem --help lists its commands"

bench: ## speed of the engine and of replay; peers too when given (bench/README.md)
	@scripts/setup build test
	@scripts/build
	@scripts/fetch-model
	@scripts/fetch-model gemma3
	@bench/run

fuzz: ## each fuzz target for SECONDS (60) seconds, from its corpus
	@scripts/setup build test
	@scripts/fuzz $(SECONDS)

soak: ## the long forms of the crash, fuzz, load and tamper tests; up to 100 min
	@scripts/setup build test cross
	@scripts/build
	@scripts/fetch-model
	@scripts/fetch-model gemma3
	@scripts/soak

format: ## clang-format over the tree
	@scripts/setup build lint
	@scripts/format

lint: ## clang-format (check only) and clang-tidy
	@scripts/setup build lint
	@scripts/format --check
	@scripts/lint

install: build ## the veridem command under $(DESTDIR)$(PREFIX)
	@DESTDIR="$(DESTDIR)" cmake --install build --prefix "$(PREFIX)"

clean: ## remove every build folder
	rm -rf build build-*
