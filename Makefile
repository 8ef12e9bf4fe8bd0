# weir: make help lists what can be made.
#
# Needs Go and make; what the tests need beyond them, `make needs` installs where it may (as root, with apt-get) and
# names where it may not.

GO       ?= go
FUZZTIME ?= 20s
LINEAR   ?= 10m
COUNT    ?= 1
NAMES    ?= 1000000
HANDSHAKES ?= 1000000
BENCH    ?= .
BENCHPKG ?= ./...

# Of make bench; what is empty is bench's own default.
WORKLOADS ?=
ROUNDS    ?= 5
PEERS     ?= squid,tinyproxy
LOG       ?= info
BEFORE    ?=
BASE      ?=
PROFILE   ?=
PROFILED  ?= weir
SEEDS     ?= 1000000
ROUNDS_LONG ?= 10
SEEDS_LONG  ?= 20000
FIRST_LONG  ?= 3001
FIRST     ?= 1
JSON      ?= bin/bench.json

# The end-to-end tests that make long runs in place of make test.
LONG := ^Test((TwoClusters|Rates|Scopes|Total)UnderFaults|Partition(OfFive|OfScopes|OfGossip|ByWeather)|Kubernetes|DiskReadOnly|DiskStalls|ClockJumps|RollingUpgrade|LimitsAreLinearisable|ManyLimitsAreRestored|PageWith(ThousandsOfHosts|ManyClients))$$

# Those that need the machine to themselves, and no race detector, to do as much as they can.
ALONE := ^TestFullRateUnderFaults$$

# Of make release.
PLATFORMS ?= linux/amd64,linux/arm64,darwin/amd64,darwin/arm64
VULN      ?=
VULNDB    ?=

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# The end-to-end tests measure, so they have the machine to themselves: all other packages first.
UNIT = $$($(GO) list ./... | grep -v -e '/e2e$$' -e '/lease/leasetest$$')

.PHONY: build cluster demo test unit e2e partitions long recipes linear handshakes names screenshots docs sim check format vet lint tidy deploy arrows vuln release reproducible bench pgo gobench fuzz proto needs clean help
.DEFAULT_GOAL := build

# One after the other, also with -j: needs comes before the tests, and what measures has the machine to itself.
.NOTPARALLEL:

build: ## build bin/weir
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/weir ./cmd/weir

cluster: build ## run the three nodes of examples/three-nodes in the foreground; Ctrl-C stops them
	@$(GO) build -o bin/weir-demo ./examples/demo
	@exec bin/weir-demo

demo: build ## as cluster, with an upstream that counts, workers on all nodes and a live line
	@$(GO) build -o bin/weir-demo ./examples/demo
	@exec bin/weir-demo -load

test: needs unit e2e ## run the tests, but for those of make long, with the race detector

unit: # all tests but the end-to-end ones
	$(GO) test -race -parallel 4 $(UNIT) # most of them wait
	$(GO) test -run '^Test(StackOfATunnel|SOCKSAllocatesAsCONNECT)$$' ./proxy # under the race detector, frames are larger, and pools lose at random
	$(GO) test -run '^TestAloneIsReadyAtOnce$$' . # which takes the time
	$(GO) test ./lease/leasetest # one goroutine: more seeds, and every rule broken, in the time that the race detector would take

e2e: # the built binary, as real processes; -v prints what was measured
	@[ "$$(id -u)" = 0 ] || echo "*** NOT TESTED: partitions need root ***" >&2
	$(GO) test -count 1 -race -v -parallel 4 -skip '$(LONG)|$(ALONE)' -timeout 20m ./e2e

partitions: needs ## cut real nodes off from each other; needs root (COUNT=10: ten times)
	@[ "$$(id -u)" = 0 ] || { echo "*** NOT TESTED: partitions need root ***" >&2; exit 1; }
	$(GO) test -race -v -run '^TestPartition' -parallel 4 -count $(COUNT) -timeout $$(($(COUNT) * 5 + 5))m ./e2e

long: needs ## run the long tests: what other systems have instead of some of Linux's calls, sick disks, clocks and networks, upgrades, ROUNDS_LONG (10) rounds of two clusters and of limits of every kind under faults, SEEDS_LONG seeds of the simulation
	@[ "$$(id -u)" = 0 ] || echo "*** NOT TESTED: partitions, disks and namespaces need root ***" >&2
	$(GO) test -race -tags portable ./proxy ./proxy/sock
	WEIR_E2E_ROUNDS=$(ROUNDS_LONG) $(GO) test -count 1 -race -v -run '$(LONG)' -parallel 4 -timeout 40m ./e2e
	$(GO) test -count 1 -v -run '$(ALONE)' ./e2e
	$(GO) run ./lease/leasetest/sim -seeds $(SEEDS_LONG) -first $(FIRST_LONG)

# The packages of npm are those of e2e/testdata/node, in the versions that its lock file names.
recipes: ## run the lines of docs/workers.md with the clients that they are for; first installs these; needs root
	@[ "$$(id -u)" = 0 ] || { echo "*** NOT TESTED: recipes need root: the nodes get an /etc/resolv.conf of their own ***" >&2; exit 1; }
	@sh e2e/needs.sh recipes
	@mkdir -p bin/recipes && cp e2e/testdata/node/package.json e2e/testdata/node/package-lock.json bin/recipes/
	cd bin/recipes && npm ci --ignore-scripts --no-audit --no-fund
	WEIR_E2E_RECIPES=1 $(GO) test -count 1 -v -run '^TestRecipes' -parallel 4 ./e2e

linear: needs ## check that limits are linearisable, under faults for LINEAR (10m)
	WEIR_E2E_LINEAR=$(LINEAR) $(GO) test -count 1 -race -v -run '^TestLimitsAreLinearisable' -timeout 0 ./e2e

handshakes: ## make up HANDSHAKES (1000000) SOCKS5 handshakes, and see that nothing is left of them
	$(GO) test -v -run '^TestSOCKSHandshakes$$' -timeout 0 ./proxy -handshakes $(HANDSHAKES)

names: needs ## ask one of three nodes for NAMES (1000000) host names, each under a limit; needs root
	@[ "$$(id -u)" = 0 ] || { echo "names need root: the nodes get an /etc/resolv.conf of their own" >&2; exit 1; }
	WEIR_E2E_NAMES=$(NAMES) $(GO) test -count 1 -v -run '^TestManyNames$$' -timeout 0 ./e2e

screenshots: needs ## write docs/ui/*.png: the page in Chromium, with three nodes under load; needs root
	@[ "$$(id -u)" = 0 ] || { echo "screenshots need root: the nodes get an /etc/hosts of their own" >&2; exit 1; }
	WEIR_E2E_SCREENSHOTS='$(CURDIR)/docs/ui' $(GO) test -count 1 -v -run '^TestScreenshots$$' ./e2e

sim: ## simulate the cluster under faults, with SEEDS (1000000) seeds from FIRST on; MIX=-changes: only limits change
	$(GO) run ./lease/leasetest/sim -seeds $(SEEDS) -first $(FIRST) $(MIX)

docs: ## regenerate the parts of docs/ that come from the code
	$(GO) test ./api/server ./config ./cmd/weir -run 'Document$$' -write-docs

check: format vet lint tidy arrows deploy test ## format, vet, lint, check dependencies, imports and deploy/, and run the tests

format:
	@bad=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$bad" ]; then echo "not formatted, run gofmt -w on:"; echo "$$bad"; exit 1; fi

vet:
	$(GO) vet ./...
	$(GO) vet -tags portable ./proxy/...
	GOOS=darwin GOARCH=arm64 $(GO) vet ./...

lint:
	$(GO) tool staticcheck ./...

tidy:
	$(GO) mod tidy -diff

# What these read lies outside of their modules, where the go command does not notice changes.
deploy: ## check deploy/ with the parsers and schemas of the programs that read it
	cd deploy/check && $(GO) vet . && $(GO) test -count 1 .
	cd deploy/release && $(GO) vet . && $(GO) test -count 1 .
	staticcheck="$$($(GO) tool -n staticcheck)" && cd deploy/check && "$$staticcheck" . && cd ../release && "$$staticcheck" .

arrows:
	$(GO) test -count 1 ./e2e/arrows

# Exit code 3 of govulncheck is a finding; any other failure says that nothing was looked for.
vuln: ## look for known vulnerabilities; needs the network or a database (VULNDB=file:///…)
	@$(GO) tool govulncheck $(if $(VULNDB),-db '$(VULNDB)') ./...; code=$$?; \
	case $$code in \
	0) ;; \
	3) echo "*** VULNERABLE: upgrade the modules named above, or Go itself ***" >&2; exit 1 ;; \
	*) echo "*** NOT CHECKED, because of the error above; the check needs $(or $(VULNDB),https://vuln.go.dev), or VULNDB= names a copy ***" >&2; exit 1 ;; \
	esac

# VULN=skip builds without having looked for known vulnerabilities, where their database can't be reached.
release: ## build the archives for PLATFORMS in bin/release, from a commit (VULN=skip)
	@if [ '$(VULN)' = skip ]; then echo '*** NOT CHECKED for known vulnerabilities (VULN=skip): do not publish this ***' >&2; \
	else $(MAKE) --no-print-directory vuln; fi
	cd deploy/release && $(GO) run . -root '$(CURDIR)' -out '$(CURDIR)/bin/release' -platforms '$(PLATFORMS)'

# Two clones of the same commit, each with a build cache of its own.
reproducible: ## check that two builds of a release, in two places, have the same bytes
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	git clone -q --no-local . "$$dir/one" && git clone -q --no-local "$$dir/one" "$$dir/two/deeper" && \
	for place in one two/deeper; do \
		(cd "$$dir/$$place/deploy/release" && GOCACHE="$$dir/cache-$${place%%/*}" $(GO) run . -root ../.. -out ../../bin/release -platforms '$(PLATFORMS)') || exit 1; \
	done && \
	diff "$$dir/one/bin/release/SHA256SUMS" "$$dir/two/deeper/bin/release/SHA256SUMS" && cat "$$dir/one/bin/release/SHA256SUMS" && echo 'both builds have the same bytes'

# The binary that is measured keeps its symbols, for perf; they cost it nothing.
bench: ## compare weir with a minimal relay and other proxies; docs/performance.md has the settings
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/bench-weir ./cmd/weir
	$(GO) build -o bin/bench-relay ./e2e/bench/relay
	$(GO) build -o bin/bench ./e2e/bench
	@bin/bench -weir bin/bench-weir -relay bin/bench-relay -workloads '$(WORKLOADS)' -rounds $(ROUNDS) -peers '$(PEERS)' \
		-log $(LOG) -json '$(JSON)' -base '$(BASE)' -before '$(BEFORE)' -profile '$(PROFILE)' -profiled '$(PROFILED)' -profiles bin

# The profile that the compiler then uses by itself: it lies beside the main package.
pgo: ## record cmd/weir/default.pgo from make bench, for a faster binary
	rm -f bin/*-weir-pprof-*
	$(MAKE) bench WORKLOADS=churn-16,churn-64,http ROUNDS=3 PEERS= PROFILE=pprof
	$(GO) tool pprof -proto bin/*-weir-pprof-* > bin/default.pgo
	mv bin/default.pgo cmd/weir/default.pgo

gobench: ## run the Go benchmarks (BENCH=regexp BENCHPKG=./fsm)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $(BENCHPKG)

# Minimising each new input, which may take a minute by default, would leave a short run no time to search.
fuzz: ## run each fuzz target for FUZZTIME, such as 20s or 3000x
	@grep -r --include='*_test.go' -H -o '^func Fuzz[A-Za-z0-9_]*' . | sort | \
	while IFS=: read -r file target; do \
		echo "fuzz $${file%/*} $${target#func } for $(FUZZTIME)"; \
		$(GO) test -run '^$$' -fuzz "^$${target#func }\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$${file%/*}" || exit 1; \
	done

# Generated with the plugins that go.mod names; protoc itself is Debian's protobuf-compiler.
PROTO_DIRS = $(sort $(dir $(wildcard */*pb/*.proto)))

proto: ## regenerate the protobuf code
	@command -v protoc >/dev/null || { echo "protoc is missing: apt-get install protobuf-compiler"; exit 1; }
	$(GO) build -o bin/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@for dir in $(PROTO_DIRS); do \
		PATH="$(CURDIR)/bin:$$PATH" protoc $(addprefix -I ,$(PROTO_DIRS)) \
			--go_out=$$dir --go_opt=paths=source_relative \
			--go-grpc_out=$$dir --go-grpc_opt=paths=source_relative $$dir*.proto || exit 1; \
	done

needs:
	@sh e2e/needs.sh

clean: ## remove what was built and the example cluster's data
	rm -rf bin examples/three-nodes/data

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
