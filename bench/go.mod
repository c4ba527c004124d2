module github.com/usernet/usernet/bench

go 1.26.0

replace (
	github.com/usernet/usernet => ../
	github.com/usernet/usernet/wireguard => ../wireguard
)

require (
	github.com/soypat/lneto v0.1.0
	github.com/usernet/usernet v0.0.0
	github.com/usernet/usernet/wireguard v0.0.0-00010101000000-000000000000
	golang.org/x/sys v0.49.0
	golang.zx2c4.com/wireguard v0.0.0-20260522210424-ecfc5a8d5446
	gvisor.dev/gvisor v0.0.0-20260224225140-573d5e7127a8
)

require (
	github.com/google/btree v1.1.2 // indirect
	github.com/songgao/water v0.0.0-20200317203138-2b4b6d7c09d8 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/exp v0.0.0-20231110203233-9a3e6036ecaa // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/time v0.12.0 // indirect
	golang.zx2c4.com/wintun v0.0.0-20230126152724-0fa3db229ce2 // indirect
)
