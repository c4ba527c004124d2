package contract

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet"
)

// hostFunctions returns the functions of net that query or change a network. Methods of Host have
// the same names and signatures.
func hostFunctions() map[string]any {
	return map[string]any{
		"Dial": net.Dial, "DialTimeout": net.DialTimeout, "DialTCP": net.DialTCP, "DialUDP": net.DialUDP, "DialIP": net.DialIP,
		"Listen": net.Listen, "ListenPacket": net.ListenPacket, "ListenTCP": net.ListenTCP, "ListenUDP": net.ListenUDP,
		"ListenIP": net.ListenIP, "ListenMulticastUDP": net.ListenMulticastUDP,
		"ResolveTCPAddr": net.ResolveTCPAddr, "ResolveUDPAddr": net.ResolveUDPAddr, "ResolveIPAddr": net.ResolveIPAddr,
		"LookupAddr": net.LookupAddr, "LookupCNAME": net.LookupCNAME, "LookupHost": net.LookupHost, "LookupIP": net.LookupIP,
		"LookupMX": net.LookupMX, "LookupNS": net.LookupNS, "LookupPort": net.LookupPort, "LookupSRV": net.LookupSRV,
		"LookupTXT": net.LookupTXT,
	}
}

// otherFunctions returns the functions of net that Host does not have, or has in another form.
func otherFunctions() map[string]string {
	const (
		pure   = "a function of its arguments alone"
		unix   = "Unix sockets are out of scope"
		file   = "there is no descriptor"
		ours   = "Host.Interfaces returns stack.InterfaceInfo, and not net.Interface; package dropin has net's form"
		noFail = "Host.InterfaceAddrs cannot fail, so it returns no error; package dropin has net's form"
	)
	return map[string]string{
		"CIDRMask": pure, "IPv4": pure, "IPv4Mask": pure, "JoinHostPort": pure, "ParseCIDR": pure, "ParseIP": pure, "ParseMAC": pure,
		"Pipe": pure, "SplitHostPort": pure, "TCPAddrFromAddrPort": pure, "UDPAddrFromAddrPort": pure, "ResolveUnixAddr": pure,
		"DialUnix": unix, "ListenUnix": unix, "ListenUnixgram": unix,
		"FileConn": file, "FileListener": file, "FilePacketConn": file,
		"Interfaces": ours, "InterfaceByIndex": ours, "InterfaceByName": ours, "InterfaceAddrs": noFail,
	}
}

func TestAHostHasTheFunctionsOfNet(t *testing.T) {
	// normalized returns a signature without its receiver, and with net's types in place of usernet's.
	normalized := func(s string) string {
		s = strings.ReplaceAll(s, "usernet.", "net.")
		return strings.Replace(strings.Replace(s, "func(*net.Host, ", "func(", 1), "func(*net.Host)", "func()", 1)
	}
	host := reflect.TypeFor[*usernet.Host]()
	for name, theirs := range hostFunctions() {
		ours, ok := host.MethodByName(name)
		require.True(t, ok, "Host.%s is missing", name)
		require.Equal(t, reflect.TypeOf(theirs).String(), normalized(ours.Type.String()), name)
	}
	resolver := reflect.TypeFor[*net.Resolver]()
	for _, name := range []string{"LookupNetIP"} { // a method of net.Resolver that is not a function of net
		theirs, _ := resolver.MethodByName(name)
		ours, ok := host.MethodByName(name)
		require.True(t, ok, "Host.%s is missing", name)
		require.Equal(t, strings.Replace(theirs.Type.String(), "*net.Resolver, ", "", 1), normalized(ours.Type.String()), name)
	}

	// When a release of Go adds a function to net, this test fails, and a developer has to decide about it.
	pkg, err := build.Default.Import("net", "", 0)
	require.NoError(t, err)
	found := 0
	for _, file := range pkg.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(pkg.Dir, file), nil, 0)
		require.NoError(t, err)
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !fn.Name.IsExported() {
				continue
			}
			found++
			_, isHost := hostFunctions()[fn.Name.Name]
			_, isOther := otherFunctions()[fn.Name.Name]
			require.True(t, isHost != isOther, "net.%s has to be a method of Host, or a reason why not", fn.Name.Name)
		}
	}
	require.Equal(t, len(hostFunctions())+len(otherFunctions()), found, "a function that net does not have any more")
}

// methodsOf returns the names of a type's methods.
func methodsOf(t reflect.Type) map[string]bool {
	names := make(map[string]bool)
	for i := range t.NumMethod() {
		names[t.Method(i).Name] = true
	}
	return names
}

func TestListenersAndDialersHaveNoMethodsBeyondNet(t *testing.T) {
	// The list has no connections. They have additional methods on purpose, because a program cannot set
	// socket options through a descriptor.
	for _, c := range []struct {
		theirs, ours any
	}{
		{&net.TCPListener{}, &usernet.TCPListener{}},
		{&net.Dialer{}, &usernet.Dialer{}},
		{&net.ListenConfig{}, &usernet.ListenConfig{}},
	} {
		theirs, ours := methodsOf(reflect.TypeOf(c.theirs)), methodsOf(reflect.TypeOf(c.ours))
		for name := range theirs {
			delete(ours, name)
		}
		require.Empty(t, ours, "%T has methods that net's has not", c.ours)
	}
}
