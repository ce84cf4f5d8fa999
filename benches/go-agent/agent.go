package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
)

const (
	version        = "1.0.0-bench"
	controllerPath = "/api/v1/clusters/agent/ws"
	registerLimit  = 30 * time.Second
	firstDelay     = 500 * time.Millisecond
	maxDelay       = 15 * time.Second
)

// agent is what outlives a connection.
type agent struct {
	options
	controller *url.URL
	controlTLS *tls.Config
	kube       *url.URL
	client     *http.Client
	clusterID  string
}

// run registers, then serves the gateway (or the controller, if that names no
// gateway) until ctx ends, and redials whenever the connection is lost.
func (a *agent) run(ctx context.Context) error {
	target := a.controllerURL()
	l, err := a.dialUntil(ctx, target)
	if err != nil {
		return err
	}
	gateway, err := a.register(ctx, l)
	if err != nil {
		l.close()
		return err
	}
	if gateway != "" {
		l.close()
		target = gateway
		if l, err = a.dialUntil(ctx, target); err != nil {
			return err
		}
	}
	for {
		a.serve(ctx, l)
		if ctx.Err() != nil {
			return nil
		}
		log.Println("connection lost:", l.err)
		if err := sleep(ctx, firstDelay); err != nil {
			return nil
		}
		if l, err = a.dialUntil(ctx, target); err != nil {
			return err
		}
	}
}

func (a *agent) controllerURL() string {
	u := *a.controller
	u.Scheme = webSocketScheme(u.Scheme)
	u.Path = controllerPath
	return u.String()
}

// gatewayURL adds the seven parameters of control-channel.md §2.1.
func gatewayURL(given, clusterUUID string, tunnels bool) (string, error) {
	u, err := url.Parse(given)
	if err != nil {
		return "", err
	}
	u.Scheme = webSocketScheme(u.Scheme)
	if u.Path == "" {
		u.Path = "/ws"
	}
	query := u.Query()
	query.Set("cluster_uuid", clusterUUID)
	query.Set("agent_version", version)
	query.Set("supports_streaming", "true")
	query.Set("supports_binary", "true")
	query.Set("supports_websocket", "true")
	query.Set("supports_yamux", strconv.FormatBool(tunnels))
	query.Set("supports_response_streaming", "true")
	u.RawQuery = query.Encode()
	return u.String(), nil
}

func webSocketScheme(scheme string) string {
	switch scheme {
	case "https":
		return "wss"
	case "http":
		return "ws"
	}
	return scheme
}

// dialUntil dials with a growing delay until it succeeds. A refused token is
// an error at once.
func (a *agent) dialUntil(ctx context.Context, target string) (*link, error) {
	dialer := websocket.Dialer{
		TLSClientConfig:  a.controlTLS,
		HandshakeTimeout: 30 * time.Second,
		ReadBufferSize:   64 << 10,
		WriteBufferSize:  64 << 10, // a full chunk message in one frame
	}
	header := http.Header{"Authorization": {"Bearer " + a.token}}
	for delay := firstDelay; ; delay = min(2*delay, maxDelay) {
		ws, answer, err := dialer.DialContext(ctx, target, header)
		if err == nil {
			return newLink(a, ws), nil
		}
		if answer != nil && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden) {
			return nil, fmt.Errorf("refused with status %d", answer.StatusCode)
		}
		log.Println("dial:", err)
		if err := sleep(ctx, delay); err != nil {
			return nil, err
		}
	}
}

// register returns the gateway's URL, complete, or "" to stay.
func (a *agent) register(ctx context.Context, l *link) (string, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return "", err
	}
	id := fmt.Sprintf("req_%d_%s", time.Now().UnixNano(), a.agentID)
	err = l.send("register", id, registerPayload{
		AgentID: a.agentID, Name: a.clusterName, Hostname: hostname, AgentVersion: version,
		ServerIP: "0.0.0.0", Region: "unknown-country", CloudProvider: "agent",
		TunnelPorts: map[string]int{"kubernetes_api": 6443, "kubelet": 10250, "agent_http": 8080},
		Labels:      map[string]string{"hostname": hostname, "agent.pipeops.io/version": version},
		ServerSpecs: map[string]any{"cpu_cores": runtime.NumCPU(), "os": "linux"},
		Features: map[string]bool{"supports_streaming": true, "supports_binary_protocol": true,
			"supports_compression": true, "supports_websocket_proxy": true, "supports_gateway": true,
			"supports_response_streaming": true},
		Metadata: map[string]string{"agent_mode": "vm-agent", "registration_mode": "fresh",
			"registration_timestamp": time.Now().Format(time.RFC3339)},
	})
	if err != nil {
		return "", err
	}
	timeout := time.After(registerLimit)
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-l.done:
			return "", l.err
		case <-timeout:
			return "", errors.New("no answer to register")
		case answer := <-l.registration:
			if answer.RequestID != id {
				continue
			}
			var p struct {
				ClusterID   string `json:"cluster_id"`
				ClusterUUID string `json:"cluster_uuid"`
				GatewayURL  string `json:"gateway_ws_url"`
				Error       string `json:"error"`
			}
			if err := json.Unmarshal(answer.Payload, &p); err != nil {
				return "", err
			}
			if answer.Type == "error" || p.ClusterID == "" {
				return "", fmt.Errorf("registration refused: %s", p.Error)
			}
			a.clusterID = p.ClusterID
			if p.GatewayURL == "" {
				return "", nil
			}
			if p.ClusterUUID == "" {
				p.ClusterUUID = p.ClusterID
			}
			return gatewayURL(p.GatewayURL, p.ClusterUUID, a.tunnels)
		}
	}
}

// serve sends heartbeats until the connection or ctx ends.
func (a *agent) serve(ctx context.Context, l *link) {
	ticker := time.NewTicker(a.heartbeat)
	defer ticker.Stop()
	for {
		if a.logAcks {
			select {
			case l.beats <- time.Now():
			default: // so many acks are missing that none can be told
			}
		}
		err := l.send("heartbeat", "", heartbeatPayload{
			ClusterID: a.clusterID, AgentID: a.agentID, Status: "healthy", TunnelStatus: "connected",
			Metadata: heartbeatMetadata{AgentVersion: version, CPU: "0%", Memory: "0%", Private: true},
		})
		if err != nil {
			log.Println("heartbeat:", err)
		}
		select {
		case <-ctx.Done():
			l.close()
			return
		case <-l.done:
			return
		case <-ticker.C:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
