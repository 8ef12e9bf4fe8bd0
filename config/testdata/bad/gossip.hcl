name     = "a"
data_dir = "data/a"

cluster {
  gossip_accept_keys = ["c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", ""]
  plaintext          = "send"
}
