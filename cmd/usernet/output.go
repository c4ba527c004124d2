package main

import (
	"errors"
	"os"
)

// An output is a file that a command is to write. It is opened before anything else is done, so that a name
// that cannot be written fails at once, and is emptied when the writing begins.
type output struct {
	*os.File
	made bool // it was not there before
}

// createOutput opens a file. Without a name it returns nil.
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

// begin empties the file, if it is one that can be emptied.
func (o *output) begin() error {
	st, err := o.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	return o.Truncate(0)
}

// discard closes a file to which nothing was written, and removes one that was made for it.
func (o *output) discard() {
	if o == nil {
		return
	}
	o.Close()
	if o.made {
		os.Remove(o.Name())
	}
}
