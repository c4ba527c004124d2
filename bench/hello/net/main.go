// Net is the smallest program that dials with package net. It is the baseline for the
// programs in the directories beside it, which also dial with a user-space stack.
package main

import (
	"fmt"
	"net"
)

func main() {
	_, err := net.Dial("tcp", "127.0.0.1:1")
	fmt.Println("hello", err)
}
