package main

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// App streams of control-channel.md §9.2: a proxy_request that asks for an
// upgrade becomes a WebSocket to the Service, whose messages travel as
// proxy_websocket_data, each with its type in the first byte.

const streamQueue = 100 // messages on their way to a Service, as in the original

type streamData struct {
	RequestID   string `json:"request_id,omitempty"`
	StreamID    string `json:"stream_id"`
	Data        []byte `json:"data"` // base64 by encoding/json
	MessageType int    `json:"message_type,omitempty"`
}

type message struct {
	kind int
	data []byte
}

func (p *proxyRequest) wantsUpgrade() bool {
	if p.IsWebSocket {
		return true
	}
	for name, values := range p.Headers {
		if strings.EqualFold(name, "Upgrade") && len(values) > 0 && strings.EqualFold(values[0], "websocket") {
			return true
		}
	}
	return false
}

// openStream dials, answers 101 and copies until one side ends.
func (l *link) openStream(ctx context.Context, id string, p proxyRequest) error {
	target := *l.agent.kube
	target.Scheme = webSocketScheme(target.Scheme)
	target.Path, target.RawQuery = p.Path, p.Query
	dialer := websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	ws, answer, err := dialer.DialContext(ctx, target.String(), nil)
	if err != nil {
		return l.fail(ctx, id, p, err, false)
	}
	incoming := make(chan message, streamQueue)
	l.mu.Lock()
	l.streams[id] = incoming
	l.mu.Unlock()
	l.forget(id)
	if err := l.answerUpgrade(id, p, answer.Header); err != nil {
		ws.Close()
		return err
	}
	go func() {
		defer ws.Close()
		for {
			select {
			case <-l.done:
				return
			case m, open := <-incoming:
				if !open {
					goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
					_ = ws.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(writeLimit))
					return
				}
				if ws.WriteMessage(m.kind, m.data) != nil {
					return
				}
			}
		}
	}()
	defer l.endStream(id)
	for {
		kind, data, err := ws.ReadMessage()
		if err != nil {
			return l.send("proxy_websocket_close", id, streamData{RequestID: id, StreamID: id})
		}
		framed := append(append(make([]byte, 0, len(data)+1), byte(kind)), data...)
		if err := l.send("proxy_websocket_data", id, streamData{id, id, framed, kind}); err != nil {
			return err
		}
	}
}

func (l *link) answerUpgrade(id string, p proxyRequest, headers http.Header) error {
	if !p.StreamResponse {
		return l.send("proxy_response", id, responsePayload{Status: 101, Headers: headers})
	}
	if err := l.send("proxy_response_header", id, headerPayload{101, headers}); err != nil {
		return err
	}
	return l.send("proxy_response_end", id, struct{}{})
}

// streamMessage hands data to a stream. The reader of the link must not wait: a
// stream that is full has broken.
func (l *link) streamMessage(m incoming) {
	var p streamData
	if err := json.Unmarshal(m.Payload, &p); err != nil || len(p.Data) == 0 {
		log.Printf("undecodable proxy_websocket_data %q: %v", m.RequestID, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	stream := l.streams[p.StreamID]
	if stream == nil {
		return
	}
	select {
	case stream <- message{int(p.Data[0]), p.Data[1:]}:
	default:
		log.Printf("stream %q takes nothing", p.StreamID)
		delete(l.streams, p.StreamID)
		close(stream)
	}
}

func (l *link) endStream(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stream := l.streams[id]; stream != nil {
		delete(l.streams, id)
		close(stream)
	}
}
