# Targets that people and CI use. Each is quick the second time: tools are built
# once into .bin from tools/go.mod, all else rests on the caches of Go.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO      ?= go
ARGS    ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
IMAGE   ?= oncelog/brokerd:dev

LDFLAGS := -s -w -X github.com/oncelog/oncelog/internal/buildinfo.version=$(VERSION)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: run
run: ## three brokers in one process; ARGS="--data ./data" keeps the data
	$(GO) run ./cmd/brokerd dev $(ARGS)

.PHONY: build
build: ## static binaries in bin/
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: test
# One thread of Go in each: docs/architecture.md, "Where tests are". Those that take long begin first.
test: ## all tests with the race detector
	$(GO) test -race -timeout 18m -p 3 -exec 'env GOMAXPROCS=1' ./test/... ./internal/raftgroup ./...

.PHONY: check
check: check-format check-mod check-vet check-static check-proto check-generated check-shell check-vuln check-bench ## format, modules, vet, staticcheck, protos, generated code, scripts, vulnerabilities, benchmarks
	@echo 'check: all good'

.PHONY: bench
bench: ## the figures of docs/performance.md, beside the limit of this machine
	$(GO) run ./bench/run $(ARGS)

.PHONY: chaos
chaos: ## kill, pause and cut brokers under load, then check every record
	scripts/chaos.sh $(ARGS)

.PHONY: chaos-long
chaos-long: ## chaos for hours (HOURS=8), all levels in turn with fresh seeds, and a table in the end
	scripts/chaos.sh --hours '$(or $(HOURS),8)' $(ARGS)

.PHONY: catch-up
catch-up: ## a replica that lacks 1 GiB gets it under load and trouble; ARGS="--mib 10240"
	@mkdir -p bin
	$(GO) build -o bin/brokerd ./cmd/brokerd
	$(GO) run ./test/catchup $(ARGS)

.PHONY: soak
soak: ## three brokers at full load for an hour: memory, elections, a table; ARGS="-for 10m"
	$(GO) run ./bench/soak $(ARGS)

.PHONY: operations
operations: build ## every command of docs/operations.md and docs/security.md, and the examples, run against real brokers (three minutes)
	$(GO) test -count=1 -timeout 5m ./test/operations -args -binaries '$(CURDIR)/bin' $(ARGS)

.PHONY: upgrade
upgrade: ## a rolling restart from the last release, or a pinned commit, to this one under load
	scripts/upgrade.sh $(ARGS)

.PHONY: monitoring
monitoring: ## every query of the dashboard and the alert rules against a live cluster
	cd tools/monitoring && $(GO) test -count=1 $(ARGS) ./...

.PHONY: compat
compat: ## programs written for Apache Kafka against three real brokers; makes docs/compatibility.md
	status=0; (cd compat && $(GO) test -count=1 -timeout 6m ./parity) || status=$$?; \
	(cd compat && COMPAT_REQUIRED=1 COMPAT_RESULTS=results.json $(GO) test -count=1 -parallel 2 -timeout 28m $(ARGS) .) || status=$$?; \
	$(GO) test -count=1 ./internal/compatpage -args -update && exit $$status

.PHONY: examples
examples: ## the example that stores in PostgreSQL, killed at every step (Debian's package postgresql)
	cd examples/postgres && POSTGRES_REQUIRED=1 $(GO) test -count=1 -timeout 5m $(ARGS) ./...

.PHONY: image
image: build ## the container image oncelog/brokerd:dev; nothing is pulled
	scripts/image.sh '$(IMAGE)'

.PHONY: proto
proto: .bin/buf ## generate the code of api/proto
	.bin/buf generate

# Tools. They have a module of their own, because their dependencies and those
# of the brokers do not fit into one.

TOOL_buf         := github.com/bufbuild/buf/cmd/buf
TOOL_staticcheck := honnef.co/go/tools/cmd/staticcheck
TOOL_govulncheck := golang.org/x/vuln/cmd/govulncheck

.bin/%: tools/go.mod tools/go.sum
	@mkdir -p .bin
	@echo 'building $* (once)'
	@cd tools && $(GO) build -o ../$@ $(TOOL_$*)
	@touch $@

# Checks, each alone too.

.PHONY: check-format
check-format:
	@files=$$(git ls-files --cached --others --exclude-standard '*.go' | xargs -r ls -d 2>/dev/null | xargs -r gofmt -l); \
	if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi

.PHONY: check-mod
check-mod:
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff
	cd compat && $(GO) mod tidy -diff
	cd examples/postgres && $(GO) mod tidy -diff
	cd tools/monitoring && $(GO) mod tidy -diff

.PHONY: check-vet
check-vet:
	$(GO) vet ./...

.PHONY: check-static
check-static: .bin/staticcheck
	.bin/staticcheck ./...

.PHONY: check-proto
check-proto: .bin/buf
	.bin/buf lint

.PHONY: check-generated
check-generated: .bin/buf
	scripts/check-generated.sh

.PHONY: check-shell
check-shell:
	@for script in .ci/run scripts/*.sh; do bash -n "$$script"; test -x "$$script" || { echo "$$script is not executable"; exit 1; }; done

.PHONY: check-vuln
check-vuln: .bin/govulncheck
	scripts/check-vuln.sh

.PHONY: check-bench
check-bench: ## each benchmark once: that it runs, not how fast
	$(GO) test -run '^$$' -bench . -benchtime 1x ./...

.PHONY: clean
clean: ## remove what was built
	rm -rf bin .bin
