package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/kvraft/kvraft"
)

// writeLog makes the directory of a stopped node with a snapshot, which ends at
// the first write, and a log.
func writeLog(t *testing.T) (dir string) {
	t.Helper()
	dir, addr := filepath.Join(t.TempDir(), "n1"), freeAddr(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	large := bytes.Repeat([]byte("large "), 20)
	write := func(snapshots kvraft.Snapshots, ops ...[]kvraft.Op) {
		s, err := kvraft.Open(dir, kvraft.WithID("n1"), kvraft.WithAddr(addr), kvraft.WithSnapshots(snapshots))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the node to be ready", func() string { return s.Status().Reason })
		for _, batch := range ops {
			if _, err := s.Batch(ctx, batch...); err != nil {
				t.Error(err)
			}
		}
		if snapshots.EveryBytes > 0 {
			eventually(t, "a snapshot", func() string {
				if found, err := filepath.Glob(filepath.Join(dir, "snapshots", "*[0-9]")); err != nil || len(found) == 0 {
					return "there is none"
				}
				return ""
			})
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write(kvraft.Snapshots{EveryBytes: 1 << 10}, []kvraft.Op{kvraft.SetOp("first", bytes.Repeat([]byte("x"), 2<<10))})
	write(kvraft.Snapshots{},
		[]kvraft.Op{kvraft.SetOp("color", []byte("green")), kvraft.SetOp("two words", large), kvraft.CheckOp("first", 1)},
		[]kvraft.Op{kvraft.DeleteOp("color"), kvraft.SetOp("bin\xff", []byte{0xff})})
	return dir
}

// runLog returns what kvd log prints, without what changes from one log to the next.
func runLog(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(kvd, append([]string{"log"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("kvd log %q: exit code %d, want %d:\n%s%s", args, got, code, &out, &errs)
	}
	text := out.String()
	for pattern, with := range map[string]string{
		`127\.0\.0\.1:\d+`:                     "ADDR",
		`(request|identity|cluster) [0-9a-f]+`: "$1 ID",
		`(?m)^[0-9a-f]{8} `:                    "CHECKSUM ",
		`\d+-\d+-\d{13}`:                       "SNAPSHOT",
		`at offset \d+`:                        "at offset OFFSET",
	} {
		text = regexp.MustCompile(pattern).ReplaceAllString(text, with)
	}
	return text, errs.String()
}

func TestALogCanBeRead(t *testing.T) {
	dir := writeLog(t)
	stdout, stderr := runLog(t, 0, dir)
	const want = `node: n1, identity ID, cluster ID, term 3, voted in term 3 for ADDR
snapshot SNAPSHOT: index 4, term 2, 2114 bytes, version 1, 1 keys, 1 requests remembered, cluster ID, members n1 (ADDR)
checksum verdict      index   term type              size command
CHECKSUM ok               1      1 configuration       68 n1 (ADDR)
CHECKSUM ok               2      2 noop                 0 nothing
CHECKSUM ok               3      2 command              2 nothing
CHECKSUM ok               4      2 command           2078 set first xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… (2048 bytes) (request ID, born 3)
CHECKSUM ok               5      3 noop                 0 nothing
CHECKSUM ok               6      3 command              2 nothing
CHECKSUM ok               7      3 command            174 set color green; set "two words" "large large large large large large large large large large "… (120 bytes); check first version 1 (request ID, born 6)
CHECKSUM ok               8      3 command             36 delete color; set "bin\xff" "\xff" (request ID, born 7)
`
	if stdout != want || stderr != "" {
		t.Errorf("have:\n%s%s\nwant:\n%s", stdout, stderr, want)
	}

	stdout, _ = runLog(t, 0, "-values", "-from", "4", "-to", "7", dir)
	for _, text := range []string{strings.Repeat("x", 2048), strings.Repeat("large ", 20)} {
		if !strings.Contains(stdout, text) {
			t.Errorf("-values: %q is not there:\n%s", text, stdout)
		}
	}
	if n := strings.Count(stdout, " ok "); n != 4 {
		t.Errorf("-from 4 -to 7 prints %d entries", n)
	}
}

func TestALogCanBeReadAsJSON(t *testing.T) {
	stdout, _ := runLog(t, 0, "-json", writeLog(t))
	type entry struct {
		Verdict, Checksum, Type string
		Index, Term, Size       uint64
		Requests                []struct {
			ID   string
			Born uint64
			Ops  []struct {
				Op          string
				Key         *string
				KeyBase64   []byte `json:"key_base64"`
				Value       *string
				ValueBase64 []byte `json:"value_base64"`
			}
		}
	}
	var kinds []string
	var last entry
	for line := range strings.Lines(stdout) {
		var object struct{ Kind string }
		err := json.Unmarshal([]byte(line), &object)
		if object.Kind == "entry" {
			last = entry{}
			err = errors.Join(err, json.Unmarshal([]byte(line), &last))
		}
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		kinds = append(kinds, object.Kind)
	}
	if got := strings.Join(kinds, " "); got != "node snapshot"+strings.Repeat(" entry", 8) {
		t.Errorf("%s", got)
	}
	if last.Verdict != "ok" || last.Type != "command" || last.Index != 8 || last.Term != 3 || last.Size != 36 || len(last.Checksum) != 8 {
		t.Errorf("%+v", last)
	}
	request := last.Requests[0]
	if len(request.ID) != 32 || request.Born != 7 || len(request.Ops) != 2 {
		t.Fatalf("%+v", request)
	}
	if first := request.Ops[0]; first.Op != "delete" || *first.Key != "color" || first.Value != nil {
		t.Errorf("%+v", first)
	}
	if second := request.Ops[1]; second.Op != "set" || string(second.KeyBase64) != "bin\xff" || string(second.ValueBase64) != "\xff" || second.Key != nil || second.Value != nil {
		t.Errorf("%+v", second)
	}
}

func TestWhatIsDamagedInALogIsNamed(t *testing.T) {
	dir := writeLog(t)
	replaceInLog(t, dir, "large ", "larger")
	snapshots, err := filepath.Glob(filepath.Join(dir, "snapshots", "*"))
	if err := errors.Join(err, os.RemoveAll(filepath.Join(snapshots[0], "state.bin"))); err != nil {
		t.Fatal(err)
	}

	stdout, stderr := runLog(t, 1, dir)
	for _, text := range []string{
		"CHECKSUM DAMAGED          7      3 command            174 segment-000001 at offset OFFSET: entry 7 does not match its checksum\n" + strings.Repeat(" ", 59) + "set color green; ",
		"CHECKSUM ok               8      3 command             36 delete color; ",
		"snapshot SNAPSHOT: DAMAGED: snapshot " + filepath.Dir(snapshots[0]),
	} {
		if !strings.Contains(stdout, text) {
			t.Errorf("it does not say %q:\n%s", text, stdout)
		}
	}
	if lines := strings.Split(stderr, "\n"); len(lines) != 3 || !strings.Contains(lines[0], "state.bin") || !regexp.MustCompile(`^kvd: damaged data: segment-000001 at offset \d+: entry 7 does not match its checksum$`).MatchString(lines[1]) {
		t.Errorf("standard error is %q", stderr)
	}
	stdout, _ = runLog(t, 1, "-json", "-from", "7", "-to", "7", dir)
	if !strings.Contains(stdout, `"verdict":"damaged","index":7,`) || !strings.Contains(stdout, `"error":"segment-000001 at offset OFFSET: entry 7 does not match its checksum"`) {
		t.Error(stdout)
	}

	if err := os.RemoveAll(filepath.Join(dir, "raft.log")); err != nil {
		t.Fatal(err)
	}
	expectExit(t, 1, []string{"log", dir}, "DAMAGED", filepath.Join(dir, "raft.log")+" is missing")
	path := filepath.Join(dir, "raft.db")
	if err := errors.Join(os.Remove(path), os.RemoveAll(filepath.Join(dir, "snapshots"))); err != nil {
		t.Fatal(err)
	}
	expectExit(t, 1, []string{"log", dir}, "node: DAMAGED: ", "it is missing, but there is "+path+".mark")
}

func TestTheFirstOfManyDamagedPlacesAreNamed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "n1")
	s, err := kvraft.Open(dir, kvraft.WithAddr(freeAddr(t)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 25 {
		_, setErr := s.Set(t.Context(), key(int64(i)), []byte("marked"))
		err = errors.Join(err, setErr)
	}
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	replaceInLog(t, dir, "marked", "market")
	stdout, stderr := runLog(t, 1, dir)
	if n := strings.Count(stdout, " DAMAGED "); n != 25 {
		t.Errorf("%d entries are marked", n)
	}
	if n := strings.Count(stderr, "does not match its checksum"); n != 10 || !strings.Contains(stderr, "kvd: and in 15 more places") {
		t.Error(stderr)
	}
}

func TestALogOfARunningNodeIsNotRead(t *testing.T) {
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n)
	expectExit(t, 1, []string{"log", n.dir}, "kvd: open the log in "+n.dir, "in use by another process")
	if err := set(n, "k", "v"); err != nil {
		t.Error(err)
	}
	n.signal(syscall.SIGTERM)
	if code := n.exitCode(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	expectExit(t, 0, []string{"log", n.dir}, "set k v")
}

func TestAWrongCommandLineOfLogIsExplained(t *testing.T) {
	dir := t.TempDir()
	absent, file := filepath.Join(dir, "absent"), filepath.Join(dir, "file")
	expectExit(t, 1, []string{"log", dir}, dir, "there is no node's data")
	expectExit(t, 1, []string{"log", absent}, absent, "there is no node's data")
	if found, err := os.ReadDir(dir); err != nil || len(found) > 0 {
		t.Errorf("it made %v, %v", found, err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expectExit(t, 1, []string{"log", file}, file, "not a directory")
	expectExit(t, 2, []string{"log"}, "one directory is expected")
	expectExit(t, 2, []string{"log", dir, "-json"}, "after the flags")
	expectExit(t, 2, []string{"log", "-from", "7", "-to", "6", dir}, "-from 7 is behind -to 6", "kvd log -h")
	expectExit(t, 2, []string{"log", "-from", "-1", dir}, "-from", "kvd log -h")
	expectExit(t, 2, []string{"log", "-to", "x", dir}, "-to", "kvd log -h")
	expectExit(t, 0, []string{"log", "-h"}, "Usage: kvd log", "-values", `"kind": "entry"`)
	expectExit(t, 0, []string{"-h"}, "kvd log")
}
