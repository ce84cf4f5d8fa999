package main

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A check looks at one JSON value. The tables in messages.go are made of them.
type check func(json.RawMessage) error

// field is a member of an object: its name, whether it must be there, what it
// must be.
type field struct {
	name  string
	need  bool
	check check
}

func required(name string, c check) field { return field{name, true, c} }
func optional(name string, c check) field { return field{name, false, c} }

// object allows the named members and no others.
func object(fields ...field) check {
	return func(raw json.RawMessage) error {
		members, err := parseObject(raw)
		if err != nil {
			return err
		}
		for _, m := range members {
			i := slices.IndexFunc(fields, func(f field) bool { return f.name == m.name })
			if i < 0 {
				return fmt.Errorf("unknown field %q", m.name)
			}
			if err := fields[i].check(m.value); err != nil {
				return fmt.Errorf("field %q: %w", m.name, err)
			}
		}
		for _, f := range fields {
			if f.need && !slices.ContainsFunc(members, func(m member) bool { return m.name == f.name }) {
				return fmt.Errorf("field %q is missing", f.name)
			}
		}
		return nil
	}
}

// mapOf is an object with any names and values of one kind.
func mapOf(value check) check {
	return func(raw json.RawMessage) error {
		members, err := parseObject(raw)
		if err != nil {
			return err
		}
		for _, m := range members {
			if err := value(m.value); err != nil {
				return fmt.Errorf("%q: %w", m.name, err)
			}
		}
		return nil
	}
}

func listOf(value check) check {
	return func(raw json.RawMessage) error {
		var items []json.RawMessage
		if raw[0] != '[' || json.Unmarshal(raw, &items) != nil {
			return fmt.Errorf("%s is no array", short(raw))
		}
		for i, item := range items {
			if err := value(item); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
		}
		return nil
	}
}

func orNull(c check) check {
	return func(raw json.RawMessage) error {
		if string(raw) == "null" {
			return nil
		}
		return c(raw)
	}
}

// constant is exactly this JSON value, whatever its spacing.
func constant(want string) check {
	return func(raw json.RawMessage) error {
		var a, b any
		if json.Unmarshal(raw, &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
			return fmt.Errorf("%s is no JSON", short(raw))
		}
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if !bytes.Equal(x, y) {
			return fmt.Errorf("is %s, must be %s", short(raw), want)
		}
		return nil
	}
}

// stringThat is a string for which test holds.
func stringThat(what string, test func(string) bool) check {
	return func(raw json.RawMessage) error {
		var s string
		if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
			return fmt.Errorf("%s is no string", short(raw))
		}
		if !test(s) {
			return fmt.Errorf("%s is not %s", short(raw), what)
		}
		return nil
	}
}

var (
	anyString = stringThat("a string", func(string) bool { return true })
	text      = stringThat("a non-empty string", func(s string) bool { return s != "" })
	timestamp = stringThat("an RFC 3339 time", isTimestamp)
	wholeTime = stringThat("an RFC 3339 time in whole seconds", func(s string) bool {
		return isTimestamp(s) && !strings.Contains(s, ".")
	})
	base64Text = stringThat("base64 with padding", func(s string) bool {
		_, err := decodeBase64(s)
		return s != "" && err == nil
	})
	certificates = stringThat("base64 of PEM certificates", func(s string) bool {
		rest, err := decodeBase64(s)
		for err == nil && len(rest) > 0 {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
				return false
			}
			_, err = x509.ParseCertificate(block.Bytes)
		}
		return s != "" && err == nil
	})
	boolean  = literalThat("a boolean", regexp.MustCompile(`^(true|false)$`))
	count    = literalThat("a whole number", regexp.MustCompile(`^(0|[1-9][0-9]{0,17})$`))
	positive = literalThat("a positive whole number", regexp.MustCompile(`^[1-9][0-9]{0,17}$`))
)

func oneOf(words ...string) check {
	return stringThat("one of "+strings.Join(words, ", "), func(s string) bool { return slices.Contains(words, s) })
}

func literalThat(what string, pattern *regexp.Regexp) check {
	return func(raw json.RawMessage) error {
		if !pattern.Match(raw) {
			return fmt.Errorf("%s is not %s", short(raw), what)
		}
		return nil
	}
}

var timestampForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$`)

func isTimestamp(s string) bool {
	_, err := time.Parse(time.RFC3339Nano, s)
	return err == nil && timestampForm.MatchString(s)
}

// decodeBase64 is standard base64 with padding and without the line breaks
// that Go's decoder would skip.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line break in base64")
	}
	return base64.StdEncoding.Strict().DecodeString(s)
}

// member is one name and value of an object, in the order of the wire.
type member struct {
	name  string
	value json.RawMessage
}

// parseObject keeps the order of the members and refuses a name that comes
// twice, which encoding/json would let pass.
func parseObject(raw []byte) ([]member, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if start, err := decoder.Token(); err != nil {
		return nil, fmt.Errorf("malformed JSON: %w", err)
	} else if start != json.Delim('{') {
		return nil, fmt.Errorf("%s is no object", short(raw))
	}
	var members []member
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, fmt.Errorf("malformed JSON: %w", err)
		}
		m := member{name: name.(string)} // in an object, More is followed by a name
		if err := decoder.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("malformed JSON: %w", err)
		}
		if slices.ContainsFunc(members, func(other member) bool { return other.name == m.name }) {
			return nil, fmt.Errorf("field %q comes twice", m.name)
		}
		members = append(members, m)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, fmt.Errorf("malformed JSON: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return members, nil
}

// envelope is a message of the agent whose form has been checked.
type envelope struct {
	kind    string // "type" on the wire
	id      string // "request_id", empty if absent
	payload json.RawMessage
}

// str reads a string member of the payload; empty if it isn't there.
func (e envelope) str(name string) string {
	value, _ := stringMember(e.payload, name)
	return value
}

// parseEnvelope accepts exactly §3: type, request_id (absent when there is
// none), payload, timestamp, in this order, and one line feed behind it at
// most.
func parseEnvelope(data []byte) (envelope, error) {
	var e envelope
	if !utf8.Valid(data) {
		return e, errors.New("text is not UTF-8")
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	if bytes.HasSuffix(data, []byte("\n")) {
		return e, errors.New("more than one line feed at the end")
	}
	members, err := parseObject(data)
	if err != nil {
		return e, err
	}
	names := make([]string, 0, len(members))
	for _, m := range members {
		names = append(names, m.name)
	}
	order := strings.Join(names, " ")
	if order != "type request_id payload timestamp" && order != "type payload timestamp" {
		return e, fmt.Errorf("envelope fields are %q, must be type, request_id (or absent), payload, timestamp", order)
	}
	for _, m := range members {
		want := map[string]check{"type": text, "request_id": text, "payload": mapOf(anything), "timestamp": timestamp}[m.name]
		if err := want(m.value); err != nil {
			return e, fmt.Errorf("envelope field %q: %w", m.name, err)
		}
	}
	_ = json.Unmarshal(members[0].value, &e.kind) // both were checked to be strings
	if len(members) == 4 {
		_ = json.Unmarshal(members[1].value, &e.id)
	}
	e.payload = members[len(members)-2].value
	return e, nil
}

func anything(json.RawMessage) error { return nil }

// stringMember reads one string out of an object, also of the peer's own,
// unchecked messages.
func stringMember(raw json.RawMessage, name string) (string, bool) {
	var members map[string]any
	if json.Unmarshal(raw, &members) != nil {
		return "", false
	}
	value, ok := members[name].(string)
	return value, ok
}

// short keeps failures readable.
func short(raw []byte) string {
	const limit = 120
	if len(raw) <= limit {
		return string(raw)
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(string(raw[:limit]), ""), len(raw))
}
