package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// settings are what a test changes with `set`. They take effect at once and
// stay until changed again.
type settings struct {
	Token      string         // bearer token that upgrades and HTTP calls must show
	Cluster    map[string]any // answer to a registration, without the gateway URL
	GatewayURL string         // handed out as gateway_ws_url; empty: the agent stays on the controller

	Register      string // success, in_progress (then success), error, silence
	RegisterError string // text of `error`
	HeartbeatAck  bool   // answer heartbeats
	AnswerPings   bool   // answer WebSocket pings
	BinaryJSON    bool   // send envelopes and greetings in binary messages

	Controller    *refusal // refuse upgrades at the controller
	Gateway       *refusal // refuse upgrades at the gateway
	HTTPRegister  *refusal // answer of POST …/register in place of 200
	HTTPHeartbeat *refusal // answer of POST …/heartbeat in place of 200

	ControllerGreeting string // message in the same write as the 101
	GatewayGreeting    string
	Hello              *hello // sent to each new gateway connection
	ControllerQuery    string // query that the agent's api_url has

	CloseCode    int  // code of the agent's own close frames
	AllowAbrupt  bool // connections may end without a close frame
	AllowWorker  bool // heartbeats may carry worker_join
	AllowHTTP    bool // HTTP mode without a refused upgrade (pipeops.transport: http)
	AllowNoACK   bool // streams that were finished early may go without their ACK (hashicorp/yamux)
	AllowOverlap bool // a new connection may be opened while an old one is alive
}

// refusal is an HTTP answer in place of the usual one.
type refusal struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
	Times   int               `json:"times"` // how often; 0 = until changed
	Hang    bool              `json:"hang"`  // never answer
}

func defaultSettings(token, gatewayURL string) settings {
	return settings{
		Token: token,
		// Two different ids, so that an agent that mixes them up is found.
		Cluster: map[string]any{
			"cluster_id":   "5b0d7f3c-3a0e-4a5c-8f26-0d4a1c9e7b11",
			"cluster_uuid": "c19e2d84-77a1-4f0b-9d3e-62b8f5a04c22",
			"name":         "interop",
			"status":       "registered",
			"workspace_id": 42,
		},
		GatewayURL:    gatewayURL,
		Register:      "success",
		RegisterError: "registration refused",
		HeartbeatAck:  true,
		AnswerPings:   true,
		CloseCode:     1000,
	}
}

// set changes one setting by its name in the command protocol.
func (s *settings) set(key string, value json.RawMessage) error {
	targets := map[string]any{
		"token":               &s.Token,
		"gateway_url":         &s.GatewayURL,
		"register":            &s.Register,
		"register_error":      &s.RegisterError,
		"heartbeat_ack":       &s.HeartbeatAck,
		"answer_pings":        &s.AnswerPings,
		"binary_json":         &s.BinaryJSON,
		"controller":          &s.Controller,
		"gateway":             &s.Gateway,
		"http_register":       &s.HTTPRegister,
		"http_heartbeat":      &s.HTTPHeartbeat,
		"controller_greeting": &s.ControllerGreeting,
		"gateway_greeting":    &s.GatewayGreeting,
		"hello":               &s.Hello,
		"controller_query":    &s.ControllerQuery,
		"close_code":          &s.CloseCode,
		"allow_abrupt":        &s.AllowAbrupt,
		"allow_worker_join":   &s.AllowWorker,
		"allow_http":          &s.AllowHTTP,
		"allow_no_ack":        &s.AllowNoACK,
		"allow_overlap":       &s.AllowOverlap,
	}
	if key == "cluster" { // replaced, not merged as Unmarshal would
		s.Cluster = nil
		targets[key] = &s.Cluster
	}
	target, known := targets[key]
	if !known {
		return fmt.Errorf("unknown setting %q", key)
	}
	decoder := json.NewDecoder(strings.NewReader(string(value)))
	decoder.DisallowUnknownFields()
	decoder.UseNumber()
	switch r := target.(type) { // likewise
	case **refusal:
		*r = nil
	case **hello:
		*r = nil
	}
	if err := decoder.Decode(target); err != nil {
		return fmt.Errorf("setting %q: %w", key, err)
	}
	if modes := []string{"success", "in_progress", "error", "silence"}; !slices.Contains(modes, s.Register) {
		return fmt.Errorf("setting register: %q is none of %v", s.Register, modes)
	}
	return nil
}

// next counts down a refusal and tells whether it applies now.
func next(r **refusal) *refusal {
	current := *r
	if current != nil && current.Times > 0 {
		if current.Times--; current.Times == 0 {
			*r = nil
		}
	}
	return current
}

// registration is the payload that answers a register.
func (s *settings) registration() map[string]any {
	payload := map[string]any{}
	for name, value := range s.Cluster {
		payload[name] = value
	}
	if s.GatewayURL != "" {
		payload["gateway_ws_url"] = s.GatewayURL
	}
	return payload
}
