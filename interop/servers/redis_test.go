//go:build linux

package servers

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// startRedis starts a server, and returns a host that is linked to it and a client on the host.
func startRedis(t *testing.T, imp *nic.Impairment) (*usernet.Host, *redis.Client) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	need(t, "redis-server", err)
	ns, h := newLink(t, imp)
	cmd := exec.Command(path, "--bind", kernelAddr, "--port", "6379", "--save", "", "--appendonly", "no",
		"--requirepass", "secret", "--dir", t.TempDir())
	ns.start(t, h, "6379", syscall.SIGTERM, cmd)
	client := redis.NewClient(&redis.Options{Addr: "kernel.test:6379", Password: "secret", Dialer: h.DialContext})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return h, client
}

func TestRedis(t *testing.T) {
	h, client := startRedis(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, client.Ping(ctx).Err())

	t.Run("values of all sizes", func(t *testing.T) {
		for _, size := range []int{0, 1, 1448, 65536, 16 << 20} {
			value := make([]byte, size)
			rand.Read(value)
			key := fmt.Sprintf("size:%d", size)
			require.NoError(t, client.Set(ctx, key, value, 0).Err())
			got, err := client.Get(ctx, key).Bytes()
			require.NoError(t, err)
			require.Equal(t, string(value), string(got))
		}
		require.ErrorIs(t, client.Get(ctx, "nothing").Err(), redis.Nil)
	})

	t.Run("a pipeline", func(t *testing.T) {
		const n = 20_000
		cmds, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for range n {
				p.Incr(ctx, "pipeline")
			}
			return nil
		})
		require.NoError(t, err)
		require.EqualValues(t, n, cmds[n-1].(*redis.IntCmd).Val())
	})

	t.Run("many clients at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 100 {
					if err := client.Incr(ctx, "count").Err(); err != nil {
						t.Errorf("incr: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		n, err := client.Get(ctx, "count").Int()
		require.NoError(t, err)
		require.Equal(t, 5000, n)
	})

	t.Run("a transaction that is overtaken", func(t *testing.T) {
		err := client.Watch(ctx, func(tx *redis.Tx) error {
			if err := client.Set(ctx, "watched", "changed", 0).Err(); err != nil {
				return err
			}
			_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.Set(ctx, "watched", "mine", 0).Err() })
			return err
		}, "watched")
		require.ErrorIs(t, err, redis.TxFailedErr)
	})

	t.Run("publish and subscribe", func(t *testing.T) {
		sub := client.Subscribe(ctx, "news")
		defer sub.Close()
		_, err := sub.Receive(ctx)
		require.NoError(t, err)
		for i := range 100 {
			require.NoError(t, client.Publish(ctx, "news", i).Err())
			m, err := sub.ReceiveMessage(ctx)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), m.Payload)
		}
	})

	t.Run("a read that is given up", func(t *testing.T) {
		impatient := redis.NewClient(&redis.Options{
			Addr: "kernel.test:6379", Password: "secret", Dialer: h.DialContext,
			ContextTimeoutEnabled: true, MaxRetries: -1,
		})
		defer impatient.Close()
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		err := impatient.BLPop(ctx, 0, "empty").Err()
		require.Error(t, err)
		var timeout net.Error
		require.True(t, errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout(), "%v", err)
	})

	t.Run("a connection that the server ends", func(t *testing.T) {
		single := redis.NewClient(&redis.Options{Addr: "kernel.test:6379", Password: "secret", Dialer: h.DialContext, PoolSize: 1})
		defer single.Close()
		id, err := single.ClientID(ctx).Result()
		require.NoError(t, err)
		require.NoError(t, client.Do(ctx, "CLIENT", "KILL", "ID", id).Err())
		again, err := single.ClientID(ctx).Result()
		require.NoError(t, err, "the pool dials again")
		require.NotEqual(t, id, again)
	})
}

func TestRedisOverLossyLink(t *testing.T) {
	_, client := startRedis(t, &nic.Impairment{Latency: time.Millisecond, Loss: 0.01, Duplicate: 0.01})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	value := make([]byte, 4<<20)
	rand.Read(value)
	require.NoError(t, client.Set(ctx, "large", value, 0).Err())
	got, err := client.Get(ctx, "large").Bytes()
	require.NoError(t, err)
	require.True(t, bytes.Equal(value, got))
	cmds, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for range 5000 {
			p.Incr(ctx, "pipeline")
		}
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 5000, cmds[4999].(*redis.IntCmd).Val())
}
