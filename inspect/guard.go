package inspect

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// NewToken returns a random token of 128 bits for Config.Token.
func NewToken() string { return rand.Text() }

// cookieName returns the name of the cookie with a token. A browser sends the cookies of a machine to all of its
// ports, so each token has a cookie of its own.
func cookieName(token string) string {
	sum := sha256.Sum256([]byte(token))
	return "usernet-inspect-" + hex.EncodeToString(sum[:4])
}

// cookieValue returns the value of the cookie with a token. It is not the token itself: a token may have characters that
// a cookie cannot have, and the other ports of the machine, which get the cookie too, do not learn the token.
func cookieValue(token string) string {
	sum := sha256.Sum256([]byte("usernet-inspect cookie " + token))
	return hex.EncodeToString(sum[:])
}

// setHeaders sets the headers that restrict what a browser does with an answer.
func setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "+
		"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Cookie, Authorization, Origin, Sec-Fetch-Site")
}

// admit checks that a client may make a request. It reports done if it has answered the request itself.
func (s *server) admit(w http.ResponseWriter, r *http.Request) (done bool, err error) {
	if err := checkOrigin(r); err != nil {
		return false, err
	}
	if s.cfg.Token == "" {
		return false, checkLocal(r)
	}
	if r.URL.Query().Has("token") {
		return true, s.login(w, r)
	}
	if c, err := r.Cookie(s.cookie); err == nil && equal(c.Value, cookieValue(s.cfg.Token)) {
		return false, nil
	}
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") && equal(token, s.cfg.Token) {
		return false, nil
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="usernet inspect"`)
	return false, &requestError{http.StatusUnauthorized,
		"this page needs its token: open the URL with ?token= that the program has printed, or send the header Authorization: Bearer"}
}

// equal compares two secrets in constant time.
func equal(x, y string) bool {
	a, b := sha256.Sum256([]byte(x)), sha256.Sum256([]byte(y))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// login sets the cookie for a request with the token in its query, and redirects to the same URL without the token, so
// that the token is neither in the history of the browser nor in its address bar.
//
// The cookie has no attribute Path. A browser then sends it to the directory of the URL that it has opened, and below
// (RFC 6265 5.1.4). That is the directory where the handler is mounted, if the URL is that of the page. The handler
// itself does not know this directory: behind http.StripPrefix or a proxy, r.URL.Path is only a part of the path. After
// a login with a URL below api/, the cookie is for api/ only.
func (s *server) login(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return &requestError{http.StatusMethodNotAllowed, "use GET with the parameter token"}
	}
	if !equal(q.Get("token"), s.cfg.Token) {
		return &requestError{http.StatusUnauthorized, "the token is wrong: the program prints the URL with the right one when it starts"}
	}
	q.Del("token")
	http.SetCookie(w, &http.Cookie{
		Name: s.cookie, Value: cookieValue(s.cfg.Token), HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	})
	// The last element of the path is a relative reference, which stays on this site whatever the path is.
	path := r.URL.Path
	to := "./" + url.PathEscape(path[strings.LastIndexByte(path, '/')+1:])
	if enc := q.Encode(); enc != "" {
		to += "?" + enc
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// checkLocal checks that a request without a token comes from this machine, and is not one of another web site whose
// name has been made to resolve to this machine (DNS rebinding).
func checkLocal(r *http.Request) error {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && a.Network() == "unix" {
		return nil // the permissions of the socket's file decide
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !from.Addr().Unmap().IsLoopback() {
		return &requestError{http.StatusForbidden, "only clients on the same machine may look: for others the program has to set a token"}
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Via"} {
		if r.Header.Get(h) != "" {
			return &requestError{http.StatusForbidden, "the request comes through a proxy: for that the program has to set a token"}
		}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if a, err := netip.ParseAddr(host); err == nil && a.Unmap().IsLoopback() {
		return nil
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return nil
	}
	return &requestError{http.StatusForbidden, "open the page as localhost or 127.0.0.1: for other names the program has to set a token"}
}

// checkOrigin refuses the requests that another web site has made a browser send, also those of another port of the
// same machine. In contrast to http.CrossOriginProtection it checks GET too, because answers have what another site
// must not learn, and a stream costs time.
func checkOrigin(r *http.Request) error {
	foreign := &requestError{http.StatusForbidden, "the request comes from another web site: open the page itself"}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return foreign
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
		return foreign
	}
	return nil
}
