# Node a of three on one machine: make cluster runs a, b and c from the top of the repository.

name     = "a"
data_dir = "examples/three-nodes/data/a"
role     = "server"

cluster {
  rpc              = "127.0.0.1:8082"
  gossip           = "127.0.0.1:8083"
  join             = ["127.0.0.1:8083", "127.0.0.1:8183", "127.0.0.1:8283"]
  bootstrap_expect = 3
}

proxy {
  listen = "127.0.0.1:8080"
}

api {
  listen = "127.0.0.1:8081"
}

# The limits are the cluster's: all three files carry the same.
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

  # All hosts of a provider together.
  host "*.example.org" {
    connections = 100
    shared      = true
  }
}
