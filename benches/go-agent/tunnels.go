package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
)

// Tunnels as the original has them: yamux over binary messages of the same
// WebSocket, in client role; per stream two io.Copy with buffers of 32 KiB,
// half-close in both directions (tunnels.md §1, §3, §5). What the original
// doesn't have, limits and checks, isn't here either.

const copyBuffer = 32 << 10

// wsConn makes the WebSocket look like a socket to yamux. What the reader
// hands over goes through a pipe without a buffer; writes share the lock of
// the JSON messages.
type wsConn struct {
	l *link
	*io.PipeReader
	feed     *io.PipeWriter
	replaced atomic.Bool // by a second hello
}

func (c *wsConn) Write(p []byte) (int, error) {
	c.l.write.Lock()
	defer c.l.write.Unlock()
	// Without a limit, which has to be said: JSON writers set one.
	if err := c.l.ws.SetWriteDeadline(time.Time{}); err != nil {
		return 0, err
	}
	if err := c.l.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *wsConn) Close() error {
	return errors.Join(c.feed.Close(), c.PipeReader.Close())
}

// startTunnels answers a gateway_hello. The reader calls it, so that the ack
// comes before the first byte of yamux and nothing is read in between.
func (l *link) startTunnels(payload json.RawMessage) error {
	var offer struct {
		Use    any            `json:"use_yamux"`
		Config map[string]any `json:"yamux_config"`
	}
	if json.Unmarshal(payload, &offer) != nil || offer.Use != true {
		return nil
	}
	number := func(name string) float64 { // 0 if it is none
		v, _ := offer.Config[name].(float64)
		return v
	}
	config := yamux.DefaultConfig()
	config.ConnectionWriteTimeout = 30 * time.Second
	if v := number("max_stream_window_size"); v > 0 {
		config.MaxStreamWindowSize = max(uint32(v), 256<<10) // the original fails below
	}
	if v := number("keep_alive_interval_seconds"); v >= 1 {
		config.KeepAliveInterval = time.Duration(v) * time.Second
	}
	if v := number("connection_timeout_seconds"); v >= 1 {
		config.ConnectionWriteTimeout = time.Duration(v) * time.Second
	}
	if err := l.send("gateway_hello_ack", "", map[string]bool{"use_yamux": true}); err != nil {
		return err
	}
	if l.tunnels != nil {
		l.tunnels.replaced.Store(true)
		_ = l.tunnels.Close() // the session before; its streams see EOF
	}
	out, in := io.Pipe()
	l.tunnels = &wsConn{l: l, PipeReader: out, feed: in}
	session, err := yamux.Client(l.tunnels, config)
	if err != nil {
		return err
	}
	go l.accept(session, l.tunnels, config.ConnectionWriteTimeout)
	return nil
}

func (l *link) accept(session *yamux.Session, conn *wsConn, dialLimit time.Duration) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			_ = session.Close()
			if l.ctx.Err() == nil && !conn.replaced.Load() {
				log.Println("yamux:", err)
				l.ws.Close() // the reader notices; the original would leave it
			}
			return
		}
		go l.tunnel(stream, dialLimit)
	}
}

func (l *link) tunnel(stream *yamux.Stream, dialLimit time.Duration) {
	defer stream.Close()
	network, port, err := readHeader(stream)
	if err != nil {
		return // the gateway thought better of it
	}
	// The original dials service.namespace.svc.cluster.local; here every
	// service is on this machine.
	target, err := net.DialTimeout(network, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))), dialLimit)
	if err != nil {
		log.Println("dial:", err)
		return
	}
	defer target.Close()
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		_, _ = io.CopyBuffer(onlyWriter{target}, onlyReader{stream}, make([]byte, copyBuffer))
		if tcp, ok := target.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	}()
	go func() {
		defer both.Done()
		_, _ = io.CopyBuffer(onlyWriter{stream}, onlyReader{target}, make([]byte, copyBuffer))
		_ = stream.Close()
	}()
	both.Wait()
}

// These let io.CopyBuffer use the buffer.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

// readHeader is tunnels.md §3.1. Names lead nowhere here.
func readHeader(stream io.Reader) (network string, port uint16, err error) {
	var fixed [4]byte
	if _, err = io.ReadFull(stream, fixed[:]); err != nil {
		return "", 0, err
	}
	for range 3 {
		var length [2]byte
		if _, err = io.ReadFull(stream, length[:]); err != nil {
			return "", 0, err
		}
		if _, err = io.CopyN(io.Discard, stream, int64(binary.BigEndian.Uint16(length[:]))); err != nil {
			return "", 0, err
		}
	}
	network = "tcp"
	if fixed[1] == 2 {
		network = "udp"
	}
	return network, binary.BigEndian.Uint16(fixed[2:]), nil
}
