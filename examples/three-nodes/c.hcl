# Node c of three on one machine: make cluster runs a, b and c from the top of the repository.

name     = "c"
data_dir = "examples/three-nodes/data/c"
role     = "server"

cluster {
  rpc              = "127.0.0.1:8282"
  gossip           = "127.0.0.1:8283"
  join             = ["127.0.0.1:8083", "127.0.0.1:8183", "127.0.0.1:8283"]
  bootstrap_expect = 3
}

proxy {
  listen = "127.0.0.1:8280"
}

api {
  listen = "127.0.0.1:8281"
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
