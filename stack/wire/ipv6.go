package wire

// IPv6Len is the length of an IPv6 header in bytes, without extension headers
// (RFC 8200 3).
const IPv6Len = 40
