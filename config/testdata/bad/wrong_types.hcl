name     = 5
data_dir = ["data"]
role     = true

log {
  level = info
}

cluster {
  join             = "10.0.0.1:8083"
  bootstrap_expect = "3"
}

lease {
  ttl = 10
}

proxy {
  reject_status = "four hundred"
  dial_timeout  = "10"
  drain_timeout = null
  allow_clients = ["10.0.0.0/8", 5]
}

api {
  hosts = [["a"]]
}

limits {
  host "a.example.com" {
    connections = "5"
    shared      = "true"

    queue {
      timeout = 2
      size    = "many"
    }
  }
}
