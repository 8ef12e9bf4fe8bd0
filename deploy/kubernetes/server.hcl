# The config of every server; what differs comes from the pod's environment.

name     = "${env.POD_NAME}" # weir-0, weir-1, weir-2: it stays when the address changes
data_dir = "/var/lib/weir/data"

log {
  format = "json"
}

cluster {
  rpc              = "0.0.0.0:8082" # "[::]:8082" where pods have IPv6 addresses only, and likewise below
  gossip           = "0.0.0.0:8083"
  advertise_rpc    = "${env.POD_IP}"
  advertise_gossip = "${env.POD_IP}"
  join             = ["weir-nodes"] # the headless service: the addresses of all servers
  bootstrap_expect = 3
  gossip_key       = "${env.WEIR_GOSSIP_KEY}"
}

proxy {
  listen        = "0.0.0.0:8080"
  allow_clients = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"] # the NetworkPolicy says which pods
  drain_timeout = "30s"
}

api {
  listen          = "0.0.0.0:8081"
  token_file      = "/run/secrets/weir/token"
  read_token_file = "/run/secrets/weir/read-token" # for Prometheus
  hosts           = ["weir", "weir.${env.POD_NAMESPACE}", "weir.${env.POD_NAMESPACE}.svc", "weir.${env.POD_NAMESPACE}.svc.cluster.local"]
}

limits {
  host "*" {
    connections = 25
  }
}
