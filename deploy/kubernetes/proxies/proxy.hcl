# The config of a node that holds no Raft state. Its limits are the cluster's: they are the same as in server.hcl, so that no
# node disagrees with another.

name     = "${env.POD_NAME}"
role     = "proxy"
data_dir = "/var/lib/weir/data" # of the pod: a container that is restarted takes its session over at once

log {
  format = "json"
}

cluster {
  rpc              = "0.0.0.0:8082"
  gossip           = "0.0.0.0:8083"
  advertise_rpc    = "${env.POD_IP}"
  advertise_gossip = "${env.POD_IP}"
  join             = ["weir-nodes"]
  gossip_key       = "${env.WEIR_GOSSIP_KEY}"
}

proxy {
  listen        = "0.0.0.0:8080"
  allow_clients = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"]
  drain_timeout = "30s"
}

api {
  listen          = "0.0.0.0:8081"
  token_file      = "/run/secrets/weir/token"
  read_token_file = "/run/secrets/weir/read-token" # for Prometheus
}

limits {
  host "*" {
    connections = 25
  }
}
