data_dir = "data/a"

cluster {
  gossip_key = "c2VjcmV0c2VjcmV0
}
