package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	controllerRole = "controller"
	gatewayRole    = "gateway"
)

// session is what outlives a connection: who the agent is, and answers that
// it may still deliver on its next connection.
type session struct {
	registered   bool
	clusterID    string
	clusterUUIDs []string // any of them may be the gateway's query parameter
	gatewayURL   string   // handed out with the registration
	agentID      string
	agentVersion string
	carried      map[carriedKey]*request
}

// carriedKey: an answer may move only to a connection to the same endpoint.
type carriedKey struct{ role, id string }

// carryTime is the 30 s of decisions §6.2 and a little for slow machines.
const carryTime = 35 * time.Second

// adopt takes a successful registration answer, ours or one sent by hand.
// The id is found as in §12.8.
func (s *session) adopt(payload map[string]any) {
	at := func(path ...string) string {
		var value any = payload
		for _, name := range path {
			object, _ := value.(map[string]any)
			value = object[name]
		}
		found, _ := value.(string)
		return found
	}
	first := func(candidates ...string) string {
		for _, c := range candidates {
			if c != "" {
				return c
			}
		}
		return ""
	}
	id := first(at("cluster_id"), at("cluster_uuid"), at("cluster", "id"), at("cluster", "uuid"),
		at("data", "cluster_id"), at("data", "cluster_uuid"))
	if id == "" {
		return // a refusal, in effect
	}
	s.registered, s.clusterID, s.gatewayURL = true, id, at("gateway_ws_url")
	s.clusterUUIDs = []string{at("cluster_uuid")}
	if s.clusterUUIDs[0] == "" {
		// Only the top level is specified; nested ids are ours to choose.
		s.clusterUUIDs = []string{id, at("cluster", "uuid"), at("data", "cluster_uuid")}
	}
}

// stream is a proxied WebSocket or a JSON tunnel.
type stream struct {
	tcp         bool // a JSON tunnel
	app         bool // data only after the 101, with message_type
	established bool
	full        bool // the agent said backpressure: only its close may follow
	failed      bool // it could not be started
	closed      bool // the agent said so
	closedByUs  bool
	closeOwed   bool // we closed it, and that has an echo: JSON tunnels (tunnels.md T26), K8s streams (§9.1)
}

// live: its id can't be used for anything else.
func (st *stream) live() bool {
	return st != nil && st.established && !st.failed && !st.closed && !st.closedByUs
}

// ledger is one connection's book: what was asked, and so what the agent may
// and must say. Like checkMessage, it knows nothing of sockets.
type ledger struct {
	session *session
	role    string
	yamux   bool

	heard        bool // an unprompted message came
	registerID   string
	registerHad  bool // it carried a cluster_id
	registration string
	pings        []string // ids of pings without their pong
	unknown      map[string]*unknownType
	helloOwed    bool
	over         bool // closed() was called
	binaryAfter  bool // gateway_hello was acknowledged: binary is yamux now
	requests     map[string]*request
	streams      map[string]*stream
	udpClients   map[udpClient]bool
}

// udpClient is whom answers of a UDP tunnel may go to: nobody else (tunnels.md T24).
type udpClient struct {
	tunnel, address, port string
}

// unknownType is a message type of ours that the agent can't know.
type unknownType struct {
	firstID  string
	reported bool
}

// States of ledger.registration.
const (
	notAsked      = ""
	asked         = "asked"
	accepted      = "accepted"
	refused       = "refused"
	unknownToPeer = "unknown cluster" // may ask again without its id
)

// peerTypes are all that a real peer sends (§4.0): never "unknown".
var peerTypes = []string{"register_success", "register_in_progress", "heartbeat_ack", "ping", "pong", "error",
	"gateway_hello", "proxy_request", "proxy_request_chunk", "proxy_request_stream_end", "proxy_cancel",
	"proxy_stream_data", "proxy_websocket_start", "ws_start", "proxy_websocket_data", "ws_data",
	"proxy_websocket_close", "ws_close", "tcp_tunnel_start", "tcp_tunnel_data", "tcp_tunnel_close", "udp_tunnel_data"}

func newLedger(s *session, role string, yamux bool) *ledger {
	return &ledger{session: s, role: role, yamux: yamux, unknown: map[string]*unknownType{},
		requests: map[string]*request{}, streams: map[string]*stream{}, udpClients: map[udpClient]bool{}}
}

// sent notes a message of ours, before it is written. What isn't an envelope
// obliges the agent to nothing.
func (l *ledger) sent(data []byte) {
	var e struct {
		Type      string `json:"type"`
		RequestID any    `json:"request_id"`
		Payload   any    `json:"payload"`
	}
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber()
	if decoder.Decode(&e) != nil || e.Type == "" {
		return
	}
	id := ""
	switch given := e.RequestID.(type) {
	case nil:
	case string:
		id = given
	case json.Number:
		id = given.String() // our agent accepts it (§3)
	default:
		return
	}
	payload, isObject := e.Payload.(map[string]any)
	if !isObject && e.Payload != nil && e.Type != "proxy_request" {
		return
	}
	str := func(name string) string { s, _ := payload[name].(string); return s }

	switch e.Type {
	case "register_success":
		if id == l.registerID && l.registration == asked {
			l.registration = accepted
			l.session.adopt(payload)
		}
	case "error":
		if id == l.registerID && l.registration == asked {
			l.registration = refused
			text := strings.ToLower(str("error"))
			if strings.Contains(text, "not registered") || strings.Contains(text, "cluster not found") {
				l.registration = unknownToPeer
			}
		}
	case "ping":
		l.pings = append(l.pings, id)
	case "gateway_hello":
		l.helloOwed = l.helloOwed || payload["use_yamux"] == true
	case "proxy_request":
		l.sentRequest(id, payload, isObject)
	case "proxy_request_stream_end":
		if r := l.requests[id]; r != nil {
			r.bodyOpen = false
		}
	case "proxy_cancel":
		if r := l.requests[id]; r != nil {
			r.cancelled = true
		}
	case "proxy_websocket_start", "ws_start":
		l.streams[str("stream_id")] = &stream{established: true}
		if id != str("stream_id") { // a bad start is answered with the envelope's id
			l.streams[id] = &stream{established: true}
		}
	case "tcp_tunnel_start":
		if st := l.streams[id]; st == nil || st.closed { // a second start changes nothing (T26)
			l.streams[id] = &stream{established: true, tcp: true}
		}
	case "tcp_tunnel_data":
		if l.streams[id] == nil { // for nobody: one close may say so (T26)
			l.streams[id] = &stream{established: true}
		}
	case "tcp_tunnel_close":
		if st := l.streams[id]; st != nil && st.tcp {
			st.closeOwed = true
		}
	case "proxy_websocket_close", "ws_close":
		l.closedByUs(str("request_id"), str("stream_id"), id)
	case "proxy_websocket_data", "ws_data", "proxy_stream_data":
		// Of an app stream, a close frame is a close (§9.2).
		if data, err := decodeBase64(str("data")); err == nil && len(data) > 0 && data[0] == 8 {
			if st := l.streamOf(str("request_id"), str("stream_id"), id); st != nil && st.app {
				st.closedByUs = true
			}
		}
	case "udp_tunnel_data":
		number, _ := payload["client_port"].(json.Number)
		l.udpClients[udpClient{str("tunnel_id"), str("client_addr"), number.String()}] = true
	}
	if !slices.Contains(peerTypes, e.Type) && l.unknown[e.Type] == nil {
		l.unknown[e.Type] = &unknownType{firstID: strings.NewReplacer("\r", "", "\n", "").Replace(id)}
	}
}

// streamOf finds the stream that a message of ours is about (§9.2, T35).
func (l *ledger) streamOf(ids ...string) *stream {
	for _, id := range ids {
		if st := l.streams[id]; st != nil && id != "" {
			return st
		}
	}
	return nil
}

func (l *ledger) closedByUs(ids ...string) {
	if st := l.streamOf(ids...); st.live() && !st.tcp {
		st.closedByUs, st.closeOwed = true, !st.app
	}
}

// sentBinary notes a binary message that isn't JSON: the body of the last
// body_binary request, if one waits for it.
func (l *ledger) sentBinary() {
	for _, r := range l.requests {
		if r.bodyBinary {
			r.bodyOpen = false
		}
	}
}

// received notes a message of the agent that passed checkMessage. It returns
// the request that this message finished, if any.
func (l *ledger) received(e envelope) (*outcome, error) {
	if err := l.mayComeFirst(e); err != nil {
		return nil, err
	}
	switch e.kind {
	case "register":
		return nil, l.receivedRegister(e)
	case "heartbeat":
		return nil, l.receivedHeartbeat(e)
	case "pong":
		i := slices.Index(l.pings, e.id)
		if i < 0 {
			return nil, fmt.Errorf("pong %q without such a ping", e.id)
		}
		l.pings = slices.Delete(l.pings, i, i+1)
	case "protocol_fallback":
		u := l.unknown[e.str("unknown_type")]
		switch {
		case u == nil:
			return nil, fmt.Errorf("protocol_fallback for %q, which was not sent or is a known type", e.str("unknown_type"))
		case u.reported:
			return nil, fmt.Errorf("second protocol_fallback for %q", e.str("unknown_type"))
		case u.firstID != e.str("original_request_id"):
			return nil, fmt.Errorf("original_request_id is %q, the message had %q", e.str("original_request_id"), u.firstID)
		}
		u.reported = true
	case "gateway_hello_ack":
		if !l.helloOwed || !l.yamux {
			return nil, fmt.Errorf("gateway_hello_ack, but no hello is waiting for one (agent with tunnels: %t)", l.yamux)
		}
		l.helloOwed, l.binaryAfter = false, true
	case "plane_hello_ack":
		u := l.unknown["plane_hello"]
		if u == nil || u.reported {
			return nil, fmt.Errorf("plane_hello_ack, but no hello is waiting for one")
		}
		u.reported = true
	case "udp_tunnel_data":
		var to struct {
			Port json.Number `json:"client_port"`
		}
		if err := json.Unmarshal(e.payload, &to); err != nil {
			return nil, err
		}
		if !l.udpClients[udpClient{e.str("tunnel_id"), e.str("client_addr"), to.Port.String()}] {
			return nil, fmt.Errorf("data for client %s:%s of UDP tunnel %q, who said nothing", e.str("client_addr"), to.Port, e.str("tunnel_id"))
		}
	case "backpressure", "proxy_websocket_data", "proxy_websocket_close", "tcp_tunnel_data", "tcp_tunnel_close":
		return nil, l.receivedStream(e)
	default: // the proxy_response family and proxy_error
		return l.receivedAnswer(e)
	}
	return nil, nil
}

// mayComeFirst: the first heartbeat is the first message on a connection that
// stays (decisions §6.1). Answers to hellos may overtake it.
func (l *ledger) mayComeFirst(e envelope) error {
	if l.heard || e.kind == "gateway_hello_ack" || e.kind == "plane_hello_ack" {
		return nil
	}
	l.heard = true
	if l.role == gatewayRole && e.kind != "heartbeat" {
		return fmt.Errorf("first message on a gateway connection is %s, must be heartbeat", e.kind)
	}
	return nil
}

func (l *ledger) receivedRegister(e envelope) error {
	_, hasCluster := stringMember(e.payload, "cluster_id")
	switch {
	case l.role == gatewayRole:
		return fmt.Errorf("register on a gateway connection")
	case l.registration == unknownToPeer && l.registerHad && !hasCluster:
		// Once more without the id that the peer doesn't know.
	case l.registration != notAsked:
		return fmt.Errorf("register again (registration: %s)", l.registration)
	}
	l.registration, l.registerID, l.registerHad = asked, e.id, hasCluster
	l.session.agentID, l.session.agentVersion = e.str("agent_id"), e.str("agent_version")
	return nil
}

func (l *ledger) receivedHeartbeat(e envelope) error {
	s := l.session
	if l.role == controllerRole {
		switch {
		case !s.registered || l.registration == asked || l.registration == refused || l.registration == unknownToPeer:
			return fmt.Errorf("heartbeat before register_success")
		case s.gatewayURL != "":
			return fmt.Errorf("heartbeat on a controller connection that is about to be left")
		}
	}
	if s.registered && e.str("cluster_id") != s.clusterID {
		return fmt.Errorf("heartbeat of cluster %q, registered is %q", e.str("cluster_id"), s.clusterID)
	}
	if s.agentID != "" && e.str("agent_id") != s.agentID {
		return fmt.Errorf("heartbeat of agent %q, registered is %q", e.str("agent_id"), s.agentID)
	}
	return nil
}

func (l *ledger) receivedStream(e envelope) error {
	st := l.streams[e.id]
	switch {
	case st == nil:
		return fmt.Errorf("%s for %q, which was never opened", e.kind, e.id)
	case st.closed:
		return fmt.Errorf("%s for %q, which the agent has closed", e.kind, e.id)
	case !st.established:
		return fmt.Errorf("%s for %q before its 101", e.kind, e.id)
	}
	_, has := stringMember(e.payload, "request_id")
	switch {
	case strings.HasPrefix(e.kind, "proxy_websocket_") && has != st.app:
		return fmt.Errorf("payload request_id and message_type belong to app streams and to no others")
	case e.kind == "backpressure" && !st.app:
		return fmt.Errorf("backpressure for %q, which is no app stream", e.id)
	case st.full && !strings.HasSuffix(e.kind, "_close"):
		return fmt.Errorf("%s for %q, of which something was dropped", e.kind, e.id)
	}
	st.full = e.kind == "backpressure"
	st.closed = strings.HasSuffix(e.kind, "_close")
	return nil
}

// owed lists what the agent still has to say on this connection.
func (l *ledger) owed() []string {
	var list []string
	for id, r := range l.requests {
		if r.doubles > 0 {
			list = append(list, fmt.Sprintf("proxy_error for the second request %q", id))
		}
		if !r.ended && !r.vague && (!r.cancelled || r.streaming && r.started) {
			list = append(list, fmt.Sprintf("outcome of request %q", id))
		}
	}
	for id, st := range l.streams {
		if st.closeOwed && !st.closed {
			list = append(list, fmt.Sprintf("close of %q", id))
		}
	}
	for _, id := range l.pings {
		list = append(list, fmt.Sprintf("pong %q", id))
	}
	for name, u := range l.unknown {
		if !u.reported {
			list = append(list, fmt.Sprintf("answer to unknown type %q", name))
		}
	}
	if l.helloOwed && l.yamux {
		list = append(list, "gateway_hello_ack")
	}
	slices.Sort(list)
	return list
}

// closed ends the book, when the connection has ended or the agent has opened
// the next one. Form B requests whose body is complete may still be answered
// there (decisions §6.2); all else ends with this connection.
func (l *ledger) closed() {
	if l.over {
		return
	}
	l.over = true
	for id, r := range l.requests {
		if !r.streaming && !r.upgrade && !r.ended && !r.cancelled && !r.bodyOpen {
			r.doubles, r.carryEnds = 0, time.Now().Add(carryTime)
			l.session.carried[carriedKey{l.role, id}] = r
		}
	}
}
