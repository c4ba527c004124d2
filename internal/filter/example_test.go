package filter_test

import (
	"fmt"

	"github.com/usernet/usernet/internal/filter"
)

func ExampleParse() {
	f, err := filter.Parse("ip6 or arp")
	if err != nil {
		panic(err)
	}
	packet := make([]byte, 40)
	packet[0] = 6 << 4
	fmt.Println(f.Match(packet, false))

	_, err = filter.Parse("port http")
	fmt.Println(err)
	// Output:
	// true
	// filter: "http" at byte 5: a port is a number from 0 to 65535
}
