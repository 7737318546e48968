package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// runKVD runs kvd in dir to its end.
func runKVD(t *testing.T, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), kvd, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	_ = cmd.Run() // the code tells
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestHelpThatIsAskedForIsStandardOutput(t *testing.T) {
	dir := t.TempDir()
	for args, says := range map[string]string{
		"-h":           "Usage: kvd [flags] DIR",
		"--help":       "  -bootstrap-expect n",
		"help":         "  -bootstrap-expect n",
		"help help":    "Usage: kvd [flags] DIR",
		"help -h":      "Usage: kvd [flags] DIR",
		"help log":     "Usage: kvd log",
		"log -h":       "  -values",
		"help recover": "Usage: kvd recover",
		"recover -h":   "  -raddr address",
		"help health":  "Usage: kvd health",
		"health -h":    "Usage: kvd health",
		"help version": "Usage: kvd version",
		"version":      "kvd ",
		"-version":     runtime.Version(),
		"-version dir": runtime.Version(),
	} {
		out, errs, code := runKVD(t, dir, strings.Fields(args)...)
		if code != 0 || errs != "" || !strings.Contains(out, says) {
			t.Errorf("kvd %s: exit code %d, standard error %q, standard output %q, want %q in it", args, code, errs, out, says)
		}
	}
	for _, args := range []string{"help nonsense", "help log recover", "version nonsense", "version -nonsense", "health a b", "-nonsense"} {
		if out, errs, code := runKVD(t, dir, strings.Fields(args)...); code != 2 || out != "" || errs == "" {
			t.Errorf("kvd %s: exit code %d, standard error %q, standard output %q", args, code, errs, out)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("%v, and there is %v: somebody has been taken for a directory of data", err, names)
	}
}

func TestTheVersionIsThatOfTheLinkerOrOfTheBuild(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kvd")
	if out, err := exec.Command("go", "build", "-ldflags", "-X main.version=v9.8.7", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(path, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "kvd v9.8.7 go") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestANodeTellsItsVersion(t *testing.T) {
	n := newNode(t, "node0")
	n.start(t)
	waitReady(t, n)
	out, _, _ := runKVD(t, t.TempDir(), "version")
	version := strings.Fields(out)[1]
	n.waitOutput(fmt.Sprintf("starting: version=%q", version))
	_, body, err := get(n.url("/status"))
	if want := `"version":"` + version + `"`; err != nil || !strings.Contains(string(body), want) {
		t.Errorf("%s, %v, want %s in it", body, err, want)
	}
}
