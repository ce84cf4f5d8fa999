package main

import (
	"fmt"
	"log"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// logHistory is how many lines every container has written before anybody asks.
const logHistory = 5

// logsHandler answers `kubectl logs`. Every container of every pod says the
// same: `<namespace>/<pod>/<container> line <n>`, 1 to logHistory at once, and a
// follower gets the next line at once and one more each interval, until it
// leaves.
type logsHandler struct {
	interval time.Duration
	events   *log.Logger
	follows  atomic.Int64
}

func (h *logsHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if query.Get("previous") == "true" {
		http.Error(w, "previous terminated container not found", http.StatusBadRequest)
		return
	}
	first := 1
	if text := query.Get("tailLines"); text != "" {
		tail, err := strconv.Atoi(text)
		if err != nil || tail < 0 {
			http.Error(w, "tailLines is not a count: "+text, http.StatusBadRequest)
			return
		}
		first = max(1, logHistory-tail+1)
	}

	out := &lineWriter{
		w:          w,
		target:     r.PathValue("namespace") + "/" + r.PathValue("pod") + "/" + r.PathValue("container"),
		timestamps: query.Get("timestamps") == "true",
	}
	w.Header().Set("Content-Type", "text/plain")
	for n := first; n <= logHistory; n++ {
		if out.line(n) != nil {
			return
		}
	}
	if query.Get("follow") == "true" {
		h.follow(out, r.Context().Done())
	}
}

// follow ends when the client goes away: by the end of its connection or, should
// that go unnoticed, by a write that fails.
func (h *logsHandler) follow(out *lineWriter, gone <-chan struct{}) {
	id := h.follows.Add(1)
	n := logHistory
	h.events.Printf("follow-begin id=%d target=%s", id, out.target)
	defer func() { h.events.Printf("follow-end id=%d target=%s last-line=%d", id, out.target, n) }()

	tick := time.NewTicker(h.interval)
	defer tick.Stop()
	for {
		if out.line(n+1) != nil {
			return
		}
		n++
		select {
		case <-gone:
			return
		case <-tick.C:
		}
	}
}

// lineWriter sends each line on its way before it returns.
type lineWriter struct {
	w          http.ResponseWriter
	target     string
	timestamps bool
}

func (l *lineWriter) line(n int) error {
	if l.timestamps {
		if _, err := fmt.Fprint(l.w, time.Now().UTC().Format(time.RFC3339Nano), " "); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(l.w, "%s line %d\n", l.target, n); err != nil {
		return err
	}
	return http.NewResponseController(l.w).Flush()
}
