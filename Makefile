# Every target is one plain thing; .ci/run calls `make test` only.
GO      ?= go
BED_DIR ?= /var/lib/tranship-bed
BED     := $(BED_DIR)/bed.json
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
KEEP    ?=
SEED    ?= 1
DURATION ?= 5m
FAULTS  ?=
FUZZTIME ?= 30s

.PHONY: build image lint test test-core test-bed test-short test-long test-gitea bed-up bed-down bed-status demo chaos mutate fuzz bench bench-git bench-data clean

build: ## the product as one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o build/tranship ./cmd/tranship

# Vet reads what the build compiles, where it is told to compile in the same way.
lint: ## formatting, vet, import arrows and size budgets
	@unformatted="$$(gofmt -l $$(git ls-files '*.go'))"; test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted"; exit 1; }
	CGO_ENABLED=0 $(GO) vet -trimpath ./...
	cd test/bed && $(GO) vet ./...
	cd test/demo && $(GO) vet ./...
	$(GO) run ./test/lint

test-short: lint ## everything that needs no cluster; several minutes on two cores
	$(GO) test -race -short ./...

MOVER_IMAGE := localhost/tranship:test
# Packages with tests on the bed. Pods and kubelets have bad minutes of their own
# on a small machine: such a test is run once more, alone, and named at the end.
# The others are never run again, and neither is a data race. The mover's engine
# needs no pod, only the bed's object store.
ON_BED := /tranship/(executor|test/e2e)(/|$$)
ENGINE := ./executor/mover/engine

image: build bed-up ## the product as an image on every node of the bed
	cd test/bed && $(GO) run . image --out $(CURDIR)/build/image.tar --ref $(MOVER_IMAGE) --entrypoint /tranship tranship=$(CURDIR)/build/tranship
	cd test/bed && $(GO) run . load --dir $(BED_DIR) $(CURDIR)/build/image.tar

test: lint image ## unit to end to end on the bed; test-long and test-gitea have the rest
	cd test/bed && $(GO) test ./...
	cd test/demo && $(GO) test ./...
	$(MAKE) test-core test-bed
	$(MAKE) bed-down

test-core: ## what needs no pod; with the race detector what takes minutes is short, and the engine has a second, whole run without
	$(GO) test -race -count=1 -p 2 -timeout 40m $$($(GO) list ./... | grep -vE '$(ON_BED)|/test/gitea$$|/reconciler$$')
	$(GO) test -race -short -count=1 -p 2 -timeout 40m ./reconciler $(ENGINE)
	TRANSHIP_BED=$(BED) $(GO) test -count=1 -timeout 40m $(ENGINE)

test-bed: ## live tests, end to end, the demonstration, two minutes of kills; needs `make image`
	cd test/bed && $(GO) run . selftest --dir $(BED_DIR)
	cd test/tools && $(GO) build -o $(CURDIR)/build/gotestsum gotest.tools/gotestsum
	TRANSHIP_BED=$(BED) TRANSHIP_BINARY=$(CURDIR)/build/tranship TRANSHIP_MOVER_IMAGE=$(MOVER_IMAGE) \
		build/gotestsum --format testname --rerun-fails=1 --rerun-fails-max-failures=5 --rerun-fails-run-root-test \
		--rerun-fails-abort-on-data-race --rerun-fails-report build/again.txt \
		--packages="$$($(GO) list ./... | grep -E '$(ON_BED)' | grep -v /engine$$ | tr '\n' ' ')" -- -race -count=1 -p 1 -timeout 60m
	@! grep . build/again.txt || echo "the tests above failed once and passed when run again: find out why before a release"
	cd test/demo && $(GO) run . --bed $(BED) --tranship $(CURDIR)/build/tranship
	$(GO) run ./test/chaos --bed $(BED) --tranship $(CURDIR)/build/tranship --seed $(SEED) --duration 2m --faults daemon

test-long: image ## by hand before a release: also what is skipped because it takes minutes or disturbs others
	TRANSHIP_LONG=1 TRANSHIP_BED=$(BED) TRANSHIP_BINARY=$(CURDIR)/build/tranship TRANSHIP_MOVER_IMAGE=$(MOVER_IMAGE) \
		$(GO) test -count=1 -p 1 -timeout 90m ./reconciler ./executor/... ./test/e2e

# Not in test: the first build takes ten minutes of processor time, and a test run five.
test-gitea: build ## by hand before a release: against a real Gitea, which the first call builds; no cluster
	TRANSHIP_BINARY=$(CURDIR)/build/tranship $(GO) test -count=1 -timeout 60m -v ./test/gitea

bed-up: ## boot two real clusters, Velero, S3 and Git on this machine (root)
	cd test/bed && $(GO) run . up --dir $(BED_DIR)

bed-down:
	cd test/bed && $(GO) run . down --dir $(BED_DIR)

bed-status:
	cd test/bed && $(GO) run . status --dir $(BED_DIR)

demo: build bed-up ## move an application with data because a commit was merged; KEEP=1 leaves it running
	cd test/demo && $(GO) run . --bed $(BED) --tranship $(CURDIR)/build/tranship $(if $(KEEP),--keep)
	$(if $(KEEP),,$(MAKE) bed-down)

chaos: build bed-up ## migrations while everything is killed; SEED=n DURATION=5m, FAULTS=daemon,... (default all)
	$(GO) run ./test/chaos --bed $(BED) --tranship $(CURDIR)/build/tranship --seed $(SEED) --duration $(DURATION) $(if $(FAULTS),--faults $(FAULTS))

mutate: ## break the safety rules one by one, and prove that a test notices; no cluster, about three minutes
	$(GO) run ./test/mutate

# Each runs its seeds in test; this looks for new ones.
fuzz: ## by hand: every fuzzer for FUZZTIME each (30s); what fails is kept in its package's testdata
	@grep -r '^func Fuzz' --include='*_test.go' . | sed -E 's|/[^/]*:func (Fuzz[A-Za-z]*).*| \1|' | while read -r pkg name; do \
		echo "$$pkg $$name"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; done

bench: build bed-up ## figures against their peers; writes build/bench/*.json
	$(GO) run ./test/bench --bed $(BED) --tranship $(CURDIR)/build/tranship --out $(CURDIR)/build/bench

bench-git: ## reading, the ledger and a thousand plans at once, against C git; no cluster, ten minutes
	$(GO) run ./test/bench --set git --out $(CURDIR)/build/bench

bench-data: build bed-up ## the same for volumes; FULL=1 for full sizes (60 GB of disk, hours)
	$(GO) run ./test/bench --set data --bed $(BED) --tranship $(CURDIR)/build/tranship --out $(CURDIR)/build/bench $(if $(FULL),--full)

clean:
	rm -rf build
