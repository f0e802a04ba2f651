// cri-stream exec|attach|forward --url URL: one streaming connection to a CRI runtime, as kubelet and kubectl make it.
//
// Standard input, output and errors are the remote ones; the exit code is the remote program's, or 250 when the
// connection failed (the reason then goes to standard error).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

const connectionFailed = 250

// sizes tells the terminal's size once, and another one when the program has shown the first.
type sizes struct {
	left []remotecommand.TerminalSize
	told bool
	seen <-chan struct{}
	done <-chan struct{}
}

func (s *sizes) Next() *remotecommand.TerminalSize {
	if s.told {
		select {
		case <-s.seen:
		case <-s.done:
			return nil
		}
	}
	if len(s.left) == 0 {
		<-s.done
		return nil
	}
	next := s.left[0]
	s.left, s.told = s.left[1:], true
	return &next
}

func run(what, target, kind string, stdin, tty bool, wanted []remotecommand.TerminalSize) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var executor remotecommand.Executor
	var err error
	config := &rest.Config{Host: target}
	if kind == "websocket" {
		executor, err = remotecommand.NewWebSocketExecutorForProtocols(config, http.MethodGet, target, "v5.channel.k8s.io", "v4.channel.k8s.io")
	} else {
		var parsed *url.URL
		if parsed, err = url.Parse(target); err == nil {
			executor, err = remotecommand.NewSPDYExecutor(config, http.MethodPost, parsed)
		}
	}
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: tty}
	if stdin {
		options.Stdin = os.Stdin
		if tty { // a terminal does not end when this program's input does
			options.Stdin = io.MultiReader(os.Stdin, never{ctx.Done()})
		}
	}
	if tty {
		first := fmt.Sprintf("%d %d", wanted[0].Height, wanted[0].Width) // as stty says it
		watched := &lookout{text: first, seen: make(chan struct{})}
		options.Stdout = watched
		options.TerminalSizeQueue = &sizes{left: wanted, seen: watched.seen, done: ctx.Done()}
	} else {
		options.Stderr = os.Stderr
	}
	return executor.StreamWithContext(ctx, options)
}

// lookout is standard output; it closes seen when the text has come by.
type lookout struct {
	text string
	said strings.Builder
	once sync.Once
	seen chan struct{}
}

func (l *lookout) Write(data []byte) (int, error) {
	l.said.Write(data)
	if strings.Contains(l.said.String(), l.text) {
		l.once.Do(func() { close(l.seen) })
	}
	return os.Stdout.Write(data)
}

type never struct{ done <-chan struct{} }

func (n never) Read([]byte) (int, error) { <-n.done; return 0, io.EOF }

// forward opens one connection to a port and copies it to standard output.
func forward(target, port string) error {
	parsed, err := url.Parse(target)
	if err != nil {
		return err
	}
	upgrader, err := spdy.NewRoundTripper(nil)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, parsed.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set(httpstream.HeaderProtocolVersion, "portforward.k8s.io")
	response, err := (&http.Client{Transport: upgrader, Timeout: 20 * time.Second}).Do(request)
	if err != nil {
		return err
	}
	connection, err := upgrader.NewConnection(response)
	if err != nil {
		return err
	}
	defer connection.Close()
	header := http.Header{}
	header.Set("port", port)
	header.Set("requestID", "0")
	header.Set("streamType", "error")
	errorStream, err := connection.CreateStream(header)
	if err != nil {
		return err
	}
	errorStream.Close() // we say nothing on it
	header.Set("streamType", "data")
	data, err := connection.CreateStream(header)
	if err != nil {
		return err
	}
	data.Close() // we send nothing
	if _, err := io.Copy(os.Stdout, data); err != nil {
		return err
	}
	if said, _ := io.ReadAll(errorStream); len(said) > 0 {
		return errors.New(string(said))
	}
	return nil
}

func parseSize(text string) (size remotecommand.TerminalSize) {
	fmt.Sscanf(text, "%dx%d", &size.Width, &size.Height)
	return size
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: cri-stream exec|attach|forward --url URL [flags]")
		os.Exit(2)
	}
	what := os.Args[1]
	flags := flag.NewFlagSet(what, flag.ExitOnError)
	target := flags.String("url", "", "of the runtime's answer")
	kind := flags.String("kind", "spdy", "spdy or websocket")
	stdin := flags.Bool("stdin", false, "send standard input")
	tty := flags.Bool("tty", false, "in a terminal")
	size := flags.String("size", "80x24", "of the terminal, columns x rows")
	then := flags.String("then", "", "another size, once the program has said the first as stty does")
	port := flags.String("port", "", "forward: the Pod's port")
	flags.Parse(os.Args[2:])
	var err error
	if what == "forward" {
		err = forward(*target, *port)
	} else {
		wanted := []remotecommand.TerminalSize{parseSize(*size)}
		if *then != "" {
			wanted = append(wanted, parseSize(*then))
		}
		err = run(what, *target, *kind, *stdin, *tty, wanted)
	}
	var ended exec.CodeExitError
	switch {
	case errors.As(err, &ended):
		os.Exit(ended.Code)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(connectionFailed)
	}
}
