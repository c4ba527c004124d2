package inspect

import (
	"context"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/hosttest"
)

// header returns a change of a request.
func header(key, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(key, value) }
}

func TestOnlyTheSameMachineMayLookWithoutAToken(t *testing.T) {
	h := Handler(hosttest.Loopback(t))
	from := func(remote, host string, more ...func(*http.Request)) int {
		return ask(h, "GET", "api/overview", append(more, func(r *http.Request) { r.RemoteAddr, r.Host = remote, host })...).StatusCode
	}
	require.Equal(t, 200, from("127.0.0.1:1", "localhost:8080"))
	require.Equal(t, 200, from("127.0.0.1:1", "127.0.0.1"))
	require.Equal(t, 200, from("[::1]:1", "[::1]:8080"))
	require.Equal(t, 200, from("[::1]:1", "[::1]"))
	require.Equal(t, 200, from("[::ffff:127.0.0.1]:1", "a.localhost."))
	require.Equal(t, 403, from("192.0.2.1:1", "localhost"))
	require.Equal(t, 403, from("", "localhost"))
	require.Equal(t, 403, from("@", "localhost"))
	// DNS rebinding: the browser of this machine, with the name of another site.
	require.Equal(t, 403, from("127.0.0.1:1", "rebind.example"))
	require.Equal(t, 403, from("127.0.0.1:1", "localhost.example"))
	require.Equal(t, 403, from("127.0.0.1:1", ""))
	// A proxy on this machine.
	require.Equal(t, 403, from("127.0.0.1:1", "localhost", header("X-Forwarded-For", "192.0.2.1")))

	unix := func(r *http.Request) {
		*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Name: "s", Net: "unix"})))
		r.RemoteAddr = "@"
	}
	require.Equal(t, 200, ask(h, "GET", "api/overview", unix).StatusCode)
}

func TestOtherSitesCannotUseTheHandler(t *testing.T) {
	host := hosttest.Loopback(t)
	for _, h := range []http.Handler{Handler(host), NewHandler(host, Config{Token: "secret"})} {
		auth := header("Authorization", "Bearer secret")
		require.Equal(t, 200, ask(h, "GET", "", auth).StatusCode)
		for _, change := range []func(*http.Request){
			header("Sec-Fetch-Site", "cross-site"), header("Sec-Fetch-Site", "same-site"), header("Origin", "http://other.example"),
			header("Origin", "http://localhost:9090"), header("Origin", "null"), header("Origin", "://"),
		} {
			for _, path := range []string{"", "api/overview", "api/stream?topics=overview"} {
				require.Contains(t, refused(t, h, 403, "GET", path, auth, change), "another web site")
			}
			refused(t, h, 403, "POST", "api/capture", auth, change)
		}
		require.Equal(t, 200, ask(h, "GET", "", auth, header("Sec-Fetch-Site", "same-origin"), header("Origin", "http://localhost:8080")).StatusCode)
		require.Empty(t, ask(h, "GET", "api/overview", auth).Header.Get("Access-Control-Allow-Origin"))
	}
}

func TestATokenIsNeededOnce(t *testing.T) {
	require.GreaterOrEqual(t, len(NewToken()), 26)
	require.NotEqual(t, NewToken(), NewToken())
	for _, token := range []string{NewToken(), "any text; \"quoted\" + 100 % of it, \u00e4"} {
		t.Run("", func(t *testing.T) { testToken(t, token) })
	}
}

func testToken(t *testing.T, token string) {
	h := NewHandler(hosttest.Loopback(t), Config{Token: token})
	outside := func(r *http.Request) { r.RemoteAddr, r.Host = "192.0.2.9:1", "host.example" }
	for _, path := range []string{"", "app.js", "api/overview", "api/stream?topics=overview", "api/overview?token=wrong", "?token="} {
		refused(t, h, 401, "GET", path, outside)
		refused(t, h, 401, "GET", path) // the same machine is no exception
	}
	refused(t, h, 401, "POST", "api/capture", outside, header("X-Usernet-Inspect", "1"))
	refused(t, h, 401, "GET", "api/overview", outside, header("Authorization", "Basic "+token))
	require.Equal(t, 200, ask(h, "GET", "api/overview", outside, header("Authorization", "Bearer "+token)).StatusCode)

	resp := ask(h, "GET", "api/conns?limit=5&token="+url.QueryEscape(token), outside)
	require.Equal(t, http.StatusSeeOther, resp.StatusCode)
	require.Equal(t, "./conns?limit=5", resp.Header.Get("Location"))
	resp = ask(h, "GET", "?token="+url.QueryEscape(token), outside)
	require.Equal(t, "./", resp.Header.Get("Location"))
	c := resp.Cookies()[0]
	require.True(t, c.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, c.SameSite)
	require.Empty(t, c.Path, "the browser takes the directory of its URL")
	require.Equal(t, 200, ask(h, "GET", "api/overview", outside, func(r *http.Request) { r.AddCookie(c) }).StatusCode)
	require.NotContains(t, c.Value, token)
	refused(t, h, 401, "GET", "", outside, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: c.Name, Value: token}) })
	other := NewHandler(hosttest.Loopback(t), Config{Token: "other"})
	refused(t, other, 401, "GET", "", outside, func(r *http.Request) { r.AddCookie(c) })
}

// A login with the URL of the page is for the directory of the page, also if the handler sees only a part of the path.
func TestALoginIsForTheDirectoryOfItsURL(t *testing.T) {
	h := NewHandler(hosttest.Loopback(t), Config{Token: "secret"})
	inner := http.NewServeMux()
	inner.Handle("/debug/usernet/", h)
	mux := http.NewServeMux()
	mux.Handle("/debug/usernet/", h)
	mux.Handle("/whole/", http.StripPrefix("/whole/", h))
	mux.Handle("/part/", http.StripPrefix("/part", inner))
	srv := httptest.NewServer(mux)
	defer srv.Close()
	// browser returns the functions of a browser without cookies. get returns the status of a page after redirects, and
	// sends reports whether the browser would send cookies to a page.
	browser := func() (get func(path string) int, sends func(path string) bool) {
		jar, err := cookiejar.New(nil)
		require.NoError(t, err)
		client := &http.Client{Transport: srv.Client().Transport, Jar: jar}
		get = func(path string) int {
			resp, err := client.Get(srv.URL + path)
			require.NoError(t, err)
			resp.Body.Close()
			return resp.StatusCode
		}
		sends = func(path string) bool {
			u, err := url.Parse(srv.URL + path)
			require.NoError(t, err)
			return len(jar.Cookies(u)) > 0
		}
		return get, sends
	}
	for _, mount := range []string{"/debug/usernet/", "/whole/", "/part/debug/usernet/"} {
		for _, page := range []string{"", "index.html"} {
			get, sends := browser()
			require.Equal(t, 401, get(mount+"api/overview"), mount)
			require.Equal(t, 200, get(mount+page+"?token=secret"), mount+page)
			for _, name := range []string{"", "index.html", "assets/app.js", "api/overview"} {
				require.Equal(t, 200, get(mount+name), "%s after a login at %s", mount+name, mount+page)
			}
			for _, other := range []string{"/", "/other/", "/debug/", "/part/"} {
				require.False(t, sends(other), "%s after a login at %s", other, mount+page)
			}
		}
		get, sends := browser()
		require.Equal(t, 200, get(mount+"api/overview?token=secret"), mount)
		require.Equal(t, 200, get(mount+"api/conns"), mount)
		require.False(t, sends(mount), mount)
	}
}
