package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"sync"
)

// socketKey finds the TCP or TLS connection in a request's context.
type socketKey struct{}

// socket is the connection below a WebSocket, with the tricks that tests need.
type socket struct {
	net.Conn

	mu       sync.Mutex
	greeting []byte        // goes out in one write with what is written first
	resume   chan struct{} // not nil: reads wait until it is closed
}

// Read hands nothing over while the socket is paused, so that not even a ping
// is noticed.
func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.mu.Lock()
	resume := s.resume
	s.mu.Unlock()
	if resume != nil {
		<-resume
	}
	return n, err
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	greeting := s.greeting
	s.greeting = nil
	s.mu.Unlock()
	if len(greeting) == 0 {
		return s.Conn.Write(p)
	}
	n, err := s.Conn.Write(append(append([]byte(nil), p...), greeting...))
	return min(n, len(p)), err
}

func (s *socket) pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resume == nil {
		s.resume = make(chan struct{})
	}
}

func (s *socket) paused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resume != nil
}

func (s *socket) unpause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resume != nil {
		close(s.resume)
		s.resume = nil
	}
}

// reset ends the TCP connection with RST: no close frame, no close_notify.
func (s *socket) reset() {
	below := s.Conn
	if secured, ok := below.(*tls.Conn); ok {
		below = secured.NetConn()
	}
	if tcp, ok := below.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only when the other side was faster
	}
	_ = below.Close()
	s.unpause()
}

// hijacked hands our socket to the upgrader in place of the server's.
type hijacked struct {
	http.ResponseWriter
	socket *socket
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	server, ok := h.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the server's connection can't be taken over")
	}
	_, buffers, err := server.Hijack()
	return h.socket, buffers, err
}

// appendFrame appends an unmasked frame (RFC 6455 §5.2).
func appendFrame(to []byte, final bool, opcode int, payload []byte) []byte {
	first := byte(opcode)
	if final {
		first |= 0x80
	}
	to = append(to, first)
	switch n := len(payload); {
	case n < 126:
		to = append(to, byte(n))
	case n <= 0xffff:
		to = binary.BigEndian.AppendUint16(append(to, 126), uint16(n))
	default:
		to = binary.BigEndian.AppendUint64(append(to, 127), uint64(n))
	}
	return append(to, payload...)
}
