data_dir = "data/a"

cluster {
  rpc           = "127.0.0.1:0"
  advertise_rpc = "node.example.com"
  gossip_key    = "not base64!"
}
