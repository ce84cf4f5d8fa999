package main

import (
	"fmt"
	"slices"
	"sync"
)

// book keeps count of one yamux session: what was sent, and so what the agent
// may and must answer (tunnels.md §2, §2.14; decisions §6.6). It sees frames
// only, and what our library would forgive too.
type book struct {
	mu      sync.Mutex
	lenient bool   // hashicorp/yamux 0.1.2 sends no ACK for a stream that was finished before it was accepted
	largest uint64 // window that the agent may grant a stream at most
	streams map[uint32]*account
	pings   map[uint32][]uint32 // ours without their pong: the streams that must be silent after it
	goAway  string              // the agent's, if it sent one
}

// account is one stream's.
type account struct {
	acked                      bool
	weFinished, agentFinished  bool
	weReset, agentReset, quiet bool
	granted                    uint64 // bytes that the agent may still send
	allowed                    int64  // bytes that we may still send
}

func newBook(window uint64) *book {
	return &book{largest: max(window, initialWindow), streams: map[uint32]*account{}, pings: map[uint32][]uint32{}}
}

// sent notes a frame of ours, before it is written. Scripts break rules with
// intent: nothing is judged.
func (b *book) sent(f frame) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch f.kind {
	case framePing:
		if f.flags&flagSYN != 0 {
			var silent []uint32
			for id, a := range b.streams {
				if a.weReset && !a.quiet {
					silent = append(silent, id)
				}
			}
			b.pings[f.length] = silent
		}
		return
	case frameData, frameWindow:
	default:
		return
	}
	a := b.streams[f.stream]
	if f.flags&flagSYN != 0 && a == nil {
		a = &account{granted: initialWindow, allowed: initialWindow}
		b.streams[f.stream] = a
	}
	if a == nil {
		return
	}
	a.weFinished = a.weFinished || f.flags&flagFIN != 0
	a.weReset = a.weReset || f.flags&flagRST != 0
	if f.kind == frameWindow {
		a.granted += uint64(f.length)
	} else {
		a.allowed -= int64(f.length)
	}
}

// received judges a frame of the agent.
func (b *book) received(f frame) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.judge(f); err != nil {
		return fmt.Errorf("yamux: %v: %w", f, err)
	}
	return nil
}

func (b *book) judge(f frame) error {
	switch {
	case f.version != 0 || f.kind > frameGoAway || f.flags > 15:
		return fmt.Errorf("version %d, type %d, flags %#x", f.version, f.kind, f.flags)
	case f.kind == framePing:
		return b.judgePing(f)
	case f.kind == frameGoAway:
		if f.stream != 0 || f.flags != 0 || f.length > 2 || b.goAway != "" && f.length == 0 {
			return fmt.Errorf("no proper go away")
		}
		b.goAway = fmt.Sprint(f.length)
		return nil
	case f.flags&flagSYN != 0:
		return fmt.Errorf("the agent opens no streams")
	}
	a := b.streams[f.stream]
	switch {
	case a == nil:
		return fmt.Errorf("the stream was never opened")
	case a.quiet:
		return fmt.Errorf("the stream was reset, and a ping after that answered")
	case a.agentReset:
		return fmt.Errorf("the agent has reset the stream")
	case !a.acked && b.lenient && a.weFinished:
	case !a.acked && f.flags != flagACK && f.flags != flagRST:
		return fmt.Errorf("the SYN must be answered first, by ACK alone")
	case !a.acked && f.kind != frameWindow:
		return fmt.Errorf("the SYN must be answered by a window update")
	case a.acked && f.flags&flagACK != 0:
		return fmt.Errorf("second ACK")
	case f.flags&flagFIN != 0 && a.agentFinished:
		return fmt.Errorf("second FIN")
	case f.flags&flagFIN != 0 && f.length > 0:
		return fmt.Errorf("FIN on a frame with data or window")
	}
	a.acked = true // or refused
	if f.kind == frameData {
		switch {
		case f.length > 0 && a.agentFinished:
			return fmt.Errorf("data after FIN")
		case uint64(f.length) > a.granted:
			return fmt.Errorf("more than the window of %d", a.granted)
		}
		a.granted -= uint64(f.length)
	} else if a.allowed += int64(f.length); a.allowed > int64(b.largest) {
		return fmt.Errorf("grants %d, the largest window is %d", a.allowed, b.largest)
	}
	a.agentFinished = a.agentFinished || f.flags&flagFIN != 0
	a.agentReset = a.agentReset || f.flags&flagRST != 0
	return nil
}

func (b *book) judgePing(f frame) error {
	switch {
	case f.stream != 0 || f.flags != flagSYN && f.flags != flagACK:
		return fmt.Errorf("no proper ping")
	case f.flags == flagSYN:
		return nil
	}
	silent, ours := b.pings[f.length]
	if !ours {
		return fmt.Errorf("answers no ping")
	}
	delete(b.pings, f.length)
	for _, id := range silent {
		b.streams[id].quiet = true
	}
	return nil
}

// owed lists what the agent has still to answer.
func (b *book) owed() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []string
	for id, a := range b.streams {
		if !a.acked && !a.agentReset && !a.weReset {
			list = append(list, fmt.Sprintf("ACK of stream %d", id))
		}
	}
	for value := range b.pings {
		list = append(list, fmt.Sprintf("yamux pong %d", value))
	}
	slices.Sort(list)
	return list
}

// account returns a copy of a stream's, zero if there is none.
func (b *book) account(stream uint32) account {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.streams[stream]; a != nil {
		return *a
	}
	return account{}
}
