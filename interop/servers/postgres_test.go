//go:build linux

package servers

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// postgresPath returns the path of a PostgreSQL program. On Debian they are not in the PATH.
func postgresPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", &fs.PathError{Op: "find", Path: name, Err: fs.ErrNotExist}
	}
	return found[len(found)-1], nil
}

// newKeys writes the key and the certificate of kernel.test into a directory and returns a pool
// that trusts the certificate.
func newKeys(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"kernel.test"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cert"), cert, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(cert))
	return pool
}

// startPostgres starts a server with a new database, and returns a pool of TLS connections to it.
func startPostgres(t *testing.T) *pgxpool.Pool {
	t.Helper()
	initdb, err := postgresPath("initdb")
	need(t, "PostgreSQL", err)
	postgres, err := postgresPath("postgres")
	need(t, "PostgreSQL", err)
	account, err := user.Lookup("postgres") // the server refuses to run as root
	need(t, "the user postgres", err)
	uid, err := strconv.Atoi(account.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(account.Gid)
	require.NoError(t, err)

	// This user has no access to the directory of t.TempDir.
	dir, err := os.MkdirTemp("", "usernet-interop-*")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	trusted := newKeys(t, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "password"), []byte("secret\n"), 0o600))
	for _, name := range []string{".", "cert", "key", "password"} {
		require.NoError(t, os.Chown(filepath.Join(dir, name), uid, gid))
	}
	command := func(path string, args ...string) *exec.Cmd {
		cmd := exec.Command(path, args...)
		cmd.Dir = dir
		cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		return cmd
	}
	out, err := command(initdb, "-D", dir+"/data", "-A", "scram-sha-256", "--pwfile", dir+"/password", "--no-sync", "-E", "UTF8").CombinedOutput()
	require.NoError(t, err, "%s", out)
	// The server accepts only connections over TLS with a password.
	hba := "hostssl all all " + ourAddr + "/32 scram-sha-256\n"
	require.NoError(t, os.WriteFile(dir+"/data/pg_hba.conf", []byte(hba), 0o600))

	ns, h := newLink(t, nil)
	cmd := command(postgres, "-D", dir+"/data", "-c", "listen_addresses="+kernelAddr, "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "ssl=on", "-c", "ssl_cert_file="+dir+"/cert", "-c", "ssl_key_file="+dir+"/key")
	ns.start(t, h, "5432", syscall.SIGINT, cmd)

	cfg, err := pgxpool.ParseConfig("host=kernel.test port=5432 user=postgres password=secret dbname=postgres sslmode=verify-full pool_max_conns=10")
	require.NoError(t, err)
	cfg.ConnConfig.TLSConfig = &tls.Config{RootCAs: trusted, ServerName: "kernel.test"}
	cfg.ConnConfig.DialFunc = h.DialContext
	cfg.ConnConfig.LookupFunc = h.Resolver().LookupHost
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	// The server accepts connections before it is ready.
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := pool.Ping(t.Context())
		if err == nil {
			return pool
		}
		require.Less(t, time.Since(began), patience, "the server does not come up: %v", err)
	}
}

// code returns the SQLSTATE of an error.
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestPostgres(t *testing.T) {
	pool := startPostgres(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	t.Run("a large value there and back", func(t *testing.T) {
		value := make([]byte, 16<<20)
		rand.Read(value)
		var back []byte
		require.NoError(t, pool.QueryRow(ctx, "SELECT $1::bytea", value).Scan(&back))
		require.True(t, bytes.Equal(value, back))
		var peer string
		require.NoError(t, pool.QueryRow(ctx, "SELECT host(inet_client_addr())").Scan(&peer))
		require.Equal(t, ourAddr, peer)
	})

	t.Run("COPY in and rows out", func(t *testing.T) {
		const n = 200_000
		_, err := pool.Exec(ctx, "CREATE TABLE numbers (n int, text text)")
		require.NoError(t, err)
		count, err := pool.CopyFrom(ctx, pgx.Identifier{"numbers"}, []string{"n", "text"},
			pgx.CopyFromSlice(n, func(i int) ([]any, error) { return []any{i, strconv.Itoa(i)}, nil }))
		require.NoError(t, err)
		require.EqualValues(t, n, count)
		rows, err := pool.Query(ctx, "SELECT n, text FROM numbers ORDER BY n")
		require.NoError(t, err)
		want := 0
		var i int
		var text string
		_, err = pgx.ForEachRow(rows, []any{&i, &text}, func() error {
			if i != want || text != strconv.Itoa(want) {
				return errors.New("row " + strconv.Itoa(want) + " is " + text)
			}
			want++
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, n, want)
	})

	t.Run("many at once", func(t *testing.T) {
		_, err := pool.Exec(ctx, "CREATE TABLE account (balance int); INSERT INTO account VALUES (0)")
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 20 {
					err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
						_, err := tx.Exec(ctx, "UPDATE account SET balance = balance + 1")
						return err
					})
					if err != nil {
						t.Errorf("transaction: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		var balance int
		require.NoError(t, pool.QueryRow(ctx, "SELECT balance FROM account").Scan(&balance))
		require.Equal(t, 400, balance)
	})

	t.Run("LISTEN and NOTIFY", func(t *testing.T) {
		c, err := pool.Acquire(ctx)
		require.NoError(t, err)
		defer c.Release()
		_, err = c.Exec(ctx, "LISTEN news")
		require.NoError(t, err)
		_, err = pool.Exec(ctx, "SELECT pg_notify('news', 'extra')")
		require.NoError(t, err)
		n, err := c.Conn().WaitForNotification(ctx)
		require.NoError(t, err)
		require.Equal(t, "extra", n.Payload)
	})

	t.Run("a query that is given up", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, err := pool.Exec(short, "SELECT pg_sleep(3600)")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, pgconn.Timeout(err))
		require.NoError(t, pool.Ping(ctx))
	})

	// The cancel request uses a separate connection.
	t.Run("a query that is cancelled at the server", func(t *testing.T) {
		c, err := pool.Acquire(ctx)
		require.NoError(t, err)
		defer c.Release()
		ended := make(chan error, 1)
		go func() {
			_, err := c.Exec(ctx, "SELECT pg_sleep(3600)")
			ended <- err
		}()
		require.Eventually(t, func() bool {
			var n int
			err := pool.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active' AND pid = $1", int32(c.Conn().PgConn().PID())).Scan(&n)
			return err == nil && n == 1
		}, patience, 10*time.Millisecond)
		require.NoError(t, c.Conn().PgConn().CancelRequest(ctx))
		require.Equal(t, "57014", code(<-ended), "query_canceled")
	})

	t.Run("a connection that the server ends", func(t *testing.T) {
		c, err := pool.Acquire(ctx)
		require.NoError(t, err)
		defer c.Release()
		_, err = pool.Exec(ctx, "SELECT pg_terminate_backend($1, 10000)", int32(c.Conn().PgConn().PID()))
		require.NoError(t, err)
		_, err = c.Exec(ctx, "SELECT 1")
		require.Equal(t, "57P01", code(err), "admin_shutdown: %v", err)
		require.NoError(t, pool.Ping(ctx))
	})
}
