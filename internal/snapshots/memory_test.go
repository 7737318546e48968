package snapshots

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/internal/errs"
)

func TestMemorySnapshotsListOnlyWhatIsComplete(t *testing.T) {
	snaps, err := OpenInMemory(logOver(t, disktest.NewFaultStore()), keptCodec)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := snaps.Create(1, 100, 3, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	buffer := bytes.Clone(keptState)
	if _, err := sink.Write(buffer); err != nil {
		t.Fatal(err)
	}
	buffer[0] = 'X'
	if list, err := snaps.List(); err != nil || len(list) != 0 {
		t.Fatalf("listed while it is written: %v, %v", list, err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	cancelled, err := snaps.Create(1, 200, 3, raft.Configuration{}, 1, nil)
	if err := errors.Join(err, cancelled.Cancel()); err != nil || cancelled.Close() == nil {
		t.Fatalf("cancelled: %v", err)
	}
	if err := takeTestSnapshot(snaps, 50, 3); !errors.Is(err, errOvertaken) {
		t.Fatalf("an older one: %v", err)
	}
	meta, state, err := snaps.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(state); err != nil || !bytes.Equal(got, keptState) || meta.Size != int64(len(keptState)) {
		t.Fatalf("%q, %v, %+v", got, err, meta)
	}
}

func TestMemorySnapshotsRefuseANodeThatHadOne(t *testing.T) {
	_, kept := snapshotsInDir(t, 100)
	if _, err := OpenInMemory(logOver(t, kept), keptCodec); !errors.Is(err, errs.Damaged) {
		t.Fatalf("got %v", err)
	}
}
