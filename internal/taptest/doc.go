// Package taptest has the tests of usernet against the Linux kernel: a usernet
// host in the test's process, on a TAP device in a network namespace that the
// test has made, and the kernel's own programs on the other side. Nothing but
// that namespace is touched.
//
// The tests need root and the tools that they name: curl, ping, nc, socat, wrk, ssh, dropbear, nmap,
// traceroute, tracepath, tshark, nft, radvd, dnsmasq and unbound. Without root they are skipped. As root a missing tool
// skips a test too, but is a failure when CI=true is in the environment.
//
// With USERNET_LONG in the environment, as in .ci/long, what is transferred is a GiB, and otherwise as much as shows
// the same.
//
// USERNET_NETNS, if set, is what the names of the namespaces begin with, so that
// a script can find and remove those of a test that was killed.
package taptest
