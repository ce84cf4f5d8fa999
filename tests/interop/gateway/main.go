// Command gateway is the strict control plane peer of the interop tests: a
// controller and a gateway built on gorilla/websocket, the library that the
// real ones use. It checks everything the agent sends, is driven by lines of
// JSON on stdin, and tells what happened in lines of JSON on stdout. The
// commands and events are listed in ../README.md.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// options are fixed for a run; what a test changes on the way is in settings.
type options struct {
	certFile, keyFile string
	plain             bool
	yamux             bool
	target            bool
	withSockets       bool
}

// gateway is the whole program. mu guards everything below it; it is never
// held while a socket is read or written.
type gateway struct {
	options
	events  *events
	sockets *sockets // nil without --sockets

	mu       sync.Mutex
	settings settings
	session  session
	links    []*link
	jobs     map[string]*job
	gates    map[string]chan struct{}
	opened   map[string]int  // connections so far, by role
	keys     map[string]bool // Sec-WebSocket-Key values so far
	// lastRefusal is the status of the last refused controller upgrade, 0 if
	// it was accepted: HTTP mode is allowed only after certain refusals.
	lastRefusal int
}

// run is main without the process around it. It returns the exit code: 0, or
// 1 if a failure was recorded, or 2 if it could not start.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var opts options
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&opts.certFile, "cert", "", "server certificate, PEM")
	flags.StringVar(&opts.keyFile, "key", "", "its private key, PEM")
	flags.BoolVar(&opts.plain, "plain", false, "serve without TLS")
	flags.BoolVar(&opts.yamux, "yamux", false, "the agent has tunnels: it says supports_yamux=true and may take up gateway_hello")
	flags.BoolVar(&opts.target, "target", false, "also be a service that tunnels lead to")
	flags.BoolVar(&opts.withSockets, "sockets", false, "also be a Service and an API server that speak WebSocket")
	token := flags.String("token", "interop-token", "bearer token the agent must show")
	if err := flags.Parse(args); err != nil {
		return 2
	}

	g := &gateway{
		options: opts,
		events:  newEvents(stdout),
		session: session{carried: map[carriedKey]*request{}},
		opened:  map[string]int{},
		keys:    map[string]bool{},
		jobs:    map[string]*job{},
		gates:   map[string]chan struct{}{},
	}
	controllerURL, stopController, err := g.serve(g.controllerHandler(), "https", "http")
	if err != nil {
		fmt.Fprintln(stderr, "gateway:", err)
		return 2
	}
	defer stopController()
	gatewayURL, stopGateway, err := g.serve(g.gatewayHandler(), "wss", "ws")
	if err != nil {
		fmt.Fprintln(stderr, "gateway:", err)
		return 2
	}
	defer stopGateway()
	gatewayURL += "/ws"
	g.settings = defaultSettings(*token, gatewayURL)
	ready := map[string]any{"ready": true, "controller_url": controllerURL, "gateway_url": gatewayURL}
	if opts.target {
		service, err := g.startTarget()
		if err != nil {
			fmt.Fprintln(stderr, "gateway:", err)
			return 2
		}
		ready["target_port"] = service.port
	}
	if opts.withSockets {
		plain, secured, err := g.startSockets()
		if err != nil {
			fmt.Fprintln(stderr, "gateway:", err)
			return 2
		}
		ready["sockets_port"], ready["sockets_tls_port"] = plain, secured
	}
	g.events.ready(ready)

	g.obey(stdin)

	failures := g.events.failures()
	for _, text := range failures {
		fmt.Fprintln(stderr, "failure:", text)
	}
	if len(failures) > 0 {
		return 1
	}
	return 0
}

// serve opens a listener of its own on a free port and returns its URL.
func (g *gateway) serve(handler http.Handler, secureScheme, plainScheme string) (string, func(), error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	url := plainScheme + "://" + listener.Addr().String()
	if !g.plain {
		certificate, err := tls.LoadX509KeyPair(g.certFile, g.keyFile)
		if err != nil {
			return "", nil, errors.Join(errors.New("give --cert and --key, or --plain"), err)
		}
		url = secureScheme + "://" + listener.Addr().String()
		listener = tls.NewListener(listener, &tls.Config{
			Certificates: []tls.Certificate{certificate},
			MinVersion:   tls.VersionTLS12,
			// Offered only to notice an agent that sends ALPN (§2.3: it doesn't).
			NextProtos: []string{"http/1.1"},
		})
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 30 * time.Second,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, socketKey{}, conn)
		},
		// Failed TLS handshakes are made on purpose by some tests.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	go server.Serve(listener)
	return url, func() { server.Close() }, nil
}
