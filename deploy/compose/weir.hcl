# The config of all three nodes of compose.yaml; their names come from the environment.

name     = "${env.WEIR_NAME}"
data_dir = "/var/lib/weir"

cluster {
  rpc              = "0.0.0.0:8082"
  gossip           = "0.0.0.0:8083"
  advertise_rpc    = "${env.WEIR_NAME}" # the service's name, which the others resolve
  advertise_gossip = "${env.WEIR_NAME}"
  join             = ["a", "b", "c"]
  bootstrap_expect = 3
  gossip_key       = "${env.WEIR_GOSSIP_KEY}"
}

proxy {
  listen        = "0.0.0.0:8080"
  allow_clients = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] # the machine, as containers see it, and containers
  drain_timeout = "30s"
}

api {
  listen     = "0.0.0.0:8081"
  token_file = "/run/secrets/token"
  hosts      = ["a", "b", "c"]
}

limits {
  # Each host that nothing below names.
  host "*" {
    connections = 25
  }

  # Over the limit, wait in line for up to two seconds.
  host "api.example.com" {
    connections = 5

    queue {
      timeout = "2s"
      size    = 100
    }
  }
}
