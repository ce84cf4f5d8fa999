package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// message says what one type of the agent's messages must look like by
// itself. What may come when is the ledger's business. Sections are those of
// control-channel.md.
type message struct {
	hasID   bool // "request_id" is required; without it, forbidden
	mayID   bool // "request_id" may be there
	payload check
	rule    func(envelope) error // what spans several fields
}

var messages = map[string]message{
	"register":          {hasID: true, payload: object(registerFields...), rule: checkRegister},
	"heartbeat":         {payload: object(heartbeatFields...), rule: checkHeartbeat},
	"pong":              {mayID: true, payload: object(required("timestamp", timestamp))},
	"protocol_fallback": {payload: object(fallbackFields...), rule: checkFallback},
	"backpressure": {hasID: true, payload: object(
		required("request_id", text),
		required("reason", constant(`"channel_full"`)),
	), rule: sameID},
	"gateway_hello_ack": {payload: object(required("use_yamux", constant("true")))},
	"plane_hello_ack":   {payload: object(required("features", listOf(text)))},

	"proxy_response": {hasID: true, payload: object(
		required("status", httpStatus),
		required("headers", orNull(headers)),
		optional("body", base64Text),
		optional("encoding", oneOf("base64", "gzip")),
	), rule: checkResponse},
	"proxy_response_header": {hasID: true, payload: object(
		required("status", httpStatus),
		required("headers", orNull(headers)),
	), rule: checkHopByHop},
	"proxy_response_chunk": {hasID: true, payload: object(
		required("data", base64Text),
		required("encoding", constant(`"base64"`)),
		required("size", positive),
	), rule: checkChunk},
	"proxy_response_end":   {hasID: true, payload: object()},
	"proxy_response_abort": {hasID: true, payload: object(required("error", text))},
	"proxy_error": {hasID: true, payload: object(
		required("error", text),
		optional("request_id", text),
	), rule: sameID},

	"proxy_websocket_data": {hasID: true, payload: object(
		required("stream_id", text),
		required("data", base64Text),
		optional("request_id", text),
		optional("message_type", literalThat("1, 2, 8, 9 or 10", regexp.MustCompile(`^([1289]|10)$`))),
	), rule: checkStreamData},
	"proxy_websocket_close": {hasID: true, payload: object(
		required("stream_id", text),
		optional("request_id", text),
	), rule: sameID},

	"tcp_tunnel_data": {hasID: true, payload: object(
		required("data", base64Text),
		required("direction", constant(`"agent_to_gateway"`)),
	)},
	"tcp_tunnel_close": {hasID: true, payload: object(
		required("reason", oneOf("connection_failed", "registration_failed", "write_error", "service_closed")),
		optional("bytes_sent", count),
		optional("bytes_received", count),
		optional("duration_ms", count),
		optional("error", text),
	)},
	"udp_tunnel_data": {payload: object(
		required("tunnel_id", text),
		required("data", base64Text),
		required("client_addr", text),
		required("client_port", positive),
		required("direction", constant(`"agent_to_gateway"`)),
	)},
}

// checkMessage checks one message of the agent by itself.
func checkMessage(e envelope) error {
	m, known := messages[e.kind]
	switch {
	case !known:
		return fmt.Errorf("unknown type %q", e.kind)
	case m.hasID && e.id == "":
		return errors.New("request_id is missing")
	case !m.hasID && !m.mayID && e.id != "":
		return errors.New("must not have a request_id")
	}
	if err := m.payload(e.payload); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	if m.rule == nil {
		return nil
	}
	return m.rule(e)
}

// §6.1. Fields of ours that the original doesn't send here (T17) would be
// found as unknown.
var registerFields = []field{
	required("agent_id", text),
	required("name", text),
	required("k8s_version", anyString), // empty when it can't be read (decisions §6.1)
	required("hostname", text),
	required("agent_version", text),
	required("server_ip", stringThat("an IP address", func(s string) bool { _, err := netip.ParseAddr(s); return err == nil })),
	required("region", text),
	required("cloud_provider", text),
	required("tunnel_port_config", constant(`{"kubernetes_api":6443,"kubelet":10250,"agent_http":8080}`)),
	required("labels", mapOf(anyString)),
	required("server_specs", object(
		optional("cpu_cores", positive),
		optional("memory_gb", positive),
		optional("disk_gb", positive),
		optional("os", text),
	)),
	required("features", constant(`{"supports_streaming":true,"supports_binary_protocol":true,"supports_compression":true,
		"supports_websocket_proxy":true,"supports_gateway":true,"supports_response_streaming":true}`)),
	required("metadata", object(
		required("agent_mode", constant(`"vm-agent"`)),
		required("registration_mode", oneOf("fresh", "resume")),
		required("registration_timestamp", wholeTime),
		optional("country_code", text),
		optional("region_name", text),
		optional("country_name", text),
		optional("network_org", text),
		optional("network_asn", text),
		optional("ip_intel_method", text),
	)),
	optional("cluster_id", text),
	optional("k8s_service_token", text),
}

var registerID = regexp.MustCompile(`^req_[0-9]{19}_(.+)$`)

func checkRegister(e envelope) error {
	if m := registerID.FindStringSubmatch(e.id); m == nil || m[1] != e.str("agent_id") {
		return fmt.Errorf("request_id %q is not req_<unix nanoseconds>_<agent id>", e.id)
	}
	return checkRegistration(e.payload)
}

// checkRegistration holds for both transports.
func checkRegistration(payload json.RawMessage) error {
	var p struct {
		Hostname     string            `json:"hostname"`
		AgentVersion string            `json:"agent_version"`
		ClusterID    string            `json:"cluster_id"`
		Labels       map[string]string `json:"labels"`
		Metadata     map[string]string `json:"metadata"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return err
	}
	if p.Labels["hostname"] != p.Hostname || p.Labels["agent.pipeops.io/version"] != p.AgentVersion {
		return fmt.Errorf("labels %v don't carry hostname and agent.pipeops.io/version", p.Labels)
	}
	if (p.Metadata["registration_mode"] == "resume") != (p.ClusterID != "") {
		return fmt.Errorf("registration_mode %q with cluster_id %q", p.Metadata["registration_mode"], p.ClusterID)
	}
	return nil
}

// §7.1.
var heartbeatFields = []field{
	required("cluster_id", text),
	required("agent_id", text),
	required("status", oneOf("healthy", "reconnecting", "disconnected")),
	required("tunnel_status", oneOf("connected", "disconnected")),
	required("metadata", heartbeatMetadata),
	optional("prometheus_url", text), optional("prometheus_username", anyString),
	optional("prometheus_password", anyString), optional("prometheus_ssl", boolean),
	optional("loki_url", text), optional("loki_username", anyString),
	optional("loki_password", anyString), optional("loki_ssl", boolean),
	optional("grafana_url", text), optional("grafana_username", anyString),
	optional("grafana_password", anyString), optional("grafana_ssl", boolean),
	optional("opencost_base_url", text), optional("opencost_username", anyString),
	optional("opencost_password", anyString),
	optional("worker_join", object(
		required("provider", constant(`"k3s"`)),
		required("server_url", text),
		required("env", object(
			required("K3S_URL", text),
			required("K3S_TOKEN", text),
			required("NODE_TYPE", constant(`"agent"`)),
		)),
		required("commands", listOf(text)),
		required("generated_at", timestamp),
	)),
}

var heartbeatMetadata = object(
	required("agent_version", text),
	required("k8s_version", anyString),
	required("k8s_nodes", count),
	required("k8s_pods", count),
	required("cpu_usage", constant(`"0%"`)),
	required("memory_usage", constant(`"0%"`)),
	required("is_private", boolean),
	required("gateway_routes", count),
)

func checkHeartbeat(e envelope) error {
	var there map[string]json.RawMessage
	if err := json.Unmarshal(e.payload, &there); err != nil {
		return err
	}
	// The fields of one tool come together or not at all.
	for tool, size := range map[string]int{"prometheus_": 4, "loki_": 4, "grafana_": 4, "opencost_": 3} {
		found := 0
		for name := range there {
			if strings.HasPrefix(name, tool) {
				found++
			}
		}
		if found != 0 && found != size {
			return fmt.Errorf("%d of the %d fields %s* are there", found, size, tool)
		}
	}
	healthy := e.str("status") == "healthy"
	if healthy != (e.str("tunnel_status") == "connected") {
		return fmt.Errorf("status %q with tunnel_status %q", e.str("status"), e.str("tunnel_status"))
	}
	return nil
}

// §12.8: HTTP mode. The same names, flat; members that would be empty are
// left out; some that WebSocket registration doesn't carry.
var (
	httpRegisterFields = append(relaxed(registerFields, "k8s_version"),
		required("server_code", text), required("registry_region", oneOf("us", "eu")),
		required("cluster_name", text), required("status", text), required("last_seen", timestamp),
		optional("cluster_cert_data", certificates)) // cluster_url: nobody could reach it
	httpHeartbeatFields = []field{
		required("cluster_id", text),
		required("agent_id", text),
		required("status", oneOf("healthy", "reconnecting", "disconnected")),
		required("tunnel_status", oneOf("connected", "disconnected")),
		required("timestamp", timestamp),
		required("metadata", heartbeatMetadata),
	}
)

// checkHTTPRegistration is checkRegistration, and what HTTP mode says twice.
func checkHTTPRegistration(body json.RawMessage) error {
	for name, same := range map[string]string{"cluster_name": "name", "server_code": "server_ip"} {
		a, _ := stringMember(body, name)
		b, _ := stringMember(body, same)
		if a != b {
			return fmt.Errorf("%s is %q, %s is %q", name, a, same, b)
		}
	}
	return checkRegistration(body)
}

// relaxed makes one field of a table optional.
func relaxed(fields []field, name string) []field {
	fields = slices.Clone(fields)
	for i := range fields {
		if fields[i].name == name {
			fields[i].need = false
		}
	}
	return fields
}

// §4.3.
var fallbackFields = []field{
	required("agent_version", constant(`"pipeops-k8-agent"`)),
	required("unknown_type", text),
	required("supported_types", listOf(text)),
	required("fallback_mode", constant(`"legacy_proxy"`)),
	required("protocol_version", constant(`"1.0"`)),
	required("timestamp", wholeTime),
	optional("original_request_id", text),
}

var originalTypes = []string{"register_success", "register_in_progress", "heartbeat_ack", "pong", "ping",
	"proxy_request", "proxy_request_chunk", "proxy_request_stream_end", "proxy_cancel", "proxy_stream_data",
	"proxy_websocket_start", "proxy_websocket_data", "proxy_websocket_close", "ws_start", "ws_data", "ws_close", "error"}

func checkFallback(e envelope) error {
	var p struct {
		Types []string `json:"supported_types"`
	}
	if err := json.Unmarshal(e.payload, &p); err != nil {
		return err
	}
	for _, name := range originalTypes {
		if !slices.Contains(p.Types, name) {
			return fmt.Errorf("supported_types lacks %q", name) // it may have more
		}
	}
	return nil
}

// sameID: where the payload repeats an id, it is the envelope's. (§9: the
// agent's stream messages carry the stream id in the envelope too.)
func sameID(e envelope) error {
	for _, name := range []string{"request_id", "stream_id"} {
		if id, there := stringMember(e.payload, name); there && id != e.id {
			return fmt.Errorf("payload %s is %q, envelope request_id %q", name, id, e.id)
		}
	}
	return nil
}

func checkStreamData(e envelope) error {
	var p struct {
		Data        string `json:"data"`
		MessageType *int   `json:"message_type"`
		RequestID   string `json:"request_id"`
	}
	if err := json.Unmarshal(e.payload, &p); err != nil {
		return err
	}
	data, err := decodeBase64(p.Data)
	if err != nil {
		return err
	}
	if !slices.Contains([]byte{1, 2, 8, 9, 10}, data[0]) {
		return fmt.Errorf("data begins with byte %d, which is no WebSocket message type", data[0])
	}
	if (p.MessageType == nil) != (p.RequestID == "") {
		return errors.New("message_type and payload request_id come together (app streams) or not at all (K8s streams)")
	}
	if p.MessageType != nil && *p.MessageType != int(data[0]) {
		return fmt.Errorf("message_type is %d, data begins with %d", *p.MessageType, data[0])
	}
	return sameID(e)
}
