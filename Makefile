.PHONY: test race fuzz ci mutants soak

test:
	go test ./...

race:
	go test -race ./...

# Every fuzz target for FUZZTIME each.
FUZZTIME ?= 30s
fuzz:
	./scripts/fuzz.sh $(FUZZTIME)

ci:
	bash .ci/run

# Breaks the code in known ways; a mutant that no test catches fails the command.
mutants:
	./scripts/mutants.sh

# The long run: SCALE times the histories of a test run, in virtual time and over
# processes, and every fuzz target.
SCALE ?= 20
soak:
	KVRAFT_SCALE=$(SCALE) go test -count=1 -timeout 4h -run 'Linearizable|Increment|Counter' . ./examples/kvd
	./scripts/fuzz.sh 4m
