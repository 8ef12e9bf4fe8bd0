# /etc/weir/weir.hcl: one of three servers under systemd, 10.0.0.1 to 10.0.0.3. What differs from machine to machine is its address.

name     = "a"
data_dir = "${env.STATE_DIRECTORY}" # /var/lib/weir

cluster {
  rpc              = "10.0.0.1:8082"
  gossip           = "10.0.0.1:8083"
  join             = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
  bootstrap_expect = 3
  gossip_key       = "${env.WEIR_GOSSIP_KEY}" # in /etc/weir/env; from weir keygen
}

proxy {
  listen        = "10.0.0.1:8080"
  allow_clients = ["10.0.0.0/8"]
  drain_timeout = "30s"
}

api {
  listen     = "10.0.0.1:8081"
  token_file = "${env.CREDENTIALS_DIRECTORY}/token" # /etc/weir/token
}

limits {
  host "*" {
    connections = 25
  }
}
