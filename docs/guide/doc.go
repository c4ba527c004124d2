// Package guide holds the tests of the guide to TCP/IP in README.md: each block of code, each output and each command
// in its chapters is compared with what the programs contain and print.
package guide
