package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// startIn starts the node from dir, with flags and its directory alone.
func (n *node) startIn(t *testing.T, dir string, flags ...string) {
	t.Helper()
	n.process = newProcess(t, kvd, append(flags, n.dir)...)
	n.cmd.Dir = dir
	n.launch()
	waitReady(t, n)
}

func TestAPathIsTheSameForAStartFromAnotherDirectory(t *testing.T) {
	n, first, second := newNode(t, "node0"), t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(first, "gossip.key"), []byte("MDEyMzQ1Njc4OWFiY2RlZg==\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.startIn(t, first, "-haddr", n.haddr, "-raddr", n.raddr, "-mirror", "mirror", "-serf", freeAddr(t), "-serf-key-file", "gossip.key")
	wantMemory(t, n, map[string]string{"mirror": filepath.Join(first, "mirror"), "serf-key-file": filepath.Join(first, "gossip.key")})
	n.stop(t)
	n.startIn(t, second)
	if err := set(n, "k", "v"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file of the key", func() string {
		if _, err := os.Stat(filepath.Join(first, "mirror", "k")); err != nil {
			return err.Error()
		}
		return ""
	})
	if names, err := os.ReadDir(second); err != nil || len(names) > 0 {
		t.Errorf("%v; in the other directory is %v", err, names)
	}
}

func TestNodesWithTheKeyOfTheGossipFindEachOther(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("MDEyMzQ1Njc4OWFiY2RlZg=="), 0o600); err != nil {
		t.Fatal(err)
	}
	gossip := freeAddr(t)
	nodes := []*node{
		newNode(t, "node0", "-bootstrap-expect", "2", "-serf", gossip, "-serf-join", gossip, "-serf-key-file", key),
		newNode(t, "node1", "-bootstrap-expect", "2", "-serf", freeAddr(t), "-serf-join", gossip, "-serf-key-file", key),
	}
	startTogether(t, nodes)
}

func TestAKeyThatIsNoneIsRefusedAndNotRepeated(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	flags := []string{"-haddr", freeAddr(t), "-raddr", freeAddr(t), "-serf", freeAddr(t), "-serf-key-file", key, filepath.Join(dir, "data")}
	expectExit(t, 1, flags, "kvd: -serf-key-file "+key+": no such file or directory\n")
	for _, secret := range []string{"", "secret", "c2VjcmV0"} {
		if err := os.WriteFile(key, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		_, errs, code := runKVD(t, dir, flags...)
		if code != 1 || !strings.Contains(errs, "kvd: -serf-key-file "+key+": want 16, 24 or 32 bytes in base64") || secret != "" && strings.Contains(errs, secret) {
			t.Errorf("%q: exit code %d, %s", secret, code, errs)
		}
	}
	expectExit(t, 2, []string{"-serf-key-file", key, dir}, "-serf-key-file needs -serf")
}

func TestPeersAreToldTheAddressToAdvertise(t *testing.T) {
	n := newNode(t, "node0")
	_, port, _ := strings.Cut(n.raddr, ":")
	advertised := "localhost:" + port
	n.flags = []string{"-advertise", advertised}
	n.start(t)
	waitReady(t, n)
	n.waitOutput("peers reach it at " + advertised)
	joining := newNode(t, "node1", "-join", n.haddr)
	joining.start(t)
	waitReady(t, joining)
	if st := membersOf(t, joining); st.Nodes[0].Address != advertised {
		t.Errorf("%+v", st)
	}
	n.stop(t)
	n.restart(t)
	wantMemory(t, n, map[string]string{"advertise": advertised, "raddr": n.raddr})
	expectExit(t, 2, []string{"-advertise", "host", t.TempDir()}, "-advertise host: want host:port, with a port from 1 to 65535")
}
