// The command usernet shows the TCP/IP stack at work. It has a web server, an echo server, ping, traceroute,
// a port scanner, netcat, a web client and a frame dumper. They run on a TAP or a TUN device, a packet
// socket, a socket of a virtual machine or a virtual switch, a PPP link, or a wire in memory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal shuts the program down. A second one kills it.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], terminal{out: os.Stdout, err: os.Stderr}))
}

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// A terminal holds a command's outputs: results go to out, everything else to err.
type terminal struct {
	out, err io.Writer
}

// A command is one of the program's sub-commands.
type command struct {
	name string
	args string // for the usage line
	what string // one line
	// define adds the command's flags to fs and returns the function that runs the command. The
	// parameter args of that function has the arguments of the command line that are not flags.
	define func(fs *flag.FlagSet) func(ctx context.Context, t terminal, args []string) error
	more   string // printed after the flags, with examples
	// letters allows flags of one letter to be joined, as in -ti.
	letters bool
}

func commands() []command {
	return []command{
		serveCommand(), echoCommand(), pingCommand(), tracerouteCommand(), scanCommand(), ncCommand(os.Stdin), getCommand(), iperfCommand(),
		dumpCommand(), ssCommand(), topCommand(os.Stdin), inspectCommand(), versionCommand(),
	}
}

// A usageError says what is wrong with the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

// errQuiet is the error of a command that has already printed the reason of its failure.
var errQuiet = errors.New("failed")

// run runs the command line and returns the exit code.
func run(ctx context.Context, args []string, t terminal) int {
	if len(args) == 0 {
		usage(t.err)
		return exitUsage
	}
	name, args := args[0], args[1:]
	if name == "help" && len(args) > 0 {
		name, args = args[0], []string{"-h"}
	}
	switch name {
	case "help", "-h", "-help", "--help":
		usage(t.out)
		return exitOK
	case "-version", "--version":
		name = "version"
	}
	cmds := commands()
	i := slices.IndexFunc(cmds, func(c command) bool { return c.name == name })
	if i < 0 {
		fmt.Fprintf(t.err, "usernet: unknown command %q; usernet help lists them\n", name)
		return exitUsage
	}
	return cmds[i].run(ctx, t, args)
}

func (c *command) run(ctx context.Context, t terminal, args []string) int {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	do := c.define(fs)
	if c.letters {
		args = splitLetters(fs, args)
	}
	args, err := parseArgs(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		c.usage(t.out, fs)
		return exitOK
	}
	if err != nil {
		err = usageError(err.Error())
	} else {
		err = do(ctx, t, args)
	}
	var use usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &use):
		fmt.Fprintf(t.err, "usernet %s: %s\nfor its usage, run: usernet %s -h\n", c.name, printableLines(use.Error()), c.name)
		return exitUsage
	case !errors.Is(err, errQuiet):
		fmt.Fprintf(t.err, "usernet %s: %s\n", c.name, printableLines(err.Error()))
	}
	return exitFailure
}

func (c *command) usage(w io.Writer, fs *flag.FlagSet) {
	line := "usernet " + c.name
	flags := false
	fs.VisitAll(func(*flag.Flag) { flags = true })
	if flags {
		line += " [flags]"
	}
	if c.args != "" {
		line += " " + c.args
	}
	fmt.Fprintf(w, "Usage: %s\n\n%s\n\n", line, c.what)
	if flags {
		fmt.Fprintln(w, "Flags:")
		fs.SetOutput(w)
		fs.PrintDefaults()
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, c.more)
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usernet is a TCP/IP stack for Go programs, here on a TAP or a TUN device or on a wire in memory.\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-10s %s\n", c.name, c.what)
	}
	fmt.Fprint(w, `
Examples:
  usernet serve                       a web server; it prints the address to open
  usernet serve -listen :8080 ~/www   with files of your own
  usernet echo -v                     an echo server that shows every frame
  usernet ping -wire 192.0.2.1        two hosts in this program; needs no root
  usernet ping -wire 2001:db8::1      the same over IPv6
  usernet get -o page.html http://192.0.2.1:8000/
  usernet dump -i eth0 tcp port 80    the frames of an interface that a filter selects
  usernet serve -h                    the flags of a command
`)
}
