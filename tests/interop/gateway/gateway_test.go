package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestGoodAgent(t *testing.T) {
	d := start(t)
	d.do(`{"cmd":"set","key":"controller","value":{"status":503,"body":"later","headers":{"Retry-After":"1"},"times":1}}`)
	if _, answer, err := d.dial(d.controller(), "interop-token", nil); err == nil || answer.StatusCode != 503 || answer.Header.Get("Retry-After") != "1" {
		t.Fatalf("not refused: %v", err)
	}

	d.do(`{"cmd":"set","key":"register","value":"in_progress"}`)
	controller := d.mustDial(d.controller())
	write(t, controller, registerMessage)
	progress, _ := read(t, controller)
	success, _ := read(t, controller)
	payload, _ := success["payload"].(map[string]any)
	if progress["type"] != "register_in_progress" || payload["gateway_ws_url"] != d.gatewayURL || payload["cluster_id"] != theID {
		t.Fatalf("%v, %v", progress, success)
	}
	leave(t, controller, 1000)

	d.do(`{"cmd":"set","key":"gateway_greeting","value":"{\"type\":\"ping\",\"request_id\":\"first\"}"}`)
	d.do(`{"cmd":"set","key":"binary_json","value":true}`)
	ws := d.mustDial(d.gateway(theUUID))
	if greeting, text := read(t, ws); greeting["request_id"] != "first" || text {
		t.Fatalf("greeting is %v", greeting)
	}
	write(t, ws, beatMessage)
	if ack, text := read(t, ws); ack["type"] != "heartbeat_ack" || text {
		t.Fatalf("ack is %v, text: %t", ack, text)
	}
	write(t, ws, say("pong", "first", `{`+at+`}`))

	d.do(`{"cmd":"send_text","frame":7,"text":"{\"type\":\"proxy_request\",\"request_id\":\"r\",\"payload\":{\"path\":\"/api\"}}"}`)
	if request, _ := read(t, ws); request["request_id"] != "r" {
		t.Fatalf("request is %v", request)
	}
	write(t, ws, say("proxy_response", "r", `{"status":200,"headers":null,"body":"aGk=","encoding":"base64"}`))
	d.do(`{"cmd":"expect","match":{"event":"outcome","request_id":"r","result":"response","status":200,"size":2}}`)
	// Not yet taken by an expect, so still there.
	done := d.do(`{"cmd":"expect","tag":7,"match":{"event":"message","type":"pong","envelope":{"request_id":"first"}}}`)
	if done["ok"] != true || done["tag"] != 7.0 {
		t.Errorf("done is %v", done)
	}
	d.do(`{"cmd":"ping","text":"hey"}`)
	d.do(`{"cmd":"close","code":1012,"reason":"restart"}`)
	ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 1012) {
		t.Fatal(err)
	}
	d.do(`{"cmd":"expect","match":{"event":"pong","text":"hey"}}`)
	d.do(`{"cmd":"expect","match":{"event":"close","conn":"gateway#1","code":1012}}`)

	again := d.mustDial(d.gateway(theUUID))
	write(t, again, beatMessage)
	d.do(`{"cmd":"expect","match":{"event":"message","conn":"gateway#2","type":"heartbeat"}}`)
	d.do(`{"cmd":"drop"}`)
	d.do(`{"cmd":"expect","match":{"event":"close","conn":"gateway#2"}}`)
	again.Close() // not before: nothing else keeps it from the garbage collector
	d.finish()
}

// A gateway that has frozen answers nothing; an agent that gives it up without
// a word and dials again is right.
func TestFrozenGateway(t *testing.T) {
	d := start(t)
	first := d.mustDial(d.controller())
	d.next("upgrade")
	d.do(`{"cmd":"pause"}`)
	first.SetPongHandler(func(string) error { t.Error("pong from a frozen gateway"); return nil })
	if err := first.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	second := d.mustDial(d.controller())
	d.do(`{"cmd":"expect","match":{"event":"close","conn":"controller#1"}}`)
	if _, _, err := first.ReadMessage(); err == nil {
		t.Error("the first connection is still there")
	}
	d.do(`{"cmd":"expect","match":{"event":"upgrade","conn":"controller#2"}}`)
	d.do(`{"cmd":"pause","conn":"controller#2"}`)
	write(t, second, registerMessage)
	d.do(`{"cmd":"resume"}`)
	if answer, _ := read(t, second); answer["type"] != "register_success" {
		t.Errorf("answer is %v", answer)
	}
	leave(t, second, 1000)
	d.do(`{"cmd":"set","key":"gateway","value":{"hang":true}}`)
	hung := make(chan error, 1)
	go func() {
		_, _, err := (&websocket.Dialer{HandshakeTimeout: 50 * time.Millisecond, TLSClientConfig: &tls.Config{RootCAs: d.roots}}).
			Dial(d.gateway(theUUID), http.Header{"Authorization": {"Bearer interop-token"}})
		hung <- err
	}()
	if err := <-hung; err == nil {
		t.Error("the upgrade was answered")
	}
	d.finish()
}

// A greeting leaves in the same write as the 101, hence in one TCP segment.
func TestGreetingIsGlued(t *testing.T) {
	d := start(t, "--plain")
	d.do(`{"cmd":"set","key":"controller_greeting","value":"{}"}`)
	socket, err := net.Dial("tcp", strings.TrimPrefix(d.controllerURL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(socket, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer interop-token\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n", controllerPath)
	buffer := make([]byte, 4096)
	n, err := socket.Read(buffer)
	if err != nil || !bytes.HasSuffix(buffer[:n], []byte("\r\n\r\n\x81\x02{}")) {
		t.Fatalf("%q, %v", buffer[:n], err)
	}
	d.next("upgrade")
	d.do(`{"cmd":"drop"}`)
	socket.Close()
	d.finish()
}

func TestBadAgents(t *testing.T) {
	for name, c := range map[string]struct {
		misbehave func(*driver)
		failures  []string
	}{
		"wrong token": {func(d *driver) {
			if _, answer, err := d.dial(d.controller(), "other", nil); err == nil || answer.StatusCode != 401 {
				d.t.Errorf("not refused: %v", err)
			}
		}, []string{"Authorization is not the token"}},
		"a header too many": {func(d *driver) {
			ws, _, err := d.dial(d.controller(), "interop-token", http.Header{"Origin": {"https://x"}})
			if err != nil {
				d.t.Fatal(err)
			}
			leave(d.t, ws, 1000)
			d.next("close")
		}, []string{"header Origin"}},
		"token in the query": {func(d *driver) {
			leave(d.t, d.mustDial(d.controller()+"?token=interop-token"), 1000)
			d.next("close")
		}, []string{"query is"}},
		"a parameter is missing": {func(d *driver) {
			leave(d.t, d.mustDial(strings.Replace(d.gateway("x"), "&supports_yamux=false", "", 1)), 1000)
			d.next("close")
		}, []string{"supports_yamux"}},
		"yamux announced": {func(d *driver) {
			leave(d.t, d.mustDial(strings.Replace(d.gateway("x"), "yamux=false", "yamux=true", 1)), 1000)
			d.next("close")
		}, []string{"supports_yamux=true"}},
		"parameters out of order": {func(d *driver) {
			target := strings.Replace(d.gateway("x"), "agent_version=1&", "", 1) + "&agent_version=1"
			leave(d.t, d.mustDial(target), 1000)
			d.next("close")
		}, []string{"alphabetical"}},
		"close code": {func(d *driver) {
			leave(d.t, d.mustDial(d.controller()), 1001)
			d.next("close")
		}, []string{"close code 1001, must be 1000"}},
		"no close frame": {func(d *driver) {
			d.mustDial(d.controller()).Close()
			d.next("close")
		}, []string{"without a close frame"}},
		"binary response": {func(d *driver) {
			ws := d.mustDial(d.controller())
			ws.WriteMessage(websocket.BinaryMessage, []byte{0, 1, 'r', 0, 0, 0, 200})
			d.next("failure")
			leave(d.t, ws, 1000)
			d.next("close")
		}, []string{"binary message of 7 bytes"}},
		"ping with a payload": {func(d *driver) {
			ws := d.mustDial(d.controller())
			ws.WriteControl(websocket.PingMessage, []byte("x"), time.Now().Add(time.Second))
			leave(d.t, ws, 1000)
			d.next("close")
		}, []string{"ping with payload"}},
		"unmasked frame": {func(d *driver) {
			ws := d.mustDial(d.controller())
			ws.NetConn().Write(appendFrame(nil, true, 1, []byte("{}")))
			d.next("close")
			ws.Close()
		}, []string{"bad MASK"}},
		"malformed message": {func(d *driver) {
			ws := d.mustDial(d.controller())
			write(d.t, ws, `{"type":`)
			d.next("failure")
			leave(d.t, ws, 1000)
			d.next("close")
		}, []string{"malformed JSON"}},
		"second connection": {func(d *driver) {
			first := d.mustDial(d.controller())
			d.next("upgrade")
			second := d.mustDial(d.controller())
			d.next("failure")
			leave(d.t, first, 1000)
			d.next("close")
			leave(d.t, second, 1000)
			d.next("close")
		}, []string{"controller#1: still open"}},
		"answer that is still owed": {func(d *driver) {
			ws := d.mustDial(d.controller())
			d.next("upgrade")
			d.do(`{"cmd":"send_envelope","type":"ping","request_id":"p"}`)
			d.do(`{"cmd":"settle","timeout_ms":10}`)
			leave(d.t, ws, 1000)
			d.next("close")
		}, []string{`still owed after 10ms: pong "p"`}},
		"nobody there":      {func(d *driver) { d.do(`{"cmd":"drop"}`) }, []string{"not open"}},
		"misspelt command":  {func(d *driver) { d.do(`{"cmd":"set","key":"tokn","value":"x"}`) }, []string{"unknown setting"}},
		"nothing to expect": {func(d *driver) { d.do(`{"cmd":"expect","match":{"event":"close"},"timeout_ms":10}`) }, []string{"no event like"}},
		"HTTP without need": {func(d *driver) {
			d.post("register", theHTTPRegistration)
			d.next("failure")
		}, []string{"HTTP mode, although"}},
		"stray call": {func(d *driver) {
			d.post("../../../v1/health", "")
			d.next("failure")
		}, []string{"no such endpoint"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t)
			c.misbehave(d)
			d.finish(c.failures...)
		})
	}
}

func TestHTTPMode(t *testing.T) {
	d := start(t)
	d.do(`{"cmd":"set","key":"controller","value":{"status":426}}`)
	d.do(`{"cmd":"set","key":"gateway_url","value":""}`)
	d.do(`{"cmd":"set","key":"cluster","value":{"cluster":{"uuid":"u"}}}`)
	if _, answer, err := d.dial(d.controller(), "interop-token", nil); err == nil || answer.StatusCode != 426 {
		t.Fatalf("not refused: %v", err)
	}
	d.do(`{"cmd":"set","key":"http_register","value":{"status":409,"times":1}}`)
	if status, _ := d.post("register", theHTTPRegistration); status != 409 {
		t.Errorf("status %d", status)
	}
	status, answer := d.post("register", theHTTPRegistration)
	if nested, _ := answer["cluster"].(map[string]any); status != 200 || nested["uuid"] != "u" {
		t.Errorf("status %d, %v", status, answer)
	}
	beat := "{" + strings.Replace(theBeat, theID, "u", 1) + `,"timestamp":"2026-03-01T10:00:00Z"}`
	if status, _ := d.post("u/heartbeat", beat); status != 200 {
		t.Errorf("status %d", status)
	}
	d.do(`{"cmd":"expect","match":{"event":"http","path":"/api/v1/clusters/agent/u/heartbeat","body":{"status":"healthy"}}}`)
	d.post("v/heartbeat", beat)
	d.finish(`"u" in the body, "v" in the path`)
}

func TestHTTPRegistrationFields(t *testing.T) {
	form := object(httpRegisterFields...)
	for name, c := range map[string]struct{ old, new, fault string }{
		"as it should be":     {"", "", ""},
		"that of a WebSocket": {theHTTPRegistration, theRegistration, "is missing"},
		"another name":        {`"cluster_name":"n"`, `"cluster_name":"m"`, "cluster_name"},
		"another address":     {`"server_code":"0.0.0.0"`, `"server_code":"h"`, "server_code"},
		"a region":            {`"registry_region":"us"`, `"registry_region":"de"`, "registry_region"},
		"a time as a number":  {`"2026-03-01T10:00:00Z"}`, `1772359200}`, "last_seen"},
		"no certificate":      {`"status"`, `"cluster_cert_data":"dGhlIENB","status"`, "cluster_cert_data"},
	} {
		t.Run(name, func(t *testing.T) {
			at := strings.LastIndex(theHTTPRegistration, c.old)
			body := []byte(theHTTPRegistration[:at] + c.new + theHTTPRegistration[at+len(c.old):])
			err := form(body)
			if err == nil {
				err = checkHTTPRegistration(body)
			}
			if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%v", err)
			}
		})
	}
}
