package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
)

// hello says what a gateway_hello offers and how this side then behaves.
type hello struct {
	YamuxConfig json.RawMessage `json:"yamux_config"` // into the message as it is; absent stays absent
	Raw         bool            `json:"raw"`          // no library: frames are sent by hand and shown as events
	Show        bool            `json:"show"`         // show the agent's frames as events, without their payload
	Glued       bool            `json:"glued"`        // as a setting: in the same write as the 101
	// Of our own session; 0: the library's default.
	Window         uint32 `json:"window"`
	KeepaliveMS    int    `json:"keepalive_ms"`
	WriteTimeoutMS int    `json:"write_timeout_ms"`
	CloseTimeoutMS int    `json:"close_timeout_ms"` // an unanswered FIN becomes RST
	PongDelayMS    int    `json:"pong_delay_ms"`    // so far away are we, by the agent's pings
	// How yamux bytes travel: binary messages of at most so many bytes, in
	// WebSocket frames of at most so many.
	Chunk int `json:"chunk"`
	Frame int `json:"frame"`
}

func (h *hello) message() ([]byte, error) {
	payload := map[string]any{"use_yamux": true}
	if h.YamuxConfig != nil {
		payload["yamux_config"] = h.YamuxConfig
	}
	return encode(map[string]any{"type": "gateway_hello", "payload": payload, "timestamp": now()})
}

// offeredWindow is what the agent may grant a stream at most.
func (h *hello) offeredWindow() uint64 {
	var config struct {
		Window json.Number `json:"max_stream_window_size"`
	}
	if json.Unmarshal(h.YamuxConfig, &config) != nil {
		return initialWindow
	}
	size, err := config.Window.Float64()
	if err != nil || size < 1 {
		return initialWindow
	}
	return uint64(size)
}

func (h *hello) config(output io.Writer) *yamux.Config {
	config := yamux.DefaultConfig()
	config.LogOutput, config.Logger = nil, log.New(output, "", 0)
	milliseconds := func(to *time.Duration, ms int) {
		if ms > 0 {
			*to = time.Duration(ms) * time.Millisecond
		}
	}
	config.MaxStreamWindowSize = max(h.Window, initialWindow)
	milliseconds(&config.KeepAliveInterval, h.KeepaliveMS)
	milliseconds(&config.ConnectionWriteTimeout, h.WriteTimeoutMS)
	milliseconds(&config.StreamCloseTimeout, h.CloseTimeoutMS)
	return config
}

// tunnel is a yamux session on a link, from the agent's ack on. To the library
// it is a connection: binary messages below, bytes above.
type tunnel struct {
	link    *link
	hello   *hello
	book    *book
	session *yamux.Session // nil in raw mode

	in       splitter
	fromPeer *io.PipeReader
	toYamux  *io.PipeWriter
	frames   *mailbox // raw mode: what the agent sent

	write    sync.Mutex // below: over whole messages
	out      splitter
	injected [][]byte // frames that wait for the end of the library's current one
	closed   bool
}

// startTunnel is called by the reader, between the ack and the message behind it.
func startTunnel(k *link, h *hello) (*tunnel, error) {
	t := &tunnel{link: k, hello: h, book: newBook(h.offeredWindow())}
	k.g.mu.Lock()
	t.book.lenient = k.g.settings.AllowNoACK
	k.g.mu.Unlock()
	if h.Raw {
		t.in.keep, t.frames = true, newMailbox()
		return t, nil
	}
	t.fromPeer, t.toYamux = io.Pipe()
	var err error
	if t.session, err = yamux.Server(t, h.config(sessionLog{k})); err != nil {
		return nil, err
	}
	go func() {
		<-t.session.CloseChan()
		k.g.events.emit("tunnel_end", event{"conn": k.name})
	}()
	return t, nil
}

// feed takes bytes of the agent.
func (t *tunnel) feed(data []byte) {
	t.in.feed(data, t.onFrame)
	if t.toYamux != nil {
		_, _ = t.toYamux.Write(data) // an error: the session is closed, and says why
	}
}

func (t *tunnel) onFrame(f frame) {
	var problems []string
	if err := t.book.received(f); err != nil {
		problems = append(problems, err.Error())
	}
	shown := event{"conn": t.link.name, "type": f.kindName(), "flags": f.flagNames(), "stream": f.stream, "length": f.length}
	if t.hello.Raw {
		if len(f.payload) > 0 && len(f.payload) <= 4096 {
			shown["data"] = f.payload // base64
		}
		if f.kind == framePing && f.flags == flagSYN {
			f.flags = flagACK
			_ = t.inject(f.bytes(), 0) // an error shows at the next read
			return
		}
	}
	if t.hello.Raw || t.hello.Show || f.kind == frameGoAway || len(problems) > 0 {
		t.link.g.events.emit("frame", shown, problems...)
	}
	if t.frames != nil {
		t.frames.put(f)
	}
}

func (t *tunnel) Read(p []byte) (int, error) { return t.fromPeer.Read(p) }

// Write is what the library calls: once for a header, once for its payload.
func (t *tunnel) Write(p []byte) (int, error) {
	if len(p) == frameHeader && p[1] == framePing && t.hello.PongDelayMS > 0 {
		time.Sleep(time.Duration(t.hello.PongDelayMS) * time.Millisecond)
	}
	t.write.Lock()
	defer t.write.Unlock()
	if err := t.send(p, t.hello.Chunk); err != nil {
		return 0, err
	}
	for len(t.injected) > 0 && t.out.between() {
		bytes := t.injected[0]
		t.injected = t.injected[1:]
		if err := t.send(bytes, t.hello.Chunk); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// inject writes frames of our own between those of the library, in messages of
// at most chunk bytes (0: in one).
func (t *tunnel) inject(bytes []byte, chunk int) error {
	t.write.Lock()
	defer t.write.Unlock()
	if t.session != nil && !t.out.between() {
		t.injected = append(t.injected, bytes)
		return nil
	}
	return t.send(bytes, chunk)
}

func (t *tunnel) send(bytes []byte, chunk int) error {
	if t.closed {
		return io.ErrClosedPipe
	}
	t.out.feed(bytes, t.book.sent)
	if chunk <= 0 {
		chunk = len(bytes)
	}
	for len(bytes) > 0 {
		n := min(chunk, len(bytes))
		if err := t.link.sendTunnel(bytes[:n], t.hello.Frame); err != nil {
			return err
		}
		bytes = bytes[n:]
	}
	return nil
}

// stop ends what we send; what the agent has sent is still taken.
func (t *tunnel) stop() {
	t.write.Lock()
	defer t.write.Unlock()
	t.closed = true
}

// Close is called by the library too.
func (t *tunnel) Close() error {
	t.stop()
	if t.toYamux != nil {
		return t.toYamux.CloseWithError(io.ErrClosedPipe)
	}
	t.frames.end()
	return nil
}

// end closes the session, in its own time.
func (t *tunnel) end() {
	_ = t.Close() // never fails
	if t.session != nil {
		go t.session.Close()
	}
}

// reset resets a stream, which the library can't do by itself.
func (t *tunnel) reset(stream uint32) error {
	return t.inject(frame{kind: frameWindow, flags: flagRST, stream: stream}.bytes(), 0)
}

// ping measures a round trip of the session.
func (t *tunnel) ping(limit time.Duration) (time.Duration, error) {
	if t.session != nil {
		return t.session.Ping()
	}
	begun := time.Now()
	value := uint32(begun.UnixNano())
	if err := t.inject(frame{kind: framePing, flags: flagSYN, length: value}.bytes(), 0); err != nil {
		return 0, err
	}
	_, err := t.frames.take(limit, func(f frame) bool { return f.kind == framePing && f.length == value })
	return time.Since(begun), err
}

// sessionLog tells what the library has to say.
type sessionLog struct{ link *link }

// brokenRules are the library's complaints about the peer; the others are
// about ends of connections, and late frames.
var brokenRules = []string{"Invalid protocol version", "duplicate stream", "window exceeded", "unexpected FIN",
	"SYN tracking", "established stream without", "aborted stream open", "go away"}

func (l sessionLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	var problems []string
	for _, part := range brokenRules {
		if strings.Contains(text, part) {
			problems = append(problems, text)
		}
	}
	select {
	case <-l.link.done: // nothing said about a connection that has ended is the agent's fault
		problems = nil
	default:
	}
	l.link.g.events.emit("note", event{"conn": l.link.name, "text": text}, problems...)
	return len(line), nil
}

// mailbox keeps the agent's frames for scripts.
type mailbox struct {
	mu      sync.Mutex
	list    []frame
	over    bool
	changed chan struct{}
}

func newMailbox() *mailbox { return &mailbox{changed: make(chan struct{})} }

func (m *mailbox) put(f frame) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, f)
	m.wake()
}

func (m *mailbox) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.over {
		m.over = true
		m.wake()
	}
}

func (m *mailbox) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

var errNoFrame = errors.New("no such frame came in time")

// take waits for a frame that fits, and takes it out; the others stay.
func (m *mailbox) take(limit time.Duration, fits func(frame) bool) (frame, error) {
	timeout := time.After(limit)
	for {
		m.mu.Lock()
		for i, f := range m.list {
			if fits(f) {
				m.list = append(m.list[:i:i], m.list[i+1:]...)
				m.mu.Unlock()
				return f, nil
			}
		}
		over, changed := m.over, m.changed
		list := fmt.Sprint(m.list)
		m.mu.Unlock()
		if over {
			return frame{}, fmt.Errorf("the session has ended; there were %s", short([]byte(list)))
		}
		select {
		case <-changed:
		case <-timeout:
			return frame{}, fmt.Errorf("%w; there were %s", errNoFrame, short([]byte(list)))
		}
	}
}

// sendTunnel writes one binary message of yamux bytes.
func (k *link) sendTunnel(data []byte, frame int) error {
	if frame > 0 {
		return k.sendFrames(websocket.BinaryMessage, data, frame)
	}
	k.write.Lock()
	defer k.write.Unlock()
	if err := k.ws.SetWriteDeadline(time.Now().Add(tunnelWriteLimit)); err != nil {
		return err
	}
	return k.ws.WriteMessage(websocket.BinaryMessage, data)
}

// offer sends a hello; the agent's ack begins the session.
func (k *link) offer(h *hello) error {
	message, err := h.message()
	if err != nil {
		return err
	}
	k.g.mu.Lock()
	old := k.tunnel
	k.offered = h
	k.g.mu.Unlock()
	if old != nil {
		old.stop()
	}
	return k.send(websocket.TextMessage, message, 0)
}

// agreed is called by the reader at the agent's ack.
func (k *link) agreed() {
	k.g.mu.Lock()
	old, h := k.tunnel, k.offered
	k.g.mu.Unlock()
	if h == nil {
		return // of a hello that a test sent by hand: binary messages are shown, no more
	}
	if old != nil {
		old.end()
	}
	t, err := startTunnel(k, h)
	if err != nil {
		k.g.events.fail(k.name, "session: %v", err)
		return
	}
	k.g.mu.Lock()
	k.tunnel = t
	if k.offered == h {
		k.offered = nil
	}
	k.g.mu.Unlock()
	k.g.events.emit("tunnel", event{"conn": k.name})
}

// tunnelWriteLimit is the library's own limit, and more: it should act first.
const tunnelWriteLimit = time.Minute

// over tells whether the session has ended: nothing more can be answered.
func (t *tunnel) over() bool {
	if t.session != nil {
		return t.session.IsClosed()
	}
	t.write.Lock()
	defer t.write.Unlock()
	return t.closed
}
