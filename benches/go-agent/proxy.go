package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	defaultTimeout = 2 * time.Minute
	chunkSize      = 32 * 1024
	gzipMinimum    = 1024
)

// Headers that end here: those of one connection, in both directions, and
// what net/http sets by itself.
var (
	hopByHop = []string{"Connection", "Transfer-Encoding", "Keep-Alive", "Proxy-Authenticate",
		"Proxy-Authorization", "Te", "Trailers", "Upgrade"}
	notForwarded = append([]string{"Host", "Content-Length"}, hopByHop...)
)

// context carries the request's limit: deadline, else timeout, else two
// minutes for form B and none for form S.
func (p *proxyRequest) context(parent context.Context) (context.Context, context.CancelFunc) {
	if deadline, err := time.Parse(time.RFC3339, p.Deadline); err == nil && !deadline.IsZero() {
		return context.WithDeadline(parent, deadline)
	}
	if p.Timeout > 0 {
		return context.WithTimeout(parent, time.Duration(p.Timeout))
	}
	if p.StreamResponse {
		return context.WithCancel(parent)
	}
	return context.WithTimeout(parent, defaultTimeout)
}

// proxy executes one request. The error it returns is of sending; what goes
// wrong on the way to the target is told to the peer.
func (l *link) proxy(ctx context.Context, id string, p proxyRequest) error {
	if p.wantsUpgrade() {
		return l.openStream(ctx, id, p)
	}
	answer, err := l.agent.roundTrip(ctx, p)
	if err != nil {
		return l.fail(ctx, id, p, fmt.Errorf("kubernetes API request failed: %w", err), false)
	}
	defer answer.Body.Close()
	for _, name := range hopByHop {
		answer.Header.Del(name)
	}
	if p.StreamResponse {
		return l.stream(ctx, id, p, answer)
	}
	return l.buffer(ctx, id, p, answer)
}

// roundTrip sends the request to the Kubernetes API, as the caller named in
// its Authorization header.
func (a *agent) roundTrip(ctx context.Context, p proxyRequest) (*http.Response, error) {
	if p.ServiceName != "" || p.BodyBinary || p.UseStreaming || p.Streaming {
		return nil, errors.New("not supported by this agent")
	}
	body, err := p.body()
	if err != nil {
		return nil, err
	}
	target := *a.kube
	target.Path = strings.TrimSuffix(target.Path, "/") + "/" + strings.TrimPrefix(p.Path, "/")
	target.RawQuery = p.Query
	request, err := http.NewRequestWithContext(ctx, strings.ToUpper(p.Method), target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, values := range p.Headers {
		for _, value := range values {
			request.Header.Add(name, value)
		}
	}
	for _, name := range notForwarded {
		request.Header.Del(name)
	}
	return a.client.Do(request)
}

// body is a string, in base64 or as it is, or JSON, as it came.
func (p *proxyRequest) body() ([]byte, error) {
	if len(p.Body) == 0 || string(p.Body) == "null" {
		return nil, nil
	}
	if p.Body[0] != '"' {
		return p.Body, nil
	}
	var text string
	if err := json.Unmarshal(p.Body, &text); err != nil {
		return nil, err
	}
	if strings.EqualFold(p.BodyEncoding, "base64") {
		return base64.StdEncoding.DecodeString(text)
	}
	return []byte(text), nil
}

// buffer is form B: the whole answer in one message, text of 1 KiB and more
// compressed.
func (l *link) buffer(ctx context.Context, id string, p proxyRequest, answer *http.Response) error {
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return l.fail(ctx, id, p, err, false)
	}
	payload := responsePayload{Status: answer.StatusCode, Headers: answer.Header}
	if len(body) > 0 {
		payload.Body, payload.Encoding = body, "base64"
	}
	if len(body) >= gzipMinimum && isText(answer.Header.Get("Content-Type")) {
		if payload.Body, err = compress(body); err != nil {
			return l.fail(ctx, id, p, err, false)
		}
		payload.Encoding = "gzip"
	}
	l.forget(id)
	return l.send("proxy_response", id, payload)
}

func isText(contentType string) bool {
	in := func(words ...string) bool {
		for _, word := range words {
			if strings.Contains(contentType, word) {
				return true
			}
		}
		return false
	}
	return in("text/", "json", "javascript", "xml", "html", "yaml") &&
		!in("gzip", "compress", "zip", "image/", "video/", "audio/")
}

var compressors = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

func compress(body []byte) ([]byte, error) {
	w := compressors.Get().(*gzip.Writer)
	defer compressors.Put(w)
	var packed bytes.Buffer
	w.Reset(&packed)
	if _, err := w.Write(body); err != nil {
		return nil, err
	}
	err := w.Close()
	return packed.Bytes(), err
}

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// stream is form S: the header, what arrives as it arrives, the end.
func (l *link) stream(ctx context.Context, id string, p proxyRequest, answer *http.Response) error {
	if err := l.send("proxy_response_header", id, headerPayload{answer.StatusCode, answer.Header}); err != nil {
		l.forget(id)
		return err
	}
	buffer := chunks.Get().(*[chunkSize]byte)
	defer chunks.Put(buffer)
	for {
		n, err := answer.Body.Read(buffer[:])
		if n > 0 {
			if err := l.send("proxy_response_chunk", id, chunkPayload{buffer[:n], "base64", n}); err != nil {
				l.forget(id)
				return err
			}
		}
		if err == io.EOF {
			l.forget(id)
			return l.send("proxy_response_end", id, struct{}{})
		}
		if err != nil {
			return l.fail(ctx, id, p, err, true)
		}
	}
}

// fail ends a request with the error its form has for that. A request that
// was cancelled before its header ends in silence.
func (l *link) fail(ctx context.Context, id string, p proxyRequest, err error, started bool) error {
	cancelled := errors.Is(ctx.Err(), context.Canceled)
	l.forget(id)
	switch {
	case cancelled && !started:
		return nil
	case p.StreamResponse:
		return l.send("proxy_response_abort", id, errorPayload{err.Error()})
	}
	return l.send("proxy_error", id, errorPayload{err.Error()})
}
