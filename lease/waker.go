package lease

// Waker is told, at most once for each time that a meter gave nothing, that it is worth to try again.
// It is called from another goroutine, and must not block.
type Waker interface{ Wake() }
