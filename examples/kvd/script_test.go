package main_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runScript runs a script by testdata/run.sh. The scripts use fixed ports, so
// these tests are not parallel.
func runScript(t *testing.T, path string) {
	t.Helper()
	if raced {
		t.Skip("what the script runs is no other with the race detector")
	}
	needTools(t, "bash", "curl")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	script := exec.CommandContext(ctx, "bash", "testdata/run.sh", kvd, path)
	script.Cancel = func() error { return script.Process.Signal(syscall.SIGTERM) } // it ends its nodes
	script.WaitDelay = limit
	if out, err := script.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func needTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("KVRAFT_TEST_TOOLS") == "required" { // CI sees to it that they are there
				t.Fatalf("needs %s", tool)
			}
			t.Skipf("needs %s", tool)
		}
	}
}

func TestTheCommandLinesOfThePredecessorsWork(t *testing.T) {
	for _, name := range []string{"hraftd", "hraftd-2016", "disco-http", "raft-kv-example", "raftd"} {
		t.Run(name, func(t *testing.T) { runScript(t, filepath.Join("testdata", name+".sh")) })
	}
}

func TestTheCommandLinesOfREADMEWork(t *testing.T) {
	runScript(t, scriptOf(t, "README.md"))
}

// The hosts of CLUSTERING.md are addresses of the loopback interface.
func TestTheCommandLinesOfCLUSTERINGWork(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs 127.0.0.2 and others, which only Linux has without more ado")
	}
	runScript(t, scriptOf(t, "CLUSTERING.md", "host1", "127.0.0.1", "host2", "127.0.0.2", "host3", "127.0.0.3", "host4", "127.0.0.4"))
}

var (
	hidden   = regexp.MustCompile(`^<!-- sh: (.*) -->$`)
	answered = regexp.MustCompile(`^(curl .*[^ ]) +# (.*)$`)
)

// scriptOf extracts the sh blocks of a document into a file, with the words in
// rename replaced, and in each curl line the answer in its comment expected. A
// line <!-- sh: COMMAND --> between them is for the script only.
func scriptOf(t *testing.T, document string, rename ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", document))
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	curls, inside := 0, false
	for line := range strings.Lines(strings.NewReplacer(rename...).Replace(string(text))) {
		line = strings.TrimSpace(line)
		switch m := hidden.FindStringSubmatch(line); {
		case line == "```sh":
			inside = true
		case strings.HasPrefix(line, "```"):
			inside = false
		case m != nil:
			fmt.Fprintln(&script, m[1])
		case inside && answered.MatchString(line):
			m := answered.FindStringSubmatch(line)
			fmt.Fprintf(&script, "%s\nexpect '%s'\n", m[1], m[2])
			curls++
		case inside:
			fmt.Fprintln(&script, line)
		}
	}
	if curls == 0 {
		t.Fatalf("%s shows no curl line with its answer", document)
	}
	path := filepath.Join(t.TempDir(), document+".sh")
	if err := os.WriteFile(path, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheGoCodeOfREADMEIsThatOfTheExamples(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := os.ReadFile("../../example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(blocks) == 0 {
		t.Fatal("there is none")
	}
	words := func(code []byte) string { return strings.Join(strings.Fields(string(code)), " ") }
	for _, block := range blocks {
		if !strings.Contains(words(examples), words(block[1])) {
			t.Errorf("not in example_test.go:\n%s", block[1])
		}
	}
}
