package leader

// row is one session in the plan for a key. All numbers are units.
type row struct {
	d        *demand
	says     wish  // what the node reported last
	held     int64 // granted in the log, less what is being released, plus what this plan adds
	add      int64
	want     int64 // in use, waiting, and refused lately: what counts for a share
	share    int64
	part     float64 // of one unit more: what is due to it of the extra ones, over their turns
	overhang int64   // open connections beyond what is held: a limit was set on them
	promised int64   // free slots that these will get in a moment
	keeps    int64   // connections, where those above the limit are closed
	target   int64
}

// short is what is lacking of what is wanted.
func (r *row) short() int64 { return max(0, r.want-r.held) }

// open is how many connections are open.
func (r *row) open() int64 { return r.says.inUse + r.says.parked }

// weight is what a row's share is by: of bandwidth the connections that would move more, and of
// anything else nodes are alike.
func (r *row) weight() int64 { return max(r.says.flows, 1) }

// present reports whether requests wait at this moment.
func (r *row) present() bool { return r.says.waiting > 0 }

// awaits reports whether a grant is on its way to requests that wait.
func (r *row) awaits() bool { return r.present() && r.held > r.says.held }

// unserved is what is asked for waiting requests and has no slot in the plan yet.
func (r *row) unserved() int64 { return max(0, min(r.short(), r.says.waiting-r.add)) }

// give moves up to k free slots to the row and returns how many it took.
func (r *row) give(k, free int64) int64 {
	k = max(0, min(k, free))
	r.add += k
	r.held += k
	return k
}

func (r *row) lower(to int64) {
	to = max(to, 0)
	if r.target < 0 || to < r.target {
		r.target = to
	}
}

// sheet is the memory of one plan, which the next one uses again.
type sheet struct {
	all  []row
	list []*row
}

// rows starts a plan of up to n rows.
func (s *sheet) rows(n int) []*row {
	if cap(s.all) < n {
		s.all, s.list = make([]row, 0, 2*n), make([]*row, 0, 2*n)
	}
	s.all = s.all[:0]
	return s.list[:0]
}

// row is the next one's memory.
func (s *sheet) row() *row {
	s.all = s.all[:len(s.all)+1]
	return &s.all[len(s.all)-1]
}
