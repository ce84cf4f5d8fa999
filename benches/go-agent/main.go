// Command go-agent is the yardstick of the benchmarks: an agent in plain
// Go (net/http, gorilla/websocket, encoding/json) that does for a proxied
// request what has to be done, and nothing beside it. It registers, moves to
// the gateway if there is one, sends heartbeats, answers pings, and executes
// proxy_request against a Kubernetes API (or anything else that speaks HTTP), in
// both response forms; an upgrade becomes an app stream (streams.go). K8s streams,
// Services by name and streamed request bodies are refused. With --tunnels it is the
// yardstick of the tunnel benchmark too (tunnels.go).
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

type options struct {
	apiURL, token, agentID, clusterName string
	kubeURL, kubeCA, caFile             string
	insecure, tunnels, logAcks          bool
	heartbeat                           time.Duration
}

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	var o options
	insecure, _ := strconv.ParseBool(os.Getenv("PIPEOPS_INSECURE"))
	flag.StringVar(&o.apiURL, "api-url", os.Getenv("PIPEOPS_API_URL"), "controller (env PIPEOPS_API_URL)")
	flag.StringVar(&o.token, "token", os.Getenv("PIPEOPS_TOKEN"), "bearer token (env PIPEOPS_TOKEN)")
	flag.StringVar(&o.agentID, "agent-id", envOr("PIPEOPS_AGENT_ID", "go-agent"), "agent id (env PIPEOPS_AGENT_ID)")
	flag.StringVar(&o.clusterName, "cluster-name", envOr("PIPEOPS_CLUSTER_NAME", "bench"), "cluster name (env PIPEOPS_CLUSTER_NAME)")
	flag.StringVar(&o.kubeURL, "kube-url", os.Getenv("PIPEOPS_KUBE_URL"), "Kubernetes API (env PIPEOPS_KUBE_URL)")
	flag.StringVar(&o.kubeCA, "kube-ca", os.Getenv("PIPEOPS_KUBE_CA"), "its CA, PEM file (env PIPEOPS_KUBE_CA)")
	flag.StringVar(&o.caFile, "ca-file", os.Getenv("PIPEOPS_CA_FILE"), "CA of the control plane, PEM file (env PIPEOPS_CA_FILE)")
	flag.BoolVar(&o.insecure, "insecure", insecure, "don't verify the control plane (env PIPEOPS_INSECURE)")
	flag.BoolVar(&o.tunnels, "tunnels", false, "take up gateway_hello; every service is 127.0.0.1:port")
	flag.BoolVar(&o.logAcks, "log-acks", false, "log how long each heartbeat's ack took")
	flag.DurationVar(&o.heartbeat, "heartbeat-interval", 30*time.Second, "time between heartbeats")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a, err := newAgent(o)
	if err == nil {
		err = a.run(ctx)
	}
	if err != nil && ctx.Err() == nil {
		log.Fatalln("go-agent:", err)
	}
}

func newAgent(o options) (*agent, error) {
	controller, err := url.Parse(o.apiURL)
	if err != nil || controller.Host == "" {
		return nil, fmt.Errorf("--api-url %q is no URL", o.apiURL)
	}
	kube, err := url.Parse(o.kubeURL)
	if err != nil || kube.Host == "" {
		return nil, fmt.Errorf("--kube-url %q is no URL", o.kubeURL)
	}
	controlRoots, err := roots(o.caFile)
	if err != nil {
		return nil, err
	}
	kubeRoots, err := roots(o.kubeCA)
	if err != nil {
		return nil, err
	}
	return &agent{
		options:    o,
		controller: controller,
		controlTLS: &tls.Config{RootCAs: controlRoots, InsecureSkipVerify: o.insecure, MinVersion: tls.VersionTLS12},
		kube:       kube,
		client: &http.Client{
			Transport: &http.Transport{
				TLSClientConfig:     &tls.Config{RootCAs: kubeRoots, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout: 10 * time.Second,
				MaxIdleConns:        128,
				MaxIdleConnsPerHost: 128,
				IdleConnTimeout:     90 * time.Second,
			},
			// A redirect is an answer like any other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// roots are the system's and those of the file, or nil (the system's) without one.
func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", file)
	}
	return pool, nil
}

func envOr(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
