package main

import (
	"context"
	"io"
	"net"
	"strconv"
)

// PortForward leads from a pod's port to the same port of 127.0.0.1. Each way ends
// by itself.
func (c *containers) PortForward(ctx context.Context, pod, _ string, port int32, stream io.ReadWriteCloser) error {
	var dialer net.Dialer
	target, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer target.Close()
	id := c.ids.Add(1)
	c.events.Printf("forward-begin id=%d target=%s port=%d", id, pod, port)
	defer c.events.Printf("forward-end id=%d target=%s port=%d", id, pod, port)
	go func() {
		io.Copy(target, stream)
		target.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, target)
	return err
}
