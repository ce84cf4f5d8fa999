package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// command is one line on stdin. Which fields belong to which command is told
// in ../README.md.
type command struct {
	Cmd  string          `json:"cmd"`
	Tag  json.RawMessage `json:"tag"`  // comes back in the "done" event
	Conn string          `json:"conn"` // default: the newest open connection

	Text      string          `json:"text"`
	Base64    string          `json:"base64"`
	Frame     int             `json:"frame"`
	Type      string          `json:"type"`
	RequestID string          `json:"request_id"`
	Payload   json.RawMessage `json:"payload"`
	Code      int             `json:"code"`
	Reason    string          `json:"reason"`
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	Match     map[string]any  `json:"match"`
	TimeoutMS int             `json:"timeout_ms"`
	Hello     *hello          `json:"hello"`
	Plan      *plan           `json:"plan"`
	Header    *streamHeader   `json:"header"`
	Hex       string          `json:"hex"`
	Script    string          `json:"script"`
	Socket    string          `json:"socket"`
	Kind      int             `json:"kind"`
	Count     int             `json:"count"`
}

// defaultTimeout of expect and settle is for slow machines: it is waited for
// only in tests that fail.
const defaultTimeout = 10 * time.Second

// obey runs the commands one after the other until stdin ends. Each is
// answered by a "done" event; one that can't be carried out is a failure too.
func (g *gateway) obey(stdin io.Reader) {
	decoder := json.NewDecoder(stdin)
	decoder.DisallowUnknownFields()
	for {
		var c command
		if err := decoder.Decode(&c); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			g.events.fail("", "stdin: %v", err)
			return // the decoder can't find the next command
		}
		answer := event{"cmd": c.Cmd}
		if c.Tag != nil {
			answer["tag"] = c.Tag
		}
		err := g.execute(c, answer)
		answer["ok"] = err == nil
		if err != nil {
			g.events.fail(c.Conn, "command %s: %v", c.Cmd, err)
		}
		g.events.emit("done", answer)
	}
}

// execute runs one command; what it found out goes into the answer.
func (g *gateway) execute(c command, answer event) error {
	timeout := time.Duration(c.TimeoutMS) * time.Millisecond
	if timeout == 0 {
		timeout = defaultTimeout
	}
	switch c.Cmd {
	case "set":
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.settings.set(c.Key, c.Value)
	case "expect":
		seq, found := g.events.take(c.Match, timeout)
		if !found {
			pattern, _ := json.Marshal(c.Match)
			return fmt.Errorf("no event like %s within %v", pattern, timeout)
		}
		answer["matched"] = seq
		return nil
	case "settle":
		return g.settle(timeout)
	}
	if known, err := g.executeTunnel(c, answer, timeout); known {
		return err
	}
	if known, err := g.sockets.execute(c); known {
		return err
	}

	k, err := g.find(c.Conn)
	if err != nil {
		return err
	}
	g.mu.Lock()
	binary := g.settings.BinaryJSON
	g.mu.Unlock()
	switch c.Cmd {
	case "send_text":
		return k.send(websocket.TextMessage, []byte(c.Text), c.Frame)
	case "send_binary", "send_raw":
		data, err := base64.StdEncoding.DecodeString(c.Base64)
		if err != nil {
			return err
		}
		if c.Cmd == "send_raw" {
			return k.sendRaw(data)
		}
		return k.send(websocket.BinaryMessage, data, c.Frame)
	case "send_envelope":
		return k.sendEnvelope(c.Type, c.RequestID, c.Payload, binary, c.Frame)
	case "ping":
		return k.sendPing(c.Text)
	case "close":
		return k.sendClose(c.Code, c.Reason)
	case "drop":
		k.drop()
	case "pause":
		k.socket.pause()
	case "resume":
		k.socket.unpause()
	default:
		return errors.New("no such command")
	}
	return nil
}

// find returns the named connection, or the newest one.
func (g *gateway) find(name string) (*link, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := len(g.links) - 1; i >= 0; i-- {
		if k := g.links[i]; k.ws != nil && (name == "" || k.name == name) {
			return k, nil
		}
	}
	if name == "" {
		name = "any"
	}
	return nil, fmt.Errorf("connection (%s) is not open", name)
}

// settle waits until the agent owes nothing on any open connection.
func (g *gateway) settle(limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		var owed []string
		g.mu.Lock()
		for _, k := range g.links {
			owed = append(owed, k.ledger.owed()...)
			if k.tunnel != nil && !k.tunnel.over() {
				owed = append(owed, k.tunnel.book.owed()...)
			}
			for _, payload := range k.pings {
				owed = append(owed, fmt.Sprintf("WebSocket pong %q", payload))
			}
		}
		g.mu.Unlock()
		if len(owed) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still owed after %v: %s", limit, strings.Join(owed, "; "))
		}
		time.Sleep(5 * time.Millisecond)
	}
}
