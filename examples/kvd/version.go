package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// version is set by the linker: go build -ldflags '-X main.version=v1.2.3'. Else it is
// what Go has recorded.
var version string

const versionUsage = `Usage: kvd version

Prints the version of this binary, that of Go, and the platform.
`

// printVersion returns the exit code.
func printVersion(args []string) int {
	fs := flag.NewFlagSet("kvd version", flag.ContinueOnError)
	fs.SetOutput(os.Stderr)
	fs.Usage = func() {}
	switch err := fs.Parse(args); {
	case err == flag.ErrHelp:
		fmt.Print(versionUsage)
		return 0
	case err != nil || fs.NArg() > 0:
		fmt.Fprintln(os.Stderr, "no argument is expected; kvd version -h tells more")
		return 2
	}
	fmt.Printf("kvd %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return 0
}

func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return recorded(info)
}

// recorded is the version of the module, and outside of one a revision.
func recorded(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	var revision, modified string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+dirty"
		}
	}
	if revision == "" {
		return cmp.Or(info.Main.Version, "unknown")
	}
	return revision + modified
}
