package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func memoryOf(n *node) string { return filepath.Join(n.dir, "kvd.json") }

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func wantMemory(t testing.TB, n *node, want map[string]string) {
	t.Helper()
	var have map[string]string
	if err := json.Unmarshal(readFile(t, memoryOf(n)), &have); err != nil {
		t.Fatal(err)
	}
	for name, value := range want {
		if have[name] != value {
			t.Errorf("%s remembers -%s %q, want %q", n.id, name, have[name], value)
		}
	}
}

func (n *node) stop(t testing.TB) {
	t.Helper()
	n.signal(syscall.SIGTERM)
	if code := n.exitCode(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
}

// restart starts the node with its directory, and these flags alone.
func (n *node) restart(t testing.TB, flags ...string) {
	t.Helper()
	n.process = startCommand(t, kvd, append(flags, n.dir)...)
	waitReady(t, n)
}

func TestTheDirectoryAloneStartsANodeAsItWas(t *testing.T) {
	nodes := alike(t, 3)
	gossip, others := freeAddr(t), freeAddr(t)+","+freeAddr(t)
	nodes[1].flags = append(nodes[1].flags, "-serf", gossip, "-serf-join", others, "-serf-heal", "1h")
	startTogether(t, nodes)
	replica := newNode(t, "replica", "-join", nodes[0].haddr+","+nodes[1].haddr, "-replica", "-leave-on-exit")
	replica.start(t)
	waitReady(t, replica)
	wantMemory(t, nodes[1], map[string]string{"id": "node1", "haddr": nodes[1].haddr, "raddr": nodes[1].raddr,
		"bootstrap-expect": "3", "join": nodes[1].flags[3], "serf": gossip, "serf-join": others, "serf-heal": "1h0m0s"})
	wantMemory(t, replica, map[string]string{"join": nodes[0].haddr + "," + nodes[1].haddr, "replica": "true", "leave-on-exit": "true"})

	var before membership
	eventually(t, "the first node to know the replica", func() string {
		if before = membersOf(t, nodes[0]); !strings.Contains(before.ids(), "replica") {
			return "the members are " + before.ids()
		}
		return ""
	})
	for _, n := range append(nodes, replica) {
		remembered := readFile(t, memoryOf(n))
		n.stop(t)
		n.restart(t)
		if now := readFile(t, memoryOf(n)); !bytes.Equal(now, remembered) {
			t.Errorf("%s remembers %s after a restart, and before\n%s", n.id, now, remembered)
		}
	}
	after := membersOf(t, nodes[0])
	if after.Cluster != before.Cluster || after.ids() != before.ids() {
		t.Fatalf("%+v, want %+v", after, before)
	}
	for i, m := range after.Nodes {
		if m != before.Nodes[i] {
			t.Errorf("%+v, want %+v", m, before.Nodes[i])
		}
	}
	replica.stop(t) // it leaves
	eventually(t, "the replica to be gone", func() string {
		if ids := membersOf(t, nodes[0]).ids(); strings.Contains(ids, "replica") {
			return "the members are " + ids
		}
		return ""
	})
}

func TestFlagsOverrideWhatIsRememberedFromThenOn(t *testing.T) {
	n := newNode(t, "node0", "-leave-on-exit", "-serf", freeAddr(t))
	n.start(t)
	waitReady(t, n)
	n.stop(t)
	n.restart(t, "-serf-heal", "1h")
	n.stop(t)
	old := *n
	n.haddr, n.raddr = freeAddr(t), freeAddr(t)
	n.restart(t, "-client", n.haddr, "-bind", n.raddr, "-leave-on-exit=false", "-serf", "")
	n.stop(t)
	n.restart(t)
	wantMemory(t, n, map[string]string{"id": "node0", "haddr": n.haddr, "raddr": n.raddr, "leave-on-exit": "false", "serf": ""})
	if _, _, err := get(old.url("/readyz")); err == nil {
		t.Error("it is at its former address, too")
	}
	n.waitOutput("peers reach it at " + n.raddr)
}

func TestAVoterIsNotMadeAReplicaByAFlag(t *testing.T) {
	nodes := startNodes(t, 3)
	n := nodes[1]
	n.stop(t)
	n.restart(t, "-replica")
	n.waitOutput("-replica has no effect")
	if m := membersOf(t, n).Nodes[1]; m.ID != n.id || !m.Voter || m.Replica {
		t.Errorf("%+v", m)
	}
	wantMemory(t, n, map[string]string{"replica": "false"})
	n.stop(t)
	n.restart(t, "-bootstrap-expect", "3")
	if strings.Contains(n.output.String(), "-replica") {
		t.Error("it still speaks of -replica")
	}
}

// What a start that fails was told is not remembered.
func TestAStartThatFailsLeavesWhatIsRemembered(t *testing.T) {
	other := newNode(t, "other")
	other.start(t)
	waitReady(t, other)
	n := newNode(t, "node0")
	fails := func(code int, flags ...string) {
		t.Helper()
		expectExit(t, code, append(flags, n.dir))
	}
	failAll := func() {
		t.Helper()
		fails(1, "-haddr", other.haddr)
		fails(1, "-haddr", freeAddr(t), "-raddr", other.raddr)
		fails(1, "-serf", "nowhere.invalid:1", "-haddr", freeAddr(t), "-raddr", freeAddr(t))
		fails(2, "-raddr", "nowhere")
		fails(2, "-replica", "-leave-on-exit", "-nonsense")
		fails(2, "-bootstrap-expect", "0")
	}
	failAll()
	if _, err := os.Stat(memoryOf(n)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first start: %v", err)
	}
	n.start(t)
	waitReady(t, n)
	again := *n
	expectExit(t, 1, []string{"-haddr", freeAddr(t), "-raddr", freeAddr(t), n.dir}, "in use by another process")
	again.stop(t)

	remembered := readFile(t, memoryOf(n))
	failAll()
	fails(1, "-mirror", n.dir)
	expectExit(t, 1, []string{"-id", "node1", "-haddr", freeAddr(t), n.dir}, n.dir, `this is the data of node "node0", not of "node1"`)
	expectExit(t, 2, []string{"-serf-join", "localhost:1", n.dir}, "-serf-join needs -serf", memoryOf(n)+" has those that were not given")
	if now := readFile(t, memoryOf(n)); !bytes.Equal(now, remembered) {
		t.Errorf("it remembers %s, and before\n%s", now, remembered)
	}
	n.restart(t)
}

func TestADamagedMemoryIsRefusedAndNamed(t *testing.T) {
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n)
	if err := set(n, "k", "v"); err != nil {
		t.Fatal(err)
	}
	n.stop(t)
	whole := readFile(t, memoryOf(n))
	for text, says := range map[string]string{
		"":                         "unexpected end of JSON input",
		string(whole[:20]):         "unexpected end of JSON input",
		"null":                     "it is null",
		"[]":                       "cannot unmarshal array",
		`{"haddr": 1}`:             "cannot unmarshal number",
		`{"hadr": "localhost:1"}`:  `no flag "hadr" is remembered`,
		`{"v": "true"}`:            `no flag "v" is remembered`,
		`{"replica": "perhaps"}`:   `"replica": "perhaps"`,
		`{"join": "localhost"}`:    `"join": "localhost"`,
		strings.Repeat("\x00", 99): "invalid character",
	} {
		if err := os.WriteFile(memoryOf(n), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{n.dir}, n.args(), {"-prompt", n.dir}} {
			expectExit(t, 1, args, "kvd: "+memoryOf(n)+": ", says, "correct it, or remove it and give the flags again")
		}
		if now := readFile(t, memoryOf(n)); string(now) != text {
			t.Errorf("%q became %q", text, now)
		}
	}
	if err := os.WriteFile(memoryOf(n), []byte(`{"haddr": "nowhere"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	expectExit(t, 2, []string{n.dir}, "-haddr nowhere: want host:port", memoryOf(n))

	if err := os.Remove(memoryOf(n)); err != nil {
		t.Fatal(err)
	}
	// A crash in the middle of writing leaves this, and the file as it was.
	if err := os.WriteFile(memoryOf(n)+".tmp", whole[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	waitReady(t, n)
	if now := readFile(t, memoryOf(n)); !bytes.Equal(now, whole) {
		t.Errorf("it remembers %s, want\n%s", now, whole)
	}
	if err := check(n, "k", "v"); err != nil {
		t.Error(err)
	}
}

func TestANodeInMemoryRemembersNothing(t *testing.T) {
	n := newNode(t, "node0", "-inmem")
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(memoryOf(n), []byte("not looked at"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	waitReady(t, n)
	n.stop(t)
	if now := readFile(t, memoryOf(n)); string(now) != "not looked at" {
		t.Errorf("it remembers %s", now)
	}
}

func TestARecoveredNodeRemembersItsNewAddress(t *testing.T) {
	nodes := startTogether(t, onOnePort(t, 3))
	for _, n := range nodes {
		n.kill()
	}
	survivor := nodes[2]
	remembered := readFile(t, memoryOf(survivor))
	addr := freeAddr(t)
	expectExit(t, 0, []string{"recover", "-n", "-raddr", addr, survivor.dir}, "Nothing was changed")
	expectExit(t, 2, []string{"recover", "-raddr", "nowhere", survivor.dir}, "want host:port")
	expectExit(t, 2, []string{"recover", "-raddr", "localhost:99999", survivor.dir}, "want host:port")
	expectExit(t, 1, []string{"recover", "-raddr", ":1", survivor.dir}, "want a host")
	if now := readFile(t, memoryOf(survivor)); !bytes.Equal(now, remembered) {
		t.Errorf("it remembers %s, and before\n%s", now, remembered)
	}
	if err := os.WriteFile(memoryOf(survivor), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expectExit(t, 1, []string{"recover", "-raddr", addr, survivor.dir}, memoryOf(survivor), "correct it, or remove it")
	if err := os.WriteFile(memoryOf(survivor), remembered, 0o600); err != nil {
		t.Fatal(err)
	}
	expectExit(t, 0, []string{"recover", "-raddr", addr, survivor.dir}, "is formed with node2, at "+addr)
	survivor.haddr, survivor.raddr = addr, addr
	survivor.restart(t)
	if m := membersOf(t, survivor).Nodes; len(m) != 1 || m[0].Address != addr {
		t.Errorf("the members are %+v, want node2 at %s", m, addr)
	}
}

func TestTheQuestionsCanBeAnsweredThroughAPipe(t *testing.T) {
	n := newNode(t, "node0")
	n.haddr = "localhost" + n.haddr[strings.LastIndex(n.haddr, ":"):]
	port := n.haddr[len("localhost:"):]
	run := func(answers string, flags ...string) {
		n.process = newProcess(t, kvd, append(flags, "-prompt", n.dir)...)
		n.cmd.Stdin = strings.NewReader(answers)
		n.launch()
	}
	newStill := func(code int) {
		t.Helper()
		if have := n.exitCode(); have != code {
			t.Errorf("exit code %d, want %d", have, code)
		}
		if _, err := os.Stat(n.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("there is a directory: %v", err)
		}
	}
	run("\n" + port + "\n") // an end is no answer
	newStill(1)
	run("no-such-host.invalid\n" + port + "\n\n")
	newStill(1)
	n.waitOutput("kvd: -haddr no-such-host.invalid:" + port)
	take := func() net.Listener {
		t.Helper()
		ln, err := net.Listen("tcp", n.haddr)
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	taken := take()
	run("\n" + port + "\n\n")
	newStill(1)
	n.waitOutput("address already in use; start again and answer another port")
	taken.Close()
	run("\n"+port+"\n\n", "-bootstrap-expect", "3")
	newStill(2)
	for _, flags := range [][]string{{"-haddr", "localhost:1"}, {"-bind", "localhost:1"}, {"-join", "localhost:1"}, {"-inmem"}} {
		run("\n\n\n", flags...)
		newStill(2)
		n.waitOutput("it goes without -haddr, -raddr, -join and -inmem")
	}
	run("\n"+port+"\n\n", "-id", "node0")
	waitReady(t, n)
	n.waitOutput("Name: node0\n")
	wantMemory(t, n, map[string]string{"id": "node0", "haddr": n.haddr, "raddr": n.haddr})
	n.stop(t)
	taken = take()
	expectExit(t, 1, []string{"-prompt", n.dir}, "address already in use; name another with -haddr, without -prompt")
	taken.Close()
	n.restart(t)
}
