data_dir = "/var/lib/weir"

# quote: squid
proxy {
  listen        = "10.0.0.1:3128"
  allow_clients = ["10.0.0.0/8"]
}

limits {
  client "*" {
    connections = 50
    bandwidth {
      download = "1MB"
      burst    = "2MB"
    }
  }

  host "slow.example.net" {
    bandwidth {
      download = "500KB"
      burst    = "1MB"
    }
  }

  total {
    bandwidth {
      download = "20MB"
      burst    = "20MB"
    }
  }
}
# end quote
