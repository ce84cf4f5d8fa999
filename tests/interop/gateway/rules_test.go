package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const at = `"timestamp":"2026-03-01T10:00:00Z"`

// say wraps a payload as the agent would.
func say(kind, id, payload string) string {
	if id != "" {
		id = fmt.Sprintf(`"request_id":%q,`, id)
	}
	return fmt.Sprintf(`{"type":%q,%s"payload":%s,%s}`, kind, id, payload, at)
}

func judge(text string) error {
	e, err := parseEnvelope([]byte(text))
	if err != nil {
		return err
	}
	return checkMessage(e)
}

func expectError(t *testing.T, name string, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
		t.Errorf("%s: error is %v, must contain %q", name, err, part)
	}
}

func TestEnvelope(t *testing.T) {
	for _, c := range []struct{ text, problem string }{
		{`{"type":"pong","request_id":"p","payload":{` + at + `},` + at + "}\n", ""},
		{`{"type":"pong","payload":{` + at + `},` + at + `}`, ""},
		{`{"type":"pong","payload":{` + at + `},` + at + "}\n\n", "more than one line feed"},
		{`{"request_id":"p","type":"pong","payload":{` + at + `},` + at + `}`, "envelope fields"},
		{`{"type":"pong","payload":{` + at + `}}`, "envelope fields"},
		{`{"type":"pong","payload":{` + at + `},"extra":1,` + at + `}`, "envelope fields"},
		{`{"type":"pong","request_id":"","payload":{` + at + `},` + at + `}`, "request_id"},
		{`{"type":"pong","request_id":null,"payload":{` + at + `},` + at + `}`, "request_id"},
		{`{"type":"pong","request_id":7,"payload":{` + at + `},` + at + `}`, "request_id"},
		{`{"type":"pong","payload":null,` + at + `}`, "payload"},
		{`{"type":"pong","payload":{` + at + `},"timestamp":"2026-03-01 10:00:00Z"}`, "timestamp"},
		{`{"type":"pong","payload":{` + at + `},"timestamp":"2026-03-01T10:00:00.1234567890Z"}`, "timestamp"},
		{`{"type":"pong","payload":{` + at + `},"timestamp":"2026-03-01T10:00:00"}`, "timestamp"},
		{`{"type":"pong","payload":{` + at + `},"timestamp":1}`, "timestamp"},
		{`{"type":"pong","payload":{` + at + `},` + at + `} {}`, "follows"},
		{`{"type":"pong","type":"pong","payload":{` + at + `},` + at + `}`, "twice"},
		{`{"type":"pong","payload":{` + at + `},` + at, "malformed"},
		{"{\"type\":\"po\xffng\"}", "UTF-8"},
		{say("status", "", "{}"), "unknown type"},
		{say("heartbeat", "h-1", "{}"), "must not have a request_id"},
		{say("proxy_error", "", `{"error":"x"}`), "request_id is missing"},
	} {
		expectError(t, c.text, judge(c.text), c.problem)
	}
}

// Each recorded message, with one thing wrong at a time: a field of the
// payload gone, of another type, or too many.
func TestSpoiledPayloads(t *testing.T) {
	tried := 0
	for _, r := range readGolden(t, "agent-messages.jsonl") {
		e, err := parseEnvelope([]byte(r.Text))
		if err != nil {
			t.Fatal(err)
		}
		members, err := parseObject(e.payload)
		if err != nil {
			t.Fatal(err)
		}
		build := func(skip int, replacement string, more string) envelope {
			var parts []string
			for i, m := range members {
				value := string(m.value)
				if i == skip {
					if value = replacement; value == "" {
						continue
					}
				}
				parts = append(parts, fmt.Sprintf("%q:%s", m.name, value))
			}
			if more != "" {
				parts = append(parts, more)
			}
			return envelope{kind: e.kind, id: e.id, payload: json.RawMessage("{" + strings.Join(parts, ",") + "}")}
		}
		mustFail := func(what string, spoiled envelope) {
			tried++
			if checkMessage(spoiled) == nil {
				t.Errorf("line %d, %s: passed as %s", r.Line, what, spoiled.payload)
			}
		}
		mustFail("unknown field", build(-1, "", `"surprise":1`))
		for i, m := range members {
			mustFail(m.name+" of another type", build(i, `[{"x":[]}]`, ""))
			optional := map[string]bool{"k8s_service_token": true, "original_request_id": true}
			if !optional[m.name] { // body without encoding fails, and vice versa
				mustFail(m.name+" missing", build(i, "", ""))
			}
		}
	}
	if tried < 100 {
		t.Errorf("only %d cases", tried)
	}
}

func TestPayloadRules(t *testing.T) {
	chunk := func(n, size int) string {
		data := base64.StdEncoding.EncodeToString(make([]byte, n))
		return say("proxy_response_chunk", "r", fmt.Sprintf(`{"data":%q,"encoding":"base64","size":%d}`, data, size))
	}
	response := func(contentType, encoding string, body []byte) string {
		return say("proxy_response", "r", fmt.Sprintf(`{"status":200,"headers":{"Content-Type":[%q]},"body":%q,"encoding":%q}`,
			contentType, base64.StdEncoding.EncodeToString(body), encoding))
	}
	for _, c := range []struct{ name, text, problem string }{
		{"largest chunk", chunk(32768, 32768), ""},
		{"chunk too large", chunk(32769, 32769), "at most 32768"},
		{"size differs", chunk(5, 6), "size is 6"},
		{"empty chunk", chunk(0, 0), "data"},
		{"bad base64", say("proxy_response_chunk", "r", `{"data":"!!","encoding":"base64","size":1}`), "base64"},
		{"no padding", say("proxy_response_chunk", "r", `{"data":"aGk","encoding":"base64","size":2}`), "base64"},
		{"line break", say("proxy_response_chunk", "r", `{"data":"aG\nk=","encoding":"base64","size":2}`), "base64"},
		{"stray bits", say("proxy_response_chunk", "r", `{"data":"aGl=","encoding":"base64","size":2}`), "base64"},

		{"small text", response("text/plain", "base64", make([]byte, 1023)), ""},
		{"large text unpacked", response("text/plain", "base64", make([]byte, 1024)), "gzip rule"},
		{"large image", response("image/svg+xml", "base64", make([]byte, 1024)), ""},
		{"gzip that is none", response("text/plain", "gzip", make([]byte, 1024)), "body"},
		{"body alone", say("proxy_response", "r", `{"status":200,"headers":null,"body":"aGk="}`), "come together"},
		{"empty body", say("proxy_response", "r", `{"status":200,"headers":null,"body":"","encoding":"base64"}`), "base64"},
		{"headers missing", say("proxy_response", "r", `{"status":200}`), `"headers" is missing`},
		{"header not canonical", say("proxy_response", "r", `{"status":200,"headers":{"content-type":["a"]}}`), "canonical"},
		{"header no list", say("proxy_response", "r", `{"status":200,"headers":{"Date":"x"}}`), "array"},
		{"header empty", say("proxy_response", "r", `{"status":200,"headers":{"Date":[]}}`), "no value"},
		{"hop-by-hop", say("proxy_response", "r", `{"status":200,"headers":{"Connection":["close"]}}`), "hop-by-hop"},
		{"upgrade kept", say("proxy_response", "r", `{"status":101,"headers":{"Connection":["Upgrade"],"Upgrade":["websocket"]}}`), ""},
		{"status 99", say("proxy_response", "r", `{"status":99,"headers":null}`), "status"},
		{"status a string", say("proxy_response", "r", `{"status":"200","headers":null}`), "status"},
		{"status a fraction", say("proxy_response", "r", `{"status":200.0,"headers":null}`), "status"},

		{"stream data", say("proxy_websocket_data", "s", `{"stream_id":"s","data":"AWxzCg=="}`), ""},
		{"app data", say("proxy_websocket_data", "s", `{"stream_id":"s","request_id":"s","data":"AWxzCg==","message_type":1}`), ""},
		{"other id", say("proxy_websocket_data", "s", `{"stream_id":"t","data":"AWxzCg=="}`), "stream_id"},
		{"not framed", say("proxy_websocket_data", "s", `{"stream_id":"s","data":"bHM="}`), "begins with byte"},
		{"types differ", say("proxy_websocket_data", "s", `{"stream_id":"s","request_id":"s","data":"AWxzCg==","message_type":2}`), "message_type is 2"},
		{"half app data", say("proxy_websocket_data", "s", `{"stream_id":"s","data":"AWxzCg==","message_type":1}`), "come together"},
	} {
		expectError(t, c.name, judge(c.text), c.problem)
	}
}

// Each line of a script is "> " and a message of the peer, "< " and one of the
// agent, or "! " and one of the agent that must be refused with the text
// behind " # ".
func tcpData(id string) string {
	return say("tcp_tunnel_data", id, `{"data":"aA==","direction":"agent_to_gateway"}`)
}

func tcpClose(id string) string { return say("tcp_tunnel_close", id, `{"reason":"service_closed"}`) }

func udpData(port string) string {
	return say("udp_tunnel_data", "", `{"client_addr":"192.0.2.1","client_port":`+port+`,"data":"aA==","direction":"agent_to_gateway","tunnel_id":"u"}`)
}

func TestOrder(t *testing.T) {
	get := func(id string, streaming bool) string {
		return "> " + say("proxy_request", id, fmt.Sprintf(`{"method":"GET","path":"/api","supports_response_streaming":%t}`, streaming))
	}
	heartbeat := `{"cluster_id":"c","agent_id":"a","status":"healthy","tunnel_status":"connected","metadata":{"agent_version":"1",` +
		`"k8s_version":"","k8s_nodes":0,"k8s_pods":0,"cpu_usage":"0%","memory_usage":"0%","is_private":true,"gateway_routes":0}}`
	beat := say("heartbeat", "", heartbeat)
	register := func(more string) string {
		mode := "fresh"
		if more != "" {
			mode = "resume"
		}
		return say("register", "req_1772359200123456789_a", `{"agent_id":"a","name":"n","k8s_version":"","hostname":"h","agent_version":"1",
			"server_ip":"0.0.0.0","region":"r","cloud_provider":"agent","tunnel_port_config":{"kubernetes_api":6443,"kubelet":10250,"agent_http":8080},
			"labels":{"hostname":"h","agent.pipeops.io/version":"1"},"server_specs":{},"features":{"supports_streaming":true,
			"supports_binary_protocol":true,"supports_compression":true,"supports_websocket_proxy":true,"supports_gateway":true,
			"supports_response_streaming":true},"metadata":{"agent_mode":"vm-agent","registration_mode":"`+mode+`",
			"registration_timestamp":"2026-03-01T10:00:00Z"}`+more+`}`)
	}
	again := register(`,"cluster_id":"c"`)
	success := func(payload string) string {
		return "> " + say("register_success", "req_1772359200123456789_a", payload)
	}
	refusal := func(text string) string {
		return "> " + say("error", "req_1772359200123456789_a", `{"error":"`+text+`"}`)
	}
	header := say("proxy_response_header", "r", `{"status":200,"headers":null}`)
	chunk := say("proxy_response_chunk", "r", `{"data":"aGk=","encoding":"base64","size":2}`)
	end, abort := say("proxy_response_end", "r", `{}`), say("proxy_response_abort", "r", `{"error":"x"}`)
	whole := say("proxy_response", "r", `{"status":200,"headers":null}`)
	failed := say("proxy_error", "r", `{"error":"x"}`)
	pong := func(id string) string { return say("pong", id, `{`+at+`}`) }
	fallback := func(kind, id string) string {
		types, _ := json.Marshal(originalTypes)
		return say("protocol_fallback", "", fmt.Sprintf(`{"agent_version":"pipeops-k8-agent","unknown_type":%q,"supported_types":%s,
			"fallback_mode":"legacy_proxy","protocol_version":"1.0","original_request_id":%q,%s}`, kind, types, id, at))
	}
	data := say("proxy_websocket_data", "s", `{"stream_id":"s","data":"AWxzCg=="}`)
	appData := say("proxy_websocket_data", "s", `{"stream_id":"s","request_id":"s","data":"AWxzCg==","message_type":1}`)
	closed := say("proxy_websocket_close", "s", `{"stream_id":"s"}`)
	appClosed := say("proxy_websocket_close", "s", `{"request_id":"s","stream_id":"s"}`)
	full := say("backpressure", "s", `{"reason":"channel_full","request_id":"s"}`)
	appStart := "> " + say("proxy_request", "s", `{"path":"/ws","is_websocket":true,"service_name":"w","namespace":"d","service_port":80}`)
	switched := say("proxy_response", "s", `{"status":101,"headers":{"Upgrade":["websocket"]}}`)

	for name, c := range map[string]struct {
		role   string
		yamux  bool
		script []string
	}{
		"registration, then a heartbeat on the controller": {role: controllerRole, script: []string{
			"< " + register(""), success(`{"cluster_id":"c"}`), "< " + beat}},
		"heartbeat too early": {role: controllerRole, script: []string{
			"! " + beat + " # before register_success"}},
		"heartbeat before the answer": {role: controllerRole, script: []string{
			"< " + register(""), "! " + beat + " # before register_success"}},
		"heartbeat on a controller that handed out a gateway": {role: controllerRole, script: []string{
			"< " + register(""), success(`{"cluster_id":"c","gateway_ws_url":"wss://g"}`), "! " + beat + " # about to be left"}},
		"heartbeat of another cluster": {role: controllerRole, script: []string{
			"< " + register(""), success(`{"data":{"cluster_id":"x"}}`), "! " + beat + ` # registered is "x"`}},
		"an answer without an id registers nobody": {role: controllerRole, script: []string{
			"< " + register(""), success(`{"name":"n"}`), "! " + beat + " # before register_success"}},
		"register twice": {role: controllerRole, script: []string{
			"< " + register(""), "! " + register("") + " # register again"}},
		"register after a refusal": {role: controllerRole, script: []string{
			"< " + register(""), refusal("no"), "! " + register("") + " # register again"}},
		"unknown cluster: once more without the id": {role: controllerRole, script: []string{
			"< " + again, refusal("Cluster Not Found"), "! " + again + " # register again", "< " + register("")}},
		"register on a gateway": {role: gatewayRole, script: []string{
			"< " + beat, "! " + register("") + " # on a gateway"}},

		"first message of a gateway connection": {role: gatewayRole, script: []string{
			get("r", false), "! " + whole + " # must be heartbeat"}},
		"form B":                           {script: []string{get("r", false), "< " + whole, "! " + whole + " # already had its outcome"}},
		"form B, error":                    {script: []string{get("r", false), "< " + failed, "! " + whole + " # already had its outcome"}},
		"form S":                           {script: []string{get("r", true), "< " + header, "< " + chunk, "< " + chunk, "< " + end, "! " + chunk + " # already had"}},
		"form S, aborted at once":          {script: []string{get("r", true), "< " + abort, "! " + end + " # already had"}},
		"form S, aborted after its header": {script: []string{get("r", true), "< " + header, "< " + abort}},
		"chunk before the header":          {script: []string{get("r", true), "! " + chunk + " # before its header"}},
		"end before the header":            {script: []string{get("r", true), "! " + end + " # before its header"}},
		"two headers":                      {script: []string{get("r", true), "< " + header, "! " + header + " # second header"}},
		"form S for form B":                {script: []string{get("r", false), "! " + header + " # other form"}},
		"form B for form S":                {script: []string{get("r", true), "! " + whole + " # other form"}},
		"error for form S":                 {script: []string{get("r", true), "! " + failed + " # other form"}},
		"nobody asked":                     {script: []string{"! " + whole + " # not sent"}},
		"an id used again":                 {script: []string{get("r", false), "< " + whole, get("r", true), "< " + header, "< " + end}},
		"an id used twice at once": {script: []string{get("r", true), get("r", true), "< " + header, "< " + failed, "< " + end,
			"! " + failed + " # already had"}},
		"body for HEAD": {script: []string{"> " + say("proxy_request", "r", `{"method":"head","path":"/api","supports_response_streaming":true}`),
			"< " + header, "! " + chunk + " # HEAD"}},
		"101 for a plain request": {script: []string{get("s", false), "! " + switched + " # no app stream"}},

		"pong":                   {script: []string{"> " + say("ping", "p", "{}"), "< " + pong("p"), "! " + pong("p") + " # without such a ping"}},
		"pong without an id":     {script: []string{"> " + say("ping", "", "{}"), "< " + pong("")}},
		"pong with another id":   {script: []string{"> " + say("ping", "p", "{}"), "! " + pong("q") + " # without such a ping"}},
		"unknown type":           {script: []string{"> " + say("x", "u", "{}"), "< " + fallback("x", "u"), "! " + fallback("x", "u") + " # second"}},
		"unknown type, other id": {script: []string{"> " + say("x", "u", "{}"), "! " + fallback("x", "v") + " # original_request_id"}},
		"fallback for a type that exists": {script: []string{"> " + say("tcp_tunnel_start", "u", "{}"),
			"! " + fallback("tcp_tunnel_start", "u") + " # known type"}},

		"hello, with tunnels": {yamux: true, script: []string{"> " + say("gateway_hello", "", `{"use_yamux":true}`),
			"< " + say("gateway_hello_ack", "", `{"use_yamux":true}`), "! " + say("gateway_hello_ack", "", `{"use_yamux":true}`) + " # no hello"}},
		"hello, without tunnels": {script: []string{"> " + say("gateway_hello", "", `{"use_yamux":true}`),
			"! " + say("gateway_hello_ack", "", `{"use_yamux":true}`) + " # no hello"}},
		"hello that is none": {yamux: true, script: []string{"> " + say("gateway_hello", "", `{"use_yamux":"true"}`),
			"! " + say("gateway_hello_ack", "", `{"use_yamux":true}`) + " # no hello"}},
		"plane hello": {script: []string{"> " + say("plane_hello", "", `{"features":[]}`),
			"< " + say("plane_hello_ack", "", `{"features":["flow"]}`), "! " + say("plane_hello_ack", "", `{"features":[]}`) + " # no hello"}},

		"TCP tunnel": {script: []string{"> " + say("tcp_tunnel_start", "c", `{}`), "< " + tcpData("c"),
			"> " + say("tcp_tunnel_start", "c", `{}`), "> " + say("tcp_tunnel_close", "c", `{}`), "< " + tcpClose("c"), "! " + tcpData("c") + " # has closed"}},
		"TCP tunnel, closed twice":   {script: []string{"> " + say("tcp_tunnel_start", "c", `{}`), "< " + tcpClose("c"), "! " + tcpClose("c") + " # has closed"}},
		"TCP tunnel that isn't open": {script: []string{"! " + tcpClose("c") + " # never opened", "> " + say("tcp_tunnel_data", "c", `{}`), "< " + tcpClose("c")}},
		"UDP tunnel": {script: []string{"> " + say("udp_tunnel_data", "", `{"tunnel_id":"u","client_addr":"192.0.2.1","client_port":7,"data":"aA=="}`),
			"< " + udpData("7"), "! " + udpData("8") + " # who said nothing"}},

		"K8s stream": {script: []string{"> " + say("ws_start", "s", `{"stream_id":"s","path":"/api/v1/x"}`),
			"< " + data, "! " + appData + " # app streams", "< " + closed, "! " + data + " # has closed"}},
		"K8s stream, closed by us": {script: []string{"> " + say("ws_start", "s", `{"stream_id":"s","path":"/api/v1/x"}`),
			"> " + say("ws_close", "-", `{"request_id":"s"}`), "? close of \"s\"", "< " + data, "< " + closed, "! " + closed + " # has closed"}},
		"K8s stream that failed": {script: []string{"> " + say("ws_start", "s", `{"stream_id":"s","path":"/x"}`),
			"< " + say("proxy_error", "s", `{"error":"x","request_id":"s"}`), "> " + say("ws_close", "s", `{}`), "? ", "< " + closed}},
		"K8s stream, full": {script: []string{"> " + say("ws_start", "s", `{"stream_id":"s","path":"/api/v1/x"}`),
			"! " + full + " # no app stream"}},
		"a stream's id for a request": {script: []string{"> " + say("ws_start", "r", `{"stream_id":"r","path":"/api/v1/x"}`),
			get("r", false), "? proxy_error for the second", "< " + failed, "! " + whole + " # already had"}},
		"app stream": {script: []string{appStart, "! " + appData + " # before its 101", "< " + switched, "< " + appData,
			"! " + closed + " # app streams", "< " + appClosed}},
		"app stream, full": {script: []string{appStart, "< " + switched, "< " + full, "! " + appData + " # was dropped", "< " + appClosed}},
		"app stream, its id again": {script: []string{appStart, "< " + switched, appStart, "? proxy_error for the second",
			"> " + say("proxy_websocket_data", "s", `{"data":"CAPo"}`), "< " + say("proxy_error", "s", `{"error":"x"}`),
			appStart, "! " + appData + " # before its 101"}},
		"stream that isn't open": {script: []string{"! " + data + " # never opened"}},
	} {
		t.Run(name, func(t *testing.T) {
			role := c.role
			if role == "" {
				role = gatewayRole
			}
			l := newLedger(&session{carried: map[carriedKey]*request{}}, role, c.yamux)
			l.heard = c.role == "" // most scripts begin after the heartbeat
			for _, line := range c.script {
				text, problem, _ := strings.Cut(line[2:], " # ")
				if line[0] == '?' {
					if owed := strings.Join(l.owed(), "; "); !strings.HasPrefix(owed, text) || (owed != "") != (text != "") {
						t.Errorf("owed is %q, not %q", owed, text)
					}
					continue
				}
				if line[0] == '>' {
					l.sent([]byte(text))
					continue
				}
				e, err := parseEnvelope([]byte(text))
				if err == nil {
					err = checkMessage(e)
				}
				if err == nil {
					_, err = l.received(e)
				}
				expectError(t, text, err, problem)
			}
		})
	}
}

// Form B may be answered on the next connection to the same endpoint, once;
// nothing else may.
func TestCarriedAnswers(t *testing.T) {
	s := &session{carried: map[carriedKey]*request{}}
	first := newLedger(s, gatewayRole, false)
	for id, payload := range map[string]string{
		"b": `{"path":"/api"}`, "s": `{"path":"/api","supports_response_streaming":true}`,
		"open": `{"path":"/api","use_streaming":true}`, "again": `{"path":"/api"}`,
	} {
		first.sent([]byte(say("proxy_request", id, payload)))
	}
	first.closed()
	second := newLedger(s, gatewayRole, false)
	second.heard = true
	second.sent([]byte(say("proxy_request", "again", `{"path":"/api","supports_response_streaming":true}`)))
	answer := func(l *ledger, id string) error {
		e, err := parseEnvelope([]byte(say("proxy_response", id, `{"status":200,"headers":null}`)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.received(e)
		return err
	}
	controller := newLedger(s, controllerRole, false)
	expectError(t, "other endpoint", answer(controller, "b"), "not sent")
	expectError(t, "form B", answer(second, "b"), "")
	expectError(t, "form B twice", answer(second, "b"), "already had")
	expectError(t, "form S", answer(second, "s"), "not sent")
	expectError(t, "unfinished body", answer(second, "open"), "not sent")
	expectError(t, "id used again", answer(second, "again"), "other form")
}

// A cancelled request owes nothing before its header; after it, its end.
func TestCancelledRequests(t *testing.T) {
	l := newLedger(&session{carried: map[carriedKey]*request{}}, gatewayRole, false)
	l.heard = true
	for _, id := range []string{"quiet", "begun"} {
		l.sent([]byte(say("proxy_request", id, `{"path":"/api","supports_response_streaming":true}`)))
	}
	e, _ := parseEnvelope([]byte(say("proxy_response_header", "begun", `{"status":200,"headers":null}`)))
	if _, err := l.received(e); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"quiet", "begun"} {
		l.sent([]byte(say("proxy_cancel", id, `{}`)))
	}
	if owed := l.owed(); len(owed) != 1 || owed[0] != `outcome of request "begun"` {
		t.Errorf("owed: %q", owed)
	}
}
