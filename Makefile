# What people do with this project, by name. Flags for the program go into
# ARGS: make run ARGS="--port 9000"

CARGO ?= cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/release/little-key-value
SCRIPTS := $(wildcard scripts/*.sh scripts/examples/*.sh scripts/package/*.sh scripts/package/debian/*) .ci/run

# Most tests wait more than they compute, so more run at once than there are processors.
PROCESSORS := $(shell getconf _NPROCESSORS_ONLN)
export RUST_TEST_THREADS ?= $(shell echo $$((3 * $(PROCESSORS))))

.DEFAULT_GOAL := help
.PHONY: help run build test cargo-test check bench audit demo image deb clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## Start the store; Ctrl-C stops it
	@exec "$(BIN)" $(ARGS)

build: ## Build the program, optimized
	@[ -e "$(BIN)" ] || case "$(or $(CARGO_TARGET_DIR),$$PWD)" in \
	*' '*) echo "jemalloc does not build below a path with spaces: use another, or set CARGO_TARGET_DIR to one" >&2; exit 1 ;; \
	*) echo "The first build takes three to four minutes on two processors." >&2 ;; \
	esac
	@$(CARGO) build --release --locked

test: ## Run every test
	@$(MAKE) --no-print-directory --jobs=2 build cargo-test
	scripts/test.sh

cargo-test:
	CARGO="$(CARGO)" scripts/cargo-test.sh

check: ## Check format, lints, documentation and scripts
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTFLAGS="--cfg portable -D warnings" $(CARGO) check --locked --target-dir target/portable
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	@command -v shellcheck >/dev/null || { echo "make check needs shellcheck"; exit 1; }
	shellcheck --external-sources --source-path=scripts $(SCRIPTS)

bench: build ## Measure the store beside other servers, for an hour
	@scripts/bench.sh

audit: ## Check the dependencies' licences and known faults (needs cargo-deny)
	@command -v cargo-deny >/dev/null || { echo "make audit needs cargo-deny"; exit 1; }
	$(CARGO) deny --locked check

demo: build ## Watch the countries of the world load through curl and ask for some
	@scripts/demo.sh

image: ## Make a container image of the program alone (needs buildah, podman or docker)
	@scripts/package/image.sh

deb: ## Make a Debian package with a service of systemd (needs cargo-deb)
	@command -v cargo-deb >/dev/null || { echo "make deb needs cargo-deb"; exit 1; }
	$(CARGO) deb --locked --strip

clean: ## Remove what was built
	@$(CARGO) clean
