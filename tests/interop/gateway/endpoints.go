package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

const (
	controllerPath = "/api/v1/clusters/agent/ws"
	httpRegister   = "/api/v1/clusters/agent/register"
	// overlapLimit is how long an old connection may still be seen after the
	// agent has opened the next one.
	overlapLimit = 2 * time.Second
)

func (g *gateway) controllerHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(controllerPath, func(w http.ResponseWriter, r *http.Request) { g.upgrade(w, r, controllerRole) })
	mux.HandleFunc(httpRegister, g.register)
	mux.HandleFunc("/api/v1/clusters/agent/{cluster_id}/heartbeat", g.heartbeat)
	mux.HandleFunc("/", g.stray)
	return mux
}

func (g *gateway) gatewayHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.upgrade(w, r, gatewayRole) })
}

func (g *gateway) stray(w http.ResponseWriter, r *http.Request) {
	shown := event{"method": r.Method, "path": r.URL.Path, "status": http.StatusNotFound}
	g.events.emit("http", shown, fmt.Sprintf("%s %s on the controller: no such endpoint", r.Method, r.RequestURI))
	http.NotFound(w, r)
}

// upgrade checks the request, refuses it if it was told to, and otherwise
// runs the connection until its end.
func (g *gateway) upgrade(w http.ResponseWriter, r *http.Request, role string) {
	g.mu.Lock()
	current := g.settings
	knownSession := g.session
	rule := &g.settings.Controller
	if role == gatewayRole {
		rule = &g.settings.Gateway
	}
	refusal := next(rule)
	key := r.Header.Get("Sec-Websocket-Key")
	usedKey := g.keys[key]
	g.keys[key] = true
	g.mu.Unlock()

	problems := checkUpgrade(r)
	if usedKey {
		problems = append(problems, "Sec-WebSocket-Key was used before")
	}
	if role == controllerRole {
		problems = append(problems, checkControllerURL(r, current)...)
	} else {
		problems = append(problems, g.checkGatewayURL(r, current, knownSession)...)
	}
	authorized := slices.Equal(r.Header["Authorization"], []string{"Bearer " + current.Token})
	if !authorized {
		problems = append(problems, fmt.Sprintf("Authorization is not the token, in %d header(s)", len(r.Header["Authorization"])))
		if refusal == nil {
			refusal = refuse(http.StatusUnauthorized)
		}
	}
	if refusal == nil && len(problems) > 0 && !websocket.IsWebSocketUpgrade(r) {
		refusal = refuse(http.StatusBadRequest)
	}

	shown := event{"role": role, "uri": r.RequestURI, "headers": shownHeaders(r.Header), "status": 101}
	name := ""
	if refusal == nil {
		name = g.nextName(role)
		shown["conn"] = name
	} else {
		shown["status"] = refusal.Status
	}
	if role == controllerRole {
		g.mu.Lock()
		g.lastRefusal = 0
		if refusal != nil {
			g.lastRefusal = refusal.Status
		}
		g.mu.Unlock()
	}
	for i := range problems {
		problems[i] = "upgrade: " + problems[i]
	}
	if refusal != nil {
		g.events.emit("upgrade", shown, problems...)
		refusal.answer(w, r)
		return
	}
	if k := g.accept(w, r, role, name, current); k != nil {
		g.events.emit("upgrade", shown, problems...) // from here on, commands find it
		if h := current.Hello; h != nil && role == gatewayRole && !h.Glued {
			_ = k.offer(h) // an error shows again at the next read
		}
		k.read()
	}
}

func (g *gateway) nextName(role string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened[role]++
	return fmt.Sprintf("%s#%d", role, g.opened[role])
}

// accept answers 101 and enters the connection among the open ones.
func (g *gateway) accept(w http.ResponseWriter, r *http.Request, role, name string, current settings) *link {
	greeting := current.ControllerGreeting
	if role == gatewayRole {
		greeting = current.GatewayGreeting
	}
	k := &link{
		g: g, name: name, role: role, done: make(chan struct{}), closeSent: noClose,
		ledger: newLedger(&g.session, role, g.yamux),
		socket: &socket{Conn: connOf(r)},
	}
	if h := current.Hello; h != nil && h.Glued && role == gatewayRole {
		message, err := h.message()
		if err != nil {
			g.events.fail(name, "hello: %v", err)
		}
		greeting, k.offered = string(message), h
	}
	if greeting != "" {
		opcode := websocket.TextMessage
		if current.BinaryJSON {
			opcode = websocket.BinaryMessage
		}
		k.socket.greeting = appendFrame(nil, true, opcode, []byte(greeting))
		k.ledger.sent([]byte(greeting))
	}
	upgrader := websocket.Upgrader{
		ReadBufferSize: 64 << 10, // a buffer of its own, so that it reads through our socket
		CheckOrigin:    func(*http.Request) bool { return true },
	}

	g.mu.Lock()
	older := slices.Clone(g.links)
	for _, old := range older {
		old.ledger.closed()
	}
	g.links = append(g.links, k)
	g.mu.Unlock()
	for _, old := range older {
		if old.socket.paused() {
			old.drop() // the agent has rightly given it up
		}
	}
	ws, err := upgrader.Upgrade(hijacked{w, k.socket}, r, nil)
	if err != nil {
		g.mu.Lock()
		g.links = slices.DeleteFunc(g.links, func(other *link) bool { return other == k })
		g.mu.Unlock()
		close(k.done)
		g.events.fail(name, "upgrade: %v", err)
		return nil
	}
	g.mu.Lock()
	k.ws = ws
	g.mu.Unlock()
	if !current.AllowOverlap {
		go g.expectEnd(older, name)
	}
	return k
}

// expectEnd: one agent has one connection (§1). The end of the old one may be
// seen a little after the beginning of the new one.
func (g *gateway) expectEnd(older []*link, newer string) {
	limit := time.After(overlapLimit)
	for _, old := range older {
		select {
		case <-old.done:
		case <-limit:
			g.events.fail(old.name, "still open %v after %s was opened", overlapLimit, newer)
			return
		}
	}
}

// checkUpgrade is §2.2 and RFC 6455 §4.1, but for the token.
func checkUpgrade(r *http.Request) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if r.Method != http.MethodGet || r.Proto != "HTTP/1.1" {
		bad("%s %s", r.Method, r.Proto)
	}
	if r.TLS != nil && r.TLS.NegotiatedProtocol != "" {
		bad("ALPN was offered")
	}
	for name, want := range map[string]string{"Upgrade": "websocket", "Connection": "upgrade", "Sec-Websocket-Version": "13"} {
		if got := r.Header[name]; len(got) != 1 || !strings.EqualFold(got[0], want) {
			bad("%s is %q, must be %q", name, got, want)
		}
	}
	key, err := decodeBase64(r.Header.Get("Sec-Websocket-Key"))
	if err != nil || len(key) != 16 || len(r.Header["Sec-Websocket-Key"]) != 1 {
		bad("Sec-WebSocket-Key is %q", r.Header["Sec-Websocket-Key"])
	}
	allowed := []string{"Authorization", "Connection", "Sec-Websocket-Key", "Sec-Websocket-Version", "Upgrade", "User-Agent"}
	for name := range r.Header {
		if !slices.Contains(allowed, name) {
			bad("header %s must not be there", name) // Origin, Sec-WebSocket-Extensions, …-Protocol and all else
		}
	}
	return problems
}

func checkControllerURL(r *http.Request, s settings) (problems []string) {
	if r.URL.RawQuery != s.ControllerQuery {
		problems = append(problems, fmt.Sprintf("query is %q, must be %q", r.URL.RawQuery, s.ControllerQuery))
	}
	return problems
}

// checkGatewayURL is §2.1: what the handed-out URL has, and seven parameters.
func (g *gateway) checkGatewayURL(r *http.Request, s settings, known session) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	given := s.GatewayURL
	if known.registered {
		given = known.gatewayURL
	}
	if given == "" {
		bad("no gateway URL was handed out")
	}
	base, err := url.Parse(given)
	if err != nil {
		bad("%v", err) // of the test, not of the agent
		return problems
	}
	if base.Path == "" {
		base.Path = "/ws"
	}
	if r.URL.Path != base.Path {
		bad("path is %q, must be %q", r.URL.Path, base.Path)
	}

	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		bad("query: %v", err)
	}
	want := base.Query()
	for _, name := range []string{"supports_binary", "supports_response_streaming", "supports_streaming", "supports_websocket"} {
		want.Set(name, "true")
	}
	want.Set("supports_yamux", fmt.Sprint(g.yamux))
	want.Set("agent_version", known.agentVersion)
	if known.agentVersion == "" { // resumed: this process doesn't know it yet
		want.Set("agent_version", query.Get("agent_version"))
	}
	uuid := query.Get("cluster_uuid")
	want.Set("cluster_uuid", uuid)
	if uuid == "" || known.registered && !slices.Contains(known.clusterUUIDs, uuid) {
		bad("cluster_uuid is %q, must be %q", uuid, known.clusterUUIDs)
	}
	if query.Get("agent_version") == "" {
		bad("agent_version is empty")
	}
	if query.Encode() != want.Encode() {
		bad("query is %q, must be %q", r.URL.RawQuery, want.Encode())
	}
	var names []string
	for _, pair := range strings.Split(r.URL.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	if !slices.IsSorted(names) {
		bad("query parameters are not in alphabetical order: %q", r.URL.RawQuery)
	}
	return problems
}

// register is HTTP mode's registration (§12.8).
func (g *gateway) register(w http.ResponseWriter, r *http.Request) {
	body, problems := g.readCall(r, object(httpRegisterFields...))
	if len(problems) == 0 {
		if err := checkHTTPRegistration(body); err != nil {
			problems = append(problems, err.Error())
		}
	}
	g.mu.Lock()
	refusal := next(&g.settings.HTTPRegister)
	answer := g.settings.registration()
	if refusal == nil {
		answer["success"] = true
		g.session.adopt(answer)
		g.session.agentID, _ = stringMember(body, "agent_id")
		g.session.agentVersion, _ = stringMember(body, "agent_version")
	}
	g.mu.Unlock()
	g.answerCall(w, r, body, problems, refusal, answer)
}

// heartbeat is HTTP mode's heartbeat (§12.8).
func (g *gateway) heartbeat(w http.ResponseWriter, r *http.Request) {
	body, problems := g.readCall(r, object(httpHeartbeatFields...))
	g.mu.Lock()
	refusal := next(&g.settings.HTTPHeartbeat)
	known := g.session
	g.mu.Unlock()
	id, _ := stringMember(body, "cluster_id")
	if id != r.PathValue("cluster_id") || id != known.clusterID {
		problems = append(problems, fmt.Sprintf("cluster %q in the body, %q in the path, registered is %q",
			id, r.PathValue("cluster_id"), known.clusterID))
	}
	g.answerCall(w, r, body, problems, refusal, map[string]any{"success": true})
}

// readCall checks what the calls of HTTP mode have in common.
func (g *gateway) readCall(r *http.Request, form check) (json.RawMessage, []string) {
	g.mu.Lock()
	token, allowed := g.settings.Token, g.settings.AllowHTTP
	allowed = allowed || slices.Contains([]int{404, 405, 426, 501}, g.lastRefusal)
	g.mu.Unlock()
	var problems []string
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if !allowed {
		bad("HTTP mode, although the last upgrade was not refused with 404, 405, 426 or 501")
	}
	if r.Method != http.MethodPost || r.URL.RawQuery != "" {
		bad("method %s, query %q", r.Method, r.URL.RawQuery)
	}
	if !slices.Equal(r.Header["Authorization"], []string{"Bearer " + token}) {
		bad("Authorization is not the token")
	}
	if kind := r.Header.Get("Content-Type"); kind != "application/json" {
		bad("Content-Type is %q", kind)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil && !json.Valid(body) {
		err = errors.New("no JSON")
	}
	if err == nil {
		err = form(body)
	}
	if err != nil {
		bad("body: %v", err)
	}
	return body, problems
}

func (g *gateway) answerCall(w http.ResponseWriter, r *http.Request, body json.RawMessage, problems []string, refusal *refusal, answer any) {
	status := http.StatusOK
	if refusal != nil {
		status = refusal.Status
	}
	shown := event{"method": r.Method, "path": r.URL.Path, "status": status}
	if json.Valid(body) {
		shown["body"] = body
	}
	for i := range problems {
		problems[i] = r.Method + " " + r.URL.Path + ": " + problems[i]
	}
	g.events.emit("http", shown, problems...)
	if refusal != nil {
		refusal.answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // an agent that left is noticed elsewhere
}

func refuse(status int) *refusal { return &refusal{Status: status} }

func (f *refusal) answer(w http.ResponseWriter, r *http.Request) {
	if f.Hang {
		<-r.Context().Done()
		return
	}
	for name, value := range f.Headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(f.Status)
	_, _ = io.WriteString(w, f.Body) // likewise
}

// connOf is the connection that a request came on.
func connOf(r *http.Request) net.Conn {
	return r.Context().Value(socketKey{}).(net.Conn) // put there by ConnContext for every connection
}

// shownHeaders leaves the token out of what is printed.
func shownHeaders(h http.Header) http.Header {
	h = h.Clone()
	delete(h, "Authorization")
	return h
}
