package main

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"syscall"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// ExecInContainer runs a command until it ends or the client is gone.
func (c *containers) ExecInContainer(
	ctx context.Context, pod, _, container string, words []string,
	in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	if len(words) == 0 {
		return errors.New("no command")
	}
	cmd, err := c.command(ctx, pod, container, words...)
	if err != nil {
		return err
	}
	c.running.Add(1)
	defer c.running.Done()

	id, target := c.ids.Add(1), pod+"/"+container
	c.events.Printf("exec-begin id=%d target=%s tty=%t command=%q", id, target, tty, words)
	if tty {
		err = runOnTerminal(cmd, in, out, resize)
	} else {
		err = runOnPipes(cmd, in, out, errOut)
	}
	err = exitCode(err)
	c.events.Printf("exec-end id=%d target=%s error=%v", id, target, err)
	return err
}

func runOnPipes(cmd *exec.Cmd, in io.Reader, out, errOut io.WriteCloser) error {
	cmd.Stdout, cmd.Stderr = out, errOut
	if in != nil {
		// Not cmd.Stdin: Wait would wait for the client to end its input.
		pipe, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			io.Copy(pipe, in)
			pipe.Close()
		}()
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	killGroup(cmd)
	return err
}

func runOnTerminal(cmd *exec.Cmd, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	terminal, inner, err := openTerminal()
	if err != nil {
		return err
	}
	defer terminal.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inner, inner, inner
	cmd.SysProcAttr.Setctty = true
	err = cmd.Start()
	inner.Close()
	if err != nil {
		return err
	}
	go func() {
		for size := range resize {
			setSize(terminal, size.Width, size.Height)
		}
	}()
	if in != nil {
		go io.Copy(terminal, in)
	}
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		// It ends with an error when nobody has the inner side open any more.
		io.Copy(out, terminal)
	}()
	err = cmd.Wait()
	killGroup(cmd)
	<-shown
	return err
}

// exitCode makes of the end of a command what a client can read its code from.
func exitCode(err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		return utilexec.CodeExitError{Err: err, Code: 127}
	}
	var ended *exec.ExitError
	if !errors.As(err, &ended) {
		return err
	}
	code := ended.ExitCode()
	if status, ok := ended.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	return utilexec.CodeExitError{Err: err, Code: code}
}
