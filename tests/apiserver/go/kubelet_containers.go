package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// A client that upgrades and then opens no streams is let go after streamsWithin.
// Streams on which nothing flows stay, as with a kubelet, for idleLimit.
const (
	idleLimit     = 4 * time.Hour
	streamsWithin = 30 * time.Second
)

// containers are what exec, attach and port-forward lead to. Each has a folder of
// its own, in which its commands start, and nothing else that would keep it from
// the machine: these are the machine's programs, as the user who runs the tests.
type containers struct {
	root   string
	events *log.Logger
	life   context.Context // of the kubelet
	ids    atomic.Int64
	// Commands that run, for the end.
	running sync.WaitGroup

	mu    sync.Mutex
	mains map[string]*mainProcess // by pod and container, from the first attach on
}

func (c *containers) register(routes *http.ServeMux) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		routes.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", c.serveExec)
		routes.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", c.serveAttach)
		routes.HandleFunc(method+" /portForward/{namespace}/{pod}", c.servePortForward)
	}
}

func (c *containers) serveExec(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, c, podOf(r), "", r.PathValue("container"), r.URL.Query()["command"], options,
		idleLimit, streamsWithin, remotecommand.SupportedStreamingProtocols)
}

func (c *containers) serveAttach(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeAttach(w, r, c, podOf(r), "", r.PathValue("container"), options,
		idleLimit, streamsWithin, remotecommand.SupportedStreamingProtocols)
}

func (c *containers) servePortForward(w http.ResponseWriter, r *http.Request) {
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, c, podOf(r), "", options, idleLimit, streamsWithin, portforward.SupportedProtocols)
}

func podOf(r *http.Request) string {
	return r.PathValue("namespace") + "/" + r.PathValue("pod")
}

// command is one to run in a container. Its environment is small and says which
// container it is. The container's own `bin` comes first in the PATH, so that a
// test can put another program in the place of the machine's. All that the
// command starts dies with it, or when ctx is done.
func (c *containers) command(ctx context.Context, pod, container string, words ...string) (*exec.Cmd, error) {
	folder, err := c.folder(pod, container)
	if err != nil {
		return nil, err
	}
	own := filepath.Join(folder, "bin")
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	if path := filepath.Join(own, words[0]); !strings.Contains(words[0], "/") && isFile(path) {
		cmd.Path, cmd.Err = path, nil
	}
	cmd.Dir = folder
	cmd.Env = []string{
		"PATH=" + own + ":" + os.Getenv("PATH"),
		"HOME=" + folder,
		"CONTAINER=" + pod + "/" + container,
		"TERM=xterm",
	}
	// A session of its own is also a process group of its own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return killGroup(cmd) }
	cmd.WaitDelay = time.Second
	return cmd, nil
}

// folder is the container's own. The names are Kubernetes' names, which lead
// nowhere else.
func (c *containers) folder(pod, container string) (string, error) {
	folder := filepath.Join(c.root, strings.ReplaceAll(pod, "/", "_")+"_"+container)
	if filepath.Dir(folder) != filepath.Clean(c.root) {
		return "", fmt.Errorf("not a name: %s of %s", container, pod)
	}
	return folder, os.MkdirAll(folder, 0o700)
}

func killGroup(cmd *exec.Cmd) error {
	return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
