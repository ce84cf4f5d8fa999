package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// target is a service that tunnels lead to, on TCP and UDP of the same port.
// On TCP the first line says what a connection does:
//
//	echo           sends back what comes, then FIN
//	source N SEED  sends N bytes of the pattern, then FIN, then reads to the end
//	sink           reads to the end, answers "N SHA256\n", then FIN
//	stall N        reads N bytes and no more, until the gate "stall" is opened; then to the end
//	answer N       sends N bytes and closes without reading on
//	reset N        sends N bytes, waits for one byte, resets
//	turn           answers "hi\n" and FIN at once, then reads to the end
//
// How each connection ended as the service saw it is an event `target`.
type target struct {
	g       *gateway
	port    int
	numbers atomic.Int64
}

func (g *gateway) startTarget() (*target, error) {
	// A port that is free for both.
	for range 50 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		t := &target{g: g, port: listener.Addr().(*net.TCPAddr).Port}
		datagrams, err := net.ListenPacket("udp", listener.Addr().String())
		if err != nil {
			listener.Close()
			continue
		}
		go t.accept(listener)
		go t.echoDatagrams(datagrams)
		return t, nil
	}
	return nil, errors.New("no port is free for TCP and UDP")
}

func (t *target) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			time.Sleep(10 * time.Millisecond) // too many open files, say
			continue
		}
		go t.serve(conn.(*net.TCPConn))
	}
}

// echoDatagrams sends each back as it is, and tells of its size.
func (t *target) echoDatagrams(socket net.PacketConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := socket.ReadFrom(buffer)
		if err != nil {
			continue // ICMP of an earlier answer
		}
		t.g.events.emit("datagram", event{"bytes": n, "from": from.String()})
		_, _ = socket.WriteTo(buffer[:n], from) // likewise
	}
}

func (t *target) serve(conn *net.TCPConn) {
	defer conn.Close()
	number := t.numbers.Add(1)
	lines := bufio.NewReaderSize(conn, pieceSize)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.g.events.emit("target", event{"number": number, "line": line, "end": endOf(err)})
		return
	}
	line = strings.TrimSuffix(line, "\n")
	sum, received := sha256.New(), int64(0)
	input := io.TeeReader(lines, sum)
	t.g.events.emit("target_open", event{"number": number, "line": line})

	word, rest, _ := strings.Cut(line, " ")
	var size, seed int64
	_, _ = fmt.Sscan(rest, &size, &seed) // both are optional
	var wrote error
	switch word {
	case "echo":
		received, err = io.Copy(onlyWriter{conn}, onlyReader{input})
	case "source":
		var side sync.WaitGroup
		side.Add(1)
		go func() {
			defer side.Done()
			if wrote = pattern(conn, uint64(seed), size); wrote == nil {
				wrote = conn.CloseWrite()
			}
		}()
		received, err = io.Copy(io.Discard, input)
		side.Wait()
	case "sink":
		if received, err = io.Copy(io.Discard, input); err == nil {
			_, wrote = fmt.Fprintf(conn, "%d %s\n", received, hex.EncodeToString(sum.Sum(nil)))
		}
	case "stall":
		if received, err = io.CopyN(io.Discard, input, size); err != nil {
			break
		}
		t.g.events.emit("target_stalled", event{"number": number, "line": line})
		<-t.g.gate("stall")
		var more int64
		more, err = io.Copy(io.Discard, input)
		received += more
	case "answer":
		wrote = pattern(conn, uint64(seed), size)
	case "reset":
		wrote = pattern(conn, uint64(seed), size)
		_, err = lines.ReadByte()
		_ = conn.SetLinger(0)
	case "turn":
		if _, wrote = conn.Write([]byte("hi\n")); wrote == nil {
			wrote = conn.CloseWrite()
		}
		received, err = io.Copy(io.Discard, input)
	default:
		err = fmt.Errorf("unknown line %q", short([]byte(line)))
	}
	// The kernel tells of a reset once: to the writer or to the reader.
	end := endOf(err)
	if endOf(wrote) == "reset" {
		end = "reset"
	}
	t.g.events.emit("target", event{"number": number, "line": line, "received": received,
		"sha256": hex.EncodeToString(sum.Sum(nil)), "end": end})
}

// endOf names what a socket said: eof, reset, or what else.
func endOf(err error) string {
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return "eof"
	case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return "reset"
	}
	return err.Error()
}

// pattern writes size bytes of a pattern.
func pattern(to io.Writer, seed uint64, size int64) error {
	piece := make([]byte, pieceSize)
	for done := int64(0); done < size; {
		part := piece[:min(int64(len(piece)), size-done)]
		fill(part, seed, done)
		if _, err := to.Write(part); err != nil {
			return err
		}
		done += int64(len(part))
	}
	return nil
}

// These keep io.Copy from splicing, which would hide how a socket ended.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }
