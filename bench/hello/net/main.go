// Net is the smallest program that dials with package net. The others of its kind
// are compared with it.
package main

import (
	"fmt"
	"net"
)

func main() {
	_, err := net.Dial("tcp", "127.0.0.1:1")
	fmt.Println("hello", err)
}
