# Every attribute of a node, at its documented default where it has one.

name     = "a"
data_dir = "data/a"
role     = "server"

log {
  level  = "info"
  format = "text"
}

cluster {
  rpc              = "127.0.0.1:8082"
  gossip           = "127.0.0.1:8083"
  advertise_rpc    = ""
  advertise_gossip = ""
  join             = ["127.0.0.1:8083", "127.0.0.1:8183", "127.0.0.1:8283"]
  bootstrap_expect = 3
  gossip_key       = ""

  gossip_accept_keys = []
  plaintext          = "refuse"

  tls {
    ca_file   = "testdata/files/ca.pem"
    cert_file = "testdata/files/node.pem"
    key_file  = "testdata/files/node-key.pem"
  }
}

lease {
  ttl       = "10s"
  on_expiry = "close"
}

proxy {
  listen              = "127.0.0.1:8080"
  protocols           = ["http", "socks5"]
  socks5_names_only   = false
  reject_status       = 503
  dial_timeout        = "10s"
  dns_ttl_max         = "60s"
  header_timeout      = "10s"
  tunnel_idle_timeout = "0s"
  half_close_timeout  = "10s"
  response_timeout    = "15m"
  drain_timeout       = "30s"
  allow_clients       = ["127.0.0.0/8", "::1/128"]
  users_file          = ""
  proxy_protocol_from = []
  deny_destinations   = ["169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "fd20:ce::254/128"]
  allow_destinations  = []
  access_log          = "log"

  share_kept_connections     = true
  allow_cluster_destinations = false

  tls {
    cert_file = "testdata/files/node.pem"
    key_file  = "testdata/files/node-key.pem"
  }
}

api {
  listen          = "127.0.0.1:8081"
  hosts           = []
  token_file      = ""
  read_token_file = ""
  metrics_hosts   = 100

  tls {
    cert_file = "testdata/files/node.pem"
    key_file  = "testdata/files/node-key.pem"
  }
}

limits {
  host "*" {
    connections = 25
  }

  host "api.example.com" {
    connections = 5

    queue {
      timeout = "2s"
      size    = 100
    }
  }

  host "*.example.org" {
    connections = 100
    shared      = true
  }

  host "slow.example.net" {
    connections = 5
    mode        = "enforce"

    requests {
      rate  = "10/s"
      burst = 20
    }

    bandwidth {
      upload   = "1MB"
      download = "10MB"
      burst    = "2MB"
    }

    queue {
      timeout = "5s"
      size    = 100
    }
  }

  client "*" {
    connections = 200
  }

  client "10.1.0.0/16" {
    connections = 2000
    shared      = true
  }

  user "nightly" {
    connections = 50

    requests {
      rate = "600/m"
    }
  }

  total {
    connections = 20000
  }

  connection {
    bandwidth {
      download = "5MB"
    }
  }

  key "tenant/*" {
    connections = 3
    mode        = "report"
  }
}
