package disk

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kvraft/kvraft/internal/errs"
)

func TestRecordIsDamagedByAnyFlippedBit(t *testing.T) {
	m := Record{Format: 1, ID: "n1", Identity: "ab", Cluster: "c", Raft: map[string][]byte{"CurrentTerm": {0, 0, 0, 0, 0, 0, 0, 7}}}
	stored, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(stored) {
		flipped := slices.Clone(stored)
		flipped[bit/8] ^= 1 << (bit % 8)
		if _, err := DecodeRecord(flipped); !errors.Is(err, errs.Damaged) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	for n := range len(stored) {
		if _, err := DecodeRecord(stored[:n]); !errors.Is(err, errs.Damaged) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestARecordOfANewerVersionIsRefusedAsSuch(t *testing.T) {
	stored, err := Record{Format: recordFormat + 1}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeRecord(stored); !errors.Is(err, errs.Newer) || errors.Is(err, errs.Damaged) || !strings.Contains(err.Error(), "newer version") {
		t.Fatalf("got %v", err)
	}
}
