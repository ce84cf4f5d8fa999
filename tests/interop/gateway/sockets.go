package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// sockets is a Service and an API server in one, whose WebSockets are gorilla's. It
// answers an upgrade as its query says:
//
//	socket=NAME     its name in commands and events
//	mode=echo       messages come back as they are (and what commands say)
//	mode=quiet      it says only what commands say (the default)
//	mode=stall      it reads nothing before the gate NAME is opened
//	mode=deny       403, with a Status
//	mode=hang       no answer; tells when the agent gives up
//	protocol=NAME   the subprotocol that it chooses (default: the first one offered)
//	protocol=       none
//
// The token "nobody" is refused with 401. What no upgrade is, is answered like an
// API server that has little.
type sockets struct {
	g *gateway

	mu   sync.Mutex
	open map[string]*far
}

// far is one of its ends.
type far struct {
	ws    *websocket.Conn
	write sync.Mutex
}

// startSockets returns its ports, without TLS and with it.
func (g *gateway) startSockets() (plain, secured int, err error) {
	s := &sockets{g: g, open: map[string]*far{}}
	g.sockets = s
	certificate, err := tls.LoadX509KeyPair(g.certFile, g.keyFile)
	if err != nil {
		return 0, 0, err
	}
	for _, port := range []*int{&plain, &secured} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, 0, err
		}
		*port = listener.Addr().(*net.TCPAddr).Port
		if port == &secured {
			listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}})
		}
		server := &http.Server{Handler: s, ReadHeaderTimeout: 30 * time.Second}
		go server.Serve(listener)
	}
	return plain, secured, nil
}

func (s *sockets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, `{"gitVersion":"v1.36.2","metadata":{"remainingItemCount":2},"items":[{}]}`)
		return
	}
	query := r.URL.Query()
	name := query.Get("socket")
	headers := r.Header.Clone()
	headers.Set("Host", r.Host)
	s.g.events.emit("socket", event{"socket": name, "target": r.RequestURI, "headers": headers,
		"offered": websocket.Subprotocols(r), "tls": r.TLS != nil})
	switch mode := query.Get("mode"); {
	case r.Header.Get("Authorization") == "Bearer nobody":
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	case mode == "deny":
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Why", "no")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","message":"pods \"p\" is forbidden","code":403}`)
		return
	case mode == "hang":
		<-r.Context().Done()
		s.g.events.emit("socket_end", event{"socket": name, "end": "gone"})
		return
	}
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	answer := http.Header{"X-Served-By": {"gorilla"}}
	chosen := ""
	if offered := websocket.Subprotocols(r); query.Has("protocol") {
		chosen = query.Get("protocol")
	} else if len(offered) > 0 {
		chosen = offered[0]
	}
	if chosen != "" {
		answer.Set("Sec-Websocket-Protocol", chosen)
	}
	ws, err := upgrader.Upgrade(w, r, answer)
	if err != nil {
		s.g.events.emit("socket_end", event{"socket": name, "end": err.Error()})
		return
	}
	defer ws.Close()
	end := &far{ws: ws}
	s.mu.Lock()
	s.open[name] = end
	s.mu.Unlock()
	s.g.events.emit("socket_open", event{"socket": name, "protocol": chosen})
	if query.Get("mode") == "stall" {
		<-s.g.gate(name)
	}
	count := s.read(name, end, query.Get("mode") == "echo")
	s.mu.Lock()
	if s.open[name] == end {
		delete(s.open, name)
	}
	s.mu.Unlock()
	ended := event{"socket": name, "messages": count.messages, "bytes": count.bytes}
	var frame *websocket.CloseError
	if errors.As(count.err, &frame) && frame.Code != websocket.CloseAbnormalClosure {
		ended["code"], ended["reason"] = frame.Code, frame.Text
	} else {
		ended["end"] = "cut"
		ended["error"] = count.err.Error()
	}
	s.g.events.emit("socket_end", ended)
}

// heard is what one of its ends has read.
type heard struct {
	messages, bytes int
	err             error
}

// read reads to the end.
func (s *sockets) read(name string, end *far, echo bool) (all heard) {
	tell := func(kind int, data []byte) {
		all.messages++
		all.bytes += len(data)
		sum := sha256.Sum256(data)
		fields := event{"socket": name, "kind": kind, "size": len(data), "sha256": hex.EncodeToString(sum[:])}
		if len(data) <= 4096 {
			fields["base64"] = base64.StdEncoding.EncodeToString(data)
		}
		s.g.events.emit("socket_message", fields)
	}
	end.ws.SetPingHandler(func(payload string) error {
		tell(websocket.PingMessage, []byte(payload))
		// One that has gone may still have said more.
		_ = end.ws.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(writeLimit))
		return nil
	})
	end.ws.SetPongHandler(func(payload string) error {
		tell(websocket.PongMessage, []byte(payload))
		return nil
	})
	for {
		kind, data, err := end.ws.ReadMessage()
		if err != nil {
			all.err = err
			return all
		}
		tell(kind, data)
		if echo {
			// An error here is one of the next read, too.
			_ = end.say(kind, data, 0)
		}
	}
}

// say writes a message, in frames of at most so many bytes of payload (0: in one).
func (f *far) say(kind int, data []byte, frame int) error {
	f.write.Lock()
	defer f.write.Unlock()
	for first := true; first || len(data) > 0; first = false {
		part := data
		if frame > 0 && len(part) > frame {
			part = part[:frame]
		}
		data = data[len(part):]
		code := kind
		if !first {
			code = 0 // continuation
		}
		if _, err := f.ws.NetConn().Write(appendFrame(nil, len(data) == 0, code, part)); err != nil {
			return err
		}
	}
	return nil
}

// execute runs the commands that are about sockets. known is false for all others.
func (s *sockets) execute(c command) (known bool, err error) {
	switch c.Cmd {
	case "socket_say", "socket_cut":
	default:
		return false, nil
	}
	if s == nil {
		return true, errors.New("there are no sockets: --sockets")
	}
	s.mu.Lock()
	end := s.open[c.Socket]
	s.mu.Unlock()
	if end == nil {
		return true, fmt.Errorf("socket %q is not open", c.Socket)
	}
	if c.Cmd == "socket_cut" {
		// Half a frame comes first.
		end.write.Lock()
		defer end.write.Unlock()
		_, err := end.ws.NetConn().Write([]byte{0x82, 0x0a, 'c', 'u', 't'})
		return true, errors.Join(err, end.ws.NetConn().Close())
	}
	data, err := base64.StdEncoding.DecodeString(c.Base64)
	if err != nil {
		return true, err
	}
	if c.Kind == websocket.CloseMessage && c.Code != 0 {
		data = websocket.FormatCloseMessage(c.Code, c.Reason)
	}
	for range max(c.Count, 1) {
		if err := end.say(c.Kind, data, c.Frame); err != nil {
			return true, err
		}
	}
	return true, nil
}
