package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
)

// endListener's connections end the contexts of their requests when they are over:
// net/http does so only until a request takes its connection for itself, as exec
// and attach do.
type endListener struct{ net.Listener }

type endConn struct {
	net.Conn
	over context.CancelFunc
}

func (l endListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &endConn{Conn: conn}, nil
}

// connContext is for http.Server.ConnContext; it comes before anything is read.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	ctx, over := context.WithCancel(ctx)
	conn.(*tls.Conn).NetConn().(*endConn).over = over
	return ctx
}

func (c *endConn) Read(data []byte) (int, error) {
	n, err := c.Conn.Read(data)
	// With a deadline net/http takes its own read back.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.over()
	}
	return n, err
}

func (c *endConn) Close() error {
	c.over()
	return c.Conn.Close()
}
