package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
)

// Answers to proxied requests (§8.6).

var (
	httpStatus = literalThat("an HTTP status", regexp.MustCompile(`^(101|[2-5][0-9][0-9])$`))
	// headers are an object of non-empty string arrays with names in Go's
	// canonical form.
	headers = func(raw json.RawMessage) error {
		if err := mapOf(listOf(anyString))(raw); err != nil {
			return err
		}
		for name, values := range headersOf(raw) {
			if name == "" || name != textproto.CanonicalMIMEHeaderKey(name) {
				return fmt.Errorf("header name %q is not in canonical form", name)
			}
			if len(values) == 0 {
				return fmt.Errorf("header %q has no value", name)
			}
		}
		return nil
	}
	hopByHop = []string{"Connection", "Transfer-Encoding", "Keep-Alive", "Proxy-Authenticate",
		"Proxy-Authorization", "Te", "Trailers", "Upgrade"}
)

func headersOf(raw json.RawMessage) map[string][]string {
	var values map[string][]string
	_ = json.Unmarshal(raw, &values) // null or checked before
	return values
}

// response is the common part of both response forms.
type response struct {
	Status   int             `json:"status"`
	Headers  json.RawMessage `json:"headers"`
	Body     string          `json:"body"`
	Encoding string          `json:"encoding"`
}

func parseResponse(payload json.RawMessage) (r response, err error) {
	err = json.Unmarshal(payload, &r)
	return r, err
}

// decoded is the body as the target sent it.
func (r response) decoded() ([]byte, error) {
	body, err := decodeBase64(r.Body)
	if err != nil || r.Encoding != "gzip" {
		return body, err
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(unpacked)
}

func checkHopByHop(e envelope) error {
	r, err := parseResponse(e.payload)
	if err != nil {
		return err
	}
	for name := range headersOf(r.Headers) {
		kept := r.Status == 101 && (name == "Connection" || name == "Upgrade")
		if slices.Contains(hopByHop, name) && !kept {
			return fmt.Errorf("hop-by-hop header %q", name)
		}
	}
	return nil
}

func checkResponse(e envelope) error {
	r, err := parseResponse(e.payload)
	if err != nil {
		return err
	}
	if (r.Body == "") != (r.Encoding == "") {
		return errors.New("body and encoding must come together")
	}
	body, err := r.decoded()
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if want := len(body) >= 1024 && isText(headersOf(r.Headers)["Content-Type"]); want != (r.Encoding == "gzip") {
		return fmt.Errorf("encoding %q of a body of %d bytes, Content-Type %q, breaks the gzip rule",
			r.Encoding, len(body), headersOf(r.Headers)["Content-Type"])
	}
	return checkHopByHop(e)
}

// isText is the gzip rule's test of the Content-Type.
func isText(values []string) bool {
	if len(values) == 0 {
		return false
	}
	in := func(word string) bool { return strings.Contains(strings.ToLower(values[0]), word) }
	return slices.ContainsFunc([]string{"text/", "json", "javascript", "xml", "html", "yaml"}, in) &&
		!slices.ContainsFunc([]string{"gzip", "compress", "zip", "image/", "video/", "audio/"}, in)
}

const maxChunk = 32 * 1024 // decoded bytes in one proxy_response_chunk

func checkChunk(e envelope) error {
	var p struct {
		Data string `json:"data"`
		Size int    `json:"size"`
	}
	if err := json.Unmarshal(e.payload, &p); err != nil {
		return err
	}
	data, err := decodeBase64(p.Data)
	switch {
	case err != nil:
		return err
	case len(data) != p.Size:
		return fmt.Errorf("size is %d, data has %d bytes", p.Size, len(data))
	case len(data) > maxChunk:
		return fmt.Errorf("chunk of %d bytes, at most %d are allowed", len(data), maxChunk)
	}
	return nil
}
