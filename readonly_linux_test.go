package kvraft

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/kvraft/kvraft/internal/disktest"
)

// The disk of a node that is gone, in another machine.
func TestADirectoryOnAReadOnlyMountIsLookedAt(t *testing.T) {
	for _, fixture := range []string{ourFixture, segmentsFixture} {
		t.Run(fixture, func(t *testing.T) { lookAtReadOnly(t, fixture) })
	}
}

func lookAtReadOnly(t *testing.T, fixture string) {
	dir := t.TempDir()
	disktest.Must(t, os.CopyFS(filepath.Join(dir, "node"), os.DirFS(filepath.Join("testdata", fixture))))
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skip("needs the superuser, to mount: ", err)
	}
	defer func() { disktest.Must(t, syscall.Unmount(dir, 0)) }()
	if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skip("cannot mount it to be read only: ", err)
	}
	node := filepath.Join(dir, "node")
	if err := os.WriteFile(filepath.Join(node, "file"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("it can be written to: %v", err)
	}
	l, err := OpenLog(node)
	disktest.Must(t, err)
	disktest.Must(t, errors.Join(l.Err, l.Close()))
	if r, err := Examine(node); !errors.Is(err, ErrInvalid) {
		t.Errorf("%+v, %v", r, err)
	}
	if err := openAndClose(node); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a start: %v", err)
	}
}
