package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"testing"
)

const golden = "../../golden"

// recorded is a line of a golden file.
type recorded struct {
	Line    int         `json:"line"`
	Conn    string      `json:"conn"`
	Text    string      `json:"text"`
	Hex     string      `json:"hex"`
	Method  string      `json:"method"`
	URI     string      `json:"uri"`
	Headers [][2]string `json:"headers"`
	ofAgent bool
}

func readGolden(t *testing.T, name string) []recorded {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(golden, name))
	if err != nil {
		t.Fatal(err)
	}
	var list []recorded
	decoder := json.NewDecoder(bytes.NewReader(data))
	for decoder.More() {
		r := recorded{ofAgent: name == "agent-messages.jsonl"}
		if err := decoder.Decode(&r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list = append(list, r)
	}
	return list
}

// The original's conversation, replayed in its order, passes: so the
// validator asks nothing of our agent that a real peer didn't get. Messages
// of the original that ours must not send are not in the files (binary
// responses, format 5.2).
func TestRecordedConversation(t *testing.T) {
	all := append(readGolden(t, "agent-messages.jsonl"), readGolden(t, "peer-messages.jsonl")...)
	sort.Slice(all, func(i, j int) bool { return all[i].Line < all[j].Line })
	s := &session{carried: map[carriedKey]*request{}}
	ledgers := map[string]*ledger{
		"controller#1": newLedger(s, controllerRole, true),
		"gateway#1":    newLedger(s, gatewayRole, true),
		"gateway#2":    newLedger(s, gatewayRole, true),
	}
	outcomes := map[string]string{}
	for _, r := range all {
		l := ledgers[r.Conn]
		if !r.ofAgent {
			data := []byte(r.Text)
			if r.Hex != "" {
				data, _ = hex.DecodeString(r.Hex)
			}
			if r.Hex != "" && !json.Valid(data) {
				l.sentBinary()
			} else {
				l.sent(data)
			}
			continue
		}
		e, err := parseEnvelope([]byte(r.Text))
		if err == nil {
			err = checkMessage(e)
		}
		var finished *outcome
		if err == nil {
			finished, err = l.received(e)
		}
		if err != nil {
			t.Errorf("line %d: %v", r.Line, err)
		}
		if finished != nil {
			outcomes[finished.id] = finished.result
		}
	}
	if s.clusterID != "6f0c6f0e-0b0a-4f7a-9a55-0c2f6b0d8e11" {
		t.Errorf("cluster id is %q", s.clusterID)
	}
	if len(outcomes) != 17 || outcomes["px-1"] != "response" || outcomes["px-17"] != "end" || outcomes["px-18"] != "abort" {
		t.Errorf("%d outcomes: %v", len(outcomes), outcomes)
	}
	// Ours owes an answer to both; the original gave none.
	want := []string{`outcome of request "px-12"`, `pong "7"`}
	if owed := ledgers["gateway#1"].owed(); !slices.Equal(owed, want) {
		t.Errorf("owed on gateway#1: %q", owed)
	}
	if owed := ledgers["gateway#2"].owed(); len(owed) != 0 {
		t.Errorf("owed on gateway#2: %q", owed)
	}
}

func TestRecordedUpgrades(t *testing.T) {
	g := &gateway{options: options{yamux: true}}
	known := session{registered: true, gatewayURL: "wss://127.0.0.1:1573", agentVersion: "1.0.0-dev",
		clusterUUIDs: []string{"6f0c6f0e-0b0a-4f7a-9a55-0c2f6b0d8e11"}}
	for _, r := range readGolden(t, "upgrades.jsonl") {
		var raw bytes.Buffer
		raw.WriteString(r.Method + " " + r.URI + " HTTP/1.1\r\n")
		for _, h := range r.Headers {
			raw.WriteString(h[0] + ": " + h[1] + "\r\n")
		}
		raw.WriteString("\r\n")
		request, err := http.ReadRequest(bufio.NewReader(&raw))
		if err != nil {
			t.Fatal(err)
		}
		problems := checkUpgrade(request)
		if r.Conn == "controller#1" {
			problems = append(problems, checkControllerURL(request, settings{})...)
		} else {
			problems = append(problems, g.checkGatewayURL(request, settings{}, known)...)
		}
		if len(problems) > 0 {
			t.Errorf("line %d: %q", r.Line, problems)
		}
	}
}
