package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// printable returns a line of text in which a "?" replaces each rune that is not printable, so that text from the
// network or from another program cannot control the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// printableLines is like printable, but keeps tabs and the ends of lines.
func printableLines(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// printJSON prints v as JSON. Package json escapes the control characters of ASCII except DEL. printJSON also escapes DEL
// and the control characters from U+0080 to U+009F, which some terminals obey.
func printJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // an ID has ">"
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	var out []byte
	for _, r := range b.String() {
		if r >= 0x7f && r < 0xa0 { // only within a string
			out = fmt.Appendf(out, "\\u%04x", r)
			continue
		}
		out = append(out, string(r)...)
	}
	_, err := w.Write(out)
	return err
}
