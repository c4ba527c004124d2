package tcp

import "sort"

// An oooQueue holds the blocks of out-of-order data beyond RCV.NXT, in ascending order and with
// gaps between them. The bytes are in the receive ring.
//
// The peer determines the number of blocks, up to maxHoles. They are stored in runs of at most runLen.
// Finding a block takes two binary searches. Adding or removing a block moves at most one run of blocks,
// and sometimes the list of runs (see BenchmarkHostileHoles). In a single sorted slice, an insertion
// would move all blocks after the new block. A tree like the scoreboard's is not necessary for so few blocks.
type oooQueue struct {
	runs  []oooRun // none is empty; the elements beyond len keep memory for further runs
	n     int32    // number of blocks
	bytes int32    // of all blocks
}

// An oooRun is some consecutive blocks. It counts their bytes, so a segment that fills thousands of
// holes is processed without a look at each block.
type oooRun struct {
	blocks []block
	bytes  int32
}

// runLen is the maximum number of blocks in a run. Two neighbouring runs that together have at most half
// as many blocks are joined, so the number of runs stays proportional to that of the blocks.
const runLen = 128

func (r *oooRun) last() *block { return &r.blocks[len(r.blocks)-1] }

// bytesOf returns the number of bytes of some blocks.
func bytesOf(blocks []block) (n int32) {
	for _, k := range blocks {
		n += int32(k.end - k.start)
	}
	return n
}

// end returns the end of the last block. The queue must not be empty.
func (q *oooQueue) end() Seq { return q.runs[len(q.runs)-1].last().end }

// count adds n blocks and some bytes to the counts of run i and of the queue.
func (q *oooQueue) count(i, n int, bytes int32) {
	q.runs[i].bytes += bytes
	q.n += int32(n)
	q.bytes += bytes
}

// search returns the position of the first block that ends at or beyond seq: run i, block j. If
// there is no such block, i is len(q.runs).
func (q *oooQueue) search(seq Seq) (i, j int) {
	last := len(q.runs) - 1
	if last < 0 || q.end().Less(seq) {
		return last + 1, 0
	}
	// The common case: seq is at the last block.
	blocks := q.runs[last].blocks
	if j = len(blocks) - 1; blocks[j].start.LessEq(seq) {
		return last, j
	}
	i = sort.Search(last, func(i int) bool { return seq.LessEq(q.runs[i].last().end) })
	blocks = q.runs[i].blocks
	return i, sort.Search(len(blocks), func(j int) bool { return seq.LessEq(blocks[j].end) })
}

// touches reports whether k overlaps or adjoins a block, so that adding k makes no new block.
func (q *oooQueue) touches(k block) bool {
	i, j := q.search(k.start)
	return i < len(q.runs) && q.runs[i].blocks[j].start.LessEq(k.end)
}

// add adds k and merges it with the blocks that it overlaps or adjoins. It returns the merged
// block, and the first overlap of k with a block that was there before, or an empty block.
func (q *oooQueue) add(k block) (whole, overlap block) {
	if i := len(q.runs) - 1; i >= 0 {
		if o := q.runs[i].last(); o.end == k.start {
			// The common case: what follows a lost segment arrives in order.
			o.end = k.end
			q.count(i, 0, int32(k.end-k.start))
			return *o, block{}
		}
	}
	i, j := q.search(k.start)
	whole, overlap, n := q.merge(k, i, j)
	if n == 0 {
		q.insert(i, j, whole)
		return whole, overlap
	}
	o := &q.runs[i].blocks[j]
	q.count(i, 0, int32(whole.end-whole.start)-int32(o.end-o.start))
	*o = whole
	q.remove(i, j+1, n-1)
	return whole, overlap
}

// takeFirst removes the blocks that k overlaps or adjoins. k must begin before all blocks. takeFirst
// returns the end of the data that is contiguous from k.start on, and the first overlap, as add does.
func (q *oooQueue) takeFirst(k block) (end Seq, overlap block) {
	whole, overlap, n := q.merge(k, 0, 0)
	q.remove(0, 0, n)
	if q.n == 0 && cap(q.runs)*runLen > keepPieces {
		q.runs = nil
	}
	return whole.end, overlap
}

// merge looks for the n blocks, from block j of run i on, that k overlaps or adjoins. It returns the
// union of k and these blocks, the first overlap of k with one of them, and n. It changes nothing.
func (q *oooQueue) merge(k block, i, j int) (whole, overlap block, n int) {
	whole = k
	for ; i < len(q.runs); i, j = i+1, 0 {
		blocks := q.runs[i].blocks[j:]
		if k.end.Less(blocks[0].start) {
			break
		}
		m := 1
		if blocks[len(blocks)-1].start.LessEq(k.end) {
			m = len(blocks)
		} else if blocks[1].start.LessEq(k.end) {
			m = sort.Search(len(blocks), func(m int) bool { return k.end.Less(blocks[m].start) })
		}
		if n == 0 {
			whole.start = minSeq(k.start, blocks[0].start)
		}
		whole.end = maxSeq(k.end, blocks[m-1].end)
		// Two blocks suffice: if the first only adjoins k, the second has the first overlap, if any.
		for _, o := range blocks[:min(m, max(2-n, 0))] {
			if overlap == (block{}) {
				overlap = k.and(o)
			}
		}
		n += m
	}
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
		if i == 0 || len(q.runs[i-1].blocks) == runLen {
			q.insertRun(i)
		} else {
			i, j = i-1, len(q.runs[i-1].blocks)
		}
	} else if len(q.runs[i].blocks) == runLen {
		const half = runLen / 2
		q.insertRun(i + 1)
		x, y := &q.runs[i], &q.runs[i+1]
		y.blocks = append(y.blocks, x.blocks[half:]...)
		y.bytes = bytesOf(y.blocks)
		x.blocks = x.blocks[:half]
		x.bytes -= y.bytes
		if j > half {
			i, j = i+1, j-half
		}
	}
	blocks := append(q.runs[i].blocks, block{})
	copy(blocks[j+1:], blocks[j:])
	blocks[j] = k
	q.runs[i].blocks = blocks
	q.count(i, 1, int32(k.end-k.start))
}

// insertRun inserts an empty run as run i. The caller adds a block.
func (q *oooQueue) insertRun(i int) {
	n := len(q.runs)
	if n < cap(q.runs) {
		q.runs = q.runs[:n+1]
	} else {
		q.runs = append(q.runs, oooRun{})
	}
	blocks := q.runs[n].blocks[:0]
	if blocks == nil && n > 0 {
		blocks = make([]block, 0, runLen) // the only run of a short queue grows as needed
	}
	copy(q.runs[i+1:], q.runs[i:])
	q.runs[i] = oooRun{blocks: blocks}
}

// remove removes n blocks from block j of run i on. j may be the end of the run.
func (q *oooQueue) remove(i, j, n int) {
	if n == 0 {
		return
	}
	if len(q.runs) == 1 && n < len(q.runs[0].blocks) { // the common case
		q.removeBlocks(0, j, n)
		return
	}
	first := i
	if j > 0 {
		n -= q.removeBlocks(i, j, min(n, len(q.runs[i].blocks)-j))
		i++
	}
	from := i
	for n > 0 && n >= len(q.runs[i].blocks) {
		k := len(q.runs[i].blocks)
		q.count(i, -k, -q.runs[i].bytes)
		n -= k
		i++
	}
	if n > 0 {
		q.removeBlocks(i, 0, n)
	}
	q.removeRuns(from, i)
	// Join the runs next to the removed blocks, if they have become small.
	for k := first + 1; k >= max(first-1, 0); k-- {
		q.join(k)
	}
}

// removeBlocks removes n blocks from block j of run i on, but not all of the run. It returns n.
func (q *oooQueue) removeBlocks(i, j, n int) int {
	blocks := q.runs[i].blocks
	q.count(i, -n, -bytesOf(blocks[j:j+n]))
	q.runs[i].blocks = append(blocks[:j], blocks[j+n:]...)
	return n
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
	if i+1 >= len(q.runs) {
		return
	}
	x, y := &q.runs[i], &q.runs[i+1]
	if len(x.blocks)+len(y.blocks) <= runLen/2 {
		x.blocks = append(x.blocks, y.blocks...)
		x.bytes += y.bytes
		q.removeRuns(i+1, i+2)
	}
}
