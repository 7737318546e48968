package main_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A client that holds more connections to the leader than that has file descriptors
// keeps no other node from it.
func TestClientsLeaveDescriptorsForThePeers(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs bash, for ulimit")
	}
	leader := newNode(t, "node0")
	leader.process = startCommand(t, bash, append([]string{"-c", `ulimit -n 256; exec "$@"`, "bash", kvd}, leader.args()...)...)
	waitReady(t, leader)
	nodes := []*node{leader}
	for i := range 2 {
		member := newNode(t, fmt.Sprintf("node%d", i+1), "-join", leader.haddr)
		member.start(t)
		waitReady(t, member)
		nodes = append(nodes, member)
	}
	for range 400 {
		conn, err := net.Dial("tcp", leader.haddr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	leader.waitOutput("too many HTTP connections")
	follower, other := nodes[1], nodes[2]
	follower.kill()
	follower.start(t)
	waitReady(t, follower)
	for _, n := range []*node{follower, other} {
		if err := set(n, n.id, "value"); err != nil {
			t.Error(err)
		}
		if st, err := statusOf(n); err != nil || st.Leader.ID != leader.id {
			t.Errorf("%s: %+v, %v", n.id, st, err)
		}
	}
}

// A leader that is out of file descriptors nevertheless is no leader for long.
func TestALeaderOutOfDescriptorsHandsOver(t *testing.T) {
	nodes := startNodes(t, 3)
	leader, follower, other := nodes[0], nodes[1], nodes[2]
	follower.kill()
	exhaust(t, leader.cmd.Process.Pid)
	follower.start(t)
	follower.waitOutput("listening: HTTP")
	if err := set(follower, "key", "value"); err != nil {
		t.Error(err)
	}
	leader.waitOutput("this leader can accept no connection; handing leadership over")
	for _, n := range []*node{follower, other} {
		if err := check(n, "key", "value"); err != nil {
			t.Error(err)
		}
		if st, err := statusOf(n); err != nil || st.Leader.ID == "" || st.Leader.ID == leader.id {
			t.Errorf("%s: %+v, %v", n.id, st, err)
		}
	}
}

// What a node has open it goes on with. Snapshots fail, and are written when they can be.
func TestANodeOutOfDescriptorsGoesOn(t *testing.T) {
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n) // and there is a connection to it
	relieve := exhaust(t, n.cmd.Process.Pid)
	value := strings.Repeat("v", 1_000_000)
	for i := range 70 { // a first snapshot comes before 64 MiB
		if err := set(n, fmt.Sprint(i%3), value); err != nil {
			t.Fatal(err)
		}
	}
	n.waitOutput("take a snapshot")
	n.waitOutput("too many open files")
	relieve()
	eventually(t, "a snapshot", func() string {
		if found, err := filepath.Glob(filepath.Join(n.dir, "snapshots", "*", "state.bin")); err != nil || len(found) == 0 {
			return fmt.Sprint(found, err)
		}
		return ""
	})
	if err := check(n, "0", value); err != nil {
		t.Error(err)
	}
}

// exhaust leaves a process no file descriptor but the one that it has in reserve, which is
// /dev/null. (So may be others, of lower numbers, that it was started with.)
func exhaust(t *testing.T, pid int) (relieve func()) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	reserve := 0
	for _, file := range files {
		fd, _ := strconv.Atoi(file.Name())
		if to, err := os.Readlink(filepath.Join(dir, file.Name())); err == nil && to == os.DevNull && fd > 2 {
			reserve = max(reserve, fd)
		}
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	set := func(most uint64) {
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: limit.Max}, nil); err != nil {
			t.Fatal(err)
		}
	}
	set(uint64(reserve + 1))
	return func() { set(limit.Cur) }
}
