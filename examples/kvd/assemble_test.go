package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// alike are n nodes with one command line but for their names and addresses: each
// joins all of them.
func alike(t testing.TB, n int, flags ...string) (nodes []*node) {
	t.Helper()
	var join []string
	for i := range n {
		nodes = append(nodes, newNode(t, fmt.Sprintf("node%d", i)))
		join = append(join, nodes[i].haddr)
	}
	for _, node := range nodes {
		node.flags = append([]string{"-bootstrap-expect", fmt.Sprint(n), "-join", strings.Join(join, ",")}, flags...)
	}
	return nodes
}

// waitOneCluster waits until all are ready voters of one cluster.
func waitOneCluster(t testing.TB, nodes []*node) {
	t.Helper()
	waitReady(t, nodes...)
	clusters := map[string]bool{}
	for _, n := range nodes {
		eventually(t, n.id+" to know all as voters", func() string {
			st := membersOf(t, n)
			clusters[st.Cluster] = true
			voters := 0
			for _, m := range st.Nodes {
				if m.Voter {
					voters++
				}
			}
			if voters != len(nodes) || len(st.Nodes) != len(nodes) {
				return fmt.Sprintf("%+v", st.Nodes)
			}
			return ""
		})
	}
	if len(clusters) != 1 {
		t.Errorf("there are the clusters %v", clusters)
	}
	for i, n := range nodes {
		if err := set(n, n.id, "value"); err != nil {
			t.Error(err)
		}
		if err := check(nodes[(i+1)%len(nodes)], n.id, "value"); err != nil {
			t.Error(err)
		}
	}
}

// startTogether starts nodes that form a cluster together, and waits until they have.
func startTogether(t testing.TB, nodes []*node) []*node {
	t.Helper()
	for _, n := range nodes {
		n.start(t)
	}
	waitOneCluster(t, nodes)
	return nodes
}

// membership is the part of GET /status about the members.
type membership struct {
	Cluster string
	Nodes   []struct {
		ID, Address    string
		Voter, Replica bool
	}
}

func (m membership) ids() string {
	var ids []string
	for _, n := range m.Nodes {
		ids = append(ids, n.ID)
	}
	return strings.Join(ids, " ")
}

func membersOf(t testing.TB, n *node) (st membership) {
	t.Helper()
	code, body, err := get(n.url("/status"))
	if err == nil {
		err = json.Unmarshal([]byte(body), &st)
	}
	if err != nil || code != http.StatusOK {
		t.Fatalf("GET /status of %s: %d %s, %v", n.id, code, body, err)
	}
	return st
}

func TestThreeNodesWithOneCommandLineFoundACluster(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			nodes := alike(t, 3)
			for _, i := range order {
				nodes[i].start(t)
				nodes[i].waitOutput("waits for 3 nodes to form a cluster")
			}
			waitOneCluster(t, nodes)
			for _, n := range nodes {
				n.waitOutput("kvd: node " + n.id + " formed cluster ")
				n.waitOutput("kvd: try: curl -XPOST " + n.haddr)
			}
		})
	}
}

// Two more addresses accept connections and never answer, as those of a host that is
// overloaded, or behind a firewall.
func TestThreeNodesDoNotWaitForAddressesThatNeverAnswer(t *testing.T) {
	nodes := alike(t, 3)
	for range 2 {
		ln, err := net.Listen("tcp", freeAddr(t))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		for _, n := range nodes {
			n.flags[3] = ln.Addr().String() + "," + n.flags[3]
		}
	}
	began := time.Now()
	for _, n := range nodes {
		n.start(t)
	}
	waitReady(t, nodes...)
	took := time.Since(began)
	t.Logf("ready after %v", took)
	if took > limit/3 {
		t.Error("that is too long")
	}
	waitOneCluster(t, nodes)
}

func TestAFoundingSurvivesTheDeathOfANodeInItsMiddle(t *testing.T) {
	for victim := range 3 {
		t.Run(fmt.Sprint(victim), func(t *testing.T) {
			t.Parallel()
			nodes := alike(t, 3)
			for _, n := range nodes {
				n.start(t)
			}
			nodes[victim].waitOutput("waits for 3 nodes")
			<-time.After(rand.N(600 * time.Millisecond)) // any moment of it
			nodes[victim].kill()
			nodes[victim].start(t)
			waitOneCluster(t, nodes)
		})
	}
}

func TestTheAddressesOfANameInDNSAreJoined(t *testing.T) {
	nodes := []*node{newNode(t, "node0"), newNode(t, "node1")}
	nodes[0].start(t)
	_, port, _ := strings.Cut(nodes[0].haddr, ":")
	nodes[1].flags = []string{"-join", "dns://localhost:" + port}
	nodes[1].start(t)
	waitOneCluster(t, nodes)
}

func TestAClusterOfFiveBearsTheLossOfTwo(t *testing.T) {
	nodes := startTogether(t, alike(t, 5))
	leader := findLeader(t, nodes)
	other := nodes[(slices.Index(nodes, leader)+1)%5]
	leader.kill()
	other.kill()
	rest := without(other, without(leader, nodes))
	for i, n := range rest {
		if err := set(n, fmt.Sprint("key-", i), "value"); err != nil {
			t.Errorf("on %s: %v", n.id, err)
		}
	}
	leader.start(t)
	other.start(t)
	waitReady(t, nodes...)
	waitSameState(t, nodes)
}

// Each node is stopped and started again while clients write on the two others: no
// call fails there.
func TestARollingRestartFailsNoCallOnTheOthers(t *testing.T) {
	nodes := startTogether(t, alike(t, 3))
	for round, stopped := range nodes {
		others := without(stopped, nodes)
		ctx, cancel := context.WithCancel(t.Context())
		var writing sync.WaitGroup
		for c := range 8 {
			writing.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					if err := set(others[c%2], fmt.Sprintf("%d-%d-%d", round, c, n), "value"); err != nil {
						t.Errorf("on %s while %s restarts: %v", others[c%2].id, stopped.id, err)
						return
					}
				}
			})
		}
		stopped.signal(syscall.SIGTERM)
		if code := stopped.exitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		stopped.start(t)
		waitReady(t, nodes...)
		cancel()
		writing.Wait()
	}
	waitSameState(t, nodes)
}

func TestANodeThatLostItsDataIsReplacedByTheSameCommandLine(t *testing.T) {
	nodes := startTogether(t, alike(t, 3))
	for _, n := range nodes {
		n.kill()
		if err := os.RemoveAll(n.dir); err != nil {
			t.Fatal(err)
		}
		n.start(t)
		waitOneCluster(t, nodes)
	}
	waitSameState(t, nodes)
}

func TestANodeMayComeBackOnOtherPorts(t *testing.T) {
	nodes := startTogether(t, alike(t, 3))
	for _, n := range nodes {
		n.signal(syscall.SIGTERM)
		n.exitCode()
		n.haddr, n.raddr = freeAddr(t), freeAddr(t)
		n.start(t)
		waitOneCluster(t, nodes)
		if m := membersOf(t, n).Nodes[slices.Index(nodes, n)]; m.ID != n.id || m.Address != n.raddr {
			t.Errorf("%s is known as %+v, want the address %s", n.id, m, n.raddr)
		}
	}
}

// By a mistake in two configurations each cluster is told to join the other, and
// the nodes of one have swapped their peer ports with those of the other.
func TestTwoClustersThatArePointedAtEachOtherStayApart(t *testing.T) {
	a, b := alike(t, 3), alike(t, 3)
	both := slices.Concat(a, b)
	for _, n := range both {
		n.start(t)
	}
	waitOneCluster(t, a)
	waitOneCluster(t, b)
	clusterA, clusterB := membersOf(t, a[0]).Cluster, membersOf(t, b[0]).Cluster
	for _, n := range both {
		n.signal(syscall.SIGTERM)
		n.exitCode()
	}
	for i := range a {
		a[i].flags, b[i].flags = b[i].flags, a[i].flags
		a[i].raddr, b[i].raddr = b[i].raddr, a[i].raddr
	}
	for _, n := range both {
		n.start(t)
	}
	waitReady(t, both...)
	for i, n := range both {
		want := clusterA
		if i >= 3 {
			want = clusterB
		}
		if st := membersOf(t, n); st.Cluster != want || len(st.Nodes) != 3 {
			t.Errorf("%d: cluster %s with %d members, want %s with 3", i, st.Cluster, len(st.Nodes), want)
		}
		n.waitOutput("belongs to another cluster")
	}
	for i, nodes := range [][]*node{a, b} {
		if err := set(nodes[0], "whose", fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
	}
	for i, nodes := range [][]*node{a, b} {
		if err := check(nodes[1], "whose", fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
	}
}

func TestAReplicaIsReadyAndDoesNotVote(t *testing.T) {
	nodes := startNodes(t, 1)
	replica := newNode(t, "replica", "-join", nodes[0].haddr, "-replica")
	replica.start(t)
	waitReady(t, replica)
	st := membersOf(t, nodes[0])
	if st.ids() != "node0 replica" || st.Nodes[1].Voter || !st.Nodes[1].Replica {
		t.Errorf("%+v", st)
	}
	if err := set(replica, "k", "v"); err != nil {
		t.Error(err)
	}
	replica.kill()
	if err := set(nodes[0], "k", "w"); err != nil {
		t.Errorf("without the replica: %v", err)
	}
}

func TestARemovedNodeEndsAndIsNotLetInAgain(t *testing.T) {
	nodes := startNodes(t, 3)
	code, body, err := post(nodes[1].url("/remove"), `{"id": "node2"}`)
	if err != nil || code != http.StatusOK {
		t.Fatalf("POST /remove: %d %s, %v", code, body, err)
	}
	if code := nodes[2].exitCode(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	nodes[2].waitOutput("removed from the cluster")
	nodes[2].start(t)
	if code := nodes[2].exitCode(); code != 3 {
		t.Errorf("started again: exit code %d, want 3", code)
	}
	nodes[2].waitOutput("empty its data directory to let it join as a new node")
	if err := os.RemoveAll(nodes[2].dir); err != nil {
		t.Fatal(err)
	}
	nodes[2].start(t)
	waitOneCluster(t, nodes)

	leader := findLeader(t, nodes)
	next := without(leader, nodes)[0]
	if code, body, err := post(leader.url("/transfer"), fmt.Sprintf(`{"id": %q}`, next.id)); err != nil || code != http.StatusOK {
		t.Errorf("POST /transfer: %d %s, %v", code, body, err)
	}
	if now := findLeader(t, nodes); now != next {
		t.Errorf("%s leads, want %s", now.id, next.id)
	}
	if code, body, _ := post(leader.url("/remove"), `{"id": "node9"}`); code != http.StatusNotFound {
		t.Errorf("POST /remove of a stranger: %d %s", code, body)
	}
}

func TestANodeLeavesOnExitAndJoinsAgain(t *testing.T) {
	nodes := startTogether(t, alike(t, 3, "-leave-on-exit"))
	for range 2 {
		leaving := findLeader(t, nodes)
		rest := without(leaving, nodes)
		leaving.signal(syscall.SIGTERM)
		if code := leaving.exitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if ids := membersOf(t, rest[0]).ids(); strings.Contains(ids, leaving.id) {
			t.Errorf("after %s has left the members are %s", leaving.id, ids)
		}
		if err := set(rest[0], "k", leaving.id); err != nil {
			t.Error(err)
		}
		leaving.start(t)
		waitOneCluster(t, nodes)
		if err := check(leaving, "k", leaving.id); err != nil {
			t.Error(err)
		}
	}
}

func TestASurvivorIsMadeTheBeginningOfANewCluster(t *testing.T) {
	nodes := startNodes(t, 3)
	for i := range 20 {
		if err := set(nodes[i%3], key(int64(i)), "value"); err != nil {
			t.Fatal(err)
		}
	}
	waitSameState(t, nodes)
	survivor := nodes[1]
	expectExit(t, 1, []string{"recover", survivor.dir}, "in use by another process")
	for _, n := range nodes {
		n.kill()
	}
	expectExit(t, 0, []string{"recover", "-n", survivor.dir}, "Node node1", "20 keys", "node0 ("+nodes[0].raddr+"), node2 ("+nodes[2].raddr+")", "is lost", "Nothing was changed")
	expectExit(t, 0, []string{"recover", survivor.dir}, "is formed with node1, at "+survivor.raddr)
	expectExit(t, 2, []string{"recover"}, "one directory is expected")
	expectExit(t, 1, []string{"recover", t.TempDir()}, "there is no node's data")
	survivor.start(t)
	waitReady(t, survivor)
	for _, n := range []*node{nodes[0], nodes[2]} {
		if err := os.RemoveAll(n.dir); err != nil {
			t.Fatal(err)
		}
		n.flags = []string{"-join", survivor.haddr}
		n.start(t)
		waitReady(t, n)
	}
	waitOneCluster(t, nodes)
	for i := range 20 {
		if err := check(nodes[i%3], key(int64(i)), "value"); err != nil {
			t.Error(err)
		}
	}
}

// Three nodes know one gossip address. One is killed: the others remove it, and let
// it in again when it is back.
func TestNodesThatGossipFindEachOtherAndHeal(t *testing.T) {
	known := freeAddr(t)
	var nodes []*node
	for i := range 3 {
		n := newNode(t, fmt.Sprintf("node%d", i))
		gossip := known
		if i > 0 {
			gossip = freeAddr(t)
		}
		n.flags = []string{"-bootstrap-expect", "3", "-serf", gossip, "-serf-join", known, "-serf-heal", "1s"}
		n.start(t)
		nodes = append(nodes, n)
	}
	waitOneCluster(t, nodes)
	victim := findLeader(t, nodes)
	rest := without(victim, nodes)
	for _, n := range rest { // else they would not know which member the process was
		n.waitOutput("a node is there: id=" + victim.id)
	}
	victim.kill()
	rest[0].waitOutput("a node has failed: id=" + victim.id)
	eventually(t, "the others to heal", func() string {
		if ids := membersOf(t, rest[0]).ids(); strings.Contains(ids, victim.id) {
			return "the members are " + ids
		}
		return ""
	})
	if err := set(rest[1], "k", "while it was away"); err != nil {
		t.Error(err)
	}
	victim.start(t)
	waitOneCluster(t, nodes)
	if err := check(victim, "k", "while it was away"); err != nil {
		t.Error(err)
	}
}

// A leader that pauses is not taken for dead, although its accept queue is full and
// refuses connections meanwhile: if it loses its place, then by the timeout.
func TestALeaderThatPausesWithAFullAcceptQueueIsNotTakenForDead(t *testing.T) {
	nodes := startNodes(t, 3)
	for range 3 {
		leader := findLeader(t, nodes)
		leader.suspend()
		hangUp := crowd(t, leader.raddr, 5000)
		<-time.After(200 * time.Millisecond)
		leader.resume()
		hangUp()
		waitReady(t, nodes...)
		if err := set(leader, "k", "v"); err != nil {
			t.Error(err)
		}
	}
	for _, n := range nodes {
		if strings.Contains(n.output.String(), "process is gone") {
			t.Errorf("%s took a leader that paused for dead", n.id)
		}
	}
}

// crowd dials addr until its accept queue is full, or n times at most.
func crowd(t testing.TB, addr string, n int) (hangUp func()) {
	t.Helper()
	var conns []net.Conn
	for range n {
		conn, err := net.DialTimeout("tcp", addr, 20*time.Millisecond)
		if err != nil {
			break
		}
		conns = append(conns, conn)
	}
	if len(conns) == n {
		t.Logf("the accept queue took %d connections", n)
	}
	return func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
}
