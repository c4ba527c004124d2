package dropin_test

import (
	"fmt"
	"io"

	net "github.com/usernet/usernet/dropin"
)

// serve and greet were written for package net. Only the import of their file was changed.
func serve(address string) (stop func() error, err error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "hello, %v", c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	return ln.Close, nil
}

func greet(address string) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	greeting, err := io.ReadAll(c)
	return string(greeting), err
}
