.PHONY: test race platforms fuzz ci bench bench-compare mutants soak image run stop

test:
	go test ./...

race:
	go test -race -timeout 30m ./...

# Builds and vets for each platform, with the tests. CI checks the types alone, in a tenth
# of the time.
PLATFORMS ?= linux/386 linux/arm linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 freebsd/amd64
platforms:
	set -e; for p in $(PLATFORMS); do \
		echo "$$p"; export GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0; go build ./...; go vet ./...; \
	done

# Every fuzz target for FUZZTIME each.
FUZZTIME ?= 30s
fuzz:
	./scripts/fuzz.sh $(FUZZTIME)

ci:
	bash .ci/run

# The benchmarks of the packages, for benchstat: make -s bench BENCH=Get >new. The
# module in bench/ compares with other systems instead.
BENCH ?= .
COUNT ?= 6
benchargs = -run '^$$' -bench '$(BENCH)' -benchmem . ./internal/... ./kvrafttest/...
bench:
	go test -count $(COUNT) $(benchargs)

# What has changed since a revision: make bench-compare REF=main BENCH=Get
bench-compare:
	./scripts/benchcompare.sh '$(REF)' $(COUNT) $(benchargs)

# Breaks the code in known ways; a mutant that no test catches fails the command.
mutants:
	./scripts/mutants.sh

# The long run: SCALE times the histories of a test run, in virtual time and over
# processes, the kills at system calls (with strace), the power cuts (as root, on a loop
# mount), 1,000 times SCALE flipped bits in segments, and every fuzz target.
SCALE ?= 20
soak:
	KVRAFT_SCALE=$(SCALE) go test -count=1 -timeout 4h -run 'Linearizable|Increment|Counter|Founding|MoreNodes|NothingAcknowledged' . ./examples/kvd
	KVRAFT_SCALE=$(SCALE) go test -count=1 -timeout 1h -run FlippedBitOfASegment ./internal/disk
	./scripts/fuzz.sh 4m

# Three nodes in containers, with HTTP on 127.0.0.1:4001 to 4003, or the ports in
# KVD_PORT1 to KVD_PORT3. stop removes the containers and leaves the data. VERSION is that
# of the image; else git tells it.
image run stop:
	./scripts/docker.sh $@
