package inspect

import (
	"net/http"
	"time"
)

// drops describes the dropped packets.
func (l *live) drops() *Drops { return &Drops{Time: time.Now(), Reasons: dropCounts(l.host)} }

// canCapture reports whether api/capture works.
func (l *live) canCapture() bool { return false }

// segments returns the producer of the segments of a connection.
func (l *live) segments(*params) (producer, error) {
	return producer{}, &requestError{http.StatusNotFound, "segments cannot be watched yet"}
}

// capture answers api/capture.
func (l *live) capture(http.ResponseWriter, *http.Request) error {
	return &requestError{http.StatusNotFound, "frames cannot be captured yet"}
}
