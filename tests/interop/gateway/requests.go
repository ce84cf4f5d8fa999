package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
	"time"
)

// request is a proxy_request of ours and what came back for it.
type request struct {
	streaming  bool // form S
	head       bool // method HEAD
	upgrade    bool
	k8sStream  bool // upgrade towards the Kubernetes API: answered without 101 (§9.1)
	vague      bool // the agent may fail to understand it: no answer is owed
	bodyOpen   bool // more of its body has to follow
	bodyBinary bool // namely one binary message
	cancelled  bool
	doubles    int // requests with the same id sent while it ran, each owed a proxy_error
	carryEnds  time.Time

	started bool // the header came (form S)
	ended   bool
	status  int
	size    int
	sum     hash.Hash
}

// outcome is a finished request, for the event.
type outcome struct {
	id, result string // response, end, error, abort
	*request
}

// sentRequest notes a proxy_request and the form its answer must have.
func (l *ledger) sentRequest(id string, p map[string]any, isObject bool) {
	if id == "" {
		return
	}
	r := l.requests[id]
	if l.streams[id].live() && r == nil {
		r = &request{ended: true} // a stream by a start
		l.requests[id] = r
	}
	if r != nil && !r.cancelled && (!r.ended || l.streams[id].live()) {
		r.doubles++
		return
	}
	delete(l.session.carried, carriedKey{l.role, id})
	method, _ := p["method"].(string)
	r = &request{
		streaming:  p["supports_response_streaming"] == true,
		head:       strings.EqualFold(method, "HEAD"),
		upgrade:    isUpgrade(p),
		vague:      !isObject,
		bodyOpen:   p["body_binary"] == true || p["use_streaming"] == true || p["streaming"] == true,
		bodyBinary: p["body_binary"] == true,
		sum:        sha256.New(),
	}
	l.requests[id] = r
	if r.upgrade {
		path, _ := p["path"].(string)
		toService := p["service_name"] != nil && p["namespace"] != nil && p["service_port"] != nil
		r.k8sStream = !toService && (strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/apis/"))
		l.streams[id] = &stream{app: !r.k8sStream, established: r.k8sStream}
	}
}

// isUpgrade is §8.3, step 3.
func isUpgrade(p map[string]any) bool {
	protocol, _ := p["protocol"].(string)
	if p["is_websocket"] == true || p["isWebSocket"] == true || strings.TrimSpace(protocol) != "" {
		return true
	}
	headers, _ := p["headers"].(map[string]any)
	for name, value := range headers {
		if list, ok := value.([]any); ok && len(list) > 0 {
			value = list[0]
		}
		v, _ := value.(string)
		switch strings.ToLower(name) {
		case "upgrade":
			if strings.EqualFold(v, "websocket") {
				return true
			}
		case "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol":
			if strings.TrimSpace(v) != "" {
				return true
			}
		}
	}
	return false
}

// receivedAnswer follows the order of §8.6: a form B request gets one
// proxy_response or proxy_error; form S a header, chunks, then an end or an
// abort, or an abort alone.
func (l *ledger) receivedAnswer(e envelope) (*outcome, error) {
	r := l.requests[e.id]
	if st := l.streams[e.id]; r == nil && st != nil && e.kind == "proxy_error" {
		st.failed = true // its close may follow
		return nil, nil
	}
	if r == nil {
		key := carriedKey{l.role, e.id}
		if r = l.session.carried[key]; r != nil && time.Now().Before(r.carryEnds) {
			l.requests[e.id] = r // of the connection before
			delete(l.session.carried, key)
		} else {
			r = nil
		}
	}
	if r == nil {
		return nil, fmt.Errorf("%s for request %q, which was not sent", e.kind, e.id)
	}
	if r.doubles > 0 && e.kind == "proxy_error" {
		r.doubles-- // the refused twin; the first goes on (T42)
		return nil, nil
	}
	if r.ended {
		return nil, fmt.Errorf("%s for request %q, which already had its outcome", e.kind, e.id)
	}
	if _, has := stringMember(e.payload, "request_id"); has && e.kind == "proxy_error" && !r.k8sStream {
		return nil, fmt.Errorf("payload request_id is only for K8s streams")
	}
	if streamed := e.kind != "proxy_response" && e.kind != "proxy_error"; streamed != r.streaming {
		return nil, fmt.Errorf("%s for request %q, which asked for the other form", e.kind, e.id)
	}

	answer, err := parseResponse(e.payload)
	if err != nil {
		return nil, err
	}
	var result string
	switch e.kind {
	case "proxy_response", "proxy_response_header":
		if r.started {
			return nil, fmt.Errorf("second header for request %q", e.id)
		}
		if answer.Status == 101 && (!r.upgrade || r.k8sStream) {
			return nil, fmt.Errorf("status 101 for request %q, which is no app stream", e.id)
		}
		r.started, r.status = true, answer.Status
		if st := l.streams[e.id]; st != nil && answer.Status == 101 {
			st.established = true
		}
		if e.kind == "proxy_response" {
			result = "response"
			body, _ := answer.decoded() // checked before
			r.add(body)
		}
	case "proxy_response_chunk":
		if !r.started {
			return nil, fmt.Errorf("chunk for request %q before its header", e.id)
		}
		data, _ := decodeBase64(e.str("data"))
		r.add(data)
	case "proxy_response_end":
		if !r.started && !r.k8sStream {
			return nil, fmt.Errorf("end of request %q before its header", e.id)
		}
		result = "end"
	case "proxy_response_abort":
		result = "abort"
	case "proxy_error":
		result = "error"
	}
	if r.head && r.size > 0 {
		return nil, fmt.Errorf("body in the answer to HEAD request %q", e.id)
	}
	if result == "" {
		return nil, nil
	}
	r.ended = true
	return &outcome{id: e.id, result: result, request: r}, nil
}

func (r *request) add(body []byte) {
	r.size += len(body)
	r.sum.Write(body)
}

func (r *request) sha256() string { return hex.EncodeToString(r.sum.Sum(nil)) }
