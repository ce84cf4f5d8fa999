package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"
)

// tunnelStage is an agent that has arrived at the gateway.
type tunnelStage struct {
	*peer
	stop  context.CancelFunc
	ended chan error
	conns int
}

func startTunnels(t *testing.T) *tunnelStage {
	t.Helper()
	caFile, keyFile := certificate(t)
	p := startPeer(t, caFile, keyFile, "--yamux", "--target")
	a, err := newAgent(options{apiURL: p.controllerURL, token: "interop-token", agentID: "go-agent", clusterName: "bench",
		kubeURL: "https://127.0.0.1:1", caFile: caFile, heartbeat: time.Second, tunnels: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &tunnelStage{peer: p, stop: stop, ended: make(chan error, 1)}
	go func() { s.ended <- a.run(ctx) }()
	s.do(`{"cmd":"set","key":"allow_no_ack","value":true}`)
	s.arrived()
	return s
}

func (s *tunnelStage) arrived() {
	s.t.Helper()
	s.conns++
	s.expect(`"event":"message","conn":"gateway#%d","type":"heartbeat"`, s.conns)
}

func (s *tunnelStage) end() {
	s.t.Helper()
	s.stop()
	s.expect(`"event":"close","conn":"gateway#%d"`, s.conns)
	if err := <-s.ended; err != nil {
		s.t.Error(err)
	}
	s.finish()
}

// streams starts a job towards the gateway's own service.
func (s *tunnelStage) streams(name, more, steps string) {
	s.t.Helper()
	s.do(`{"cmd":"streams","plan":{"job":%q,"header":{"port":%d,"service":"s","namespace":"n","tunnel":"t"}%s,"steps":[%s]}}`,
		name, s.targetPort, more, steps)
}

// The library on both ends: all that jobs can do.
func TestStreams(t *testing.T) {
	s := startTunnels(t)
	for i, hello := range []string{`{}`, `{"window":16777216,"yamux_config":{"max_stream_window_size":16777216}}`,
		`{"chunk":5000,"yamux_config":{"keep_alive_interval_seconds":1}}`, `{"frame":700}`} {
		s.do(`{"cmd":"hello","hello":%s}`, hello)
		job := func(name string) string { return fmt.Sprintf("%s-%d", name, i) }
		s.streams(job("echo"), `,"count":20,"pieces":true`, `{"say":"echo\n"},{"both":[[{"send":100000},{"finish":true}],[{"drain":true}]]}`)
		s.expect(`"event":"job","job":%q,"ends":{"eof":20},"in":2000000`, job("echo"))
		s.streams(job("down"), "", `{"say":"source 3000000 1\n"},{"receive":3000000},{"finish":true},{"drain":true}`)
		s.expect(`"event":"stream","job":%q,"end":"eof","received":3000000,"received_sha256":%q`, job("down"), patternSum(1, 3000000))
		s.streams(job("up"), "", `{"say":"sink\n"},{"send":3000000},{"finish":true},{"drain":true}`)
		s.expect(`"event":"job","job":%q,"ends":{"eof":1},"in":73`, job("up"))
		s.streams(job("trips"), `,"bulk":true,"count":4`, `{"say":"echo\n"},{"trips":50,"size":64},{"finish":true},{"drain":true}`)
		s.expect(`"event":"job","job":%q,"ends":{"eof":4},"trips":200`, job("trips"))
	}
	s.do(`{"cmd":"session_ping"}`)
	s.streams("held", `,"count":300`, `{"say":"echo\n"},{"gate":"go"},{"finish":true},{"drain":true}`)
	s.do(`{"cmd":"progress","key":"held"}`)
	s.do(`{"cmd":"gate","key":"go"}`)
	s.do(`{"cmd":"wait","key":"held"}`)
	s.streams("bulk", `,"bulk":true,"count":2`, `{"say":"source 100000000000 1\n"},{"receive":-1}`)
	for range 2 { // what hasn't begun is not begun any more
		s.expect(`"event":"target_open","line":"source 100000000000 1"`)
	}
	s.do(`{"cmd":"stop","key":"bulk"}`)
	s.expect(`"event":"job","job":"bulk","ends":{"stopped":2}`)
	s.streams("reset", "", `{"say":"echo\n"},{"trips":1,"size":10},{"reset":true}`)
	s.expect(`"event":"stream","job":"reset","end":"we-reset"`)
	s.do(`{"cmd":"settle"}`)
	s.end()
}

func patternSum(seed uint64, size int64) string {
	mix := func(x uint64) uint64 {
		x += 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		return x ^ x>>31
	}
	sum := sha256.New()
	for at := int64(0); at < size; at += 8 {
		word := mix(seed<<40 + uint64(at)/8)
		var bytes [8]byte
		for i := range bytes {
			bytes[i] = byte(word >> (8 * i))
		}
		sum.Write(bytes[:min(8, size-at)])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// The scripts, but for those that ask for more than the original did: that a
// reset reaches the target, and that datagrams keep their size.
func TestScripts(t *testing.T) {
	s := startTunnels(t)
	s.do(`{"cmd":"set","key":"allow_abrupt","value":true}`)
	for _, name := range strings.Fields(`not_agreed vectors pieces window_update target_first gateway_first syn_flood
		small_window unknown_streams go_away_0`) {
		s.script(name, s.targetPort)
	}
	s.script("refused", 1)
	for _, name := range strings.Fields(`overrun syn_with_4_gib version_1 type_9 go_away_1 second_fin`) {
		t.Log(name)
		s.script(name, s.targetPort)
		s.arrived()
	}
	s.end()
}

func (s *tunnelStage) script(name string, port int) {
	s.t.Helper()
	s.do(`{"cmd":"script","script":%q,"header":{"port":%d,"service":"s","namespace":"n","tunnel":"t"},"timeout_ms":20000}`, name, port)
}
