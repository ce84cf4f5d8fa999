package main

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

// executeTunnel runs the commands that are about yamux sessions. known is
// false for all others.
func (g *gateway) executeTunnel(c command, answer event, timeout time.Duration) (known bool, err error) {
	switch c.Cmd {
	case "gate":
		g.openGate(c.Key)
		return true, nil
	case "progress", "stop", "wait":
		return true, g.commandJob(c, answer, timeout)
	case "hello", "streams", "session_ping", "go_away", "end_session", "inject", "script":
	default:
		return false, nil
	}
	k, err := g.find(c.Conn)
	if err != nil {
		return true, err
	}
	if c.Cmd == "hello" {
		if c.Hello == nil {
			c.Hello = &hello{}
		}
		if err := k.offer(c.Hello); err != nil {
			return true, err
		}
		return true, k.awaitTunnel(c.Hello, timeout)
	}
	if c.Cmd == "script" {
		return true, g.runScript(k, c, timeout)
	}
	t, err := k.liveTunnel(timeout)
	if err != nil {
		return true, err
	}
	switch c.Cmd {
	case "streams":
		if c.Plan == nil {
			return true, errors.New("the plan is missing")
		}
		_, err = g.startJob(t, *c.Plan)
	case "session_ping":
		var took time.Duration
		took, err = t.ping(timeout)
		answer["us"] = took.Microseconds()
	case "go_away":
		err = t.inject(frame{kind: frameGoAway, length: uint32(c.Code)}.bytes(), 0)
	case "end_session":
		t.end()
	case "inject":
		var bytes []byte
		if bytes, err = unhex(c.Hex); err == nil {
			err = t.inject(bytes, c.Frame)
		}
	}
	return true, err
}

func (g *gateway) commandJob(c command, answer event, timeout time.Duration) error {
	g.mu.Lock()
	j := g.jobs[c.Key]
	g.mu.Unlock()
	if j == nil {
		return fmt.Errorf("no job %q", c.Key)
	}
	if c.Cmd == "progress" {
		maps.Copy(answer, j.progress())
		return nil
	}
	if c.Cmd == "stop" {
		j.stop()
	}
	select {
	case <-j.done:
		maps.Copy(answer, j.summary())
		return nil
	case <-time.After(timeout):
		return fmt.Errorf("job %q has not ended: %v", c.Key, j.progress())
	}
}

func (g *gateway) openGate(name string) {
	opened := g.gate(name)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !isClosed(opened) {
		close(opened)
	}
}

// liveTunnel waits for the session of a connection, which a hello by setting
// brings about some time after the upgrade.
func (k *link) liveTunnel(limit time.Duration) (*tunnel, error) {
	deadline := time.Now().Add(limit)
	for {
		k.g.mu.Lock()
		t := k.tunnel
		waiting := k.offered != nil
		k.g.mu.Unlock()
		switch {
		case t != nil && !waiting:
			return t, nil
		case isClosed(k.done):
			return nil, errors.New("the connection has ended")
		case time.Now().After(deadline):
			return nil, errors.New("there is no session: no hello, or no ack")
		}
		time.Sleep(time.Millisecond)
	}
}

func (k *link) awaitTunnel(h *hello, limit time.Duration) error {
	t, err := k.liveTunnel(limit)
	if err == nil && t.hello != h {
		err = errors.New("the session is another hello's")
	}
	return err
}
