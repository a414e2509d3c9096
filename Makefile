# What can be done here. CI runs `make test` and nothing else.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Administrators' programs (ip, nft, tcpdump) are not on everybody's path.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

CARGO ?= cargo
# Scenarios start API servers; more than one at a time wants more than two cores.
E2E_THREADS ?= 1
# Where tools are kept that are built once; outside of the tree, so that cleaning keeps them.
CACHE := $(or $(ISTHMUS_TOOLS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/isthmus/tools)

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(CACHE)/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

# Where tests find the servers that `tools` has built.
WITH_TOOLS = ISTHMUS_TOOLS_BIN="$$(e2e/tools/build)"

# Tests make network namespaces. Who is not root may do so within a user namespace.
AS_ADMIN := $(shell [ "$$(id -u)" = 0 ] || echo unshare --user --map-current-user --keep-caps)

# Random tests throw the same dice in every run: what fails is the change's doing, and fails again. `make explore` throws others.
export PROPTEST_RNG_SEED ?= 1

CRATES_WITH_BENCHES := $(patsubst %/benches,%,$(wildcard */benches))

.PHONY: help
help: ## this text
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## a mesh on this machine, to look at and to try; needs no root; CLUSTERS=3, SCENE=failover, CHECK=1 plays all scenes
	@.ci/deps
	$(CARGO) build -p isthmus
	@target/debug/isthmus demo --clusters=$(or $(CLUSTERS),3) $(if $(SCENE),--scene=$(SCENE)) $(if $(CHECK),--check)

.PHONY: demo-packets
demo-packets: ## the same with packets: namespaces as nodes and pods, real API servers, encryption; CHECK=1 tries it all
	@.ci/deps
	$(CARGO) build -p isthmus
	$(CARGO) build -p e2e --bin demo
	@$(WITH_TOOLS) $(AS_ADMIN) target/debug/demo --clusters=$(or $(CLUSTERS),2) $(if $(CHECK),--check)

.PHONY: test
test: ## all of it, from a clean clone: what is missing on the machine first, then as `make check`
	@.ci/steps deps tools fmt-check unused clippy doc deny unit e2e

.PHONY: check
check: ## format, lints, documentation, licences, unit and crate tests, then end to end
	@.ci/steps fmt-check unused clippy doc deny unit e2e

.PHONY: e2e
e2e: tools ## end to end: the built binary against real API servers, etcd and CoreDNS
	$(CARGO) build -p isthmus
	$(CARGO) test -p e2e --test e2e --no-run
	$(WITH_TOOLS) $(AS_ADMIN) $(CARGO) test -p e2e --test e2e -- --test-threads=$(E2E_THREADS)
	@$(MAKE) --no-print-directory demo CHECK=1
	@$(MAKE) --no-print-directory demo-packets CHECK=1

.PHONY: soak
soak: tools ## kill daemons and stores at random moments while everything changes, for SECONDS (600); SEED=7 throws the same dice
	$(CARGO) build -p isthmus
	$(CARGO) test -p e2e --test e2e --no-run
	ISTHMUS_SOAK_SECONDS=$(or $(SECONDS),600) ISTHMUS_SOAK_SEED=$(or $(SEED),$$RANDOM) $(WITH_TOOLS) \
		$(AS_ADMIN) $(CARGO) test -p e2e --test e2e -- --nocapture --exact \
		soak::killing_anything_at_any_moment_under_churn_withdraws_nothing_good_and_loses_nothing

.PHONY: bench
bench: ## measurements; nothing fails by being slow
ifeq ($(CRATES_WITH_BENCHES),)
	@echo "no crate has benches"
else
	$(CARGO) bench --benches $(addprefix -p ,$(CRATES_WITH_BENCHES))
endif

.PHONY: explore
explore: tools ## the random tests with ROUNDS (20) other dice, which are printed; SEED=7 begins with these
	$(CARGO) test --workspace --exclude e2e --no-run
	@first=$(or $(SEED),$$RANDOM); for seed in $$(seq $$first $$((first + $(or $(ROUNDS),20) - 1))); do \
		echo "════ PROPTEST_RNG_SEED=$$seed"; \
		PROPTEST_RNG_SEED=$$seed $(CARGO) test --quiet --workspace --exclude e2e --lib; \
		PROPTEST_RNG_SEED=$$seed $(CARGO) test --quiet -p mesh-types --test properties; \
		PROPTEST_RNG_SEED=$$seed $(WITH_TOOLS) $(CARGO) test --quiet -p kvstore --test differential --test roots; \
	done

.PHONY: fuzz
fuzz: ## look for inputs that break what reads a peer's bytes; each target for SECONDS (60)
	@.ci/fuzz run $(or $(SECONDS),60)

.PHONY: reasons
reasons: ## write docs/reasons.md anew
	ISTHMUS_WRITE_PAGES=1 $(CARGO) test -p mesh-types --test reasons_page

.PHONY: picture
picture: tools ## the terminal screens of docs/screens, and the picture of README, anew
	$(WITH_TOOLS) ISTHMUS_WRITE_PAGES=1 $(CARGO) test -p isthmus --test mesh terminal

.PHONY: fmt
fmt: ## format all code
	$(CARGO) fmt --all

.PHONY: release
release: ## the one static binary, target/x86_64-unknown-linux-gnu/release/isthmus
	ISTHMUS_REVISION="$$(git rev-parse --short=12 HEAD)" $(CARGO) static
	@if readelf --dynamic target/x86_64-unknown-linux-gnu/release/isthmus | grep NEEDED; then \
		echo "the binary needs shared libraries" >&2; exit 1; fi

.PHONY: tools
tools: ## build the servers for the end-to-end tests
	@e2e/tools/build

.PHONY: deps
deps: ## install the programs that building and testing need, or say what is missing
	@.ci/deps

# The steps of `make check`, one by one.

.PHONY: fmt-check
fmt-check:
	$(CARGO) fmt --all --check

.PHONY: unused
unused:
	@.ci/unused-dependencies

.PHONY: clippy
clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: fuzz-check
fuzz-check:
	@.ci/fuzz check

.PHONY: doc
doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

.PHONY: deny
deny: $(CARGO_DENY)
	$(CARGO_DENY) --workspace check --hide-inclusion-graph bans licenses sources

$(CARGO_DENY):
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --locked --debug --root $(CACHE)/cargo-deny-$(CARGO_DENY_VERSION) \
		cargo-deny@$(CARGO_DENY_VERSION)

.PHONY: unit
unit: tools
	$(CARGO) test --workspace --exclude e2e --no-run
	$(WITH_TOOLS) $(AS_ADMIN) $(CARGO) test --workspace --exclude e2e --no-fail-fast
	$(CARGO) test -p e2e --lib --bins
