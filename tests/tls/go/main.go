// Command tls-peer is the other end of a TLS connection, as Go's crypto/tls makes
// it: it sends back all that it receives, and at the end of that says so in order.
//
//	tls-peer client ADDRESS CA-FILE VERSION
//	tls-peer server CERT-FILE KEY-FILE VERSION     prints its address first
//
// It exits with 0 if everything, the end included, was as TLS has it.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tls-peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return errors.New("four arguments")
	}
	versions := map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
	version, ok := versions[args[3]]
	if !ok {
		return errors.New("version 1.2 or 1.3")
	}
	config := &tls.Config{MinVersion: version, MaxVersion: version}
	var conn *tls.Conn
	switch args[0] {
	case "client":
		pem, err := os.ReadFile(args[2])
		if err != nil {
			return err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return errors.New("no certificate")
		}
		if conn, err = tls.Dial("tcp", args[1], config); err != nil {
			return err
		}
	case "server":
		pair, err := tls.LoadX509KeyPair(args[1], args[2])
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{pair}
		listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
		if err != nil {
			return err
		}
		fmt.Println(listener.Addr())
		accepted, err := listener.Accept()
		if err != nil {
			return err
		}
		conn = accepted.(*tls.Conn)
	default:
		return errors.New("client or server")
	}
	return echo(conn)
}

// echo doesn't let a full socket in one direction stop the other: the test writes
// everything before it reads.
func echo(conn *tls.Conn) error {
	chunks := make(chan []byte, 1_000_000)
	var failed error
	go func() {
		defer close(chunks)
		for {
			chunk := make([]byte, 20_000)
			count, err := conn.Read(chunk)
			if count > 0 {
				chunks <- chunk[:count]
			}
			if err != nil {
				if err != io.EOF {
					failed = err
				}
				return
			}
		}
	}()
	for chunk := range chunks {
		if _, err := conn.Write(chunk); err != nil {
			return err
		}
	}
	if failed != nil {
		return failed
	}
	return conn.Close()
}
