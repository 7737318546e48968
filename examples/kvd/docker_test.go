package main_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The three containers of docker-compose.yml, under a name and at ports of their own.
func TestTheCommandLinesOfRaftKVExampleWorkInContainers(t *testing.T) {
	if raced {
		t.Skip("what is in the containers is no other with the race detector")
	}
	compose := needEngine(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	project := fmt.Sprintf("kvdtest%d", os.Getpid())
	rename := []string{"raftexample", project}
	for i := range 3 {
		_, port, err := net.SplitHostPort(freeAddr(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(fmt.Sprint("KVD_PORT", i+1), port)
		rename = append(rename, fmt.Sprint(4001+i), port)
	}
	t.Setenv("ROOT", root)
	t.Setenv("KVD_IMAGE", project)
	t.Setenv("COMPOSE_PROJECT_NAME", project)
	for _, cache := range []string{"GOCACHE", "GOMODCACHE"} { // run.sh changes HOME
		dir, err := exec.Command("go", "env", cache).Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(cache, strings.TrimSpace(string(dir)))
	}
	removeInTheEnd(t, root, compose)
	runIn(t, root, "make", "image") // takes minutes when nothing is compiled yet

	text, err := os.ReadFile("testdata/raft-kv-example-docker.sh")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "raft-kv-example-docker.sh")
	if err := os.WriteFile(script, []byte(strings.NewReplacer(rename...).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	runScript(t, script)
}

func TestTheContainersOfREADMEAreThoseOfTheScript(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/raft-kv-example-docker.sh")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^    ((?:curl|docker) .*)$`).FindAllSubmatch(readme, -1)
	if len(lines) == 0 {
		t.Fatal("there is none")
	}
	rest := string(script)
	for _, line := range lines {
		_, after, found := strings.Cut(rest, "\n"+string(line[1])+"\n")
		if !found {
			t.Fatalf("not in the script, or in another order: %s", line[1])
		}
		rest = "\n" + after
	}
}

// needEngine skips where no Docker engine runs. It returns the command for compose.
func needEngine(t *testing.T) (compose []string) {
	t.Helper()
	if host := os.Getenv("DOCKER_HOST"); host != "" && !strings.HasPrefix(host, "unix://") {
		t.Skipf("the Docker engine is on another machine: DOCKER_HOST=%s", host)
	}
	out, err := exec.Command("docker", "version", "--format", "{{.Server.Os}}").CombinedOutput()
	if system := strings.TrimSpace(string(out)); err != nil || system != "linux" {
		t.Skipf("no Docker engine for Linux answers: %v %s", err, system)
	}
	if exec.Command("docker", "compose", "version").Run() == nil {
		compose = []string{"docker", "compose"}
	} else {
		compose = []string{"docker-compose"}
	}
	needTools(t, compose[0], "bash", "make")
	return compose
}

// removeInTheEnd removes the project, and does so too when this process is killed: a
// process of its own waits for the end of a pipe.
func removeInTheEnd(t *testing.T, dir string, compose []string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "down.log"))
	if err != nil {
		t.Fatal(err)
	}
	remove := exec.Command("bash", append([]string{"-c", `trap "" INT TERM HUP; cat; exec "$@"`, "bash"},
		append(compose, "down", "--volumes", "--rmi", "all", "--timeout", "1")...)...)
	remove.Dir, remove.Stdout, remove.Stderr = dir, log, log
	pipe, err := remove.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := remove.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pipe.Close()
		if err := remove.Wait(); err != nil {
			said, _ := os.ReadFile(log.Name())
			t.Errorf("%s: %v\n%s", remove, err, said)
		}
		log.Close()
	})
}

// runIn runs a command in dir.
func runIn(t *testing.T, dir string, command ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", cmd, err, out)
	}
}
