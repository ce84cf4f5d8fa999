package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	writeLimit = 10 * time.Second
	// maxMessage is above the agent's own limit of 96 MiB (decisions §6.2).
	maxMessage = 128 << 20
)

// link is one WebSocket connection of the agent.
type link struct {
	g      *gateway
	name   string // gateway#1
	role   string
	ws     *websocket.Conn
	socket *socket
	done   chan struct{} // closed when it has ended

	write sync.Mutex // held over a whole message, fragments included

	// guarded by g.mu:
	ledger    *ledger
	pings     []string // payloads of our WebSocket pings without their pong
	closeSent int      // code of our close frame; noClose before
	dropped   bool
	offered   *hello  // without its ack yet
	tunnel    *tunnel // the session, from the ack on
}

const noClose = -1

// read is the link's reader; it returns when the connection has ended.
func (k *link) read() {
	k.ws.SetReadLimit(maxMessage)
	k.ws.SetPingHandler(k.onPing)
	k.ws.SetPongHandler(k.onPong)
	pieces := make([]byte, 64<<10)
	for {
		kind, message, err := k.ws.NextReader()
		if err != nil {
			k.ended(err)
			return
		}
		k.g.mu.Lock()
		session := k.tunnel
		k.g.mu.Unlock()
		if kind == websocket.BinaryMessage && session != nil {
			for err == nil {
				var n int
				n, err = message.Read(pieces)
				session.feed(pieces[:n])
			}
			if err != io.EOF {
				k.ended(err)
				return
			}
			continue
		}
		data, err := io.ReadAll(message)
		if err != nil {
			k.ended(err)
			return
		}
		if kind == websocket.BinaryMessage {
			k.onBinary(data)
		} else {
			k.onText(data)
		}
	}
}

func (k *link) onText(data []byte) {
	shown := event{"conn": k.name, "bytes": len(data)}
	e, err := parseEnvelope(data)
	if err != nil {
		shown["text"] = string(data)
		k.g.events.emit("message", shown, err.Error())
		return
	}
	shown["type"], shown["envelope"] = e.kind, json.RawMessage(data)
	if e.id != "" {
		shown["request_id"] = e.id
	}
	if err := checkMessage(e); err != nil {
		k.g.events.emit("message", shown, e.kind+": "+err.Error())
		return
	}

	k.g.mu.Lock()
	finished, err := k.ledger.received(e)
	current := k.g.settings
	k.g.mu.Unlock()
	var problems []string
	if err != nil {
		problems = append(problems, err.Error())
	}
	if e.kind == "heartbeat" && !current.AllowWorker && hasMember(e.payload, "worker_join") {
		problems = append(problems, "heartbeat carries worker_join")
	}
	k.g.events.emit("message", shown, problems...)
	if finished != nil {
		k.g.events.emit("outcome", event{"conn": k.name, "request_id": finished.id, "result": finished.result,
			"status": finished.status, "size": finished.size, "sha256": finished.sha256()})
	}
	switch e.kind {
	case "register":
		k.answerRegister(e, current)
	case "heartbeat":
		if current.HeartbeatAck {
			k.reply("heartbeat_ack", "", map[string]any{"received_at": now()}, current)
		}
	case "gateway_hello_ack":
		if len(problems) == 0 {
			k.agreed()
		}
	}
}

func (k *link) onBinary(data []byte) {
	k.g.mu.Lock()
	expected := k.ledger.binaryAfter
	k.g.mu.Unlock()
	var problems []string
	if !expected {
		// Format 5.2 is never sent (decisions §2); the rest is yamux.
		problems = append(problems, fmt.Sprintf("binary message of %d bytes", len(data)))
	}
	k.g.events.emit("binary", event{"conn": k.name, "bytes": len(data)}, problems...)
}

func (k *link) answerRegister(e envelope, s settings) {
	switch s.Register {
	case "in_progress":
		k.reply("register_in_progress", e.id, map[string]any{}, s)
		k.reply("register_success", e.id, s.registration(), s)
	case "success":
		k.reply("register_success", e.id, s.registration(), s)
	case "error":
		k.reply("error", e.id, map[string]any{"error": s.RegisterError}, s)
	}
}

// reply sends what the gateway says by itself. An error shows again at the
// next read.
func (k *link) reply(kind, id string, payload map[string]any, s settings) {
	encoded, err := json.Marshal(payload)
	if err == nil {
		err = k.sendEnvelope(kind, id, encoded, s.BinaryJSON, 0)
	}
	if err != nil {
		k.g.events.emit("note", event{"conn": k.name, "text": kind + ": " + err.Error()})
	}
}

func (k *link) onPing(payload string) error {
	k.g.mu.Lock()
	answer := k.g.settings.AnswerPings
	k.g.mu.Unlock()
	var problems []string
	if payload != "" {
		problems = append(problems, fmt.Sprintf("WebSocket ping with payload %q", payload))
	}
	k.g.events.emit("ping", event{"conn": k.name, "text": payload}, problems...)
	if answer {
		// An error shows again at the next read.
		_ = k.ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(writeLimit))
	}
	return nil
}

func (k *link) onPong(payload string) error {
	k.g.mu.Lock()
	i := slices.Index(k.pings, payload)
	if i >= 0 {
		k.pings = k.pings[i+1:] // a pong may answer only the latest of several
	}
	k.g.mu.Unlock()
	var problems []string
	if i < 0 {
		problems = append(problems, fmt.Sprintf("WebSocket pong %q without such a ping", payload))
	}
	k.g.events.emit("pong", event{"conn": k.name, "text": payload}, problems...)
	return nil
}

// ended takes the connection off the list and judges its end.
func (k *link) ended(err error) {
	k.ws.Close()
	k.g.mu.Lock()
	k.ledger.closed()
	sent, dropped, current := k.closeSent, k.dropped, k.g.settings
	k.g.links = slices.DeleteFunc(k.g.links, func(other *link) bool { return other == k })
	session := k.tunnel
	k.g.mu.Unlock()
	close(k.done)
	if session != nil {
		session.end()
	}

	shown := event{"conn": k.name}
	var problem string
	var frame *websocket.CloseError
	if errors.As(err, &frame) && frame.Code != websocket.CloseAbnormalClosure {
		shown["code"], shown["reason"] = frame.Code, frame.Text
		switch {
		case frame.Text != "" && frame.Code == websocket.CloseNormalClosure && sent == noClose:
			problem = fmt.Sprintf("close frame with reason %q", frame.Text)
		case frame.Code != current.CloseCode && frame.Code != sent:
			problem = fmt.Sprintf("close code %d, must be %d", frame.Code, current.CloseCode)
		}
	} else {
		shown["error"] = err.Error()
		switch {
		case frame == nil && strings.HasPrefix(err.Error(), "websocket: "):
			problem = "broken WebSocket protocol: " + err.Error()
		case !current.AllowAbrupt:
			problem = "ended without a close frame: " + err.Error()
		}
	}
	if problem == "" || dropped {
		k.g.events.emit("close", shown)
	} else {
		k.g.events.emit("close", shown, problem)
	}
}

// sendEnvelope writes a message of this peer in its own field order (a map's:
// alphabetical), which an agent must not depend on. payload may be nil.
func (k *link) sendEnvelope(kind, id string, payload json.RawMessage, binary bool, frame int) error {
	message := map[string]any{"type": kind, "timestamp": now()}
	if id != "" {
		message["request_id"] = id
	}
	if payload != nil {
		message["payload"] = payload
	}
	data, err := encode(message)
	if err != nil {
		return err
	}
	opcode := websocket.TextMessage
	if binary {
		opcode = websocket.BinaryMessage
	}
	return k.send(opcode, data, frame)
}

// send notes a message in the ledger and writes it, in frames of at most
// frame bytes of payload (0: in one).
func (k *link) send(opcode int, data []byte, frame int) error {
	k.g.mu.Lock()
	if opcode == websocket.BinaryMessage && !json.Valid(data) {
		k.ledger.sentBinary()
	} else {
		k.ledger.sent(data)
	}
	k.g.mu.Unlock()
	return k.sendFrames(opcode, data, frame)
}

// sendFrames writes a message without noting it.
func (k *link) sendFrames(opcode int, data []byte, frame int) error {
	k.write.Lock()
	defer k.write.Unlock()
	for first := true; first || len(data) > 0; first = false {
		part := data
		if frame > 0 && len(part) > frame {
			part = part[:frame]
		}
		data = data[len(part):]
		code := opcode
		if !first {
			code = 0 // continuation
		}
		if err := k.sendRaw(appendFrame(nil, len(data) == 0, code, part)); err != nil {
			return err
		}
	}
	return nil
}

// sendRaw writes bytes below the WebSocket. One call is one write: gorilla's
// own pongs may fall between two, but not into one.
func (k *link) sendRaw(data []byte) error {
	if err := k.socket.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	_, err := k.socket.Write(data)
	return err
}

// drop resets the TCP connection.
func (k *link) drop() {
	k.g.mu.Lock()
	k.dropped = true
	k.g.mu.Unlock()
	k.socket.reset()
}

// sendPing expects the same payload back.
func (k *link) sendPing(payload string) error {
	k.g.mu.Lock()
	k.pings = append(k.pings, payload)
	k.g.mu.Unlock()
	return k.ws.WriteControl(websocket.PingMessage, []byte(payload), time.Now().Add(writeLimit))
}

// sendClose begins the closing handshake; an agent that doesn't answer it in
// time has failed.
func (k *link) sendClose(code int, reason string) error {
	k.g.mu.Lock()
	k.closeSent = code
	if code == 0 {
		k.closeSent = websocket.CloseNoStatusReceived
	}
	k.g.mu.Unlock()
	time.AfterFunc(writeLimit, func() {
		select {
		case <-k.done:
		default:
			k.g.events.fail(k.name, "close %d was not answered", code)
			k.drop()
		}
	})
	var payload []byte
	if code != 0 {
		payload = websocket.FormatCloseMessage(code, reason)
	}
	return k.ws.WriteControl(websocket.CloseMessage, payload, time.Now().Add(writeLimit))
}

// encode leaves <, > and & as they are; a line feed ends it.
func encode(value any) ([]byte, error) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return line.Bytes(), err
}

func hasMember(raw json.RawMessage, name string) bool {
	var members map[string]json.RawMessage
	return json.Unmarshal(raw, &members) == nil && members[name] != nil
}

func now() string { return time.Now().Format(time.RFC3339Nano) }
