package usernet_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// At the level Debug, the log begins with what the host has, and follows its connections.
func ExampleConfig_logger() {
	handler := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})
	link, _ := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}})
	host, err := usernet.New(usernet.Config{
		NIC: link, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, NoIPv6: true,
		Logger: slog.New(handler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := host.Close(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// level=DEBUG msg="host started" protocols="[IPv4 ARP ICMP IGMP UDP TCP]"
	// level=DEBUG msg="link added" nic=lo up=true mtu=65535
	// level=DEBUG msg="address added" nic=lo addr=127.0.0.1/8 state=preferred origin=static
	// level=DEBUG msg="link added" nic=pipe-a up=true mtu=1500 mac=02:00:00:00:00:01
	// level=DEBUG msg="address added" nic=pipe-a addr=192.0.2.1/24 state=preferred origin=static
	// level=DEBUG msg="route added" nic=pipe-a to=192.0.2.0/24
}
