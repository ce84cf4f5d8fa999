package main

import (
	"context"
	"io"
	"os/exec"
	"sync"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// mainScript is what every container runs, as far as an attached client can tell:
// it repeats each line, once on either of its outputs, and ends after `quit`.
const mainScript = `
while read -r line; do
  [ "$line" = quit ] && exit 0
  echo "heard $line"
  echo "complaint about $line" >&2
done`

// mainProcess is a container's own process. Whoever is attached writes to the same
// input and gets all that it says from then on.
type mainProcess struct {
	input io.Writer
	ended chan struct{}

	mu       sync.Mutex
	attached map[*listener]struct{}
}

type listener struct{ out, errOut io.Writer }

// AttachContainer lasts until the main process ends or the client is gone. It is
// started by the first who attaches, and again after its end.
func (c *containers) AttachContainer(
	ctx context.Context, pod, _, container string,
	in io.Reader, out, errOut io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize,
) error {
	main, err := c.main(pod, container)
	if err != nil {
		return err
	}
	id, target := c.ids.Add(1), pod+"/"+container
	c.events.Printf("attach-begin id=%d target=%s", id, target)
	defer c.events.Printf("attach-end id=%d target=%s", id, target)

	me := &listener{out: out, errOut: errOut}
	main.mu.Lock()
	main.attached[me] = struct{}{}
	main.mu.Unlock()
	defer main.leave(me)
	if in != nil {
		go io.Copy(main.input, in)
	}
	select {
	case <-ctx.Done():
	case <-main.ended:
	}
	return nil
}

func (c *containers) main(pod, container string) (*mainProcess, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := pod + "/" + container
	if main := c.mains[key]; main != nil {
		return main, nil
	}
	cmd, err := c.command(c.life, pod, container, "sh", "-c", mainScript)
	if err != nil {
		return nil, err
	}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	main := &mainProcess{input: input, ended: make(chan struct{}), attached: map[*listener]struct{}{}}
	cmd.Stdout = main.to(func(l *listener) io.Writer { return l.out })
	cmd.Stderr = main.to(func(l *listener) io.Writer { return l.errOut })
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.mains[key] = main
	c.running.Add(1)
	go c.wait(key, main, cmd)
	return main, nil
}

func (c *containers) wait(key string, main *mainProcess, cmd *exec.Cmd) {
	defer c.running.Done()
	cmd.Wait()
	c.mu.Lock()
	delete(c.mains, key)
	c.mu.Unlock()
	close(main.ended)
}

func (m *mainProcess) leave(l *listener) {
	m.mu.Lock()
	delete(m.attached, l)
	m.mu.Unlock()
}

// to is a writer to one of the outputs of all who are attached.
func (m *mainProcess) to(output func(*listener) io.Writer) io.Writer {
	return writerFunc(func(data []byte) (int, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for l := range m.attached {
			// One who can't be reached any more is about to leave.
			if w := output(l); w != nil {
				w.Write(data)
			}
		}
		return len(data), nil
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(data []byte) (int, error) { return f(data) }
