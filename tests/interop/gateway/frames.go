package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// Types, flags and sizes of tunnels.md §2.2 and §2.3.
const (
	frameData   = 0
	frameWindow = 1
	framePing   = 2
	frameGoAway = 3

	flagSYN = 1
	flagACK = 2
	flagFIN = 4
	flagRST = 8

	frameHeader   = 12
	initialWindow = 256 << 10
)

// frame is one yamux frame. Its payload is there in raw mode only.
type frame struct {
	version, kind  byte
	flags          uint16
	stream, length uint32
	payload        []byte
}

func parseHeader(b []byte) frame {
	return frame{version: b[0], kind: b[1], flags: binary.BigEndian.Uint16(b[2:]),
		stream: binary.BigEndian.Uint32(b[4:]), length: binary.BigEndian.Uint32(b[8:])}
}

// bytes is the frame as it is sent: its length field as it is, whatever the
// payload is.
func (f frame) bytes() []byte {
	b := []byte{f.version, f.kind}
	b = binary.BigEndian.AppendUint16(b, f.flags)
	b = binary.BigEndian.AppendUint32(b, f.stream)
	b = binary.BigEndian.AppendUint32(b, f.length)
	return append(b, f.payload...)
}

func (f frame) kindName() string {
	names := []string{"data", "window", "ping", "goaway"}
	if int(f.kind) < len(names) {
		return names[f.kind]
	}
	return fmt.Sprint(f.kind)
}

func (f frame) flagNames() string {
	var list []string
	for i, name := range []string{"syn", "ack", "fin", "rst"} {
		if f.flags&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	if f.flags > 15 {
		list = append(list, fmt.Sprintf("%#x", f.flags))
	}
	return strings.Join(list, "+")
}

func (f frame) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s", f.kindName(), f.flagNames())) +
		fmt.Sprintf(" of stream %d, length %d", f.stream, f.length)
}

// payloadSize is how many bytes follow the header (§2.2).
func (f frame) payloadSize() uint32 {
	if f.kind == frameData {
		return f.length
	}
	return 0
}

// splitter cuts a byte stream into frames, however it arrives.
type splitter struct {
	keep    bool // collect payloads
	header  []byte
	current frame
	left    uint32 // of the current payload
}

// feed calls each for every frame: at its header, or with keep at its end.
func (s *splitter) feed(data []byte, each func(frame)) {
	for len(data) > 0 {
		if s.left > 0 {
			n := min(len(data), int(s.left))
			if s.keep {
				s.current.payload = append(s.current.payload, data[:n]...)
			}
			data, s.left = data[n:], s.left-uint32(n)
			if s.left == 0 && s.keep {
				each(s.current)
			}
			continue
		}
		n := min(len(data), frameHeader-len(s.header))
		s.header = append(s.header, data[:n]...)
		if data = data[n:]; len(s.header) < frameHeader {
			return
		}
		s.current = parseHeader(s.header)
		s.header = s.header[:0]
		s.left = s.current.payloadSize()
		if !s.keep || s.left == 0 {
			each(s.current)
		}
	}
}

// between tells whether the next byte begins a frame.
func (s *splitter) between() bool { return s.left == 0 && len(s.header) == 0 }

// streamHeader is tunnels.md §3.1.
type streamHeader struct {
	Version   *int   `json:"version"`  // default: 1
	Protocol  string `json:"protocol"` // tcp (default), udp, or a number
	Port      uint16 `json:"port"`
	Service   string `json:"service"`
	Namespace string `json:"namespace"`
	Tunnel    string `json:"tunnel"`
}

// fields are the parts that the original's encoder writes one by one.
func (h streamHeader) fields() ([][]byte, error) {
	version, protocol := 1, 1
	if h.Version != nil {
		version = *h.Version
	}
	switch h.Protocol {
	case "", "tcp":
	case "udp":
		protocol = 2
	default:
		if _, err := fmt.Sscan(h.Protocol, &protocol); err != nil {
			return nil, fmt.Errorf("protocol %q is neither tcp, udp nor a number", h.Protocol)
		}
	}
	parts := [][]byte{{byte(version)}, {byte(protocol)}, binary.BigEndian.AppendUint16(nil, h.Port)}
	for _, text := range []string{h.Service, h.Namespace, h.Tunnel} {
		if len(text) > 0xffff {
			return nil, fmt.Errorf("a string of %d bytes", len(text))
		}
		parts = append(parts, binary.BigEndian.AppendUint16(nil, uint16(len(text))))
		if text != "" {
			parts = append(parts, []byte(text))
		}
	}
	return parts, nil
}

func (h streamHeader) bytes() ([]byte, error) {
	parts, err := h.fields()
	var all []byte
	for _, part := range parts {
		all = append(all, part...)
	}
	return all, err
}

// unhex reads hex with spaces.
func unhex(text string) ([]byte, error) {
	return hex.DecodeString(strings.Join(strings.Fields(text), ""))
}
