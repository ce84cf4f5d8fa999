package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// freePort prints a port of the loopback address that nobody listens on. It is
// taken from below the range from which Linux gives ports to outgoing
// connections: so it stays free until the server has it, and while the server is
// being restarted.
func freePort() error {
	const lowest, highest, attempts = 20000, 32000, 100
	for range attempts {
		port := lowest + rand.IntN(highest-lowest)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		fmt.Println(port)
		return listener.Close()
	}
	return errors.New("no free port found on 127.0.0.1")
}
