package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/gorilla/websocket"
)

// script is a conversation of tunnels.md §10.2 frame by frame. The connection
// must be open; the script says hello itself.
type script func(*rawPeer) error

// rawPeer is what scripts are written with. Streams are numbered as the script
// wants; what the agent sent waits in the mailbox until it is asked for.
type rawPeer struct {
	g       *gateway
	link    *link
	tunnel  *tunnel
	header  streamHeader
	timeout time.Duration
}

func (g *gateway) runScript(k *link, c command, timeout time.Duration) error {
	run, known := scripts[c.Script]
	if !known {
		return fmt.Errorf("no script %q", c.Script)
	}
	p := &rawPeer{g: g, link: k, timeout: timeout}
	if c.Header != nil {
		p.header = *c.Header
	}
	if err := run(p); err != nil {
		return fmt.Errorf("script %s: %w", c.Script, err)
	}
	return nil
}

// hello begins a raw session; config is JSON, or "" for none.
func (p *rawPeer) hello(config string) error {
	h := &hello{Raw: true}
	if config != "" {
		h.YamuxConfig = json.RawMessage(config)
	}
	if err := p.link.offer(h); err != nil {
		return err
	}
	if err := p.link.awaitTunnel(h, p.timeout); err != nil {
		return err
	}
	p.link.g.mu.Lock()
	p.tunnel = p.link.tunnel
	p.link.g.mu.Unlock()
	return nil
}

// hex sends bytes as the specification writes them.
func (p *rawPeer) hex(text string) error {
	data, err := unhex(text)
	if err != nil {
		return err
	}
	return p.tunnel.inject(data, 0)
}

func (p *rawPeer) send(f frame) error { return p.tunnel.inject(f.bytes(), 0) }

// data sends payload in one frame, in messages of at most chunk bytes (0: one).
func (p *rawPeer) data(stream uint32, payload []byte, chunk int) error {
	f := frame{stream: stream, length: uint32(len(payload)), payload: payload}
	return p.tunnel.inject(f.bytes(), chunk)
}

// open sends SYN and waits for its ACK.
func (p *rawPeer) open(stream uint32) error {
	if err := p.send(frame{kind: frameWindow, flags: flagSYN, stream: stream}); err != nil {
		return err
	}
	return p.expect(frameWindow, flagACK, stream)
}

// begin opens a stream, and sends its header and the target's first line.
func (p *rawPeer) begin(stream uint32, line string) error {
	if err := p.open(stream); err != nil {
		return err
	}
	header, err := p.header.bytes()
	if err != nil {
		return err
	}
	return p.data(stream, append(header, line...), 0)
}

// expect waits for a frame of a stream with exactly these flags. A window
// update that carries nothing but window is not "the next frame".
func (p *rawPeer) expect(kind byte, flags uint16, stream uint32) error {
	got, err := p.next(stream)
	if err != nil {
		return fmt.Errorf("waiting for %v: %w", frame{kind: kind, flags: flags, stream: stream}, err)
	}
	if got.kind != kind || got.flags != flags {
		return fmt.Errorf("got %v, not %v", got, frame{kind: kind, flags: flags, stream: stream})
	}
	return nil
}

func (p *rawPeer) next(stream uint32) (frame, error) {
	return p.tunnel.frames.take(p.timeout, func(f frame) bool {
		return f.kind <= frameWindow && f.stream == stream && (f.kind == frameData || f.flags != 0)
	})
}

// receive waits for payload, in whatever frames.
func (p *rawPeer) receive(stream uint32, want []byte) error {
	var got []byte
	for len(got) < len(want) {
		f, err := p.next(stream)
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", len(got), len(want), err)
		}
		if f.kind != frameData {
			return fmt.Errorf("%v after %d of %d bytes", f, len(got), len(want))
		}
		if got = append(got, f.payload...); f.flags != 0 {
			return fmt.Errorf("flags on %v", f)
		}
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("received %q, not %q", short(got), short(want))
	}
	return nil
}

// end is an orderly one: our FIN, then the agent's.
func (p *rawPeer) end(stream uint32) error {
	if err := p.send(frame{kind: frameWindow, flags: flagFIN, stream: stream}); err != nil {
		return err
	}
	return p.expect(frameWindow, flagFIN, stream)
}

// echo is a whole stream that proves that all is well.
func (p *rawPeer) echo(stream uint32) error {
	if err := p.begin(stream, "echo\nstill here"); err != nil {
		return err
	}
	if err := p.receive(stream, []byte("still here")); err != nil {
		return err
	}
	return p.end(stream)
}

// barrier is a ping of the session and one of the control channel and back:
// what the agent had to say before, it has said.
func (p *rawPeer) barrier() error {
	if _, err := p.tunnel.ping(p.timeout); err != nil {
		return err
	}
	return p.json(false)
}

// json is a `ping` and its `pong`.
func (p *rawPeer) json(binary bool) error {
	id := fmt.Sprintf("script-%d", time.Now().UnixNano())
	if err := p.link.sendEnvelope("ping", id, nil, binary, 0); err != nil {
		return err
	}
	_, found := p.g.events.take(map[string]any{"event": "message", "type": "pong", "request_id": id}, p.timeout)
	if !found {
		return fmt.Errorf("the control channel doesn't answer")
	}
	return nil
}

// silent: after a barrier nothing of this stream is there.
func (p *rawPeer) silent(stream uint32) error {
	if err := p.barrier(); err != nil {
		return err
	}
	if f, err := p.tunnel.frames.take(0, func(f frame) bool { return f.stream == stream && f.kind <= frameWindow }); err == nil {
		return fmt.Errorf("%v after the end", f)
	}
	return nil
}

// dies: the session ends, by Go Away with this code if code is not negative,
// and the agent closes the WebSocket.
func (p *rawPeer) dies(code int) error {
	if code >= 0 {
		f, err := p.tunnel.frames.take(p.timeout, func(f frame) bool { return f.kind == frameGoAway })
		if err != nil {
			return fmt.Errorf("waiting for go away: %w", err)
		}
		if int(f.length) != code {
			return fmt.Errorf("got %v, not code %d", f, code)
		}
	}
	select {
	case <-p.link.done:
		return nil
	case <-time.After(p.timeout):
		return fmt.Errorf("the WebSocket is still open")
	}
}

// text sends a message of the control channel as it is.
func (p *rawPeer) text(message string) error {
	return p.link.send(websocket.TextMessage, []byte(message), 0)
}
