package resolve

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEachPortHasOneServiceName(t *testing.T) {
	for network, table := range services {
		names := make(map[int]string)
		for name, port := range table {
			got := ServiceName(network, port)
			require.Equal(t, port, table[got], "%s %d", network, port)
			if got == name {
				require.Empty(t, names[port], "%s %d", network, port)
				names[port] = name
			}
		}
		for _, port := range table { // the order of a map differs from one range to the next
			require.Equal(t, names[port], ServiceName(network, port))
		}
	}
	require.Equal(t, "http", ServiceName("tcp", 80))
	require.Equal(t, "smtp", ServiceName("tcp", 25))
	require.Empty(t, ServiceName("udp", 81))
	require.Empty(t, ServiceName("ip", 80))
}
