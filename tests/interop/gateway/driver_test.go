package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// driver runs the program in this process, as a Rust test does from outside.
type driver struct {
	t                         *testing.T
	controllerURL, gatewayURL string
	roots                     *x509.CertPool
	in                        io.WriteCloser
	out                       chan []byte // lines of stdout
	stderr                    bytes.Buffer
	exit                      chan int
}

func start(t *testing.T, args ...string) *driver {
	t.Helper()
	d := &driver{t: t, exit: make(chan int, 1), roots: x509.NewCertPool()}
	if len(args) == 0 {
		args = d.certificate()
	}
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	d.in, d.out = in, make(chan []byte, 1000)
	go func() { // all the time: a full pipe would stop the gateway
		defer close(d.out)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			d.out <- bytes.Clone(lines.Bytes())
		}
	}()
	go func() {
		code := run(args, stdin, stdout, &d.stderr)
		stdout.Close()
		d.exit <- code
	}()
	var ready struct {
		Ready         bool   `json:"ready"`
		ControllerURL string `json:"controller_url"`
		GatewayURL    string `json:"gateway_url"`
	}
	if first := <-d.out; json.Unmarshal(first, &ready) != nil || !ready.Ready {
		t.Fatalf("first line is %q", first)
	}
	d.controllerURL, d.gatewayURL = ready.ControllerURL, ready.GatewayURL
	return d
}

// certificate writes a self-signed one and returns the flags that name it.
func (d *driver) certificate() []string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		d.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		d.t.Fatal(err)
	}
	folder := d.t.TempDir()
	certFile, keyFile := filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	d.roots.AppendCertsFromPEM(certPEM)
	for name, data := range map[string][]byte{certFile: certPEM,
		keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	return []string{"--cert", certFile, "--key", keyFile}
}

// do sends a command and returns its "done" event.
func (d *driver) do(line string) map[string]any {
	d.t.Helper()
	go io.WriteString(d.in, line+"\n") // a pipe has no buffer; the answer is awaited below
	return d.next("done")
}

// next skips to an event of the given kind.
func (d *driver) next(kind string) map[string]any {
	d.t.Helper()
	for line := range d.out {
		var e map[string]any
		if err := json.Unmarshal(line, &e); err != nil {
			d.t.Fatalf("line %q: %v", line, err)
		}
		if e["event"] == kind {
			return e
		}
	}
	d.t.Fatalf("stdout ended, waiting for %s", kind)
	return nil
}

// finish ends stdin and checks the failures: each part in one, no more.
func (d *driver) finish(parts ...string) {
	d.t.Helper()
	d.in.Close()
	code := <-d.exit
	failures := strings.Split(strings.TrimSuffix(d.stderr.String(), "\n"), "\n")
	if d.stderr.Len() == 0 {
		failures = nil
	}
	ok := len(failures) == len(parts) && (code == 0) == (len(parts) == 0)
	for _, part := range parts {
		ok = ok && strings.Contains(d.stderr.String(), part)
	}
	if !ok {
		d.t.Errorf("exit code %d, failures %q, expected %q", code, failures, parts)
	}
}

func (d *driver) dial(target, token string, more http.Header) (*websocket.Conn, *http.Response, error) {
	header := http.Header{"Authorization": {"Bearer " + token}}
	for name, values := range more {
		header[name] = values
	}
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: d.roots}}
	return dialer.Dial(strings.Replace(target, "http", "ws", 1), header)
}

func (d *driver) mustDial(target string) *websocket.Conn {
	d.t.Helper()
	ws, _, err := d.dial(target, "interop-token", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	return ws
}

func (d *driver) controller() string { return d.controllerURL + controllerPath }

func (d *driver) gateway(uuid string) string {
	query := url.Values{"cluster_uuid": {uuid}, "agent_version": {"1"}, "supports_yamux": {"false"}}
	for _, name := range []string{"binary", "response_streaming", "streaming", "websocket"} {
		query.Set("supports_"+name, "true")
	}
	return d.gatewayURL + "?" + query.Encode()
}

const (
	theID              = "5b0d7f3c-3a0e-4a5c-8f26-0d4a1c9e7b11"
	theUUID            = "c19e2d84-77a1-4f0b-9d3e-62b8f5a04c22"
	registrationFields = `"agent_id":"a","name":"n","k8s_version":"","hostname":"h","agent_version":"1","server_ip":"0.0.0.0","region":"r",` +
		`"cloud_provider":"agent","tunnel_port_config":{"kubernetes_api":6443,"kubelet":10250,"agent_http":8080},` +
		`"labels":{"hostname":"h","agent.pipeops.io/version":"1"},"server_specs":{},"features":{"supports_streaming":true,` +
		`"supports_binary_protocol":true,"supports_compression":true,"supports_websocket_proxy":true,"supports_gateway":true,` +
		`"supports_response_streaming":true},"metadata":{"agent_mode":"vm-agent","registration_mode":"fresh",` +
		`"registration_timestamp":"2026-03-01T10:00:00Z"}`
	theRegistration     = "{" + registrationFields + "}"
	theHTTPRegistration = "{" + registrationFields + `,"server_code":"0.0.0.0","registry_region":"us",` +
		`"cluster_name":"n","status":"registering","last_seen":"2026-03-01T10:00:00Z"}`
	theBeat = `"cluster_id":"` + theID + `","agent_id":"a","status":"healthy","tunnel_status":"connected","metadata":{"agent_version":"1",` +
		`"k8s_version":"","k8s_nodes":0,"k8s_pods":0,"cpu_usage":"0%","memory_usage":"0%","is_private":true,"gateway_routes":0}`
	registerMessage = `{"type":"register","request_id":"req_1772359200123456789_a","payload":` + theRegistration + `,` + at + "}\n"
	beatMessage     = `{"type":"heartbeat","payload":{` + theBeat + `},` + at + "}\n"
)

func write(t *testing.T, ws *websocket.Conn, text string) {
	t.Helper()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// read returns the next message and whether it was a text message.
func read(t *testing.T, ws *websocket.Conn) (map[string]any, bool) {
	t.Helper()
	ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	kind, data, err := ws.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	var message map[string]any
	if err := json.Unmarshal(data, &message); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	return message, kind == websocket.TextMessage
}

func leave(t *testing.T, ws *websocket.Conn, code int) {
	t.Helper()
	if err := ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	var err error
	for err == nil { // what was still under way
		_, _, err = ws.ReadMessage()
	}
	if !websocket.IsCloseError(err, code) {
		t.Fatal(err)
	}
	ws.Close()
}

func (d *driver) post(path, body string) (int, map[string]any) {
	d.t.Helper()
	target, err := url.JoinPath(d.controllerURL, "/api/v1/clusters/agent/", path)
	if err != nil {
		d.t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, target, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer interop-token")
	request.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: d.roots}, DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	defer answer.Body.Close()
	var decoded map[string]any
	_ = json.NewDecoder(answer.Body).Decode(&decoded) // refusals have none
	return answer.StatusCode, decoded
}
