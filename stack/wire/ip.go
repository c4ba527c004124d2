package wire

// Version returns the version that an IP header begins with, 4 or 6 where it is one; 0 where b is empty.
func Version(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	return int(b[0] >> 4)
}
