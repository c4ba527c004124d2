// Package taptest tests usernet against the Linux kernel. A usernet host in the test's process is
// on a TAP device in a network namespace that the test has made, and the kernel's own programs are
// on the other side. The tests touch only that namespace.
//
// The tests need root and the tools that they name, such as curl, ping, nc, socat, wrk, ssh, dropbear,
// nmap, iperf3, traceroute, tracepath, tshark, tcpdump, nft, radvd, dnsmasq, unbound, vde_switch and
// passt. Without root they are skipped. As root, a test is skipped if a tool is missing; if CI=true is in
// the environment, the test fails instead.
//
// Some tests boot user-mode Linux, whose kernel has what the kernel of the machine may lack: PPP, PPPoE and
// VLANs. See bootUML.
//
// With USERNET_LONG in the environment, as in .ci/long, large transfers are 1 GiB. Otherwise they
// are as small as the tests permit.
//
// USERNET_NETNS, if set, is the prefix of the namespaces' names, so that a script can find and
// remove the namespaces of a killed test.
package taptest
