name     = "a"
data_dir = "data/a"

cluster {
  rpc    = "127.0.0.1:8081"
  gossip = "127.0.0.1:9000"
}

proxy {
  listen        = "0.0.0.0:9000"
  allow_clients = ["10.0.0.0/8"]
}
