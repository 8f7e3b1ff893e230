# Everything that is done with this repository. `make help` lists it.

# A .sqlx that is committed, and never whatever DATABASE_URL names, says what the queries are.
export SQLX_OFFLINE := true

CARGO ?= cargo
PYTHON ?= python3
CARGO_DENY_VERSION := 0.20.2

# The folders of the tools: git-ignored, filled at need with the versions pinned in .ci/tools.
TOOLS := .ci/tools
VENV := .venv
PYTHON_TOOLS := $(VENV)/.installed
NODE_TOOLS := $(TOOLS)/node_modules/.installed
CLIENT_TOOLS := examples/typescript/node_modules/.installed
CARGO_DENY := $(TOOLS)/cargo/bin/cargo-deny-$(CARGO_DENY_VERSION)

.DEFAULT_GOAL := help

##@ Two commands

.PHONY: serve
serve: ## Start the service with its own private database (more: make serve ARGS="--listen 127.0.0.1:9000")
	@.ci/with-postgres $(CARGO) run --release --locked -- serve $(ARGS)

.PHONY: test
test: ## Run all tests on a PostgreSQL that they start themselves (more: make test ARGS="withdrawal")
	@.ci/with-postgres .ci/run-tests $(ARGS)

##@ While working

.PHONY: build
build: ## Build the program, in release
	$(CARGO) build --release --locked

.PHONY: format
format: ## Format the code
	$(CARGO) fmt
	rustfmt --edition 2024 examples/rust/src/bin/*.rs

.PHONY: sqlx
sqlx: ## Describe the checked queries anew: writes .sqlx
	@.ci/with-postgres .ci/with-database .ci/query-metadata write

.PHONY: openapi
openapi: ## Write openapi/openapi.json from the handlers
	@mkdir -p openapi
	$(CARGO) run --quiet --locked -- openapi > openapi/openapi.json.new
	@mv openapi/openapi.json.new openapi/openapi.json

.PHONY: demo
demo: ## Fill the private database with demo data, while no service runs on it (more: make demo ARGS="--customers 5000")
	@.ci/with-postgres $(CARGO) run --release --locked -- demo $(ARGS)

.PHONY: pictures
pictures: $(NODE_TOOLS) ## Take the pictures of the README anew, in a real browser
	@PICTURES=docs/pictures .ci/with-postgres .ci/with-database .ci/browser

.PHONY: bench
bench: ## Measure the speed beside what the machine can do (more: make bench ARGS="--quick --only reads,put")
	@.ci/with-postgres bench/speed $(ARGS)

.PHONY: bench-audit
bench-audit: ## Measure the audit log beside the same service without it (more: make bench-audit ARGS="--quick")
	@.ci/with-postgres bench/audit-log $(ARGS)

.PHONY: clean
clean: ## Remove what was built and the tools that were installed; data stays
	$(CARGO) clean
	rm -rf $(VENV) $(TOOLS)/node_modules $(TOOLS)/cargo examples/*/node_modules examples/*/generated

##@ What CI does

.PHONY: ci
ci: fmt locks clippy doc deny scripts spec spec-diff docker-lint sqlx-check test postgres-versions foreign schemathesis clients browser-test ## Everything below, and the tests

.PHONY: fmt
fmt: ## The code is formatted
	$(CARGO) fmt --check
	rustfmt --edition 2024 --check examples/rust/src/bin/*.rs

.PHONY: locks
locks: ## What is built beside the service can be built from its lock files as they are
	@for manifest in bench/driver bench/micro fuzz; do \
	  $(CARGO) metadata --locked --quiet --format-version 1 --manifest-path $$manifest/Cargo.toml > /dev/null || exit 1; \
	done

.PHONY: clippy
clippy: ## No warning in any target
	$(CARGO) clippy --locked --all-targets -- -D warnings

.PHONY: doc
doc: ## The documentation of the code builds without a warning
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

.PHONY: deny
deny: $(CARGO_DENY) ## Dependencies: licences, bans, sources
	$(CARGO_DENY) --locked check bans licenses sources

.PHONY: scripts
scripts: $(PYTHON_TOOLS) ## The shell scripts have no trap that shellcheck knows
	$(VENV)/bin/shellcheck .ci/run .ci/run-tests .ci/with-postgres .ci/with-database .ci/query-metadata .ci/schemathesis .ci/foreign .ci/clients .ci/browser .ci/postgres-versions \
	  deploy/compose/make-secrets deploy/compose/roles.sh

.PHONY: sqlx-check
sqlx-check: ## .sqlx is what the migrated schema gives
	@.ci/with-postgres .ci/with-database .ci/query-metadata check

.PHONY: spec
spec: $(PYTHON_TOOLS) $(NODE_TOOLS) ## openapi/openapi.json: openapi-spec-validator, spectral, redocly
	$(VENV)/bin/openapi-spec-validator openapi/openapi.json
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(TOOLS)/node_modules/.bin/spectral lint --fail-severity=hint openapi/openapi.json
	REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true PATH="$(CURDIR)/$(VENV)/bin:$$PATH" \
	  $(TOOLS)/node_modules/.bin/redocly lint --config=.redocly.yaml --max-problems=1000 openapi/openapi.json

.PHONY: spec-diff
spec-diff: $(NODE_TOOLS) ## openapi/openapi.json breaks nothing that openapi/released.json promised, but what is accepted
	$(VENV)/bin/node --test --test-reporter=dot .ci/spec-diff.test.mjs
	$(VENV)/bin/node .ci/spec-diff.mjs openapi/released.json openapi/openapi.json openapi/accepted-breaks.json

.PHONY: schemathesis
schemathesis: $(PYTHON_TOOLS) ## A running service keeps to its document, whatever is sent
	@.ci/with-postgres .ci/schemathesis

.PHONY: postgres-versions
postgres-versions: $(PYTHON_TOOLS) $(NODE_TOOLS) ## The program works on the oldest and the newest PostgreSQL that it supports
	@.ci/postgres-versions $(ARGS)

.PHONY: foreign
foreign: $(PYTHON_TOOLS) ## Packages that are not ours verify an export of the audit log
	@.ci/with-postgres .ci/foreign

.PHONY: clients
clients: $(PYTHON_TOOLS) $(CLIENT_TOOLS) ## Clients that five generators make, against a running service; and examples/ (see docs/clients.md)
	@.ci/with-postgres .ci/clients

.PHONY: browser-test
browser-test: $(NODE_TOOLS) ## The pages in a real browser (more: make browser-test ARGS="tests/browser/trail.test.mjs")
	@.ci/with-postgres .ci/with-database .ci/browser $(ARGS)

.PHONY: docker-lint
docker-lint: $(PYTHON_TOOLS) ## The Dockerfile
	$(VENV)/bin/hadolint Dockerfile

##@ What takes minutes

.PHONY: soak
soak: ## The long tests: crashes, attacks on 100,000 entries, a million operations on three replicas
	@.ci/with-postgres $(CARGO) run --quiet --locked --example with_test_cluster -- \
	  $(CARGO) nextest run --locked --no-fail-fast --run-ignored only soak_

.PHONY: fuzz
fuzz: ## Every parser of outside bytes, a minute each (needs cargo-fuzz)
	@cd fuzz && for target in $$($(CARGO) fuzz list); do \
	  mkdir -p target/found/$$target; \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target target/found/$$target corpus/$$target -- -max_total_time=60 -max_len=8192 || exit 1; \
	done

##@ Help

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The tools.

$(PYTHON_TOOLS): $(TOOLS)/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $(TOOLS)/requirements.txt
	@touch $@

# No script of a package is run: one of them reports the installation to its author.
$(NODE_TOOLS): $(TOOLS)/package-lock.json $(PYTHON_TOOLS)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm ci --prefix $(TOOLS) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(CLIENT_TOOLS): examples/typescript/package-lock.json $(PYTHON_TOOLS)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm ci --prefix examples/typescript --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(CARGO_DENY):
	$(CARGO) install --locked --no-default-features --root $(TOOLS)/cargo --target-dir $(TOOLS)/cargo/target \
	  --version $(CARGO_DENY_VERSION) cargo-deny
	@rm -rf $(TOOLS)/cargo/target
	@mv $(TOOLS)/cargo/bin/cargo-deny $@
