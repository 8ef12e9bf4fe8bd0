name     = "a node"
data_dir = "data/a"
role     = "leader"

log {
  level  = "warning"
  format = "xml"
}

cluster {
  rpc              = "127.0.0.1"
  gossip           = "127.0.0.1:80830"
  advertise_rpc    = "0.0.0.0:8082"
  advertise_gossip = "10.0.0.1:0"
  join             = ["127.0.0.1:8083", "", "not a name", "10.1:8083", ":8083"]
  bootstrap_expect = 0
  gossip_key       = "c2hvcnQ="
}

lease {
  ttl       = "500ms"
  on_expiry = "cloze"
}

proxy {
  listen              = "127.0.0.1:http"
  reject_status       = 200
  dial_timeout        = "-1s"
  header_timeout      = "0s"
  tunnel_idle_timeout = "soon"
  half_close_timeout  = "25h"
  allow_clients       = ["10.0.0.0/33", "10.0.0/8"]
  deny_destinations   = ["fe80::1%eth0"]
}

api {
  hosts = ["https://weir.example.com", "weir.example.com:8081"]

  metrics_hosts = 10001
}
