data_dir = "data/a"
proxy {
	lissten = "[31mred"
}
