package main

import (
	"context"
	"encoding/json"
	"log"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	pingInterval = 10 * time.Second
	readLimit    = 60 * time.Second
	writeLimit   = 30 * time.Second
)

// link is one connection and the requests that came on it.
type link struct {
	agent        *agent
	ws           *websocket.Conn
	registration chan incoming // answers to register
	done         chan struct{} // closed when the reader has ended
	err          error         // why; valid after done
	ctx          context.Context
	cancel       context.CancelFunc

	beats chan time.Time // with --log-acks: when those were sent that have no ack yet

	write sync.Mutex // one message at a time

	mu       sync.Mutex
	requests map[string]context.CancelFunc // running, by request id
	streams  map[string]chan message       // open app streams, by request id

	// The reader's own:
	unknown map[string]bool // unknown types already reported
	tunnels *wsConn         // since gateway_hello
}

func newLink(a *agent, ws *websocket.Conn) *link {
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{agent: a, ws: ws, registration: make(chan incoming, 4), done: make(chan struct{}), ctx: ctx, cancel: cancel,
		beats: make(chan time.Time, 1024), requests: map[string]context.CancelFunc{}, streams: map[string]chan message{}, unknown: map[string]bool{}}
	go l.read()
	go l.keepalive()
	return l
}

// send encodes outside the lock, so that only the socket is waited for inside.
func (l *link) send(kind, id string, payload any) error {
	data, err := json.Marshal(envelope{Type: kind, RequestID: id, Payload: payload, Timestamp: time.Now()})
	if err != nil {
		return err
	}
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.ws.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	return l.ws.WriteMessage(websocket.TextMessage, data)
}

// close says goodbye and waits for the peer to do the same.
func (l *link) close() {
	goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if l.ws.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(5*time.Second)) == nil {
		select {
		case <-l.done:
		case <-time.After(5 * time.Second):
		}
	}
	l.ws.Close()
	<-l.done
}

func (l *link) keepalive() {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-ticker.C:
			if err := l.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeLimit)); err != nil {
				l.ws.Close() // the reader notices
				return
			}
		}
	}
}

func (l *link) read() {
	defer close(l.done)
	defer l.cancel()
	defer l.ws.Close()
	alive := func() error { return l.ws.SetReadDeadline(time.Now().Add(readLimit)) }
	l.ws.SetPongHandler(func(string) error { return alive() })
	defer func() {
		if l.tunnels != nil {
			_ = l.tunnels.Close() // ends the session
		}
	}()
	for {
		if l.err = alive(); l.err != nil {
			return
		}
		var data []byte
		var kind int
		if kind, data, l.err = l.ws.ReadMessage(); l.err != nil {
			return
		}
		if kind == websocket.BinaryMessage && l.tunnels != nil {
			if _, err := l.tunnels.feed.Write(data); err != nil {
				log.Println("binary message without a session:", err)
			}
			continue
		}
		var m incoming // text, or JSON in a binary message
		if err := json.Unmarshal(data, &m); err != nil {
			log.Println("undecodable message:", err)
			continue
		}
		l.dispatch(m)
	}
}

func (l *link) dispatch(m incoming) {
	switch m.Type {
	case "proxy_request":
		l.startRequest(m)
	case "proxy_cancel":
		l.mu.Lock()
		if cancel := l.requests[m.RequestID]; cancel != nil {
			cancel()
		}
		l.mu.Unlock()
	case "proxy_websocket_data":
		l.streamMessage(m)
	case "proxy_websocket_close":
		l.endStream(m.RequestID)
	case "ping":
		l.report(l.send("pong", m.RequestID, pongPayload{time.Now()}))
	case "heartbeat_ack":
		select {
		case sent := <-l.beats:
			log.Printf("heartbeat answered after %d us", time.Since(sent).Microseconds())
		default:
		}
	case "register_success", "error":
		select {
		case l.registration <- m:
		default:
			log.Printf("%s: %s", m.Type, m.Payload)
		}
	case "gateway_hello":
		if l.agent.tunnels {
			l.report(l.startTunnels(m.Payload))
		}
	case "tcp_tunnel_start", "tcp_tunnel_data", "tcp_tunnel_close", "udp_tunnel_data":
		// Known, not offered here.
	default:
		if slices.Contains(supportedTypes, m.Type) || l.unknown[m.Type] {
			return
		}
		l.unknown[m.Type] = true
		l.report(l.send("protocol_fallback", "", fallbackPayload{
			AgentVersion: "pipeops-k8-agent", UnknownType: m.Type, SupportedTypes: supportedTypes,
			FallbackMode: "legacy_proxy", ProtocolVersion: "1.0", Timestamp: time.Now().Format(time.RFC3339),
			OriginalID: strings.NewReplacer("\r", "", "\n", "").Replace(m.RequestID),
		}))
	}
}

// startRequest runs a request in a goroutine of its own.
func (l *link) startRequest(m incoming) {
	var p proxyRequest
	if err := json.Unmarshal(m.Payload, &p); err != nil || m.RequestID == "" {
		log.Printf("undecodable proxy_request %q: %v", m.RequestID, err)
		if m.RequestID != "" {
			l.report(l.send("proxy_error", m.RequestID, errorPayload{"undecodable request"}))
		}
		return
	}
	ctx, cancel := p.context(l.ctx)
	l.mu.Lock()
	taken := l.requests[m.RequestID] != nil
	if !taken {
		l.requests[m.RequestID] = cancel
	}
	l.mu.Unlock()
	if taken {
		cancel()
		l.report(l.send("proxy_error", m.RequestID, errorPayload{"request_id is in use"}))
		return
	}
	go func() {
		l.report(l.proxy(ctx, m.RequestID, p))
	}()
}

// forget frees a request's id. It is called before the last message of the
// request is sent: the peer may use the id again as soon as it has that.
func (l *link) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cancel := l.requests[id]; cancel != nil {
		cancel()
		delete(l.requests, id)
	}
}

func (l *link) report(err error) {
	if err != nil && l.ctx.Err() == nil {
		log.Println("send:", err)
	}
}
