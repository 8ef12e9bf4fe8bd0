package config

// NodeFiles parts the files under paths into those that set a node's name and those that don't,
// each in the order in which Load reads them. A file that can't be read or parsed is in neither:
// Load reports it.
func NodeFiles(paths []string) (named, shared []string) {
	l := newLoader(Options{})
	l.readAll(paths)
	l.parse()
	for _, body := range l.bodies {
		file := body.SrcRange.Filename
		if _, ok := body.Attributes["name"]; ok {
			named = append(named, file)
		} else {
			shared = append(shared, file)
		}
	}
	return named, shared
}
