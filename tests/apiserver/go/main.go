// One program that is a whole control plane for tests: etcd, kube-apiserver
// and kubectl as their authors publish them, and a stand-in kubelet of ours.
// The first argument says which; tests/cluster starts them.
package main

import (
	"fmt"
	"os"
	"runtime"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"golang.org/x/sys/unix"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

const usage = "usage: kube etcd|kube-apiserver|kubectl|kubelet|free-port [arguments]"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	// The programs look at os.Args themselves: each sees its own name first.
	os.Args = os.Args[1:]

	switch os.Args[0] {
	case "etcd":
		belongToParent(unix.SIGKILL)
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		belongToParent(unix.SIGKILL)
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kubectl":
		os.Exit(cli.Run(cmd.NewDefaultKubectlCommand()))
	case "kubelet":
		belongToParent(unix.SIGTERM) // so that it can end its containers
		fail(kubelet(os.Args[1:]))
	case "free-port":
		fail(freePort())
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
}

// belongToParent ties a server to the script that started it: it gets the signal
// when the script ends, even if that was killed with no chance to clean up, and
// Ctrl-C at the terminal reaches the script alone, which stops the servers in
// their order.
func belongToParent(end unix.Signal) {
	// The kernel remembers the wish per thread: keep the one that has it.
	runtime.LockOSThread()
	fail(unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(end), 0, 0, 0))
	fail(unix.Setpgid(0, 0))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
}
