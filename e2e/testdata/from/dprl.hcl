# quote: dprl
name     = "a"
data_dir = "/var/lib/weir"

cluster {
  rpc              = "10.0.0.1:8082"
  gossip           = "10.0.0.1:8083"
  join             = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
  bootstrap_expect = 3
  gossip_key       = "${env.WEIR_GOSSIP_KEY}"
}

proxy {
  listen        = "10.0.0.1:8080"
  allow_clients = ["10.0.0.0/8"]
  reject_status = 500
}

limits {
  host "*" {
    connections = 100
  }
}
# end quote
