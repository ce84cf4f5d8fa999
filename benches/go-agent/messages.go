package main

import (
	"encoding/json"
	"time"
)

type envelope struct {
	Type      string    `json:"type"`
	RequestID string    `json:"request_id,omitempty"`
	Payload   any       `json:"payload"`
	Timestamp time.Time `json:"timestamp"`
}

type incoming struct {
	Type      string          `json:"type"`
	RequestID string          `json:"request_id"`
	Payload   json.RawMessage `json:"payload"`
}

type registerPayload struct {
	AgentID       string            `json:"agent_id"`
	Name          string            `json:"name"`
	K8sVersion    string            `json:"k8s_version"`
	Hostname      string            `json:"hostname"`
	AgentVersion  string            `json:"agent_version"`
	ServerIP      string            `json:"server_ip"`
	Region        string            `json:"region"`
	CloudProvider string            `json:"cloud_provider"`
	TunnelPorts   map[string]int    `json:"tunnel_port_config"`
	Labels        map[string]string `json:"labels"`
	ServerSpecs   map[string]any    `json:"server_specs"`
	Features      map[string]bool   `json:"features"`
	Metadata      map[string]string `json:"metadata"`
}

type heartbeatPayload struct {
	ClusterID    string            `json:"cluster_id"`
	AgentID      string            `json:"agent_id"`
	Status       string            `json:"status"`
	TunnelStatus string            `json:"tunnel_status"`
	Metadata     heartbeatMetadata `json:"metadata"`
}

type heartbeatMetadata struct {
	AgentVersion string `json:"agent_version"`
	K8sVersion   string `json:"k8s_version"`
	Nodes        int    `json:"k8s_nodes"`
	Pods         int    `json:"k8s_pods"`
	CPU          string `json:"cpu_usage"`
	Memory       string `json:"memory_usage"`
	Private      bool   `json:"is_private"`
	Routes       int    `json:"gateway_routes"`
}

type pongPayload struct {
	Timestamp time.Time `json:"timestamp"`
}

type fallbackPayload struct {
	AgentVersion    string   `json:"agent_version"`
	UnknownType     string   `json:"unknown_type"`
	SupportedTypes  []string `json:"supported_types"`
	FallbackMode    string   `json:"fallback_mode"`
	ProtocolVersion string   `json:"protocol_version"`
	Timestamp       string   `json:"timestamp"`
	OriginalID      string   `json:"original_request_id,omitempty"`
}

// supportedTypes is the list of control-channel.md §4.3.
var supportedTypes = []string{"register_success", "register_in_progress", "heartbeat_ack", "pong", "ping",
	"proxy_request", "proxy_request_chunk", "proxy_request_stream_end", "proxy_cancel", "proxy_stream_data",
	"proxy_websocket_start", "proxy_websocket_data", "proxy_websocket_close", "ws_start", "ws_data", "ws_close", "error"}

// proxyRequest holds the fields of control-channel.md §8.1 that are used here.
type proxyRequest struct {
	Method         string            `json:"method"`
	Path           string            `json:"path"`
	Query          string            `json:"query"`
	Headers        map[string]values `json:"headers"`
	Body           json.RawMessage   `json:"body"`
	BodyEncoding   string            `json:"body_encoding"`
	BodyBinary     bool              `json:"body_binary"`
	UseStreaming   bool              `json:"use_streaming"`
	Streaming      bool              `json:"streaming"`
	StreamResponse bool              `json:"supports_response_streaming"`
	Deadline       string            `json:"deadline"` // ignored if it is no RFC 3339 time
	Timeout        timeout           `json:"timeout"`
	IsWebSocket    bool              `json:"is_websocket"`
	ServiceName    string            `json:"service_name"`
}

// values is an array of strings or a single one.
type values []string

func (v *values) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*v = make(values, 1)
		return json.Unmarshal(data, &(*v)[0])
	}
	return json.Unmarshal(data, (*[]string)(v))
}

// timeout is a number of milliseconds or a string like "45s".
type timeout time.Duration

func (t *timeout) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		d, err := time.ParseDuration(text)
		*t = timeout(d)
		return err
	}
	var ms float64
	err := json.Unmarshal(data, &ms)
	*t = timeout(ms * float64(time.Millisecond))
	return err
}

type responsePayload struct {
	Status   int                 `json:"status"`
	Headers  map[string][]string `json:"headers"`
	Body     []byte              `json:"body,omitempty"` // base64 by encoding/json
	Encoding string              `json:"encoding,omitempty"`
}

type headerPayload struct {
	Status  int                 `json:"status"`
	Headers map[string][]string `json:"headers"`
}

type chunkPayload struct {
	Data     []byte `json:"data"`
	Encoding string `json:"encoding"`
	Size     int    `json:"size"`
}

type errorPayload struct {
	Error string `json:"error"`
}
