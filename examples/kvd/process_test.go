package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// kvd is the binary that all tests run.
var kvd string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kvd-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	kvd = filepath.Join(dir, "kvd")
	if out, err := exec.Command("go", "build", "-o", kvd, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build kvd: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// limit bounds every wait.
const limit = 30 * time.Second

// process is one run of kvd.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	output *output
	exited chan struct{}
}

// output gathers what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// startCommand starts a process that is killed when the test ends.
func startCommand(t testing.TB, name string, args ...string) *process {
	t.Helper()
	p := newProcess(t, name, args...)
	p.launch()
	return p
}

// newProcess is one that has yet to be launched.
func newProcess(t testing.TB, name string, args ...string) *process {
	p := &process{t: t, cmd: exec.Command(name, args...), output: new(output), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	return p
}

func (p *process) launch() {
	t := p.t
	t.Helper()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // exitCode reads the state
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", strings.Join(p.cmd.Args, " "), tail(p.output.String()))
		}
	})
}

func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "[...] " + s[len(s)-most:]
	}
	return s
}

// kill is kill -9. It returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) exitCode() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.t.Fatalf("%s does not end", p.cmd)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) waitOutput(text string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%q in the output", text), func() string {
		if out := p.output.String(); !strings.Contains(out, text) {
			return "it is not there"
		}
		return ""
	})
}

// eventually polls; missing says what is missing, and "" that nothing is.
func eventually(t testing.TB, what string, missing func() string) {
	t.Helper()
	end := time.After(limit)
	for reason := missing(); reason != ""; reason = missing() {
		select {
		case <-end:
			t.Fatalf("waited %v for %s: %s", limit, what, reason)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// node is one member: its command line and the process that runs it now.
type node struct {
	*process
	id, haddr, raddr, dir string
	flags                 []string // beside the addresses and the id
}

func newNode(t testing.TB, id string, flags ...string) *node {
	t.Helper()
	return &node{id: id, haddr: freeAddr(t), raddr: freeAddr(t), dir: filepath.Join(t.TempDir(), id), flags: flags}
}

func (n *node) args() []string {
	return slices.Concat([]string{"-id", n.id, "-haddr", n.haddr, "-raddr", n.raddr}, n.flags, []string{n.dir})
}

func (n *node) start(t testing.TB) {
	t.Helper()
	n.process = startCommand(t, kvd, n.args()...)
}

func (n *node) url(path string) string { return "http://" + n.haddr + path }

// ports counts those that freeAddr has given.
var ports atomic.Uint32

// freeAddr returns an address below the ports that the system gives to outgoing
// connections, so that it stays free until a node listens on it, and again: each of
// 1000 in turn, and not those of another run beside this one.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 13000+1000*(os.Getpid()%19)+int(ports.Add(1)%1000))
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

// startNodes starts n nodes that join the first, and waits until all are ready.
func startNodes(t testing.TB, n int) []*node {
	t.Helper()
	var nodes []*node
	for i := range n {
		member := newNode(t, fmt.Sprintf("node%d", i))
		if i > 0 {
			member.flags = []string{"-join", nodes[0].haddr}
		}
		nodes = append(nodes, member)
		member.start(t)
		waitReady(t, member)
	}
	return nodes
}

func waitReady(t testing.TB, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		eventually(t, n.id+" to be ready", func() string {
			select {
			case <-n.exited:
				t.Fatalf("%s ended", n.id)
			default:
			}
			code, body, err := get(n.url("/readyz"))
			if err != nil {
				return err.Error()
			}
			if code != http.StatusOK {
				return body
			}
			return ""
		})
	}
}

var client = &http.Client{
	Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	Timeout:   limit,
}

func get(url string) (code int, body string, err error) {
	resp, err := client.Get(url)
	return answer(resp, err)
}

func post(url, payload string) (code int, body string, err error) {
	resp, err := client.Post(url, "application/x-www-form-urlencoded", strings.NewReader(payload)) // as curl -d does
	return answer(resp, err)
}

func answer(resp *http.Response, err error) (int, string, error) {
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// set writes one key, and returns nil if that was acknowledged.
func set(n *node, key, value string) error {
	pair, err := json.Marshal(map[string]string{key: value})
	if err != nil {
		return err
	}
	code, body, err := post(n.url("/key"), string(pair))
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("POST /key: %d %s", code, body)
	}
	return err
}

// check reads one key, linearizably.
func check(n *node, key, value string) error {
	code, body, err := get(n.url("/key/" + key))
	if err != nil {
		return err
	}
	var pair map[string]string
	if err := json.Unmarshal([]byte(body), &pair); code != http.StatusOK || err != nil || pair[key] != value {
		return fmt.Errorf("GET /key/%s: %d %s, want the value %q", key, code, body, value)
	}
	return nil
}

// status is the part of GET /status?hash that the tests read.
type status struct {
	Leader    struct{ ID string }
	Hash      string
	HashIndex uint64 `json:"hash_index"`
}

func statusOf(n *node) (st status, err error) {
	code, body, err := get(n.url("/status?hash"))
	if err != nil {
		return st, err
	}
	if code != http.StatusOK {
		return st, fmt.Errorf("GET /status: %d %s", code, body)
	}
	return st, json.Unmarshal([]byte(body), &st)
}

// findLeader waits until the nodes agree on a leader among them.
func findLeader(t testing.TB, nodes []*node) *node {
	t.Helper()
	var leader *node
	eventually(t, "a leader", func() string {
		leader = nil
		for _, n := range nodes {
			st, err := statusOf(n)
			if err != nil {
				return err.Error()
			}
			if leader != nil && leader.id != st.Leader.ID {
				return "two leaders are named"
			}
			for _, m := range nodes {
				if m.id == st.Leader.ID {
					leader = m
				}
			}
			if leader == nil {
				return "there is none"
			}
		}
		return ""
	})
	return leader
}

// waitSameState waits until all nodes are at the same log index, and compares
// their states there.
func waitSameState(t testing.TB, nodes []*node) {
	t.Helper()
	eventually(t, "equal log indexes", func() string {
		var first status
		for i, n := range nodes {
			st, err := statusOf(n)
			switch {
			case err != nil:
				return err.Error()
			case st.Hash == "" || st.HashIndex == 0:
				t.Fatalf("%s does not give a hash of its state: %+v", n.id, st)
			case i == 0:
				first = st
			case st.HashIndex != first.HashIndex:
				return fmt.Sprintf("%d and %d", first.HashIndex, st.HashIndex)
			case st.Hash != first.Hash:
				t.Fatalf("the states differ at log index %d: %s and %s", st.HashIndex, first.Hash, st.Hash)
			}
		}
		return ""
	})
}
