package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatOnePlatformCannotCompileIsNamed(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":            "module m\n\ngo 1.25\n",
		"m.go":              "package m\n\nimport \"math\"\n\nvar Big int = math.MaxUint32\n",
		"m_test.go":         "package m_test\n\nimport (\n\t\"m\"\n\t\"syscall\"\n)\n\nvar _, _ = m.Big, syscall.SIGSTOP\n",
		"only_linux.go":     "package m\n\nfunc onLinux() {}\n",
		"only_linux_386.go": "package m\n\nvar _ = missing\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for platform, want := range map[string][]string{
		"linux/amd64":   nil,
		"linux/386":     {"overflows", "undefined: missing"},
		"freebsd/arm":   {"overflows"},
		"windows/amd64": {"undefined: syscall.SIGSTOP"},
		"amd64":         {"want a platform"},
		"linux/abacus":  {"want a platform"},
	} {
		err := check(dir, platform)
		if want == nil && err != nil {
			t.Errorf("%s: %v", platform, err)
		}
		for _, text := range want {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %q in it", platform, err, text)
			}
		}
	}
}
