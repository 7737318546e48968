package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

const clients = 48 // that write or read at the same time, on all nodes together

func key(i int64) string { return fmt.Sprintf("key-%d", i) }

// inParallel runs f with 0, 1, ... until it returns false, from several clients.
func inParallel(f func(i int64) bool) {
	var next atomic.Int64
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			for f(next.Add(1) - 1) {
			}
		})
	}
	running.Wait()
}

func TestTenThousandKeysSurviveKillingAllNodesAtOnce(t *testing.T) {
	const want = 10_000
	nodes := startNodes(t, 3)

	// The clients go on until the nodes are dead: some writes are in flight.
	var acknowledged sync.Map
	var count atomic.Int64
	inParallel(func(i int64) bool {
		if err := set(nodes[i%3], key(i), fmt.Sprint(i)); err != nil {
			if count.Load() < want {
				t.Errorf("before the nodes were killed: %v", err)
			}
			return false
		}
		acknowledged.Store(i, nil)
		if count.Add(1) == want {
			for _, n := range nodes {
				n.signal(syscall.SIGKILL)
			}
		}
		return !t.Failed()
	})
	if t.Failed() {
		return
	}
	for _, n := range nodes {
		n.kill()
		n.start(t)
	}
	waitReady(t, nodes...)
	waitSameState(t, nodes)

	var keys []int64
	acknowledged.Range(func(i, _ any) bool { keys = append(keys, i.(int64)); return true })
	inParallel(func(i int64) bool {
		if i >= int64(len(keys)) || t.Failed() {
			return false
		}
		if err := check(nodes[i%3], key(keys[i]), fmt.Sprint(keys[i])); err != nil {
			t.Errorf("an acknowledged write is lost: %v", err)
		}
		return true
	})
	t.Logf("%d acknowledged writes", len(keys))
}

func TestStoppingTheLeaderFailsNoCallOnTheOtherNodes(t *testing.T) {
	nodes := startNodes(t, 3)
	leader := findLeader(t, nodes)
	var others []*node
	for _, n := range nodes {
		if n != leader {
			others = append(others, n)
		}
	}
	const atFirst, then = 1000, 1000
	var count, stoppedAt atomic.Int64
	inParallel(func(i int64) bool {
		if err := set(others[i%2], key(i), "value"); err != nil {
			t.Errorf("write %d: %v", i, err)
			return false
		}
		if n := count.Add(1); n == atFirst {
			leader.signal(syscall.SIGTERM)
			if code := leader.exitCode(); code != 0 {
				t.Errorf("the leader ended with %d", code)
			}
			stoppedAt.Store(count.Load())
		}
		at := stoppedAt.Load()
		return !t.Failed() && (at == 0 || count.Load() < at+then)
	})
	if t.Failed() {
		return
	}
	_, after, _ := strings.Cut(leader.output.String(), "shutting down")
	if !strings.Contains(after, "state=follower") {
		t.Errorf("the leader did not hand over:\n%s", after)
	}
	findLeader(t, others)
	leader.start(t)
	waitReady(t, leader)
	waitSameState(t, nodes)
}

func TestANodeThatJoinsNobodyWaitsAndSaysSo(t *testing.T) {
	member := newNode(t, "member")
	joiner := newNode(t, "joiner", "-join", member.haddr)
	joiner.start(t)
	joiner.waitOutput("waits to be admitted to the cluster of " + member.haddr)
	joiner.waitOutput("connection refused")
	eventually(t, "/readyz to say what it waits for", func() string {
		code, body, err := get(joiner.url("/readyz"))
		if err != nil {
			return err.Error()
		}
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "waiting to be admitted") || !strings.Contains(body, member.haddr) {
			return fmt.Sprint(code, body)
		}
		return ""
	})

	member.start(t)
	waitReady(t, member, joiner)
	joiner.waitOutput("kvd: node joiner was admitted to cluster ")
	joiner.waitOutput("kvd: try: curl -XPOST " + joiner.haddr)
	if err := set(joiner, "k", "v"); err != nil {
		t.Error(err)
	}
	if err := check(member, "k", "v"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(joiner.output.String(), "connection refused"); n != 1 {
		t.Errorf("it said %d times that nobody answers; once is enough", n)
	}
}

func TestANodeSaysHowItCameIntoItsCluster(t *testing.T) {
	nodes := startNodes(t, 2)
	nodes[0].waitOutput("kvd: node node0 formed cluster ")
	nodes[1].waitOutput("kvd: node node1 was admitted to cluster ")
	nodes[1].kill()
	nodes[1].start(t)
	nodes[1].waitOutput("kvd: node node1 goes on with the data of cluster ")
	waitReady(t, nodes[1])
	if strings.Contains(nodes[1].output.String(), "admitted") {
		t.Errorf("it was a member before:\n%s", nodes[1].output)
	}
}

func TestANodeWithALiveMembersIDIsRefusedAndEnds(t *testing.T) {
	member := newNode(t, "taken")
	member.start(t)
	waitReady(t, member)
	intruder := newNode(t, "taken", "-join", member.haddr)
	intruder.start(t)
	if code := intruder.exitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	intruder.waitOutput("kvd: not admitted: ")
	intruder.waitOutput("the id taken is taken by the live member at " + member.raddr)
	if err := set(member, "k", "v"); err != nil {
		t.Errorf("the member after that: %v", err)
	}
}
