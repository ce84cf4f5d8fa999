package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"sync"
	"time"
)

// event is one line on stdout. Keys by kind are listed in ../README.md; "seq",
// "t_ms" and "event" are in each.
type event map[string]any

// maxRemembered bounds what `expect` can still find. A test that lets more
// pass without looking at it doesn't use `expect`.
const maxRemembered = 10_000

// events prints what happens and remembers it for `expect`.
type events struct {
	mu      sync.Mutex
	out     io.Writer
	start   time.Time
	seq     int
	open    []remembered  // printed, not yet taken by an expect
	changed chan struct{} // closed and replaced at each new event
	failed  []string
}

// remembered is an event, and what it is as JSON: patterns are JSON too.
type remembered struct {
	event
	decoded any
}

func newEvents(out io.Writer) *events {
	return &events{out: out, start: time.Now(), changed: make(chan struct{})}
}

// ready prints the first line, which is not an event.
func (e *events) ready(line map[string]any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.print(line)
}

// emit prints an event of the given kind and records what was wrong with it,
// in one step: who has seen the event and ends the run at once still gets the
// failures in the exit code.
func (e *events) emit(kind string, fields event, problems ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.add(kind, fields)
	conn, _ := fields["conn"].(string)
	for _, problem := range problems {
		e.addFailure(conn, problem)
	}
}

// fail records a failure that belongs to no event.
func (e *events) fail(conn, format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addFailure(conn, fmt.Sprintf(format, args...))
}

func (e *events) addFailure(conn, text string) {
	fields := event{"text": text}
	if conn != "" {
		fields["conn"] = conn
		text = conn + ": " + text
	}
	e.failed = append(e.failed, text)
	e.add("failure", fields)
}

func (e *events) failures() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.failed...)
}

// take waits for an event that matches and takes it out of the memory, so
// that the next expect finds another one. It returns its number.
func (e *events) take(pattern map[string]any, limit time.Duration) (int, bool) {
	timeout := time.After(limit)
	for {
		e.mu.Lock()
		for i, candidate := range e.open {
			if candidate.matches(pattern) {
				e.open = append(e.open[:i:i], e.open[i+1:]...)
				e.mu.Unlock()
				return candidate.event["seq"].(int), true
			}
		}
		changed := e.changed
		e.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			return 0, false
		}
	}
}

func (e *events) add(kind string, fields event) {
	e.seq++
	fields["event"], fields["seq"] = kind, e.seq
	fields["t_ms"] = time.Since(e.start).Milliseconds()
	line := e.print(fields)
	if kind == "done" {
		return // the answer to a command, nothing that happened
	}
	var decoded any
	_ = json.Unmarshal(line, &decoded) // just encoded
	e.open = append(e.open, remembered{fields, decoded})
	if len(e.open) > maxRemembered {
		e.open = e.open[1:]
	}
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *events) print(value any) []byte {
	line, err := encode(value)
	if err != nil {
		panic(err) // the values are ours: maps, strings, numbers, checked raw JSON
	}
	// An error means that the driver is gone; EOF on stdin will follow.
	_, _ = e.out.Write(line)
	return line
}

// matches tells whether everything in the pattern is in the event too:
// objects by their named members, all else by equality.
func (r remembered) matches(pattern map[string]any) bool {
	return contains(pattern, r.decoded)
}

func contains(pattern, value any) bool {
	object, ok := pattern.(map[string]any)
	if !ok {
		return reflect.DeepEqual(pattern, value)
	}
	members, ok := value.(map[string]any)
	if !ok {
		return false
	}
	for name, wanted := range object {
		actual, there := members[name]
		if !there || !contains(wanted, actual) {
			return false
		}
	}
	return true
}
