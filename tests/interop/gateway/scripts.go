package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Numbers are the items of tunnels.md §10.2.
var scripts = map[string]script{
	"vectors":         scriptVectors,                                    // 1, 2, 4, 5
	"pieces":          scriptPieces,                                     // 3
	"window_update":   scriptWindowUpdate,                               // 4
	"target_first":    scriptTargetFirst,                                // 5
	"gateway_first":   scriptGatewayFirst,                               // 6
	"reset":           scriptReset,                                      // 7
	"second_syn":      scriptSecondSYN,                                  // 9
	"overrun":         scriptOverrun,                                    // 10
	"syn_with_4_gib":  fatal("00 00 00 01 00 00 00 02 ff ff ff ff", 1),  // 10
	"version_1":       fatal("01 01 00 01 00 00 00 02 00 00 00 00", -1), // 11
	"type_9":          fatal("00 09 00 00 00 00 00 02 00 00 00 00", -1), // 11
	"go_away_1":       fatal("00 03 00 00 00 00 00 00 00 00 00 01", -1), // §2.9
	"second_fin":      scriptSecondFIN,                                  // §2.5
	"syn_flood":       scriptSYNFlood,                                   // 12
	"small_window":    scriptSmallWindow,                                // 14
	"not_agreed":      scriptNotAgreed,                                  // 15
	"second_hello":    scriptSecondHello,                                // decisions §6.6
	"unknown_streams": scriptUnknownStreams,                             // §2.14, 9
	"datagrams":       scriptDatagrams,                                  // §3.6
	"refused":         scriptRefused,                                    // §3.4, dial failure
	"go_away_0":       scriptGoAway,                                     // §2.9
}

func scriptVectors(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	header, err := p.header.bytes()
	if err != nil {
		return err
	}
	first := append(header, "echo\nhello"...)
	return inOrder(
		func() error { return p.hex("00 01 00 01 00 00 00 02 00 00 00 00") }, // SYN, stream 2
		func() error { return p.expect(frameWindow, flagACK, 2) },
		func() error { return p.data(2, first, 0) },
		func() error { return p.receive(2, []byte("hello")) },
		func() error { return p.hex("00 02 00 01 00 00 00 00 00 00 00 07") }, // ping 7
		func() error {
			_, err := p.tunnel.frames.take(p.timeout, func(f frame) bool {
				return f.kind == framePing && f.flags == flagACK && f.stream == 0 && f.length == 7
			})
			return err
		},
		func() error { return p.hex("00 01 00 00 00 00 00 02 00 02 00 00") }, // window update
		func() error { return p.hex("00 00 00 00 00 00 00 02 00 00 00 03 61 62 63") },
		func() error { return p.receive(2, []byte("abc")) },
		func() error { return p.hex("00 01 00 04 00 00 00 02 00 00 00 00") }, // FIN
		func() error { return p.expect(frameWindow, flagFIN, 2) },
		func() error { return p.hex("00 00 00 00 00 00 00 02 00 00 00 03 61 62 63") }, // late
		func() error { return p.silent(2) },
		// SYN that grants a megabyte.
		func() error { return p.hex("00 01 00 01 00 00 00 04 00 0c 00 00") },
		func() error { return p.expect(frameWindow, flagACK, 4) },
		func() error { return p.data(4, first, 0) },
		func() error { return p.receive(4, []byte("hello")) },
		func() error { return p.end(4) },
	)
}

func scriptPieces(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	header, err := p.header.bytes()
	if err != nil {
		return err
	}
	first := append(slices.Clone(header), "echo\nhello"...)
	stream := uint32(2)
	for _, send := range []func() error{
		func() error { return p.data(stream, first, 1) },                                                    // each byte in a message
		func() error { return p.data(stream, first, 7) },                                                    // cut in yamux and in tunnel header
		func() error { return p.data(stream, first, 15) },                                                   // in the tunnel header
		func() error { return inOrder(p.each(stream, first, 1)...) },                                        // each byte in a frame
		func() error { return inOrder(p.each(stream, first, 3)...) },                                        // cut inside fields
		func() error { return inOrder(p.each(stream, first, len(header))...) },                              // between header and payload
		func() error { return p.link.sendTunnelFrames(p.tunnel, frame{stream: stream, payload: first}, 5) }, // in WebSocket fragments
	} {
		err := inOrder(
			func() error { return p.open(stream) }, send,
			func() error { return p.receive(stream, []byte("hello")) },
			func() error { return p.end(stream) },
		)
		if err != nil {
			return fmt.Errorf("stream %d: %w", stream, err)
		}
		stream += 2
	}
	return nil
}

// each cuts payload into frames of at most size bytes.
func (p *rawPeer) each(stream uint32, payload []byte, size int) []func() error {
	var list []func() error
	for part := range slices.Chunk(payload, size) {
		list = append(list, func() error { return p.data(stream, part, 0) })
	}
	return list
}

// sendTunnelFrames sends a frame in one message of several WebSocket frames.
func (k *link) sendTunnelFrames(t *tunnel, f frame, size int) error {
	f.length = uint32(len(f.payload))
	t.write.Lock()
	defer t.write.Unlock()
	t.out.feed(f.bytes(), t.book.sent)
	return k.sendTunnel(f.bytes(), size)
}

// Half a window read is granted again in one update.
func scriptWindowUpdate(p *rawPeer) error {
	if err := p.hello(`{"max_stream_window_size":262144}`); err != nil {
		return err
	}
	if err := p.begin(2, "sink\n"); err != nil {
		return err
	}
	// Nothing is due yet; then, with the last byte, something is.
	header, _ := p.header.bytes()
	sent := len(header) + len("sink\n")
	for sent < 131072 {
		n := min(16384, 131072-sent)
		if err := p.data(2, make([]byte, n), 0); err != nil {
			return err
		}
		sent += n
	}
	update, err := p.tunnel.frames.take(p.timeout, func(f frame) bool { return f.kind == frameWindow && f.stream == 2 })
	if err != nil {
		return err
	}
	if update.flags != 0 || update.length < 131072 {
		return fmt.Errorf("%v, must be an update of at least 131072", update)
	}
	if err := p.silent(2); err != nil {
		return err
	}
	if err := p.send(frame{kind: frameWindow, flags: flagFIN, stream: 2}); err != nil {
		return err
	}
	answer, err := p.next(2)
	if err != nil || answer.kind != frameData {
		return fmt.Errorf("%v, must be the sum: %v", answer, err)
	}
	return p.expect(frameWindow, flagFIN, 2)
}

func scriptTargetFirst(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	return inOrder(
		func() error { return p.begin(2, "turn\n") },
		func() error { return p.receive(2, []byte("hi\n")) },
		func() error { return p.expect(frameWindow, flagFIN, 2) },
		func() error { return p.data(2, []byte("more"), 0) },
		func() error { return p.send(frame{kind: frameWindow, flags: flagFIN, stream: 2}) },
		func() error { return p.targetSaw(map[string]any{"line": "turn", "received": 4.0, "end": "eof"}) },
		func() error { return p.data(2, []byte("late"), 0) },
		func() error { return p.silent(2) },
	)
}

func (p *rawPeer) targetSaw(what map[string]any) error {
	what["event"] = "target"
	if _, found := p.g.events.take(what, p.timeout); !found {
		return fmt.Errorf("the target didn't see %v", what)
	}
	return nil
}

func scriptGatewayFirst(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	return inOrder(
		func() error { return p.begin(2, "sink\n12345") },
		func() error { return p.send(frame{kind: frameWindow, flags: flagFIN, stream: 2}) },
		func() error { return p.receive(2, []byte("5 "+sumOf("12345")+"\n")) },
		func() error { return p.expect(frameWindow, flagFIN, 2) },
		func() error { return p.silent(2) },
	)
}

func scriptReset(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	return inOrder(
		// It stops when the window is used up, and is reset there.
		func() error { return p.begin(2, "source 100000000 1\n") },
		func() error { return p.received(2, initialWindow) },
		func() error { return p.hex("00 01 00 08 00 00 00 02 00 00 00 00") },
		func() error { return p.targetSaw(map[string]any{"line": "source 100000000 1", "end": "reset"}) },
		func() error { return p.silent(2) },
		func() error { return p.echo(4) },
	)
}

// received waits for so many bytes, whatever they are.
func (p *rawPeer) received(stream uint32, size int) error {
	for size > 0 {
		f, err := p.next(stream)
		if err != nil || f.kind != frameData {
			return fmt.Errorf("%v: %w", f, err)
		}
		size -= int(f.length)
	}
	return nil
}

func scriptSecondSYN(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	return inOrder(
		func() error { return p.begin(2, "echo\nhi") },
		func() error { return p.receive(2, []byte("hi")) }, // the target is there
		func() error { return p.hex("00 01 00 01 00 00 00 02 00 00 00 00") },
		func() error { return p.dies(1) },
		func() error { return p.targetSaw(map[string]any{"line": "echo", "end": "reset"}) },
	)
}

func scriptSecondFIN(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	fin := frame{kind: frameWindow, flags: flagFIN, stream: 2}
	return inOrder(
		func() error { return p.begin(2, "stall\n") },
		func() error { return p.send(fin) },
		func() error { return p.send(fin) },
		func() error { return p.dies(1) },
	)
}

func scriptOverrun(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	if err := p.begin(2, "stall\n"); err != nil {
		return err
	}
	if err := p.barrier(); err != nil {
		return err
	}
	allowed := p.tunnel.book.account(2).allowed
	// The header alone: the agent must not wait for what it won't take.
	if err := p.send(frame{stream: 2, length: uint32(allowed) + 1}); err != nil {
		return err
	}
	return p.dies(1)
}

// fatal: these bytes are the end of the session.
func fatal(hex string, code int) script {
	return func(p *rawPeer) error {
		if err := p.hello(""); err != nil {
			return err
		}
		if err := p.hex(hex); err != nil {
			return err
		}
		return p.dies(code)
	}
}

func scriptSYNFlood(p *rawPeer) error {
	const count = 2000
	if err := p.hello(""); err != nil {
		return err
	}
	var all []byte
	for i := range uint32(count) {
		all = append(all, frame{kind: frameWindow, flags: flagSYN, stream: 2 + 2*i}.bytes()...)
	}
	if err := p.tunnel.inject(all, 0); err != nil {
		return err
	}
	if err := p.json(false); err != nil {
		return err
	}
	refused := 0
	for i := range uint32(count) {
		f, err := p.next(2 + 2*i)
		if err != nil {
			return fmt.Errorf("stream %d: %w", 2+2*i, err)
		}
		if f.flags == flagRST {
			refused++
		}
	}
	p.g.events.emit("note", event{"conn": p.link.name, "text": fmt.Sprintf("%d of %d refused", refused, count)})
	// All but the refused are still there; they end, and the next one works.
	all = nil
	for i := range uint32(count) {
		all = append(all, frame{kind: frameWindow, flags: flagRST, stream: 2 + 2*i}.bytes()...)
	}
	if err := p.tunnel.inject(all, 0); err != nil {
		return err
	}
	return p.echo(2 + 2*count)
}

func scriptSmallWindow(p *rawPeer) error {
	if err := p.hello(`{"max_stream_window_size":1000,"keep_alive_interval_seconds":0.5,"connection_timeout_seconds":0.1,"accept_backlog":"x"}`); err != nil {
		return err
	}
	payload := make([]byte, 200_000) // more than the 1000 that were offered
	fill(payload, 9, 0)
	return inOrder(
		func() error { return p.begin(2, "echo\n") },
		func() error { return p.data(2, payload, 0) },
		func() error { return p.receive(2, payload) },
		func() error { return p.end(2) },
	)
}

func scriptNotAgreed(p *rawPeer) error {
	for _, payload := range []string{`{"use_yamux":"true"}`, `{"use_yamux":1}`, `{"use_yamux":false}`, `{"yamux_config":{}}`, `{}`} {
		if err := p.text(`{"type":"gateway_hello","payload":` + payload + `}`); err != nil {
			return err
		}
		// An ack would come before the pong, and be a failure.
		if err := p.json(false); err != nil {
			return err
		}
		if err := p.json(true); err != nil {
			return fmt.Errorf("JSON in a binary message: %w", err)
		}
	}
	return nil
}

func scriptSecondHello(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	return inOrder(
		func() error { return p.begin(2, "source 100000000 1\n") },
		func() error { return p.received(2, 65536) },
		func() error { return p.begin(4, "echo\nhi") },
		func() error { return p.receive(4, []byte("hi")) },
		func() error { return p.hello("") },
		// Whatever comes from here on is judged by the new session's book.
		func() error { return p.targetSaw(map[string]any{"line": "source 100000000 1", "end": "reset"}) },
		func() error { return p.targetSaw(map[string]any{"line": "echo", "end": "reset"}) },
		func() error { return p.silent(2) },
		func() error { return p.echo(2) },
		func() error { return p.echo(4) },
	)
}

func scriptUnknownStreams(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	late := make([]byte, 100_000)
	return inOrder(
		func() error { return p.data(40, late, 0) },
		func() error { return p.send(frame{kind: frameWindow, stream: 40, length: 99}) },
		func() error { return p.send(frame{kind: frameWindow, flags: flagFIN, stream: 40}) },
		func() error { return p.send(frame{kind: frameWindow, flags: flagRST, stream: 42}) },
		func() error { return p.send(frame{kind: framePing, flags: flagACK, length: 12345}) }, // answers nothing
		func() error { return p.silent(40) },
		func() error { return p.silent(42) },
		func() error { return p.echo(2) },
	)
}

func scriptDatagrams(p *rawPeer) error {
	p.header.Protocol = "udp"
	if err := p.hello(""); err != nil {
		return err
	}
	header, err := p.header.bytes()
	if err != nil {
		return err
	}
	if err := p.open(2); err != nil {
		return err
	}
	// What follows the header in its frame is the first datagram.
	if err := p.data(2, append(header, "first"...), 0); err != nil {
		return err
	}
	if err := p.datagram(2, []byte("first")); err != nil {
		return err
	}
	for _, size := range []int{1, 512, 1472, 9000, 65507, 3} {
		payload := make([]byte, size)
		fill(payload, uint64(size), 0)
		if err := p.data(2, payload, 0); err != nil {
			return err
		}
		if err := p.datagram(2, payload); err != nil {
			return fmt.Errorf("%d bytes: %w", size, err)
		}
		// Windows are ours to grant here.
		if err := p.send(frame{kind: frameWindow, stream: 2, length: uint32(size)}); err != nil {
			return err
		}
	}
	return p.end(2)
}

// datagram: exactly one Data frame.
func (p *rawPeer) datagram(stream uint32, want []byte) error {
	f, err := p.next(stream)
	if err != nil {
		return err
	}
	if f.kind != frameData || string(f.payload) != string(want) {
		return fmt.Errorf("%v is not the datagram of %d bytes", f, len(want))
	}
	return nil
}

// A target that can't be dialled: RST, or FIN as the original, and no data.
func scriptRefused(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	if err := p.begin(2, ""); err != nil {
		return err
	}
	f, err := p.next(2)
	if err != nil {
		return err
	}
	if f.kind != frameWindow || f.flags != flagRST && f.flags != flagFIN {
		return fmt.Errorf("%v after a failed dial", f)
	}
	return p.barrier()
}

// The gateway wants no more streams; those that run go on.
func scriptGoAway(p *rawPeer) error {
	if err := p.hello(""); err != nil {
		return err
	}
	return inOrder(
		func() error { return p.begin(2, "echo\none") },
		func() error { return p.receive(2, []byte("one")) },
		func() error { return p.hex("00 03 00 00 00 00 00 00 00 00 00 00") },
		func() error { return p.data(2, []byte("two"), 0) },
		func() error { return p.receive(2, []byte("two")) },
		func() error { return p.end(2) },
	)
}

func inOrder(steps ...func() error) error {
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
