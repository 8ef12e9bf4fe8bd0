name     = "a"
data_dir = "data/a"

proxy {
  listen    = []
  protocols = []
}
