package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// kubelet is the stand-in for a node: the part of a kubelet's HTTPS server that
// kube-apiserver calls, and nothing behind it. One handler per file.
func kubelet(args []string) error {
	flags := flag.NewFlagSet("kubelet", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address to listen on")
	portFile := flags.String("port-file", "", "file that receives the port number once the server listens")
	caFile := flags.String("client-ca-file", "", "CA that signs the clients' certificates")
	certFile := flags.String("tls-cert-file", "", "certificate of this server")
	keyFile := flags.String("tls-private-key-file", "", "key of this server")
	dir := flags.String("dir", "", "folder for the containers' files")
	interval := flags.Duration("log-interval", 500*time.Millisecond, "time between two lines of a followed log")
	flags.Parse(args)

	tlsConfig, err := mutualTLS(*caFile, *certFile, *keyFile)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}

	// Tests read this log to learn what reached the node: one event per line.
	events := log.New(os.Stdout, "", log.LstdFlags|log.Lmicroseconds|log.LUTC)

	routes := http.NewServeMux()
	routes.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	routes.Handle("GET /containerLogs/{namespace}/{pod}/{container}", &logsHandler{interval: *interval, events: events})
	life, end := context.WithCancel(context.Background())
	inside := &containers{root: *dir, events: events, life: life, mains: map[string]*mainProcess{}}
	inside.register(routes)
	go endWithSignal(end, inside)
	// What runs in the background of a script ignores these, and so would all that it
	// starts: Ctrl-C in a container's terminal.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGQUIT)

	server := &http.Server{
		Handler:           logRequests(events, routes),
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return life },
		ConnContext:       connContext,
	}
	events.Printf("listening addr=%s", listener.Addr())
	if *portFile != "" {
		if err := writePort(*portFile, listener.Addr()); err != nil {
			return err
		}
	}
	return server.ServeTLS(endListener{listener}, "", "")
}

// endWithSignal ends the containers' commands before it ends this process.
func endWithSignal(end context.CancelFunc, inside *containers) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	<-signals
	time.AfterFunc(3*time.Second, func() { os.Exit(1) })
	end()
	inside.running.Wait()
	os.Exit(0)
}

// mutualTLS admits only clients that hold a certificate of the CA, as a kubelet
// does: what gets here came through kube-apiserver.
func mutualTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s: no certificate in it", caFile)
	}
	own, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{own},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
		MinVersion:   tls.VersionTLS12,
	}, nil
}

func logRequests(events *log.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := r.TLS.PeerCertificates[0].Subject.CommonName
		events.Printf("request method=%s uri=%q client=%q", r.Method, r.RequestURI, client)
		next.ServeHTTP(w, r)
	})
}

// writePort leaves no moment at which the file is there without the number.
func writePort(file string, addr net.Addr) error {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return errors.New("not a TCP address: " + addr.String())
	}
	partial := file + ".partial"
	if err := os.WriteFile(partial, []byte(strconv.Itoa(tcp.Port)+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(partial, file)
}
