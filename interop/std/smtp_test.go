package std

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/hosttest"
)

// A mail is a message that an smtpServer has received.
type mail struct {
	from, user string
	to         []string
	text       string
	overTLS    bool
}

// An smtpServer implements the part of RFC 5321 that net/smtp uses, with STARTTLS and AUTH PLAIN.
type smtpServer struct {
	tls   *tls.Config
	mails chan mail
}

func (s *smtpServer) serve(ln net.Listener) {
	hosttest.Serve(ln, func(c net.Conn) {
		defer c.Close()
		s.session(c)
	})
}

// session serves a client until QUIT.
func (s *smtpServer) session(c net.Conn) error {
	text := textproto.NewConn(c)
	var m mail
	text.PrintfLine("220 server.test ESMTP")
	for {
		line, err := text.ReadLine()
		if err != nil {
			return err
		}
		verb, arg, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			text.PrintfLine("250-server.test")
			if m.overTLS {
				text.PrintfLine("250-AUTH PLAIN")
			} else {
				text.PrintfLine("250-STARTTLS")
			}
			text.PrintfLine("250 8BITMIME")
		case "STARTTLS":
			text.PrintfLine("220 go ahead")
			// RFC 3207 4.2: after STARTTLS the session starts from the beginning.
			c = tls.Server(c, s.tls)
			text, m = textproto.NewConn(c), mail{overTLS: true}
		case "AUTH":
			_, token, _ := strings.Cut(arg, " ")
			plain, err := base64.StdEncoding.DecodeString(token)
			part := strings.Split(string(plain), "\x00")
			if err != nil || len(part) != 3 || part[2] != "secret" {
				text.PrintfLine("535 no")
				continue
			}
			m.user = part[1]
			text.PrintfLine("235 welcome")
		case "MAIL":
			m.from = arg
			text.PrintfLine("250 ok")
		case "RCPT":
			if strings.Contains(arg, "nobody@") {
				text.PrintfLine("550 no such user")
				continue
			}
			m.to = append(m.to, arg)
			text.PrintfLine("250 ok")
		case "DATA":
			text.PrintfLine("354 go ahead")
			b, err := text.ReadDotBytes()
			if err != nil {
				return err
			}
			m.text = string(b)
			s.mails <- m
			text.PrintfLine("250 accepted")
		case "QUIT":
			return text.PrintfLine("221 bye")
		default:
			return fmt.Errorf("%q: not known", line)
		}
	}
}

func TestSMTP(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	cert, pool := hosttest.Certificate(t, "server.test")
	server := &smtpServer{tls: &tls.Config{Certificates: []tls.Certificate{cert}}, mails: make(chan mail, 1)}
	go server.serve(hosttest.Listen(t, h[1], ":smtp"))

	c, err := h[0].Dial("tcp", "server.test:smtp")
	require.NoError(t, err)
	client, err := smtp.NewClient(c, "server.test")
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.Hello("client.test"))
	require.NoError(t, client.StartTLS(&tls.Config{RootCAs: pool, ServerName: "server.test"}))
	require.NoError(t, client.Auth(smtp.PlainAuth("", "alice", "secret", "server.test")))
	require.NoError(t, client.Mail("alice@client.test"))
	require.NoError(t, client.Rcpt("bob@server.test"))
	var refused *textproto.Error
	require.ErrorAs(t, client.Rcpt("nobody@server.test"), &refused)
	require.Equal(t, 550, refused.Code)
	w, err := client.Data()
	require.NoError(t, err)
	body := "Subject: test\r\n\r\n.a line that begins with a dot\r\n" + strings.Repeat("many lines\r\n", 20000)
	_, err = io.WriteString(w, body)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, client.Quit())

	m := <-server.mails
	require.Equal(t, "FROM:<alice@client.test> BODY=8BITMIME", m.from)
	require.Equal(t, []string{"TO:<bob@server.test>"}, m.to)
	require.Equal(t, "alice", m.user)
	require.True(t, m.overTLS)
	require.Equal(t, strings.ReplaceAll(body, "\r\n", "\n"), m.text)
	_, err = c.Read(make([]byte, 1))
	require.True(t, errors.Is(err, net.ErrClosed), "%v", err)
}
