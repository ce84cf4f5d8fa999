package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// peer is the strict gateway of tests/interop as a child process.
type peer struct {
	t             *testing.T
	controllerURL string
	targetPort    int
	stdin         io.WriteCloser
	lines         chan []byte
	stderr        strings.Builder
	process       *exec.Cmd
}

func startPeer(t *testing.T, caFile, keyFile string, flags ...string) *peer {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "gateway")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = filepath.Join("..", "..", "tests", "interop", "gateway")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p := &peer{t: t, lines: make(chan []byte, 10_000), process: exec.Command(binary, append(flags, "--cert", caFile, "--key", keyFile)...)}
	p.process.Stderr = &p.stderr
	stdin, err := p.process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	stdout, err := p.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.process.Process.Kill() }) // has ended, unless the test failed
	go func() {
		defer close(p.lines)
		for reader := bufio.NewReader(stdout); ; {
			line, err := reader.ReadBytes('\n')
			if err != nil {
				return
			}
			p.lines <- line
		}
	}()
	var ready struct {
		ControllerURL string `json:"controller_url"`
		TargetPort    int    `json:"target_port"`
	}
	if err := json.Unmarshal(<-p.lines, &ready); err != nil {
		t.Fatal(err)
	}
	p.controllerURL, p.targetPort = ready.ControllerURL, ready.TargetPort
	return p
}

// do carries out a command; the test ends where it fails.
func (p *peer) do(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.stdin, format+"\n", args...); err != nil {
		p.t.Fatal(err)
	}
	for line := range p.lines {
		var e struct {
			Event string `json:"event"`
			Text  string `json:"text"`
			OK    bool   `json:"ok"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			p.t.Fatal(err)
		}
		switch e.Event {
		case "failure":
			p.t.Error(e.Text)
		case "done":
			if !e.OK {
				p.t.Fatalf("failed: "+format, args...)
			}
			return
		}
	}
	p.t.Fatal("the gateway has ended")
}

func (p *peer) expect(format string, args ...any) {
	p.t.Helper()
	p.do(`{"cmd":"expect","match":{`+format+`}}`, args...)
}

func (p *peer) request(id, payload string) {
	p.t.Helper()
	p.do(`{"cmd":"send_envelope","type":"proxy_request","request_id":%q,"payload":{%s}}`, id, payload)
}

func (p *peer) expectBody(id, result string, status int, body []byte) {
	p.t.Helper()
	sum := sha256.Sum256(body)
	p.expect(`"event":"outcome","request_id":%q,"result":%q,"status":%d,"size":%d,"sha256":%q`,
		id, result, status, len(body), hex.EncodeToString(sum[:]))
}

// The whole agent against the strict gateway, over TLS: nothing it sends may
// be found fault with.
func TestAgainstTheGateway(t *testing.T) {
	text := []byte(strings.Repeat("0123456789abcdef", 12_800)) // 200 KiB
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v1/small", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"user":%q,"query":%q}`, r.Header.Get("Authorization"), r.URL.RawQuery)
	})
	mux.HandleFunc("/api/v1/large", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(text)
	})
	mux.HandleFunc("POST /api/v1/echo", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("/api/v1/hang", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "begin" {
			_, _ = io.WriteString(w, "begun")
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	})
	kube := httptest.NewTLSServer(mux)
	defer kube.Close()
	kubeCA := filepath.Join(t.TempDir(), "kube-ca.pem")
	writePEM(t, kubeCA, "CERTIFICATE", kube.Certificate().Raw)
	caFile, keyFile := certificate(t)
	p := startPeer(t, caFile, keyFile)

	a, err := newAgent(options{apiURL: p.controllerURL, token: "interop-token", agentID: "go-agent", clusterName: "bench",
		kubeURL: kube.URL, kubeCA: kubeCA, caFile: caFile, heartbeat: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx) }()

	p.expect(`"event":"message","conn":"controller#1","type":"register"`)
	p.expect(`"event":"close","conn":"controller#1","code":1000`)
	p.expect(`"event":"upgrade","conn":"gateway#1"`)
	p.expect(`"event":"message","conn":"gateway#1","type":"heartbeat"`)
	p.expect(`"event":"message","conn":"gateway#1","type":"heartbeat"`)

	p.do(`{"cmd":"ping","text":"hello"}`)
	p.expect(`"event":"pong","text":"hello"`)
	p.do(`{"cmd":"send_envelope","type":"ping","request_id":"p-1","payload":{}}`)
	p.do(`{"cmd":"send_text","text":"{\"type\":\"ping\"}"}`)
	p.do(`{"cmd":"send_binary","base64":%q}`, base64.StdEncoding.EncodeToString([]byte(`{"type":"ping","request_id":"p-2"}`)))
	for range 2 { // one protocol_fallback is all that may come
		p.do(`{"cmd":"send_envelope","type":"from_the_future","request_id":"u-1","payload":{"x":1}}`)
	}
	p.do(`{"cmd":"send_text","text":"{\"type\":"}`)
	p.do(`{"cmd":"send_envelope","type":"gateway_hello","payload":{"use_yamux":true}}`)
	p.do(`{"cmd":"settle"}`)

	small := []byte(`{"user":"Bearer caller","query":"a=b"}`)
	get := `"method":"GET","path":"/api/v1/%s","query":"a=b","headers":{"Authorization":["Bearer caller"]},"supports_response_streaming":%t`
	p.request("b-1", fmt.Sprintf(get, "small", false))
	p.expectBody("b-1", "response", 200, small)
	p.request("b-2", fmt.Sprintf(get, "large", false))
	p.expectBody("b-2", "response", 200, text)
	p.request("s-1", fmt.Sprintf(get, "small", true))
	p.expectBody("s-1", "end", 200, small)
	p.request("s-2", fmt.Sprintf(get, "large", true))
	p.expectBody("s-2", "end", 200, text)
	p.request("head", `"method":"head","path":"/api/v1/large","headers":{"Accept":"text/plain"}`)
	p.expectBody("head", "response", 200, nil)
	p.request("post", `"method":"POST","path":"/api/v1/echo","body":"YQBi/w==","body_encoding":"base64","timeout":"10s"`)
	p.expectBody("post", "response", 201, []byte("a\x00b\xff"))
	p.request("object", `"method":"POST","path":"/api/v1/echo","body":{"b":1.50, "a":"<>"},"timeout":10000`)
	p.expectBody("object", "response", 201, []byte(`{"b":1.50,"a":"<>"}`)) // the gateway sends compact JSON
	p.request("none", `"path":"/api/v1/none"`)
	p.expect(`"event":"outcome","request_id":"none","status":404`)
	p.request("late", `"path":"/api/v1/hang","timeout":50`)
	p.expect(`"event":"outcome","request_id":"late","result":"error"`)
	p.request("refused", `"path":"/x","service_name":"s","namespace":"n","service_port":80,"supports_response_streaming":true`)
	p.expect(`"event":"outcome","request_id":"refused","result":"abort"`)

	p.request("begun", `"path":"/api/v1/hang","query":"begin","supports_response_streaming":true`)
	p.expect(`"event":"message","type":"proxy_response_chunk","request_id":"begun"`)
	p.request("begun", `"path":"/api/v1/small"`) // the id is in use: proxy_error
	p.do(`{"cmd":"send_envelope","type":"proxy_cancel","request_id":"begun","payload":{}}`)
	p.expect(`"event":"outcome","request_id":"begun","result":"abort"`)
	p.request("quiet", `"path":"/api/v1/hang"`)
	p.do(`{"cmd":"send_envelope","type":"proxy_cancel","request_id":"quiet","payload":{}}`)
	p.do(`{"cmd":"settle"}`)

	for i := range 200 {
		p.request(fmt.Sprintf("many-%d", i), fmt.Sprintf(get, "large", i%2 == 0))
	}
	p.do(`{"cmd":"settle"}`)

	p.do(`{"cmd":"drop"}`)
	p.expect(`"event":"upgrade","conn":"gateway#2"`)
	p.expect(`"event":"message","conn":"gateway#2","type":"heartbeat"`)
	stop()
	p.expect(`"event":"close","conn":"gateway#2","code":1000`)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	p.finish()
}

// finish ends the gateway, which must have found nothing wrong.
func (p *peer) finish() {
	p.t.Helper()
	p.stdin.Close()
	for range p.lines { // to its end
	}
	if err := p.process.Wait(); err != nil || p.stderr.Len() > 0 {
		p.t.Errorf("%v\n%s", err, p.stderr.String())
	}
}

// certificate writes a self-signed certificate for 127.0.0.1 and its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	certFile, keyFile = filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", private)
	return certFile, keyFile
}

func writePEM(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
