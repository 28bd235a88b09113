// Counts its requests, among goroutines that compute, sleep and talk to each other. With the argument "mptcp" its
// listener is of that protocol.
package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func listen() (net.Listener, error) {
	if len(os.Args) < 2 || os.Args[1] != "mptcp" {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	const protocol = 262
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, err
	}
	// As net.Listen does.
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return nil, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, err
	}
	if err := syscall.Listen(fd, 64); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	return net.FileListener(file)
}

func main() {
	words := make([]string, 50000)
	for index := range words {
		words[index] = fmt.Sprintf("word %d", index)
	}
	var count, ticks int64
	numbers := make(chan int64)
	for worker := 0; worker < 50; worker++ {
		go func() {
			for {
				time.Sleep(time.Millisecond)
				atomic.AddInt64(&ticks, 1)
				_ = strings.Repeat("x", 10000)
			}
		}()
	}
	go func() {
		for {
			numbers <- atomic.AddInt64(&count, 1)
		}
	}()
	listener, err := listen()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := os.WriteFile("draft", []byte(fmt.Sprint(port)), 0o644); err != nil {
		panic(err)
	}
	if err := os.Rename("draft", "port"); err != nil {
		panic(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			defer client.Close()
			_, _ = client.Read(make([]byte, 4096))
			number := <-numbers
			line := words[number*7919%50000]
			fmt.Fprintf(client, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%d %s\n", number, line)
		}()
	}
}
