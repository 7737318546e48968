package kvraft_test

import (
	"os/exec"
	"strings"
	"testing"
)

// What a program links that imports the store and its HTTP API.
func TestWhatIsOptionalIsLinkedOnlyWhereItIsImported(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".", "./http").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		for _, optional := range []string{"github.com/hashicorp/serf/", "github.com/hashicorp/memberlist", "github.com/kvraft/kvraft/serf", "porcupine", "kvrafttest"} {
			if strings.Contains(path, optional) {
				t.Errorf("%s is linked", path)
			}
		}
	}
}
