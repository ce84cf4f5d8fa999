package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// plan is what a job's streams do; see ../README.md.
type plan struct {
	Job      string        `json:"job"`
	Header   *streamHeader `json:"header"` // absent: no header is sent
	Pieces   bool          `json:"pieces"` // the header in nine writes, as the original's encoder does
	Count    int           `json:"count"`  // streams; default 1; -1: until stopped
	Parallel int           `json:"parallel"`
	AtOnce   int           `json:"at_once"` // streams that may be before their gate; 0: all
	Bulk     bool          `json:"bulk"`    // no checksums, no event for each stream
	Steps    []step        `json:"steps"`
}

// step is one of these.
type step struct {
	Send      *int64   `json:"send"`    // bytes; -1: until stopped
	Receive   *int64   `json:"receive"` // exactly so many; -1: until stopped
	Drain     bool     `json:"drain"`   // receive until the end
	Say       string   `json:"say"`     // send this text
	Expect    string   `json:"expect"`  // receive exactly this text
	Finish    bool     `json:"finish"`  // FIN
	Reset     bool     `json:"reset"`   // RST
	Gate      string   `json:"gate"`    // wait for the command `gate`
	Trips     int      `json:"trips"`   // echoes, one after the other; -1: until stopped
	Size      int      `json:"size"`    // bytes of each
	Datagrams []int    `json:"datagrams"`
	Both      [][]step `json:"both"` // side by side
}

// job is a running plan.
type job struct {
	plan
	g       *gateway
	tunnel  *tunnel
	begun   time.Time
	next    atomic.Int64 // streams begun
	in, out atomic.Int64 // bytes
	waiting atomic.Int64 // streams at a gate
	places  chan struct{}
	stopped chan struct{}
	done    chan struct{}

	mu        sync.Mutex
	live      map[*yamux.Stream]bool
	ends      map[string]int
	errors    []string
	latencies []uint32 // µs: of trips, or of whole streams without any
	ended     time.Time
}

func (g *gateway) startJob(t *tunnel, p plan) (*job, error) {
	if t.session == nil {
		return nil, fmt.Errorf("streams need the library: the session is raw")
	}
	if p.Count == 0 {
		p.Count = 1
	}
	if p.Parallel == 0 {
		p.Parallel = max(p.Count, 1)
	}
	j := &job{plan: p, g: g, tunnel: t, begun: time.Now(), stopped: make(chan struct{}), done: make(chan struct{}),
		live: map[*yamux.Stream]bool{}, ends: map[string]int{}}
	g.mu.Lock()
	other := g.jobs[p.Job]
	g.jobs[p.Job] = j
	g.mu.Unlock()
	if other != nil && !other.isDone() {
		return nil, fmt.Errorf("job %q is running", p.Job)
	}
	if p.AtOnce == 0 {
		p.AtOnce = p.Parallel
	}
	j.places = make(chan struct{}, p.AtOnce)
	var workers sync.WaitGroup
	for range p.Parallel {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for !j.isStopped() {
				number := j.next.Add(1)
				if p.Count > 0 && number > int64(p.Count) {
					return
				}
				j.one(int(number))
			}
		}()
	}
	go func() {
		workers.Wait()
		j.mu.Lock()
		j.ended = time.Now()
		j.mu.Unlock()
		g.events.emit("job", j.summary())
		close(j.done)
	}()
	return j, nil
}

// one runs one stream from its SYN to its end.
func (j *job) one(number int) {
	j.places <- struct{}{}
	begun := time.Now()
	stream, err := j.tunnel.session.OpenStream()
	if err != nil {
		<-j.places
		j.note("open", err, 0, 0)
		j.emit(event{"number": number, "end": "open", "error": err.Error()})
		if !j.isStopped() {
			time.Sleep(10 * time.Millisecond) // a session that has ended is not tried a million times
		}
		return
	}
	j.enter(stream)
	run := newCourse(j, stream, number)
	err = run.header()
	if err == nil {
		err = run.steps(j.Steps)
	}
	end := run.close(err)
	run.leavePlace()
	j.leave(stream)
	j.note(end, err, time.Since(begun), run.trips)
	shown := event{"number": number, "stream": stream.StreamID(), "end": end, "sent": run.sent, "received": run.received}
	if !j.Bulk {
		shown["sent_sha256"], shown["received_sha256"] = run.sums()
	}
	if err != nil {
		shown["error"] = err.Error()
	}
	j.emit(shown)
}

func (j *job) emit(shown event) {
	if j.Bulk {
		return
	}
	shown["conn"], shown["job"] = j.tunnel.link.name, j.Job
	j.g.events.emit("stream", shown)
}

func (j *job) enter(stream *yamux.Stream) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.live[stream] = true
	if j.isStopped() {
		_ = stream.SetDeadline(past)
	}
}

func (j *job) leave(stream *yamux.Stream) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.live, stream)
}

func (j *job) note(end string, err error, took time.Duration, trips int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ends[end]++
	if err != nil && len(j.errors) < 5 {
		j.errors = append(j.errors, err.Error())
	}
	if err == nil && trips == 0 {
		j.latencies = append(j.latencies, uint32(took.Microseconds()))
	}
}

func (j *job) trip(took time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.latencies = append(j.latencies, uint32(took.Microseconds()))
}

// stop ends all that has no end of its own.
func (j *job) stop() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.isStopped() {
		return
	}
	close(j.stopped)
	for stream := range j.live {
		_ = stream.SetDeadline(past)
	}
}

func (j *job) isStopped() bool { return isClosed(j.stopped) }
func (j *job) isDone() bool    { return isClosed(j.done) }

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// progress is how far it is.
func (j *job) progress() event {
	j.mu.Lock()
	live := len(j.live)
	j.mu.Unlock()
	return event{"job": j.Job, "in": j.in.Load(), "out": j.out.Load(), "live": live, "waiting": j.waiting.Load(),
		"us": time.Since(j.begun).Microseconds()}
}

// summary is what it has come to. Times are for benchmarks.
func (j *job) summary() event {
	shown := j.progress()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.ended.IsZero() {
		shown["us"] = j.ended.Sub(j.begun).Microseconds()
	}
	shown["ends"], shown["errors"] = j.ends, j.errors
	slices.Sort(j.latencies)
	if n := len(j.latencies); n > 0 {
		at := func(share float64) uint32 { return j.latencies[min(int(share*float64(n)), n-1)] }
		shown["trips"] = n
		shown["p50_us"], shown["p99_us"], shown["max_us"] = at(0.5), at(0.99), j.latencies[n-1]
	}
	return shown
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)
