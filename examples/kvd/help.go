package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// commands are what kvd does other than to run a node. They return the exit code.
func commands() map[string]func(args []string) int {
	return map[string]func(args []string) int{
		"health": checkHealth, "help": help, "log": printLog, "recover": recoverNode, "version": printVersion,
	}
}

// help prints the usage of kvd or of one of its commands.
func help(args []string) int {
	if len(args) == 0 || len(args) == 1 && slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		c, _ := parseFlags([]string{"-h"}, io.Discard)
		printHelp(os.Stdout, c.flags)
		return 0
	}
	if len(args) > 1 || commands()[args[0]] == nil {
		fmt.Fprintf(os.Stderr, "kvd has no command %q; kvd help lists them\n", strings.Join(args, " "))
		return 2
	}
	return commands()[args[0]]([]string{"-h"})
}

func printHelp(out io.Writer, flags *flag.FlagSet) {
	fmt.Fprint(out, usage)
	flags.SetOutput(out)
	flags.PrintDefaults()
}
