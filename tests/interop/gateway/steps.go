package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// pieceSize is what the original's copy loops read and write at once.
const pieceSize = 32 << 10

// course is one stream of a job.
type course struct {
	job             *job
	stream          *yamux.Stream
	number          int
	sent, received  int64
	sentSum, gotSum hash.Hash
	ended           string // how reading ended, if it did: eof, reset
	trips           int
	finished        bool
	wasReset        bool
	leftPlace       bool
}

func newCourse(j *job, stream *yamux.Stream, number int) *course {
	return &course{job: j, stream: stream, number: number, sentSum: sha256.New(), gotSum: sha256.New()}
}

func (r *course) header() error {
	h := r.job.Header
	if h == nil {
		return nil
	}
	if r.job.Pieces {
		parts, err := h.fields()
		for _, part := range parts {
			if err == nil {
				_, err = r.stream.Write(part)
			}
		}
		return err
	}
	all, err := h.bytes()
	if err == nil {
		_, err = r.stream.Write(all)
	}
	return err
}

func (r *course) steps(list []step) error {
	for _, s := range list {
		if err := r.step(s); err != nil {
			return err
		}
	}
	return nil
}

func (r *course) step(s step) error {
	switch {
	case s.Send != nil:
		return r.send(*s.Send)
	case s.Receive != nil:
		return r.receive(*s.Receive)
	case s.Drain:
		return r.drain()
	case s.Say != "":
		return r.write([]byte(s.Say))
	case s.Expect != "":
		got := make([]byte, len(s.Expect))
		if err := r.read(got); err != nil {
			return err
		}
		if string(got) != s.Expect {
			return fmt.Errorf("received %q, not %q", got, s.Expect)
		}
		return nil
	case s.Finish:
		r.finished = true
		return r.stream.Close()
	case s.Reset:
		r.wasReset = true
		return r.job.tunnel.reset(r.stream.StreamID())
	case s.Gate != "":
		r.stream.Shrink() // thousands wait at gates
		r.leavePlace()
		r.job.waiting.Add(1)
		defer r.job.waiting.Add(-1)
		select {
		case <-r.job.g.gate(s.Gate):
		case <-r.job.stopped:
		case <-r.job.tunnel.link.done:
		}
		return nil
	case s.Trips != 0:
		return r.roundTrips(s.Trips, s.Size)
	case s.Datagrams != nil:
		for _, size := range s.Datagrams {
			if err := r.roundTrips(1, size); err != nil {
				return err
			}
		}
		return nil
	case s.Both != nil:
		results := make([]error, len(s.Both))
		var all sync.WaitGroup
		for i, side := range s.Both {
			all.Add(1)
			go func() {
				defer all.Done()
				results[i] = r.steps(side)
			}()
		}
		all.Wait()
		return errors.Join(results...)
	}
	return errors.New("a step without anything to do")
}

// send writes the pattern of this stream's number.
func (r *course) send(size int64) error {
	piece := make([]byte, pieceSize)
	if r.job.Bulk {
		fill(piece, uint64(r.number), 0)
	}
	for done := int64(0); size < 0 || done < size; {
		part := piece
		if size >= 0 {
			part = piece[:min(int64(len(piece)), size-done)]
		}
		if !r.job.Bulk {
			fill(part, uint64(r.number), done)
		}
		if err := r.write(part); err != nil {
			return err
		}
		done += int64(len(part))
	}
	return nil
}

func (r *course) write(data []byte) error {
	n, err := r.stream.Write(data)
	r.sent += int64(n)
	r.job.out.Add(int64(n))
	if !r.job.Bulk {
		r.sentSum.Write(data[:n])
	}
	return err
}

func (r *course) receive(size int64) error {
	piece := make([]byte, pieceSize)
	for done := int64(0); size < 0 || done < size; {
		part := piece
		if size >= 0 {
			part = piece[:min(int64(len(piece)), size-done)]
		}
		n, err := r.stream.Read(part)
		r.got(part[:n])
		if err != nil {
			return r.readError(err)
		}
		done += int64(n)
	}
	return nil
}

func (r *course) read(to []byte) error {
	n, err := io.ReadFull(r.stream, to)
	r.got(to[:n])
	if err != nil {
		return r.readError(err)
	}
	return nil
}

func (r *course) drain() error {
	piece := make([]byte, pieceSize)
	for {
		n, err := r.stream.Read(piece)
		r.got(piece[:n])
		if err = r.readError(err); r.ended == "eof" {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (r *course) got(data []byte) {
	r.received += int64(len(data))
	r.job.in.Add(int64(len(data)))
	if !r.job.Bulk {
		r.gotSum.Write(data)
	}
}

// readError notes how reading ended. The death of a session looks like EOF to
// readers (tunnels.md T9).
func (r *course) readError(err error) error {
	switch {
	case err == nil:
	case r.job.tunnel.session.IsClosed():
		r.ended = "session"
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		r.ended = "eof"
	case errors.Is(err, yamux.ErrConnectionReset):
		r.ended = "reset"
	}
	return err
}

// roundTrips sends a piece and waits for the same piece.
func (r *course) roundTrips(count, size int) error {
	out, back := make([]byte, max(size, 1)), make([]byte, max(size, 1))
	for i := 0; count < 0 || i < count; i++ {
		fill(out, uint64(r.number), int64(i*len(out)))
		begun := time.Now()
		if err := r.write(out); err != nil {
			return err
		}
		if err := r.read(back); err != nil {
			return err
		}
		r.trips++
		r.job.trip(time.Since(begun))
		if !bytes.Equal(out, back) {
			return fmt.Errorf("round trip %d: something else came back", i)
		}
	}
	return nil
}

// close ends the stream and says how it ended: eof, reset (by the agent),
// done (nobody read until the end), we-reset, stopped, session, error.
func (r *course) close(err error) string {
	switch {
	case r.wasReset:
		return "we-reset"
	case r.ended == "session" || r.job.tunnel.session.IsClosed():
		return "session"
	case errors.Is(err, yamux.ErrTimeout) || errors.Is(err, os.ErrDeadlineExceeded):
		_ = r.job.tunnel.reset(r.stream.StreamID()) // an error: the session has ended
		if r.job.isStopped() {
			return "stopped"
		}
		return "error"
	case r.ended == "reset" || errors.Is(err, yamux.ErrConnectionReset):
		return "reset"
	}
	if !r.finished {
		_ = r.stream.Close() // likewise
	}
	switch {
	case err != nil && r.ended != "eof":
		return "error"
	case r.ended != "":
		return r.ended
	}
	return "done"
}

// leavePlace lets the next stream begin.
func (r *course) leavePlace() {
	if !r.leftPlace {
		r.leftPlace = true
		<-r.job.places
	}
}

func (r *course) sums() (sent, received string) {
	return hex.EncodeToString(r.sentSum.Sum(nil)), hex.EncodeToString(r.gotSum.Sum(nil))
}

// fill writes the bytes of a stream's pattern from an offset on: 8 at a time,
// SplitMix64 of seed and position, little endian.
func fill(to []byte, seed uint64, from int64) {
	var word [8]byte
	for i := 0; i < len(to); {
		at := uint64(from) + uint64(i)
		binary.LittleEndian.PutUint64(word[:], mix(seed<<40+at/8))
		i += copy(to[i:], word[at%8:])
	}
}

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// gate returns the channel that is closed when the gate is opened.
func (g *gateway) gate(name string) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gates[name] == nil {
		g.gates[name] = make(chan struct{})
	}
	return g.gates[name]
}
