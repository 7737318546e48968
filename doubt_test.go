package kvraft_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/internal/disktest"
	"github.com/kvraft/kvraft/kvrafttest"
)

// crashed is a cluster of three whose power has failed: directories as they were then. The
// last write, key "last", was committed by the first two nodes alone, and the end of the
// first one's log is damaged.
type crashed struct {
	network    *kvrafttest.Network
	dirs, olds [3]string // olds have the last write on no node
}

var namesOfThree = [3]string{"n1", "n2", "n3"}

func (c *crashed) up(t *testing.T, i int, dir string) *kvraft.Store {
	t.Helper()
	s, err := kvraft.Open(dir, kvraft.WithID(namesOfThree[i]), kvraft.WithAddr(namesOfThree[i]+":7000"), kvraft.WithNetwork(c.network.Host(namesOfThree[i])),
		kvraft.WithBootstrapExpect(3), kvraft.WithJoin("n1:7000", "n2:7000", "n3:7000"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func newCrashed(t *testing.T) *crashed {
	t.Helper()
	c := &crashed{network: kvrafttest.NewNetwork()}
	var stores [3]*kvraft.Store
	var dirs [3]string
	for i := range stores {
		dirs[i] = t.TempDir()
		stores[i] = c.up(t, i, dirs[i])
	}
	for _, s := range stores {
		eventually(t, "it is ready", ready(s))
	}
	if leader, _ := stores[2].Leader(); leader.ID == "n3" { // it is to be a follower
		disktest.Must(t, stores[2].HandOverTo(stores[1]))
		eventually(t, "another leads", func() bool { leader, found := stores[2].Leader(); return found && leader.ID != "n3" })
	}
	mustSet(t, stores[0], "first", "value")
	settled := func() bool { return stores[1].Index() == stores[0].Index() && stores[2].Index() == stores[0].Index() }
	eventually(t, "all have the first write", settled)
	c.olds = copies(t, dirs)
	c.dirs[2] = c.olds[2]
	c.network.Isolate("n3")
	mustSet(t, stores[1], "last", strings.Repeat("last value ", 500))
	eventually(t, "both have the last write", func() bool { return stores[0].Index() == stores[1].Index() })
	now := copies(t, dirs)
	c.dirs[0], c.dirs[1] = now[0], now[1]
	damageLastValue(t, c.dirs[0])
	c.network.Heal()
	for i, s := range stores {
		closeStore(t, s)
		c.network.Reset(namesOfThree[i])
	}
	return c
}

func copies(t *testing.T, dirs [3]string) (copied [3]string) {
	t.Helper()
	for i, dir := range dirs {
		copied[i] = t.TempDir()
		disktest.Must(t, os.CopyFS(copied[i], os.DirFS(dir)))
	}
	return copied
}

func damageLastValue(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "raft.log", "segment-000001")
	content, err := os.ReadFile(path)
	disktest.Must(t, err)
	at := bytes.LastIndex(content, []byte("last value "))
	content[at-2000] ^= 1
	disktest.Must(t, os.WriteFile(path, content, 0o600))
}

// The two are a majority, and the second one's log is the longest that there is now.
func TestANodeThatMayHaveLostAnAcknowledgedWriteElectsNobodyWhoLacksIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrashed(t)
		first, third := c.up(t, 0, c.dirs[0]), c.up(t, 2, c.dirs[2])
		time.Sleep(time.Minute)
		for _, s := range []*kvraft.Store{first, third} {
			if leader, found := s.Leader(); found {
				t.Fatalf("%s was elected without the last write", leader.ID)
			}
		}
		second := c.up(t, 1, c.dirs[1])
		for _, s := range []*kvraft.Store{first, second, third} {
			eventually(t, "it is ready", ready(s))
			wantValue(t, s, "last", strings.Repeat("last value ", 500))
		}
	})
}

func TestAnExaminationTellsOfAWriteThatIsNotWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrashed(t)
		whole, err := kvraft.Examine(c.dirs[1])
		disktest.Must(t, err)
		damaged, err := kvraft.Examine(c.dirs[0])
		disktest.Must(t, err)
		if whole.LostIndex != 0 || strings.Contains(whole.String(), "not whole") {
			t.Errorf("of the whole log it says %+v", whole)
		}
		if damaged.LostIndex != whole.Index || damaged.LostTerm != whole.Term || damaged.Index >= whole.Index {
			t.Errorf("the log ends at %d, %d are lost of %d", damaged.Index, damaged.LostIndex, whole.Index)
		}
		if want := fmt.Sprintf("up to index %d, term %d, is not whole", whole.Index, whole.Term); !strings.Contains(damaged.String(), want) {
			t.Errorf("it does not say %q:\n%v", want, damaged)
		}
		recovered, err := kvraft.Recover(c.dirs[0])
		if err != nil || recovered.LostIndex != whole.Index {
			t.Errorf("%+v, %v", recovered, err)
		}
		if again, err := kvraft.Examine(c.dirs[0]); err == nil || !errors.Is(err, kvraft.ErrInvalid) { // it is a member alone
			t.Errorf("%+v, %v", again, err)
		}
	})
}

func TestWhatNoMajorityHadIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrashed(t)
		stores := []*kvraft.Store{c.up(t, 0, c.dirs[0]), c.up(t, 1, c.olds[1]), c.up(t, 2, c.olds[2])}
		for _, s := range stores {
			eventually(t, "it is ready", ready(s))
		}
		mustSet(t, stores[0], "next", "value")
		wantValue(t, stores[2], "next", "value")
	})
}

// Each of the two could have had it from the other.
func TestTwoNodesThatDoubtGoOnOnceTheThirdLacksItToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrashed(t)
		damageLastValue(t, c.dirs[1])
		first, second := c.up(t, 0, c.dirs[0]), c.up(t, 1, c.dirs[1])
		time.Sleep(time.Minute)
		if leader, found := first.Leader(); found {
			t.Fatalf("%s was elected while the third could have had the last write", leader.ID)
		}
		for _, s := range []*kvraft.Store{first, second, c.up(t, 2, c.dirs[2])} {
			eventually(t, "it is ready", ready(s))
		}
		mustSet(t, first, "next", "value")
	})
}

// Nobody else can tell whether it was acknowledged.
func TestALoneVoterGoesOnWithoutTheEndOfItsLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := kvrafttest.NewNetwork()
		up := func(dir string) *kvraft.Store {
			s, err := kvraft.Open(dir, kvraft.WithID("n1"), kvraft.WithAddr("n1:7000"), kvraft.WithNetwork(network.Host("n1")))
			disktest.Must(t, err)
			eventually(t, "it is ready", ready(s))
			return s
		}
		dir, crashed := t.TempDir(), t.TempDir()
		s := up(dir)
		mustSet(t, s, "first", "value")
		mustSet(t, s, "last", strings.Repeat("last value ", 500))
		disktest.Must(t, os.CopyFS(crashed, os.DirFS(dir)))
		closeStore(t, s)
		damageLastValue(t, crashed)
		began := time.Now()
		s = up(crashed)
		defer closeStore(t, s)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("it was ready after %v", took)
		}
		wantValue(t, s, "first", "value")
		if _, err := s.Get(t.Context(), "last"); !errors.Is(err, kvraft.ErrNotFound) {
			t.Errorf("the last write: %v", err)
		}
		mustSet(t, s, "next", "value")
	})
}
