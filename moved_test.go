package kvraft_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/kvrafttest"
)

// What a node writes is in the directory that was opened, whatever becomes of its name
// and of what that was relative to.
func TestANodeStaysInTheDirectoryThatItHasOpened(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a directory in use cannot be renamed there")
	}
	elsewhere := t.TempDir()
	for name, move := range map[string]func(t *testing.T, base string) (dir string){
		"the working directory changes": func(t *testing.T, base string) string {
			t.Chdir(elsewhere)
			return filepath.Join(base, "data")
		},
		"it gets another name": func(t *testing.T, _ string) string {
			if err := os.Rename("data", "renamed"); err != nil {
				t.Fatal(err)
			}
			return "renamed"
		},
		"what is above it gets another name": func(t *testing.T, base string) string {
			if err := os.Rename(base, base+"-2"); err != nil {
				t.Fatal(err)
			}
			return filepath.Join(base+"-2", "data")
		},
	} {
		t.Run(name, func(t *testing.T) {
			base := filepath.Join(t.TempDir(), "above")
			if err := os.Mkdir(base, 0o700); err != nil {
				t.Fatal(err)
			}
			t.Chdir(base)
			synctest.Test(t, func(t *testing.T) {
				network := kvrafttest.NewNetwork()
				up := func(dir string) *kvraft.Store {
					s, err := kvraft.Open(dir, kvraft.WithID("n1"), kvraft.WithAddr("n1:7000"), kvraft.WithNetwork(network.Host("n1")))
					if err != nil {
						t.Fatal(err)
					}
					eventually(t, "it is ready", ready(s))
					return s
				}
				s := up("data")
				mustSet(t, s, "key", "before")
				if err := s.CompactAll(); err != nil {
					t.Fatal(err)
				}
				moved := move(t, base)
				mustSet(t, s, "key", "after")
				if err := s.CompactAll(); err != nil {
					t.Fatal(err)
				}
				closeStore(t, s)
				s = up(moved)
				wantValue(t, s, "key", "after")
				closeStore(t, s)
			})
			if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
				t.Errorf("%v, %v is where the process has gone", left, err)
			}
		})
	}
}
