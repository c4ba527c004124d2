package tcp

import "sort"

// An oooQueue holds the blocks of out-of-order data beyond RCV.NXT, in ascending order and with
// gaps between them. The bytes are in the receive ring.
//
// The peer determines the number of blocks, up to maxHoles. They are stored in runs of at most runLen.
// Finding a block takes two binary searches. Adding or removing one moves at most one run of blocks,
// and sometimes the list of runs (see BenchmarkHostileHoles). A single sorted slice would move all
// blocks behind a new one. A tree like the scoreboard's is not necessary for so few blocks.
type oooQueue struct {
	runs  [][]block // none is empty; the elements beyond len keep memory for further runs
	n     int32     // number of blocks
	bytes int32     // of all blocks
}

// runLen is the maximum number of blocks in a run. Two neighbours with at most half as many are
// joined, so the number of runs stays proportional to that of the blocks.
const runLen = 128

// end returns the end of the last block. There must be one.
func (q *oooQueue) end() Seq {
	run := q.runs[len(q.runs)-1]
	return run[len(run)-1].end
}

// search returns the place of the first block that ends at or beyond seq: run i, block j. If
// there is none, i is len(q.runs).
func (q *oooQueue) search(seq Seq) (i, j int) {
	last := len(q.runs) - 1
	if last < 0 || q.end().Less(seq) {
		return last + 1, 0
	}
	run := q.runs[last]
	if j = len(run) - 1; run[j].start.LessEq(seq) {
		return last, j
	}
	i = sort.Search(last, func(i int) bool {
		run := q.runs[i]
		return seq.LessEq(run[len(run)-1].end)
	})
	run = q.runs[i]
	return i, sort.Search(len(run), func(j int) bool { return seq.LessEq(run[j].end) })
}

// touches reports whether k overlaps or adjoins a block, so that adding it makes no new one.
func (q *oooQueue) touches(k block) bool {
	i, j := q.search(k.start)
	return i < len(q.runs) && q.runs[i][j].start.LessEq(k.end)
}

// add adds k and merges it with the blocks that it overlaps or adjoins. It returns the merged
// block, and the first overlap of k with a block that was there before, or an empty block.
func (q *oooQueue) add(k block) (whole, overlap block) {
	if last := len(q.runs) - 1; last >= 0 {
		run := q.runs[last]
		if o := &run[len(run)-1]; o.end == k.start {
			// The common case: what follows a lost segment arrives in order.
			q.bytes += int32(k.end - k.start)
			o.end = k.end
			return *o, block{}
		}
	}
	i, j := q.search(k.start)
	whole, overlap, n := q.merge(k, i, j)
	q.bytes += int32(whole.end - whole.start)
	q.n++
	if n == 0 {
		q.insert(i, j, whole)
		return whole, overlap
	}
	q.runs[i][j] = whole
	q.remove(i, j+1, n-1)
	return whole, overlap
}

// takeFirst removes the blocks that k overlaps or adjoins, where k begins before all blocks. It
// returns the end of the data that is contiguous from k.start on, and the overlap as add does.
func (q *oooQueue) takeFirst(k block) (end Seq, overlap block) {
	whole, overlap, n := q.merge(k, 0, 0)
	q.remove(0, 0, n)
	if q.n == 0 && cap(q.runs)*runLen > keepPieces {
		q.runs = nil
	}
	return whole.end, overlap
}

// merge returns the union of k and the n blocks from block j of run i on that it overlaps or
// adjoins, and the first overlap. It subtracts these blocks from the counts, and leaves them
// where they are.
func (q *oooQueue) merge(k block, i, j int) (whole, overlap block, n int) {
	whole = k
	bytes := Seq(0)
	for ; i < len(q.runs); i, j = i+1, 0 {
		run := q.runs[i][j:]
		if k.end.Less(run[0].start) {
			break
		}
		m := 1
		if len(run) > 1 && run[1].start.LessEq(k.end) {
			m = sort.Search(len(run), func(m int) bool { return k.end.Less(run[m].start) })
		}
		if n == 0 {
			whole.start = minSeq(k.start, run[0].start)
		}
		whole.end = maxSeq(k.end, run[m-1].end)
		for _, o := range run[:min(m, max(2-n, 0))] {
			if overlap == (block{}) { // the first may only adjoin k, the second does not
				overlap = k.and(o)
			}
		}
		for _, o := range run[:m] {
			bytes += o.end - o.start
		}
		n += m
	}
	q.bytes -= int32(bytes)
	q.n -= int32(n)
	return whole, overlap, n
}

// and returns the numbers that are in both k and o, or an empty block.
func (k block) and(o block) block {
	if d := (block{maxSeq(k.start, o.start), minSeq(k.end, o.end)}); d.start.Less(d.end) {
		return d
	}
	return block{}
}

// insert inserts k as block j of run i, or as the last block if there is no run i.
func (q *oooQueue) insert(i, j int, k block) {
	if i == len(q.runs) {
		if i == 0 || len(q.runs[i-1]) == runLen {
			q.insertRun(i)
		} else {
			i, j = i-1, len(q.runs[i-1])
		}
	} else if run := q.runs[i]; len(run) == runLen {
		q.insertRun(i + 1)
		q.runs[i+1] = append(q.runs[i+1], run[runLen/2:]...)
		q.runs[i] = run[:runLen/2]
		if j > runLen/2 {
			i, j = i+1, j-runLen/2
		}
	}
	run := append(q.runs[i], block{})
	copy(run[j+1:], run[j:])
	run[j] = k
	q.runs[i] = run
}

// insertRun inserts an empty run as run i. The caller adds a block.
func (q *oooQueue) insertRun(i int) {
	n := len(q.runs)
	if n < cap(q.runs) {
		q.runs = q.runs[:n+1]
	} else {
		q.runs = append(q.runs, nil)
	}
	run := q.runs[n][:0]
	if run == nil && n > 0 {
		run = make([]block, 0, runLen) // the only run of a short queue grows as needed
	}
	copy(q.runs[i+1:], q.runs[i:])
	q.runs[i] = run
}

// remove removes n blocks from block j of run i on. j may be the end of the run.
func (q *oooQueue) remove(i, j, n int) {
	if n == 0 {
		return
	}
	first := i
	if j > 0 {
		m := min(n, len(q.runs[i])-j)
		q.runs[i] = append(q.runs[i][:j], q.runs[i][j+m:]...)
		n -= m
		i++
	}
	from := i
	for n > 0 && n >= len(q.runs[i]) {
		n -= len(q.runs[i])
		i++
	}
	if n > 0 {
		q.runs[i] = append(q.runs[i][:0], q.runs[i][n:]...)
	}
	q.removeRuns(from, i)
	for k := first + 1; k >= max(first-1, 0); k-- {
		q.join(k)
	}
}

// removeRuns removes the runs from i up to j, and keeps their memory.
func (q *oooQueue) removeRuns(i, j int) {
	if i == j {
		return
	}
	for ; j < len(q.runs); i, j = i+1, j+1 {
		q.runs[i], q.runs[j] = q.runs[j], q.runs[i]
	}
	q.runs = q.runs[:i]
}

// join joins run i with the next if both have few blocks.
func (q *oooQueue) join(i int) {
	if i+1 < len(q.runs) && len(q.runs[i])+len(q.runs[i+1]) <= runLen/2 {
		q.runs[i] = append(q.runs[i], q.runs[i+1]...)
		q.removeRuns(i+1, i+2)
	}
}
