package main

import (
	"slices"
	"testing"
)

// window, data: frames in short.
func window(flags uint16, stream, length uint32) frame {
	return frame{kind: frameWindow, flags: flags, stream: stream, length: length}
}

func data(flags uint16, stream, length uint32) frame {
	return frame{kind: frameData, flags: flags, stream: stream, length: length}
}

func TestBook(t *testing.T) {
	ping := frame{kind: framePing, flags: flagSYN, length: 7}
	pong := frame{kind: framePing, flags: flagACK, length: 7}
	type turn struct {
		ours, agents []frame // sent first, then judged; the last one has the problem
		problem      string
	}
	opened := turn{ours: []frame{window(flagSYN, 2, 0)}, agents: []frame{window(flagACK, 2, 0)}}
	for name, turns := range map[string][]turn{
		"a good stream": {opened, {ours: []frame{data(0, 2, 100), window(flagFIN, 2, 0)},
			agents: []frame{data(0, 2, 262144), window(0, 2, 100), window(flagFIN, 2, 0)}}},
		"more window by our updates": {opened, {ours: []frame{window(0, 2, 50)}, agents: []frame{data(0, 2, 262194)}}},
		"refused":                    {{ours: []frame{window(flagSYN, 2, 0)}, agents: []frame{window(flagRST, 2, 0)}}},
		"update after both ends":     {opened, {ours: []frame{data(0, 2, 9), window(flagFIN, 2, 0)}, agents: []frame{window(flagFIN, 2, 0), window(0, 2, 9)}}},
		"version":                    {{agents: []frame{{version: 1}}, problem: "version 1"}},
		"type":                       {{agents: []frame{{kind: 4}}, problem: "type 4"}},
		"never opened":               {{agents: []frame{data(0, 2, 1)}, problem: "never opened"}},
		"opens":                      {{agents: []frame{window(flagSYN, 1, 0)}, problem: "opens no streams"}},
		"second ACK":                 {opened, {agents: []frame{window(flagACK, 2, 0)}, problem: "second ACK"}},
		"data before the ACK":        {{ours: []frame{window(flagSYN, 2, 0)}, agents: []frame{data(0, 2, 1)}, problem: "answered first"}},
		"ACK with FIN":               {{ours: []frame{window(flagSYN, 2, 0)}, agents: []frame{window(flagACK|flagFIN, 2, 0)}, problem: "ACK alone"}},
		"ACK on data":                {{ours: []frame{window(flagSYN, 2, 0)}, agents: []frame{data(flagACK, 2, 1)}, problem: "by a window update"}},
		"second FIN":                 {opened, {agents: []frame{window(flagFIN, 2, 0), window(flagFIN, 2, 0)}, problem: "second FIN"}},
		"FIN with data":              {opened, {agents: []frame{data(flagFIN, 2, 1)}, problem: "FIN on a frame"}},
		"data after FIN":             {opened, {agents: []frame{window(flagFIN, 2, 0), data(0, 2, 1)}, problem: "data after FIN"}},
		"FIN after RST":              {opened, {agents: []frame{window(flagRST, 2, 0), window(flagFIN, 2, 0)}, problem: "has reset"}},
		"overrun":                    {opened, {agents: []frame{data(0, 2, 262145)}, problem: "more than the window"}},
		"too much window":            {opened, {agents: []frame{window(0, 2, 1)}, problem: "largest window is 262144"}},
		"pong":                       {{ours: []frame{ping}, agents: []frame{pong}}},
		"second pong":                {{ours: []frame{ping}, agents: []frame{pong, pong}, problem: "answers no ping"}},
		"data in flight at our RST":  {opened, {ours: []frame{window(flagRST, 2, 0), ping}, agents: []frame{data(0, 2, 1), pong}}},
		"data long after our RST":    {opened, {ours: []frame{window(flagRST, 2, 0), ping}, agents: []frame{pong, data(0, 2, 1)}, problem: "was reset"}},
		"go away":                    {{agents: []frame{{kind: frameGoAway, length: 1}}}},
		"go away for no reason":      {{agents: []frame{{kind: frameGoAway, length: 3}}, problem: "no proper"}},
	} {
		b := newBook(0)
		for _, turn := range turns {
			for _, f := range turn.ours {
				b.sent(f)
			}
			for i, f := range turn.agents {
				problem := turn.problem
				if i+1 < len(turn.agents) {
					problem = ""
				}
				expectError(t, name, b.received(f), problem)
			}
		}
	}
}

func TestOwedBySession(t *testing.T) {
	b := newBook(0)
	b.sent(window(flagSYN, 2, 0))
	b.sent(window(flagSYN, 4, 0))
	b.sent(frame{kind: framePing, flags: flagSYN, length: 3})
	if err := b.received(window(flagACK, 2, 0)); err != nil {
		t.Fatal(err)
	}
	if owed := b.owed(); !slices.Equal(owed, []string{"ACK of stream 4", "yamux pong 3"}) {
		t.Errorf("owed: %q", owed)
	}
}

// The vectors of tunnels.md §10.1, in any pieces.
func TestFrameVectors(t *testing.T) {
	all := []struct {
		hex  string
		want frame
	}{
		{"00 01 00 01 00 00 00 02 00 0c 00 00", window(flagSYN, 2, 786432)},
		{"00 01 00 02 00 00 00 02 00 00 00 00", window(flagACK, 2, 0)},
		{"00 00 00 00 00 00 00 02 00 00 00 02 68 69", frame{stream: 2, length: 2, payload: []byte("hi")}},
		{"00 02 00 02 00 00 00 00 00 00 00 07", frame{kind: framePing, flags: flagACK, length: 7}},
		{"00 03 00 00 00 00 00 00 00 00 00 01", frame{kind: frameGoAway, length: 1}},
	}
	var stream []byte
	for _, c := range all {
		b, err := unhex(c.hex)
		if err != nil || !slices.Equal(b, c.want.bytes()) {
			t.Errorf("%v is %x, %v", c.want, c.want.bytes(), err)
		}
		stream = append(stream, b...)
	}
	for size := 1; size <= len(stream); size++ {
		s := splitter{keep: true}
		var got []frame
		for piece := range slices.Chunk(stream, size) {
			s.feed(piece, func(f frame) { got = append(got, f) })
		}
		if len(got) != len(all) || !s.between() || string(got[2].payload) != "hi" || got[4].length != 1 {
			t.Fatalf("in pieces of %d: %v", size, got)
		}
	}
	header, err := streamHeader{Port: 5432, Service: "postgres", Namespace: "databases", Tunnel: "t-1"}.bytes()
	want, _ := unhex("01 01 15 38 00 08 70 6f 73 74 67 72 65 73 00 09 64 61 74 61 62 61 73 65 73 00 03 74 2d 31")
	if err != nil || !slices.Equal(header, want) {
		t.Errorf("header is %x, %v", header, err)
	}
	header, err = streamHeader{Protocol: "udp", Port: 53}.bytes()
	want, _ = unhex("01 02 00 35 00 00 00 00 00 00")
	if err != nil || !slices.Equal(header, want) {
		t.Errorf("header is %x, %v", header, err)
	}
}
