package miniotest

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/varvebackup/varve/internal/minioserver"
)

// nodes is how many a cluster has. Of four, MinIO spreads each object over all in such a way that any two give it back, and writes while three are there.
const nodes = 4

// Cluster is four MinIO of one drive each that keep every object in common. Node 0 is the endpoint. Its methods are for the goroutine of the test, and fail it.
type Cluster struct {
	Access
	nodes []*minioserver.Server
}

// InCluster runs a test beside a cluster. MinIO wants addresses other than the loopback's for that, and these servers are nobody else's business; so the
// program of the test runs once more, for this test only, in a network namespace of its own, where test is called. Neither the test nor the
// servers reach anything outside it but files, or are reached; all end with it, however it ends.
//
// It must be the first that a test does. Elsewhere than on Linux, or where a namespace is not permitted, the test is skipped, or fails with VARVE_TEST_REQUIRE=1.
func InCluster(t *testing.T, test func(t *testing.T, c *Cluster)) {
	t.Helper()
	program := program(t)
	if !inNamespace(t) {
		return
	}
	if err := addresses(nodes); err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Access: Access{AccessKey: "varve-test", SecretKey: "varve-test-secret", t: t}}
	dir := t.TempDir()
	t.Cleanup(func() { // before the folder is removed
		for i, n := range c.nodes {
			n.Kill()
			if t.Failed() {
				t.Logf("node %d said:\n%s", i, n.Log())
			}
		}
	})
	var drives []string
	for i := range nodes {
		// A port of its own: by the address alone each would take all for itself, as all are this machine's.
		at := fmt.Sprintf("%s:%d", address(i), 9000+i)
		drives = append(drives, "http://"+at+filepath.Join(dir, fmt.Sprint(i), "data"))
		c.nodes = append(c.nodes, &minioserver.Server{
			Program: program, Address: at, Dir: filepath.Join(dir, fmt.Sprint(i)), User: c.AccessKey, Password: c.SecretKey,
		})
	}
	c.Endpoint = c.nodes[0].Address
	for _, n := range c.nodes {
		n.Drives = drives
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	c.meet()
	test(t, c)
}

// meet waits until all nodes that run have found each other.
func (c *Cluster) meet() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	running := 0
	for _, n := range c.nodes {
		if n.Running() {
			running++
		}
	}
	for _, n := range c.nodes {
		var err error
		switch {
		case running == nodes:
			err = n.Whole(ctx)
		case n.Running():
			err = n.Ready(ctx)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// Kill ends a node as kill -9 does, and returns when it is gone.
func (c *Cluster) Kill(node int) { c.nodes[node].Kill() }

// Restart starts a node that was killed, with the same address and data, and returns when the nodes have found each other.
func (c *Cluster) Restart(node int) {
	c.t.Helper()
	if c.nodes[node].Running() {
		c.t.Fatalf("miniotest: Restart of node %d, which runs", node)
	}
	if err := c.nodes[node].Start(); err != nil {
		c.t.Fatal(err)
	}
	c.meet()
}
