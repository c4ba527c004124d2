package main

import (
	"errors"
	"os"
)

// An output is a file for a command's result. The command opens it before all other work, so the
// command fails at once if the file cannot be written. begin empties the file.
type output struct {
	*os.File
	made bool // createOutput created the file
}

// createOutput opens or creates a file. It returns nil if name is empty.
func createOutput(name string) (*output, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err == nil {
		return &output{f, true}, nil
	}
	if !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	f, err = os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	return &output{f, false}, nil
}

// begin empties the file if it is a regular one.
func (o *output) begin() error {
	st, err := o.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	return o.Truncate(0)
}

// discard closes an output to which nothing was written, and deletes the file if createOutput
// created it.
func (o *output) discard() {
	if o == nil {
		return
	}
	o.Close()
	if o.made {
		os.Remove(o.Name())
	}
}
