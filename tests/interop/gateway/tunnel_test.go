package main

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
)

const ackMessage = `{"type":"gateway_hello_ack","payload":{"use_yamux":true},` + at + "}\n"

// withTunnels is a gateway that says hello by itself, and its agent.
func withTunnels(t *testing.T, hello string) (*driver, *websocket.Conn) {
	t.Helper()
	d := startWithTunnels(t)
	d.do(`{"cmd":"set","key":"hello","value":` + hello + `}`)
	ws := d.mustDial(strings.Replace(d.gateway(theUUID), "yamux=false", "yamux=true", 1))
	d.next("upgrade") // commands find it now
	if message, _ := read(t, ws); message["type"] != "gateway_hello" {
		t.Fatalf("got %v", message)
	}
	return d, ws
}

func startWithTunnels(t *testing.T) *driver {
	t.Helper()
	return start(t, "--plain", "--yamux", "--target")
}

func sendFrame(t *testing.T, ws *websocket.Conn, f frame) {
	t.Helper()
	if err := ws.WriteMessage(websocket.BinaryMessage, f.bytes()); err != nil {
		t.Fatal(err)
	}
}

func TestBadTunnels(t *testing.T) {
	for name, c := range map[string]struct {
		misbehave func(*driver, *websocket.Conn)
		failures  []string
	}{
		"binary before the ack": {func(d *driver, ws *websocket.Conn) {
			sendFrame(d.t, ws, frame{kind: framePing, flags: flagSYN})
			d.next("failure")
			write(d.t, ws, ackMessage)
			d.next("tunnel")
		}, []string{"binary message of 12 bytes"}},
		"no ack": {func(d *driver, ws *websocket.Conn) {
			d.do(`{"cmd":"session_ping","timeout_ms":10}`)
		}, []string{"no hello, or no ack"}},
		"second ack": {func(d *driver, ws *websocket.Conn) {
			write(d.t, ws, ackMessage)
			write(d.t, ws, ackMessage)
			d.next("failure")
		}, []string{"no hello is waiting"}},
		"a broken rule": {func(d *driver, ws *websocket.Conn) {
			write(d.t, ws, ackMessage)
			sendFrame(d.t, ws, data(0, 2, 0))
			d.next("failure")
		}, []string{"data of stream 2, length 0: the stream was never opened"}},
		"no ACK of a stream": {func(d *driver, ws *websocket.Conn) {
			write(d.t, ws, ackMessage)
			d.do(`{"cmd":"inject","hex":"00 01 00 01 00 00 00 02 00 00 00 00"}`)
			d.do(`{"cmd":"settle","timeout_ms":10}`)
		}, []string{"still owed after 10ms: ACK of stream 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			d, ws := withTunnels(t, `{"raw":true}`)
			c.misbehave(d, ws)
			leave(t, ws, 1000)
			d.next("close")
			d.finish(c.failures...)
		})
	}
}

func TestHelloIsGlued(t *testing.T) {
	d := startWithTunnels(t)
	d.do(`{"cmd":"set","key":"hello","value":{"glued":true,"raw":true,"yamux_config":{"max_stream_window_size":1048576}}}`)
	ws := d.mustDial(strings.Replace(d.gateway(theUUID), "yamux=false", "yamux=true", 1))
	d.next("upgrade") // commands find it now
	hello, _ := read(t, ws)
	payload, _ := json.Marshal(hello["payload"])
	if string(payload) != `{"use_yamux":true,"yamux_config":{"max_stream_window_size":1048576}}` {
		t.Errorf("payload is %s", payload)
	}
	write(t, ws, ackMessage)
	d.do(`{"cmd":"inject","hex":"00 01 00 01 00 00 00 02 00 00 00 00"}`)
	if _, bytes, err := ws.ReadMessage(); err != nil || string(bytes) != string(window(flagSYN, 2, 0).bytes()) {
		t.Errorf("%x, %v", bytes, err)
	}
	sendFrame(t, ws, window(flagACK, 2, 786432)) // as much as was offered
	d.do(`{"cmd":"expect","match":{"event":"frame","type":"window","flags":"ack","stream":2,"length":786432}}`)
	leave(t, ws, 1000)
	d.next("close")
	d.finish()
}

// The service, directly: what it answers, and how it says that it was left.
func TestTarget(t *testing.T) {
	g := &gateway{events: newEvents(io.Discard), gates: map[string]chan struct{}{}}
	service, err := g.startTarget()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ line, more, want, end string }{
		{"echo\n", "abc", "abc", "eof"},
		{"sink\n", "12345", "5 " + sumOf("12345") + "\n", "eof"},
		{"turn\n", "", "hi\n", "eof"},
		{"source 3 0\n", "", string(firstBytes(0, 3)), "eof"},
		{"answer 2 0\n", "", string(firstBytes(0, 2)), "eof"},
	} {
		conn := dialTarget(t, service)
		if _, err := io.WriteString(conn, c.line+c.more); err != nil {
			t.Fatal(err)
		}
		_ = conn.CloseWrite()
		got, err := io.ReadAll(conn)
		if string(got) != c.want || err != nil {
			t.Errorf("%q: %q, %v", c.line, got, err)
		}
		conn.Close()
		if _, found := g.events.take(map[string]any{"event": "target", "end": c.end}, 10*time.Second); !found {
			t.Errorf("%q: no event", c.line)
		}
	}
	conn := dialTarget(t, service)
	_, _ = io.WriteString(conn, "stall\n")
	if _, found := g.events.take(map[string]any{"event": "target_open", "line": "stall"}, 10*time.Second); !found {
		t.Error("no event")
	}
	_ = conn.SetLinger(0)
	conn.Close()
	g.openGate("stall")
	if _, found := g.events.take(map[string]any{"event": "target", "end": "reset"}, 10*time.Second); !found {
		t.Error("the reset was not seen")
	}
}

func firstBytes(seed uint64, size int) []byte {
	bytes := make([]byte, size)
	fill(bytes, seed, 0)
	return bytes
}

func dialTarget(t *testing.T, service *target) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: service.port})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// Patterns are the same wherever they begin.
func TestFill(t *testing.T) {
	whole := firstBytes(5, 1000)
	for from := 0; from < 40; from++ {
		part := make([]byte, 100)
		fill(part, 5, int64(from))
		if string(part) != string(whole[from:from+100]) {
			t.Fatalf("from %d", from)
		}
	}
}

// A reset of ours doesn't fall into a frame of the library's.
func TestInjection(t *testing.T) {
	d, ws := withTunnels(t, `{}`)
	ws.SetReadDeadline(time.Time{})
	write(t, ws, ackMessage)
	out, in := io.Pipe()
	agent, err := yamux.Client(pipeConn{out, ws}, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			kind, message, err := ws.ReadMessage()
			if err != nil {
				in.CloseWithError(err)
				return
			}
			if kind == websocket.BinaryMessage {
				_, _ = in.Write(message)
			}
		}
	}()
	go func() {
		for {
			stream, err := agent.AcceptStream()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, stream)
		}
	}()
	d.do(`{"cmd":"streams","plan":{"job":"resets","bulk":true,"count":200,"parallel":8,"steps":[{"send":200000},{"reset":true}]}}`)
	done := d.do(`{"cmd":"wait","key":"resets"}`)
	if ends, _ := done["ends"].(map[string]any); ends["we-reset"] != 200.0 {
		t.Errorf("done is %v", done)
	}
	d.do(`{"cmd":"session_ping"}`)
	d.do(`{"cmd":"set","key":"allow_abrupt","value":true}`)
	ws.Close()
	d.next("close")
	d.finish()
}

// pipeConn reads from a pipe and writes binary messages.
type pipeConn struct {
	*io.PipeReader
	ws *websocket.Conn
}

func (c pipeConn) Write(p []byte) (int, error) {
	return len(p), c.ws.WriteMessage(websocket.BinaryMessage, p)
}

func (c pipeConn) Close() error { return c.PipeReader.Close() }
